"""A loopback server that speaks E2B's HTTP API, for the real SDK. Its machines are sessions of the local sandbox.

Control plane: create, list, get, kill, timeout, pause, snapshots, fork, delete, by the rules of E2B's cloud or of a
cluster of one's own (`Rules`). In machines: /health, /files (uploads) and the code interpreter's /execute, whose
output streams while the code runs and whose kernel starts afresh when it dies, as Jupyter's does. `Server.fail`
injects faults.
"""

import base64
import contextlib
import dataclasses
import email
import email.policy
import heapq
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
from axpo_sandbox.e2b.rules import Clock
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
_PAGE = 100
_TOO_MANY = "you have reached the maximum number of concurrent E2B sandboxes"


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
    kernel: str = ""
    """of /execute: run the code, then report an error of this name instead of what came of it"""
    lost: bool = False
    """of a request that makes or ends something: do it, then drop the connection"""
    before: Callable[["Machine | None"], None] = lambda machine: None
    """called first"""


@dataclass(kw_only=True)
class Rules:
    """What the service allows: by default as E2B's cloud does, without the limits of a plan."""

    create_route: str = "/v2/sandboxes"
    """/sandboxes: as clusters of one's own"""
    missing_status: int = 405
    """what a POST to the other route is answered, without JSON"""
    pauses: bool = False
    """whether a machine that was not told otherwise is paused at the end of its lifetime, not ended"""
    max_machines: int | None = None
    """running at once"""
    creations_per_s: float | None = None
    """requests that make machines, with as many at once"""
    max_forks: int = 20
    """per request"""
    max_length_s: float = 24 * 3600.0
    """from the start of a machine, however often it is renewed"""
    knows_keys: bool = True
    """whether a creation that is repeated with its Idempotency-Key is done once"""
    now: Callable[[], float] = time.monotonic


class FakeClock(Clock):
    """Waiting takes no time: it moves on as soon as num_threads wait, to when the first of them wakes."""

    def __init__(self, num_threads: int = 1) -> None:
        self.num_threads = num_threads
        self.waits: list[float] = []
        self._now = 0.0
        self._wakings: list[float] = []
        self._changed = threading.Condition()

    def now(self) -> float:
        return self._now

    def jitter(self) -> float:
        return 1.0

    def sleep(self, seconds: float) -> None:
        with self._changed:
            self.waits.append(seconds)
            waking = self._now + seconds
            heapq.heappush(self._wakings, waking)
            self._move_on()
            assert self._changed.wait_for(lambda: self._now >= waking, 120)

    def leave(self) -> None:
        """One thread less to wait for."""
        with self._changed:
            self.num_threads -= 1
            self._move_on()

    def _move_on(self) -> None:
        if self._wakings and len(self._wakings) >= self.num_threads:
            self._now = max(self._now, self._wakings[0])
            while self._wakings and self._wakings[0] <= self._now:
                heapq.heappop(self._wakings)
            self._changed.notify_all()


class Empty:
    """In the place of a local sandbox, its processes and points: for tests of the control plane alone."""

    def start(self, seed: int, limits: Limits) -> "Empty":
        return Empty()

    def freeze(self, live: "Empty") -> "Empty":
        return Empty()

    def thaw(self, point: "Empty", limits: Limits, num_branches: int) -> "list[Empty]":
        return [Empty() for _ in range(num_branches)]

    def kill(self) -> None:
        pass

    close = release = kill


class Machine:
    """A virtual machine: a live local session and what the control plane says of it."""

    def __init__(self, live: Live, options: dict[str, Any], ends_at: float, started_at: float) -> None:
        """options: of the request that made it, or the machine it is a fork of."""
        self.id = f"i{uuid.uuid4().hex[:18]}"
        self.live = live
        self.metadata: dict[str, str] = options["metadata"]
        self.options = options
        self.source: str = options["templateID"]
        self.state = "running"
        self.started_at = started_at
        self.ends_at = ends_at
        self.lock = threading.RLock()  # its kernel does one thing at a time
        self.is_freezing = threading.Lock()
        self.num_executions = 0

    def end(self) -> None:
        self.state = "gone"
        self.live.kill()
        with self.lock:
            self.live.close()


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # clients come many at once


class Server:
    """Runs while it is open. `requests` counts what was asked, by route."""

    def __init__(self, local: "LocalSandbox | Empty") -> None:
        """local: makes the machines; it is not closed here."""
        self.local: Any = local
        self.rules = Rules()
        self.requests: Counter[str] = Counter()
        self.machines: dict[str, Machine] = {}
        self.snapshots: dict[str, Point] = {}
        self.creations: list[float] = []  # when, on the rules' clock; to be cleared with a new clock
        self.most_machines = 0
        self._by_key: dict[str, str] = {}
        self._faults: list[Fault] = []
        self._lock = threading.RLock()
        self._http = _HTTPServer(("127.0.0.1", 0), lambda *given: Handler(self, *given))
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

    def refuses_more(self) -> bool:
        """Whether one more request that makes machines would be too many in a second."""
        with self._lock:
            now, per_s = self.rules.now(), self.rules.creations_per_s
            recent = [at for at in self.creations if at > now - 1 + 1e-6]
            if per_s is not None and len(recent) >= per_s:
                return True
            self.creations.append(now)
            return False

    def make(
        self, make_live: Callable[[], Any], options: dict[str, Any], lifetime_s: float
    ) -> Machine | None:
        """A machine; None where there are too many."""
        now = self.rules.now()
        with self._lock:
            running = [machine for machine in self.machines.values() if machine.state == "running"]
            if self.rules.max_machines is not None and len(running) >= self.rules.max_machines:
                return None
            self.most_machines = max(self.most_machines, len(running) + 1)
            machine = Machine(make_live(), options, now + min(lifetime_s, self.rules.max_length_s), now)
            self.machines[machine.id] = machine
        return machine

    def made_by(self, key: str | None) -> Machine | None:
        """The machine that an earlier request with this key made."""
        return self.machines.get(self._by_key.get(key or "", "")) if self.rules.knows_keys else None

    def remember(self, key: str | None, machine: Machine) -> None:
        if key is not None:
            self._by_key[key] = machine.id

    def find(self, machine_id: str) -> Machine | None:
        with self._lock:
            machine = self.machines.get(machine_id)
        if machine is not None and machine.state == "running" and self.rules.now() > machine.ends_at:
            if machine.options.get("autoPause", self.rules.pauses):
                machine.state = "paused"
            else:
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
        for point in lost.values():
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
        self.kernel = "" if fault is None else fault.kernel
        self.lost = fault is not None and fault.lost
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
            self._refuse(401, "Invalid API key")
            return
        given = json.loads(self.body) if self.body else {}
        try:
            match self.command, *parts:
                case "POST", *route if "/" + "/".join(route) in ("/v2/sandboxes", "/sandboxes"):
                    if self.cloud.rules.create_route == "/" + "/".join(route):
                        self._create(given)
                    else:
                        self._answer(self.cloud.rules.missing_status, b"no such route, and no JSON")
                case "GET", "v2", "sandboxes":
                    self._list()
                case "GET", "snapshots":
                    names = list(self.cloud.snapshots)
                    self._answer(
                        200, [{"snapshotID": name, "names": [name.rpartition(":")[0]]} for name in names]
                    )
                case "DELETE", "templates", name:
                    self._delete_snapshot(name)
                case _, "sandboxes", _, *rest if machine is not None:
                    self._of_machine("/".join([self.command, *rest]), machine, given)
                case _, "sandboxes", machine_id, *_:
                    self._refuse(404, f"sandbox {machine_id} not found")
                case _:
                    self._answer(404, b"404 page not found")
        except Dead as death:  # nested more deeply than local sessions can be: as if the snapshot was lost
            self._refuse(404, str(death))

    def _refuse(self, status: int, message: str) -> None:
        self._answer(status, {"code": status, "message": message})

    def _list(self) -> None:
        wanted = dict(urllib.parse.parse_qsl(self.query.get("metadata", "")))
        states = self.query.get("state", "running,paused").split(",")
        found = [self.cloud.find(name) for name in list(self.cloud.machines)]
        shown = [
            item
            for item in found
            if item and wanted.items() <= item.metadata.items() and item.state in states
        ]
        first = int(self.query.get("nextToken", 0))
        more = {"X-Next-Token": str(first + _PAGE)} if len(shown) > first + _PAGE else {}
        self._answer(200, [self._detail(item) for item in shown[first : first + _PAGE]], more)

    def _create(self, given: dict[str, Any]) -> None:
        key = self.headers.get("Idempotency-Key")
        known = self.cloud.made_by(key)
        if known is not None:
            self._answer(201, _created(known))
            return
        source, local = given["templateID"], self.cloud.local
        if ("axpo-" in source and source not in self.cloud.snapshots) or source == "none":
            self._refuse(404, f"template {source} not found")
            return
        if self.cloud.refuses_more():
            self._refuse(429, "Rate limit exceeded, please try again later")
            return

        def make_live() -> Any:
            if source in self.cloud.snapshots:
                return local.thaw(self.cloud.snapshots[source], LIMITS, 1)[0]
            return local.start(0, LIMITS)

        machine = self.cloud.make(make_live, given, given["timeout"])
        if machine is None:
            self._refuse(429, _TOO_MANY)
            return
        self.cloud.remember(key, machine)
        if self.lost:
            self._drop()
        self._answer(201, _created(machine))

    def _of_machine(self, action: str, machine: Machine, given: dict[str, Any]) -> None:
        match action:
            case "GET":
                self._answer(200, self._detail(machine))
            case "DELETE":
                self.cloud.vanish(machine)
                if self.lost:
                    self._drop()
                self._answer(204)
            case "POST/timeout":
                last = machine.started_at + self.cloud.rules.max_length_s
                machine.ends_at = min(self.cloud.rules.now() + given["timeout"], last)
                self._answer(204)
            case "POST/pause":
                self._answer(409 if machine.state == "paused" else 204, {"code": 409, "message": "paused"})
                machine.state = "paused"
            case "POST/snapshots" | "POST/fork":
                if machine.state != "running":
                    self._refuse(409, "the sandbox is paused")
                elif not machine.is_freezing.acquire(blocking=False):
                    self._refuse(409, "the sandbox is being snapshotted")
                else:
                    try:
                        (self._fork if action.endswith("fork") else self._snapshot)(machine, given)
                    finally:
                        machine.is_freezing.release()
            case _:
                self._answer(404, b"404 page not found")

    def _snapshot(self, machine: Machine, given: dict[str, Any]) -> None:
        snapshot_id = f"team/{given['name']}:default"  # once more with one name: a new build of it
        with machine.lock:
            point = self.cloud.local.freeze(machine.live)
        old = self.cloud.snapshots.pop(snapshot_id, None)
        if old is not None:
            old.release()
        self.cloud.snapshots[snapshot_id] = point
        if self.lost:
            self._drop()
        self._answer(201, {"snapshotID": snapshot_id, "names": [snapshot_id.rpartition(":")[0]]})

    def _fork(self, machine: Machine, given: dict[str, Any]) -> None:
        count, rules = given.get("count", 1), self.cloud.rules
        if count > rules.max_forks:
            self._refuse(400, f"Count cannot be greater than {rules.max_forks}")
            return
        if rules.max_machines is not None and count >= rules.max_machines:
            self._refuse(400, "Count must be lower than the maximum number of concurrent sandboxes")
            return
        if self.cloud.refuses_more():
            self._refuse(429, "Rate limit exceeded, please try again later")
            return
        with machine.lock:
            point = self.cloud.local.freeze(machine.live)
        results: list[dict[str, Any]] = []
        try:
            for _ in range(count):
                try:
                    branch = self.cloud.make(
                        lambda: self.cloud.local.thaw(point, LIMITS, 1)[0], machine.options, given["timeout"]
                    )
                except Dead as death:  # nested more deeply than local sessions can be
                    results.append({"error": {"code": 500, "message": str(death)}})
                    continue
                fault = self.cloud.take_fault("fork result")
                if fault is not None and branch is not None:
                    self.cloud.vanish(branch)
                    results.append({"error": {"code": fault.status, "message": "no room for this one"}})
                elif branch is None:
                    results.append({"error": {"code": 429, "message": _TOO_MANY}})
                else:
                    results.append({"sandbox": _created(branch)})
        finally:
            point.release()
        if self.lost:
            self._drop()
        self._answer(201, results)

    def _delete_snapshot(self, name: str) -> None:
        """By its id, or by its name alone."""
        known = next(
            (item for item in self.cloud.snapshots if name in (item, item[5:].partition(":")[0])), None
        )
        if known is None:
            self._refuse(404, f"template {name} not found")
            return
        states = {machine.state for machine in self.cloud.machines.values() if machine.source == known}
        if states:
            self._refuse(
                400, f"cannot delete template because there are {' and '.join(states)} sandboxes using it"
            )
            return
        point = self.cloud.snapshots.pop(known, None)
        if point is not None:
            point.release()
        if self.lost:
            self._drop()
        self._answer(204)

    def _detail(self, machine: Machine) -> dict[str, Any]:
        now = datetime.now(UTC)
        left_s = max(0.0, machine.ends_at - self.cloud.rules.now())
        return {
            **_created(machine),
            "startedAt": now.isoformat(),
            "endAt": (now + timedelta(seconds=left_s)).isoformat().replace("+00:00", "Z"),
            "cpuCount": 2,
            "memoryMB": 512,
            "diskSizeMB": 512,
            "state": machine.state,
            "metadata": machine.metadata,
        }

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
            self._line(type="keepalive")
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
        if self.kernel:
            self._line(
                type="error", name=self.kernel, value="Connection to the kernel was lost", traceback=""
            )
            return
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
                self._line(type="keepalive")
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
