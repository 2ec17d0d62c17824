"""Runs inside the machine, in the kernel that E2B's code interpreter drives: cells with the semantics of all backends.

The trusted side calls `run` with a request in JSON, one kernel cell per request. The answer, JSON too, is shown
as a result that carries the request's token; a request that comes again is answered again, and done once. What a
cell writes is passed on while it runs, up to its limit, that of child processes too. Runs beside untrusted code:
nothing it says is trusted by the other side.
"""

import codecs
import contextlib
import json
import os
import resource
import select
import sys
import threading
import zipfile
from collections.abc import Callable
from types import TracebackType
from typing import Any

from axpo_sandbox.local.agent import flush_streams, limit_reached, refresh_streams, reseed
from axpo_sandbox.local.cell import new_namespace, run_cell
from axpo_sandbox.local.zygote import preload

_CHUNK_BYTES = 1 << 16
# What is left in a pipe after a cell is taken up to here: a process that it left behind may write without end.
_MAX_LEFT_CHUNKS = 32
_MARKER_TIMEOUT_S = 2.0
_RESERVE_BYTES = 192 << 20


class _Marker:
    """A thread by which a machine that was made of a snapshot can tell whether snapshots keep threads."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._answered = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ask(self) -> bool:
        """Whether it is there; ends it. A thread may look alive where only its record is."""
        self._asked.set()
        answered = self._thread.is_alive() and self._answered.wait(_MARKER_TIMEOUT_S)
        if answered:
            self._thread.join()
        return answered

    def _live(self) -> None:
        self._asked.wait()
        self._answered.set()


class Session:
    """What a machine holds between two requests."""

    def __init__(self) -> None:
        self.namespace: dict[str, Any] = {}
        self.limits: dict[str, Any] = {}
        self.folder = ""
        self.num_cells = 0
        self.marker = _Marker()
        self.num_own_threads = 0  # the kernel's
        self.token = ""  # of the latest request
        self.said = ""  # its answer
        self.outputs = (bytearray(), bytearray())  # what it wrote, up to the limit


session = Session()


def run(request: str) -> "Said | None":
    """Answer one request. Never raises."""
    message = json.loads(request)
    if message["token"] == session.token:  # the connection was lost, and with it the answer
        for stream, data in zip((sys.stdout, sys.stderr), session.outputs, strict=True):
            stream.write(data.decode("utf-8", "replace"))
            stream.flush()
        return _say(session.said)
    session.outputs = (bytearray(), bytearray())
    try:
        answer = _OPERATIONS[message["op"]](message)
    except BaseException as error:  # the other side would take an exception for the interpreter's end
        answer = {"failed": f"{type(error).__name__}: {error}"[:2000]}
    session.token, session.said = message["token"], json.dumps({"token": message["token"], **answer})
    return _say(session.said)


class Said:
    """A value whose repr is an answer: what a kernel shows of a cell's last expression."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        text, self._text = self._text, ""  # a kernel may keep the value for good
        return text


def _hello(message: dict[str, Any]) -> dict[str, Any]:
    """Get ready: import what is to be warm."""
    _, missing = preload(message["preload"])
    _take_display()
    session.marker.start()
    return {"python": ".".join(map(str, sys.version_info[:3])), "missing": missing}


def _begin(message: dict[str, Any]) -> dict[str, Any]:
    """Become a session's interpreter."""
    session.limits = message["limits"]
    session.folder = message["folder"]
    os.makedirs(session.folder, exist_ok=True)
    os.chdir(session.folder)
    session.namespace = new_namespace()
    memory_bytes = _limit_resources(session.limits)
    reseed(message["seed"])
    threads_kept = session.marker.ask()
    session.num_own_threads = _num_threads()
    return {"ok": True, "threads_kept": threads_kept, "memory_bytes": memory_bytes}


def _run(message: dict[str, Any]) -> dict[str, Any]:
    session.num_cells += 1
    with Streams(int(session.limits["output_bytes"]), session.outputs) as streams:
        answer = run_cell(message["code"], session.namespace, session.num_cells, session.limits)
    return {**answer, "dropped": streams.num_dropped_bytes}


def _lacking(message: dict[str, Any]) -> dict[str, Any]:
    """What a snapshot that keeps no threads would leave out."""
    return {"threads": _num_threads() - session.num_own_threads}


def _num_threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _check(message: dict[str, Any]) -> dict[str, Any]:
    """Whether cells can run: the state that they left may not let them."""
    with Streams(0, session.outputs):
        answer = run_cell("", {}, 0, session.limits)
    return {"ok": True} if answer["error"] is None else {"failed": answer["error"]["name"]}


def _write_files(message: dict[str, Any]) -> dict[str, Any]:
    """Unpack an archive that was written beside us into the working folder."""
    path = message["archive"]
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                target = f"{session.folder}/{name}"
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with open(target, "wb") as file:
                    file.write(archive.read(name))
    except OSError as error:
        return {"failed": f"{error}{limit_reached(error, session.limits, has_own_room=False)}"}
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
    return {"ok": True}


def _reseed(message: dict[str, Any]) -> dict[str, Any]:
    reseed(message["seed"])
    return {"ok": True}


_OPERATIONS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "hello": _hello,
    "begin": _begin,
    "run": _run,
    "check": _check,
    "lacking": _lacking,
    "files": _write_files,
    "seed": _reseed,
}


def _limit_resources(limits: dict[str, Any]) -> int:
    """Hold memory, open files and file sizes of this process and those it starts; what is in use comes on top.

    Returns the bytes of memory that a process may add: no more than the machine has to spare.
    """
    memory_bytes = min(int(limits["memory_bytes"]), _spare_bytes() or sys.maxsize)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(
            "500"
        )  # should memory run out all the same, it is not E2B's own server that the kernel ends
    with open("/proc/self/statm") as file:
        base_bytes = int(file.read().split()[0]) * resource.getpagesize()
    num_open_files = len(os.listdir("/proc/self/fd"))
    for kind, value in (
        (resource.RLIMIT_AS, base_bytes + memory_bytes),
        (resource.RLIMIT_FSIZE, int(limits["file_bytes"])),
        (resource.RLIMIT_NOFILE, num_open_files + int(limits["num_open_files"])),
        (resource.RLIMIT_CORE, 0),
    ):
        _, allowed = resource.getrlimit(kind)
        value = value if allowed == resource.RLIM_INFINITY else min(value, allowed)
        resource.setrlimit(kind, (value, value))
    return memory_bytes


def _spare_bytes(path: str = "/proc/meminfo") -> int | None:
    """Memory that the machine has left, but for what E2B's own server and files need; None if it does not say."""
    try:
        with open(path) as file:
            sizes = {key: value for key, _, value in (line.partition(":") for line in file)}
        available = int(sizes["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError, ValueError, IndexError):
        return None
    return max(available - _RESERVE_BYTES, available // 2)


class Streams:
    """File descriptors 1 and 2 for the time of one cell: pipes, which a thread empties into the kernel's streams."""

    def __init__(self, max_bytes: int, kept: tuple[bytearray, bytearray]) -> None:
        """max_bytes: of each stream, the rest is dropped while it is read. kept: takes a copy."""
        self.num_dropped_bytes = [0, 0]
        self._kept_bytes = kept
        self._room = [max_bytes, max_bytes]

    def __enter__(self) -> "Streams":
        self._theirs = (sys.stdout, sys.stderr)
        flush_streams()
        self._saved = [os.dup(1), os.dup(2)]
        self._sinks = [_sink(stream, fd) for stream, fd in zip(self._theirs, self._saved, strict=True)]
        self._readers = []
        for target in (1, 2):
            reader, writer = os.pipe()
            os.set_blocking(reader, False)
            os.dup2(writer, target)
            os.close(writer)
            self._readers.append(reader)
        self._stop_reader, self._stop_writer = os.pipe()
        refresh_streams()
        self._thread = threading.Thread(target=self._pump, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        flush_streams()
        for saved, target in zip(self._saved, (1, 2), strict=True):
            os.dup2(saved, target)
        os.close(self._stop_writer)
        self._thread.join()
        for fd in (*self._saved, *self._readers, self._stop_reader):
            os.close(fd)
        sys.stdout, sys.stderr = self._theirs
        flush_streams()

    def _pump(self) -> None:
        open_readers = list(self._readers)
        stopping = False
        while open_readers and not stopping:
            ready, _, _ = select.select([*open_readers, self._stop_reader], [], [])
            stopping = self._stop_reader in ready
            for index, reader in enumerate(self._readers):
                for _ in range(_MAX_LEFT_CHUNKS if stopping else 1):
                    data = _read(reader)
                    if data is None:
                        break
                    if not data:
                        if reader in open_readers:
                            open_readers.remove(reader)
                        break
                    self._take(index, data)

    def _take(self, index: int, data: bytes) -> None:
        kept = data[: self._room[index]]
        self._room[index] -= len(kept)
        self.num_dropped_bytes[index] += len(data) - len(kept)
        if kept:
            self._kept_bytes[index].extend(kept)
            self._sinks[index](kept)


def _read(fd: int) -> bytes | None:
    try:
        return os.read(fd, _CHUNK_BYTES)
    except BlockingIOError:
        return None


def _sink(stream: Any, saved_fd: int) -> Callable[[bytes], object]:
    """Where a kernel's output goes: Jupyter's streams are messages, any other's is the file that 1 or 2 was."""
    if type(stream).__module__ == "ipykernel.iostream":
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return lambda data: stream.write(decoder.decode(data))

    def write(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(saved_fd, view) :]

    return write


_publish: Callable[..., object] | None = None


def _take_display() -> None:
    """In Jupyter: keep `display` for our answers, which no history keeps then, and take it from the code."""
    global _publish
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None and _publish is None:
        _publish = shell.display_pub.publish
        shell.display_pub.publish = lambda *_arguments, **_options: None


def _say(text: str) -> Said | None:
    if _publish is None:
        return Said(text)
    _publish({"text/plain": text}, {})
    return None
