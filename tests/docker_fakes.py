"""Docker without Docker: an engine whose containers are the relay in a plain process, and a stream to lie over."""

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from axpo_sandbox.base import SandboxUnavailable
from axpo_sandbox.docker.frames import STDERR, STDOUT

IMAGE_ID = "sha256:fake"
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


PYTHON = sys.executable
