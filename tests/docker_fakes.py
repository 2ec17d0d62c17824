"""Docker without Docker: an engine whose containers are the relay in a plain process, alone or behind Docker's API."""

import contextlib
import http.server
import json
import os
import re
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from axpo_sandbox.base import SandboxUnavailable
from axpo_sandbox.docker.frames import STDERR, STDOUT

IMAGE_ID = "sha256:fake"
PYTHON = sys.executable
_CHUNK_BYTES = 1 << 15


def wrapped(kind: int, data: bytes) -> bytes:
    """`data` as an engine sends it of stream `kind`."""
    return struct.pack("!BxxxI", kind, len(data)) + data


class FakeEngine:
    """What `axpo_sandbox.docker.engine.Engine` offers for containers, as processes of this machine."""

    def __init__(self) -> None:
        self.labels: dict[str, dict[str, str]] = {}
        self.options: dict[str, dict[str, Any]] = {}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._streams: dict[str, socket.socket] = {}
        self.unavailable = ""

    def find_image(self, name: str) -> str:
        return IMAGE_ID

    def memory_bytes(self) -> int:
        return 4 << 30

    def containers(self, label: str) -> list[tuple[str, dict[str, str]]]:
        return [item for item in self.labels.items() if label in item[1]]

    def create(
        self, image: str, *, host: Mapping[str, Any], more_host: Mapping[str, Any], **options: Any
    ) -> str:
        if self.unavailable:
            raise SandboxUnavailable(self.unavailable)
        name = f"fake{len(self.options)}"
        self.options[name] = {"image": image, "host": host, "more_host": more_host, **options}
        self.labels[name] = options["labels"]
        return name

    def attach(self, container_id: str) -> tuple[socket.socket, object]:
        ours, self._streams[container_id] = socket.socketpair()
        return ours, None

    def start(self, container_id: str) -> None:
        process = subprocess.Popen(
            self.options[container_id]["entrypoint"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            cwd="/",
        )
        self.running[container_id] = process
        stream, lock = self._streams[container_id], threading.Lock()
        pumps = [
            threading.Thread(target=_pump_out, args=(process, kind, stream, lock), daemon=True)
            for kind in (STDOUT, STDERR)
        ]
        for pump in pumps:
            pump.start()
        threading.Thread(target=_pump_in, args=(process, stream), daemon=True).start()
        threading.Thread(target=_hang_up, args=(process, pumps, stream), daemon=True).start()

    def remove(self, container_id: str) -> None:
        self.labels.pop(container_id, None)
        process = self.running.pop(container_id, None)
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            Path(f"/tmp/axpo-sandbox-{process.pid}.zip").unlink(missing_ok=True)


def _pump_out(
    process: subprocess.Popen[bytes], kind: int, stream: socket.socket, lock: threading.Lock
) -> None:
    pipe = process.stdout if kind == STDOUT else process.stderr
    assert pipe is not None
    while data := os.read(pipe.fileno(), _CHUNK_BYTES):
        with lock, contextlib.suppress(OSError):
            stream.sendall(wrapped(kind, data))


def _pump_in(process: subprocess.Popen[bytes], stream: socket.socket) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        while data := stream.recv(_CHUNK_BYTES):
            process.stdin.write(data)
            process.stdin.flush()
        process.stdin.close()


def _hang_up(process: subprocess.Popen[bytes], pumps: list[threading.Thread], stream: socket.socket) -> None:
    process.wait()
    for pump in pumps:
        pump.join()
    with contextlib.suppress(OSError):
        stream.shutdown(socket.SHUT_RDWR)


class EngineServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Docker's API over a FakeEngine at a Unix socket, as far as the docker package asks for it.

    answers: (words of the request line, status, message or content) that come instead of what the engine would do.
    hang: such words; a request with them gets no answer before the server is closed.
    """

    daemon_threads = True

    def __init__(self, path: Path, *answers: tuple[str, int, Any], hang: str = "^$") -> None:
        super().__init__(str(path), _Api)
        self.url = f"unix://{path}"
        self.engine, self.answers, self.hang = FakeEngine(), answers, hang
        self.closed = threading.Event()
        self.connections: list[socket.socket] = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def end(self) -> None:
        """End as a killed engine does, and its containers with it."""
        self.closed.set()
        self.shutdown()
        self.server_close()
        Path(str(self.server_address)).unlink(missing_ok=True)
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for container_id in list(self.engine.labels):
            self.engine.remove(container_id)


class _Api(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: EngineServer

    def setup(self) -> None:
        super().setup()
        self.server.connections.append(self.connection)

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_DELETE = do_GET

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if re.search(self.server.hang, self.requestline):
            self.server.closed.wait()
            self.close_connection = True
            return
        for words, status, message in self.server.answers:
            if re.search(words, self.requestline):
                self._send(status, {"message": message} if isinstance(message, str) else message)
                return
        path = re.sub(r"^/v[0-9.]+", "", self.path).partition("?")[0]
        (_, kind, *rest) = path.split("/")
        engine = self.server.engine
        if kind == "containers" and rest[0] == "create":
            given = json.loads(body)
            options = {"labels": given["Labels"], "entrypoint": given["Entrypoint"]}
            self._send(201, {"Id": engine.create(given["Image"], host={}, more_host={}, **options)})
        elif kind == "containers" and rest[-1] == "attach":
            self.send_response(101)
            self.send_header("Connection", "Upgrade")
            self.send_header("Upgrade", "tcp")
            self.end_headers()
            engine._streams[rest[0]] = self.connection
            self.server.closed.wait()  # the stream is the engine's from here on
            self.close_connection = True
        elif kind == "containers" and rest[-1] == "start":
            engine.start(rest[0])
            self._send(204, None)
        elif self.command == "DELETE":
            engine.remove(rest[0])
            self._send(204, None)
        else:
            known = {
                "/version": {"ApiVersion": "1.41"},
                "/_ping": "OK",
                "/info": {"MemTotal": engine.memory_bytes()},
                "/containers/json": [
                    {"Id": name, "Labels": labels} for name, labels in engine.labels.items()
                ],
                "/images/axpo-sandbox:latest/json": {"Id": IMAGE_ID},
                f"/images/{IMAGE_ID}/json": {"Id": IMAGE_ID, "RepoTags": ["axpo-sandbox:latest"]},
                "/images/json": [{"Id": IMAGE_ID}],
            }
            found = path in known
            self._send(
                200 if found else 404,
                known[path] if found else {"message": f"No such {kind.removesuffix('s')}: {path}"},
            )

    def _send(self, status: int, content: object) -> None:
        body = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def engine_at(path: Path, *answers: tuple[str, int, Any], hang: str = "^$") -> Iterator[EngineServer]:
    """An `EngineServer` that ends with the block."""
    server = EngineServer(path, *answers, hang=hang)
    try:
        yield server
    finally:
        if not server.closed.is_set():
            server.end()
