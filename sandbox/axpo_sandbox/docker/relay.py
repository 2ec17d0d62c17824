"""What runs in the container: a local sandbox, and its processes served over the container's one stream.

Started by the lines in `bundle`. It is the trusted half of the local backend, moved beside the forks it makes;
the host does not trust it all the same. Names of processes are numbers that the host gives. A request may have a
deadline, `within_s`: what it waits for longer is given up here, so that no thread is held by what code has spoilt.
"""

import base64
import contextlib
import dataclasses
import errno
import os
import platform
import resource
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from axpo_sandbox.backend import Dead, LostInCell, Stalled, patience, survived, within
from axpo_sandbox.base import Execution, FilesRefused, Limits, SandboxError, SandboxUnavailable
from axpo_sandbox.docker.failures import name_of
from axpo_sandbox.docker.frames import MAX_ANSWER_BYTES, MAX_REQUEST_BYTES, Decoder, encode
from axpo_sandbox.local.cgroup import what_is_full
from axpo_sandbox.local.client import LocalSandbox
from axpo_sandbox.local.config import LocalConfig
from axpo_sandbox.local.live import Live
from axpo_sandbox.local.process import Node

_CHUNK_BYTES = 1 << 18
_NUM_RESERVE_THREADS = 8
_LINE_TIMEOUT_S = 300.0  # for a process that another request is at, where the caller has no deadline
_MAX_OPEN_FILES = 1 << 16
_GROUP = Path("/sys/fs/cgroup")  # both of its versions; a container sees its own group here
_MEMORY_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
_PROCESS_LIMITS = ("pids.max", "pids/pids.max")
_MEMORY_USED = ("memory.current", "memory/memory.usage_in_bytes")


class Held(NamedTuple):
    """A live process, and a lock for what must not be done to it at once: all but killing it."""

    live: Live
    lock: threading.Lock


class Relay:
    """The sandbox inside, what lives in it by number, and the operations on that."""

    def __init__(self) -> None:
        self._sandbox: LocalSandbox | None = None
        self._lives: dict[int, Held] = {}
        self._points: dict[int, Node] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what `request` asks, before its deadline if it has one, and say what came of it."""
        operation: Callable[[dict[str, Any]], dict[str, Any]] = getattr(self, f"_do_{request['op']}")
        try:
            with within(request.get("within_s", float("inf"))):
                return {"ok": True, **operation(request)}
        except (Dead, SandboxError) as error:
            return {"failed": name_of(error), "message": str(error)}

    def _do_open(self, request: dict[str, Any]) -> dict[str, Any]:
        config = LocalConfig(
            preload=tuple(request["preload"]),
            start_timeout_s=request["timeout_s"],
            allow_unisolated=True,  # from the container; whether that will do is for the host to say
            quiet=True,
        )
        self._sandbox = LocalSandbox(
            config, needs_images=False
        )  # what is missing is for the host to judge, too
        isolation = self._sandbox.isolation
        return {
            "tier": isolation.tier,
            "layers": dict(isolation.layers),
            "reasons": self._sandbox.reasons,
            "missing": self._sandbox.missing,
            "python": platform.python_version(),
            "memory_limit": _number(_MEMORY_LIMITS),
            "process_limit": _number(_PROCESS_LIMITS),
        }

    def _do_memory(self, request: dict[str, Any]) -> dict[str, Any]:
        counted = _number(_MEMORY_USED)
        return {"bytes": self._inside.memory_bytes() if counted is None else counted}

    def _do_start(self, request: dict[str, Any]) -> dict[str, Any]:
        limits = Limits.of(request["limits"])
        if self._inside.isolation.tier != "namespaces":
            # There the kernel counts all of the container's processes as one user's, so that a session could start
            # none once there are a few dozen sessions. The container's own limit remains.
            limits = dataclasses.replace(limits, num_processes=request["num_processes"])
        try:
            live = self._inside.start(request["seed"], limits)
        except SandboxError as error:
            raise SandboxUnavailable(
                str(error) + what_is_full(_GROUP, _GROUP / "memory", _GROUP / "pids")
            ) from error
        self._lives[request["live"]] = Held(live, threading.Lock())
        return {}

    def _do_run(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._held(request) as live:
            return to_wire(live.run(request["code"], timeout_s=request["timeout_s"]))

    def _do_files(self, request: dict[str, Any]) -> dict[str, Any]:
        contents = {name: base64.b64decode(content) for name, content in request["files"].items()}
        with self._held(request) as live:
            try:
                live.write_files(contents)
            except FilesRefused as error:
                if self._inside.isolation.tier == "namespaces" or os.strerror(errno.ENOSPC) not in str(error):
                    raise
                raise FilesRefused(
                    f"{error} (the files of all sessions share half of total_memory_bytes)"
                ) from error
        return {}

    def _do_seed(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._held(request) as live:
            live.reseed(request["seed"])
        return {}

    def _do_check(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._held(request) as live:
            live.check()
        return {}

    def _do_freeze(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._held(request) as live:
            point = self._inside.freeze(live)
        self._points[request["point"]] = point
        return {"lacking": list(point.lacking)}

    def _do_thaw(self, request: dict[str, Any]) -> dict[str, Any]:
        point = self._points.get(request["point"])
        if point is None:
            raise Dead("there is no such frozen process")
        numbers = request["lives"]
        thawed = self._inside.thaw(point, Limits.of(request["limits"]), len(numbers))
        for number, live in zip(numbers, thawed, strict=True):
            assert isinstance(live, Live)
            self._lives[number] = Held(live, threading.Lock())
        return {}

    def _do_kill(self, request: dict[str, Any]) -> dict[str, Any]:
        held = self._lives.get(request["live"])
        if held is not None:
            held.live.kill()
        return {}

    def _do_close(self, request: dict[str, Any]) -> dict[str, Any]:
        held = self._lives.pop(request["live"], None)
        if held is not None:
            held.live.kill()  # so that a cell another thread waits for ends now
            with held.lock:
                held.live.close()
        return {}

    def _do_release(self, request: dict[str, Any]) -> dict[str, Any]:
        point = self._points.pop(request["point"], None)
        if point is not None:
            point.release()
        return {}

    @property
    def _inside(self) -> LocalSandbox:
        if self._sandbox is None:
            raise Dead("it was not opened")
        return self._sandbox

    @contextlib.contextmanager
    def _held(self, request: dict[str, Any]) -> Iterator[Live]:
        held = self._lives.get(request["live"])
        if held is None:
            raise Dead("there is no such process")
        if not held.lock.acquire(timeout=patience(_LINE_TIMEOUT_S)):
            raise Stalled("another request is still at it")
        try:
            yield held.live
        finally:
            held.lock.release()


def to_wire(execution: Execution) -> dict[str, Any]:
    """The answer to a cell. Whether the process lives is said apart from what it said itself."""
    error = execution.error
    return {
        "stdout": execution.stdout,
        "stderr": execution.stderr,
        "text": execution.text,
        "images": [base64.b64encode(image).decode() for image in execution.images],
        "error": error and {"name": error.name, "value": error.value, "traceback": error.traceback},
        "warnings": list(execution.warnings),
        "survived": survived(error),
    }


def _number(names: tuple[str, ...]) -> int | None:
    """What the first of these files says; None if none is there, or what it says is no number, such as "max"."""
    for name in names:
        try:
            return int((_GROUP / name).read_text())
        except (OSError, ValueError):
            continue
    return None


class Stream:
    """Our end of the container's stream. Everything else that is written to stdout goes to stderr."""

    def __init__(self) -> None:
        self._out = os.dup(1)
        os.dup2(2, 1)
        self._decoder = Decoder(MAX_REQUEST_BYTES)
        self._received: deque[dict[str, Any]] = deque()
        self._send_lock = threading.Lock()

    def receive(self) -> dict[str, Any]:
        """The next request. One caller at a time. Ends the process at the end of the stream."""
        while not self._received:
            data = os.read(0, _CHUNK_BYTES)
            if not data:
                os._exit(0)  # all other processes of the container end with us
            self._received.extend(self._decoder.feed(data))
        return self._received.popleft()

    def send(self, number: int, answer: dict[str, Any]) -> None:
        """Send the answer to request `number`."""
        try:
            data = encode({**answer, "id": number}, MAX_ANSWER_BYTES)
        except ValueError as error:
            # Only cells have so much to say.
            failed = {"failed": name_of(LostInCell()), "message": str(error)}
            data = encode({**failed, "id": number}, MAX_ANSWER_BYTES)
        with self._send_lock:
            view = memoryview(data)
            while view:
                view = view[os.write(self._out, view) :]


class Crew:
    """Threads that take turns to receive: whoever has a request does it, while the next one listens.

    So a request changes hands nowhere, and one always listens, however many are at work; unless code has used up
    the container's processes, so that no more threads can be had: hence some in reserve.
    """

    def __init__(self, relay: Relay, stream: Stream) -> None:
        self._relay = relay
        self._stream = stream
        self._turn = threading.Lock()
        self._count_lock = threading.Lock()
        self._num_idle = 0  # listening or waiting for their turn
        for _ in range(_NUM_RESERVE_THREADS):
            self._count(0)

    def work(self) -> None:
        """Serve until the stream ends. Never returns."""
        try:
            while True:
                with self._turn:
                    request = self._stream.receive()
                    self._count(-1)
                answer = self._relay.answer(request)
                if "id" in request:
                    self._stream.send(request["id"], answer)
                self._count(1)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)  # a mistake of ours: the host begins anew

    def _count(self, change: int) -> None:
        """Note that one more or less is idle, and bring in another if few are."""
        with self._count_lock:
            self._num_idle += change
            if self._num_idle >= _NUM_RESERVE_THREADS:
                return
            try:
                threading.Thread(target=self.work, daemon=True).start()
            except RuntimeError:  # no process is left; those there are go on
                return
            self._num_idle += 1


def main() -> None:
    """Serve until the stream ends. Never returns."""
    # Each process inside takes a handful of descriptors here, and engines differ in how many they give.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    Crew(Relay(), Stream())
    threading.Event().wait()
