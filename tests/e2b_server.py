"""A loopback server that speaks E2B's HTTP API, for the real SDK. Its machines are sessions of the local sandbox.

Control plane: create, list, get, kill, timeout, pause, connect, snapshots, fork, delete. In machines: /health, /files
(uploads) and the code interpreter's /execute, whose output streams while the code runs and whose kernel starts
afresh when it dies, as Jupyter's does. `Server.fail` injects faults.
"""

import base64
import contextlib
import dataclasses
import email
import email.policy
import json
import os
import select
import socket
import sys
import threading
import time
import urllib.parse
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from axpo_sandbox import make_sandbox
from axpo_sandbox.backend import Dead, Point, survived
from axpo_sandbox.base import Execution, Limits
from axpo_sandbox.local.client import LocalSandbox
from axpo_sandbox.local.live import Live
from axpo_sandbox.local.process import Answer

KEY = "e2b_" + "0123456789" * 4
ENVD_PORT, JUPYTER_PORT = "49983", "49999"
# Far above what any session may use: what is tested is what the backend itself holds to.
LIMITS = Limits(
    memory_bytes=64 << 30,
    num_processes=500,
    num_open_files=1024,
    file_bytes=1 << 30,
    workdir_bytes=1 << 30,
    output_bytes=64 << 20,
)
_SLICE_S = 0.02


@dataclass(kw_only=True)
class Fault:
    """What happens to the next requests of a route, instead of or before what should."""

    route: str
    """method and path, {id} for any machine: "POST /v2/sandboxes", "POST /sandboxes/{id}/fork", "POST /execute" """
    times: int = 1
    status: int = 0
    """answer this; 0 to go on"""
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    """JSON to answer, or bytes"""
    reset: bool = False
    """drop the connection without an answer"""
    cut: bool = False
    """of /execute: run the code, then drop the connection"""
    before: Callable[["Machine | None"], None] = lambda machine: None
    """called first"""


class Machine:
    """A virtual machine: a live local session and what the control plane says of it."""

    def __init__(
        self, live: Live, *, metadata: dict[str, str], lifetime_s: float, options: dict[str, Any]
    ) -> None:
        self.id = f"i{uuid.uuid4().hex[:18]}"
        self.live = live
        self.metadata = metadata
        self.options = options
        self.state = "running"
        self.ends_at = time.monotonic() + lifetime_s
        self.lock = threading.RLock()  # its kernel does one thing at a time
        self.num_executions = 0

    def end(self) -> None:
        self.state = "gone"
        self.live.kill()
        with self.lock:
            self.live.close()


class Server:
    """Runs while it is open. `requests` counts what was asked, by route."""

    def __init__(self, local: LocalSandbox) -> None:
        """local: makes the machines; it is not closed here."""
        self.local = local
        self.requests: Counter[str] = Counter()
        self.machines: dict[str, Machine] = {}
        self.snapshots: dict[str, tuple[str, Point]] = {}  # id -> name, point
        self._faults: list[Fault] = []
        self._lock = threading.RLock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), lambda *given: Handler(self, *given))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables that make the SDK speak to this server."""
        return {"E2B_API_KEY": KEY, "E2B_API_URL": self.url, "E2B_SANDBOX_URL": self.url}

    def fail(self, route: str, **what: Any) -> Fault:
        """Inject a fault; the first that fits a request is taken."""
        fault = Fault(route=route, **what)
        with self._lock:
            self._faults.append(fault)
        return fault

    def mend(self) -> None:
        """No more faults."""
        with self._lock:
            self._faults.clear()

    def take_fault(self, route: str, path: str = "") -> Fault | None:
        with self._lock:
            self.requests[route] += 1
            for fault in self._faults:
                if fault.route in (route, path) and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None

    def make(
        self, live: Live, metadata: dict[str, str], lifetime_s: float, options: dict[str, Any]
    ) -> Machine:
        machine = Machine(live, metadata=metadata, lifetime_s=lifetime_s, options=options)
        with self._lock:
            self.machines[machine.id] = machine
        return machine

    def find(self, machine_id: str) -> Machine | None:
        with self._lock:
            machine = self.machines.get(machine_id)
        if machine is not None and time.monotonic() > machine.ends_at:
            self.vanish(machine)
            return None
        return machine

    def vanish(self, machine: Machine | None) -> None:
        """End a machine, as the cloud does at the end of its life, or when its host breaks."""
        if machine is not None:
            with self._lock:
                self.machines.pop(machine.id, None)
            machine.end()

    def restart_kernel(self, machine: Machine) -> None:
        """A fresh interpreter in an old machine, as after a crash."""
        with machine.lock:
            machine.live.close()
            machine.live = self.local.start(0, LIMITS)

    def lose_snapshots(self) -> None:
        """Delete all, whoever needs them."""
        with self._lock:
            lost, self.snapshots = self.snapshots, {}
        for _, point in lost.values():
            point.release()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        for machine in list(self.machines.values()):
            self.vanish(machine)
        self.lose_snapshots()


def options() -> dict[str, Any]:
    """Of an e2b sandbox on the server's machines: where the interpreter lies below /tmp, they cannot write there."""
    below = any(os.path.realpath(path).startswith("/tmp/") for path in (sys.prefix, sys.base_prefix))
    return {"folder": "/dev/shm/box"} if below else {}


@contextlib.contextmanager
def serving(**options: Any) -> Iterator[Server]:
    """A server on a local sandbox of its own, and the environment that leads the SDK to it."""
    with make_sandbox("local", quiet=True, **options) as local, pytest.MonkeyPatch.context() as patch:
        assert isinstance(local, LocalSandbox)
        if local.isolation.tier != "namespaces":
            pytest.skip("machines need file systems of their own: " + " ".join(local.isolation.open))
        server = Server(local)
        try:
            for name, value in server.environment.items():
                patch.setenv(name, value)
            yield server
        finally:
            server.close()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, server: Server, *given: Any) -> None:
        self.cloud = server
        super().__init__(*given)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _serve(self) -> None:
        with contextlib.suppress(ConnectionError):
            self._serve_one()

    def _serve_one(self) -> None:
        self.body = self._read_body()
        url = urllib.parse.urlsplit(self.path)
        self.query = {name: values[0] for name, values in urllib.parse.parse_qs(url.query).items()}
        parts = [urllib.parse.unquote(part) for part in url.path.strip("/").split("/")]
        own_id = self.headers.get("E2b-Sandbox-Id")
        machine = None
        known = [*parts]
        if own_id is not None:
            machine = self.cloud.find(own_id)
        elif len(parts) > 1 and parts[0] in ("sandboxes", "templates"):
            machine = self.cloud.find(parts[1])
            known[1] = "{id}"
        fault = self.cloud.take_fault(f"{self.command} /{'/'.join(known)}", f"{self.command} {url.path}")
        if fault is not None:
            fault.before(machine)
            if fault.reset:
                self._drop()
                return
            if fault.status:
                self._answer(fault.status, fault.body, fault.headers)
                return
            machine = self.cloud.find(machine.id) if machine is not None else None
        self.cut = fault is not None and fault.cut
        if own_id is None:
            self._control(parts, machine)
        elif machine is None or machine.state != "running":
            self._answer(502, {"sandboxId": own_id, "message": "The sandbox was not found", "code": 502})
        elif self.headers.get("E2b-Sandbox-Port") == JUPYTER_PORT:
            self._interpreter(parts, machine)
        else:
            self._envd(parts, machine)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status: int, content: Any = None, headers: dict[str, str] | None = None) -> None:
        data = (
            content
            if isinstance(content, bytes)
            else b""
            if content is None
            else json.dumps(content).encode()
        )
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _drop(self) -> None:
        self.close_connection = True
        # A close with this set is a reset, not an end of the stream.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.connection.close()
        raise ConnectionAbortedError

    # The control plane.

    def _control(self, parts: list[str], machine: Machine | None) -> None:
        if self.headers.get("X-API-KEY") != KEY:
            self._answer(401, {"code": 401, "message": "Invalid API key"})
            return
        given = json.loads(self.body) if self.body else {}
        try:
            match self.command, *parts:
                case "POST", "v2", "sandboxes":
                    self._create(given)
                case "GET", "v2", "sandboxes":
                    wanted = dict(urllib.parse.parse_qsl(self.query.get("metadata", "")))
                    found = [
                        item
                        for item in self.cloud.machines.values()
                        if wanted.items() <= item.metadata.items()
                    ]
                    self._answer(200, [_detail(item) for item in found])
                case "GET", "snapshots":
                    found_too = self.cloud.snapshots.items()
                    self._answer(
                        200, [{"snapshotID": name, "names": [full]} for name, (full, _) in found_too]
                    )
                case "DELETE", "templates", snapshot_id:
                    self._delete_snapshot(snapshot_id)
                case _, "sandboxes", _, *rest if machine is not None:
                    self._of_machine("/".join([self.command, *rest]), machine, given)
                case _, "sandboxes", machine_id, *_:
                    self._answer(404, {"code": 404, "message": f"sandbox {machine_id} not found"})
                case _:
                    self._answer(404, {"code": 404, "message": "no such route"})
        except Dead as death:  # nested more deeply than local sessions can be: as if the snapshot was lost
            self._answer(404, {"code": 404, "message": str(death)})

    def _create(self, given: dict[str, Any]) -> None:
        source = given["templateID"]
        if source in self.cloud.snapshots:
            live = self.cloud.local.thaw(self.cloud.snapshots[source][1], LIMITS, 1)[0]
        elif source.startswith("snap-"):
            self._answer(404, {"code": 404, "message": f"template {source} not found"})
            return
        else:
            live = self.cloud.local.start(0, LIMITS)
        machine = self.cloud.make(live, given["metadata"], given["timeout"], given)  # type: ignore[arg-type]
        self._answer(201, _created(machine))

    def _of_machine(self, action: str, machine: Machine, given: dict[str, Any]) -> None:
        match action:
            case "GET":
                self._answer(200, _detail(machine))
            case "DELETE":
                self.cloud.vanish(machine)
                self._answer(204)
            case "POST/timeout":
                machine.ends_at = time.monotonic() + given["timeout"]
                self._answer(204)
            case "POST/pause":
                self._answer(409 if machine.state == "paused" else 204, {"code": 409, "message": "paused"})
                machine.state = "paused"
            case "POST/snapshots":
                self._snapshot(machine, given)
            case "POST/fork":
                self._fork(machine, given)
            case _:
                self._answer(404, {"code": 404, "message": "no such route"})

    def _snapshot(self, machine: Machine, given: dict[str, Any]) -> None:
        if machine.state != "running":
            self._answer(409, {"code": 409, "message": "the sandbox is paused"})
            return
        snapshot_id = f"snap-{uuid.uuid4().hex[:8]}:default"
        with machine.lock:
            self.cloud.snapshots[snapshot_id] = (
                f"team/{given.get('name') or snapshot_id}:default",
                self.cloud.local.freeze(machine.live),
            )
        self._answer(201, {"snapshotID": snapshot_id, "names": [self.cloud.snapshots[snapshot_id][0]]})

    def _fork(self, machine: Machine, given: dict[str, Any]) -> None:
        if machine.state != "running":
            self._answer(409, {"code": 409, "message": "the sandbox is paused"})
            return
        with machine.lock:
            point = self.cloud.local.freeze(machine.live)
        try:
            results = []
            for live in self.cloud.local.thaw(point, LIMITS, given.get("count", 1)):
                branch = self.cloud.make(live, machine.metadata, given["timeout"], machine.options)  # type: ignore[arg-type]
                fault = self.cloud.take_fault("fork result")
                if fault is not None:
                    self.cloud.vanish(branch)
                    results.append({"error": {"code": fault.status, "message": "no room for this one"}})
                else:
                    results.append({"sandbox": _created(branch)})
        finally:
            point.release()
        self._answer(201, results)

    def _delete_snapshot(self, snapshot_id: str) -> None:
        _, point = self.cloud.snapshots.pop(snapshot_id, ("", None))
        if point is not None:
            point.release()
        self._answer(204 if point is not None else 404, None if point else {"code": 404, "message": "none"})

    # Inside a machine.

    def _envd(self, parts: list[str], machine: Machine) -> None:
        match self.command, *parts:
            case "GET", "health":
                self._answer(204)
            case "POST", "files":
                path = self.query["path"]
                with machine.lock:
                    done = machine.live.run(_write_code(path, self._uploaded()), timeout_s=60)
                if done.error is not None:
                    self._answer(500, {"code": 500, "message": done.error.value})
                else:
                    self._answer(200, [{"name": path.rpartition("/")[2], "path": path, "type": "file"}])
            case _:
                self._answer(404, {"code": 404, "message": "no such route"})

    def _uploaded(self) -> bytes:
        kind = self.headers["Content-Type"]
        if not kind.startswith("multipart/"):
            return self.body
        head = f"Content-Type: {kind}\r\n\r\n".encode()
        (part,) = email.message_from_bytes(head + self.body, policy=email.policy.HTTP).iter_parts()
        return part.get_payload(decode=True)

    def _interpreter(self, parts: list[str], machine: Machine) -> None:
        if (self.command, parts) != ("POST", ["execute"]):
            self._answer(404, {"code": 404, "message": "no such route"})
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with machine.lock:
            machine.num_executions += 1
            self._line(type="number_of_executions", execution_count=machine.num_executions)
            self._execute(machine, json.loads(self.body)["code"])
        self._line(type="end_of_execution")
        self.wfile.write(b"0\r\n\r\n")

    def _execute(self, machine: Machine, code: str) -> None:
        """Run a kernel cell; its output is sent while it runs. Goes on when the client hangs up, as Jupyter does."""
        try:
            done = self._run_streaming(machine.live, code)
        except Dead:
            self.cloud.restart_kernel(machine)
            done = self._run_streaming(machine.live, code)
        if machine.state == "gone" or self.cut:
            self._drop()
        if not survived(done.error):
            self.cloud.restart_kernel(machine)
            self._line(type="error", name="ContextRestarting", value="Context was restarted", traceback="")
            return
        if done.error is not None:
            self._line(type="error", **dataclasses.asdict(done.error))
        if done.text is not None:
            self._line(type="result", text=done.text, is_main_result=True)

    def _run_streaming(self, live: Live, code: str) -> Execution:
        """`live.run`, whose waiting for the end is cut into slices, after each of which output is passed on."""
        wait = live.process.await_answer

        def await_answer(timeout_s: float, max_bytes: int) -> Answer:
            while True:
                answer = wait(_SLICE_S, max_bytes)
                self._pass_on(answer.outputs)
                if answer.failure != "timeout":
                    return answer

        live.process.await_answer = await_answer  # type: ignore[method-assign]
        try:
            return live.run(code, timeout_s=1.0)
        finally:
            live.process.await_answer = wait  # type: ignore[method-assign]

    def _pass_on(self, outputs: Any) -> None:
        for name, data in zip(("stdout", "stderr"), outputs, strict=True):
            if data:
                self._line(type=name, text=bytes(data).decode("utf-8", "replace"), timestamp=time.time_ns())

    def _line(self, **content: Any) -> None:
        data = json.dumps(content).encode() + b"\n"
        if not select.select([self.connection], [], [], 0)[0]:  # readable: the client hung up
            with contextlib.suppress(ConnectionError):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))


def _write_code(path: str, data: bytes) -> str:
    encoded = base64.b64encode(data).decode()
    return (
        f"import base64, os\nos.makedirs(os.path.dirname({path!r}), exist_ok=True)\n"
        f"with open({path!r}, 'wb') as file: file.write(base64.b64decode({encoded!r}))"
    )


def _created(machine: Machine) -> dict[str, Any]:
    return {
        "templateID": machine.options["templateID"],
        "sandboxID": machine.id,
        "clientID": "loopback",
        "envdVersion": "0.6.4",
        "envdAccessToken": "token",
        "trafficAccessToken": None,
        "domain": None,
    }


def _detail(machine: Machine) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        **_created(machine),
        "startedAt": now.isoformat(),
        "endAt": (now + timedelta(seconds=max(0.0, machine.ends_at - time.monotonic()))).isoformat(),
        "cpuCount": 2,
        "memoryMB": 512,
        "diskSizeMB": 512,
        "state": machine.state,
        "metadata": machine.metadata,
    }
