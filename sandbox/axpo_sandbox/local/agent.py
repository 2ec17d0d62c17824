"""The loop inside a session's process: run cells, write files, fork. Runs beside untrusted code.

So nothing it says is trusted by the other side, and nothing it holds is secret for long. The one primitive is
fork: a frozen child that only waits is a snapshot, a live one a branch. Making the first process of a
session is left to `zygote`.
"""

import base64
import contextlib
import ctypes
import errno
import fcntl
import io
import os
import random
import resource
import signal
import socket
import stat
import struct
import sys
import warnings
from collections.abc import Iterable
from typing import Any

from axpo_sandbox.local import landlock
from axpo_sandbox.local.cell import new_namespace, run_cell
from axpo_sandbox.local.folders import PlainFolders, open_fds
from axpo_sandbox.local.namespaces import MountedFolders
from axpo_sandbox.local.syscalls import NUMBERS, PR_SET_CHILD_SUBREAPER, prctl, syscall
from axpo_sandbox.local.wire import WireError, receive, send

Folders = MountedFolders | PlainFolders

_python = ctypes.PyDLL(None, use_errno=True)  # keeps the interpreter's lock during a call

_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_SQLITE_HEADER = b"SQLite format 3\0"
_MAX_PENDING_SIGNALS = 64
# A family's snapshots and branches count as processes of its user too.
MAX_FAMILY_PROCESSES = 512


class Agent:
    """One sandboxed process. A fork changes who it is: channel, role and folders."""

    def __init__(
        self, channel: socket.socket, folders: Folders, limits: dict[str, Any], *, scoped: bool
    ) -> None:
        self.channel = channel
        self.folders = folders
        self.limits = limits
        self.scoped = scoped  # see `confine.Confined`
        self.frozen = False
        self.num_cells = 0
        self.namespace = new_namespace()
        self._children: set[int] = set()  # forks of ours, to be reaped by us
        self._user_handler: Any = signal.SIG_DFL

    def serve(self) -> None:
        """Answer requests until the other side goes away. Never returns."""
        while True:
            try:
                message, fds = receive(self.channel)
            except (WireError, OSError):
                os._exit(0)
            self.reap()
            answer = {**self._answer(message, fds), "id": message.get("id")}
            try:
                send(self.channel, answer)
            except OSError:
                os._exit(0)

    def _answer(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        operation = message["op"]
        if operation == "run":
            self.num_cells += 1
            limit_processes(self.limits, message["num_others"], message.pop("key"))
            refresh_streams()
            answer = run_cell(message["code"], self.namespace, self.num_cells, self.limits)
            flush_streams()
            return answer
        if operation == "check":
            limit_processes(self.limits, message["num_others"], message.pop("key"))
            refresh_streams()
            return {"ok": run_cell("", {}, 0, self.limits)["error"] is None}
        if operation == "fork":
            return self._fork(message, fds)
        if operation == "files":
            has_own_room = isinstance(self.folders, MountedFolders)
            return write_files(self.folders.box, message["files"], self.limits, has_own_room=has_own_room)
        if operation == "seed":
            reseed(message["seed"])
            return {"ok": True}
        return {"ok": operation == "ping"}

    def _fork(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        """In the parent, what came of it; in each child, its hello. fds: three for every child."""
        key = message.pop("key")  # not kept: nothing of ours may hold it while a cell runs
        numbers = message["numbers"]
        if len(fds) != 3 * len(numbers):
            _close_all(fds)
            return {"failed": f"{len(fds)} of {3 * len(numbers)} descriptors arrived: too many are open"}
        flush_streams()
        lacking = self._lacking(fds) if message["frozen"] and not self.frozen else {}
        allow_family(key)
        for index, number in enumerate(numbers):
            try:
                child = fork_alike()
            except OSError as error:
                _close_all(fds)
                return {"failed": str(error)}
            if not child:
                own = fds[3 * index : 3 * index + 3]
                _close_all(fd for fd in fds if fd not in own)
                try:
                    return self._become(own, number, key, frozen=message["frozen"])
                except OSError as error:
                    return {"failed": str(error)}
            self._children.add(child)
        _close_all(fds)
        return {"ok": True, **lacking}

    def _become(self, fds: list[int], number: int, key: int, *, frozen: bool) -> dict[str, Any]:
        self.channel.close()
        self.channel = socket.socket(fileno=fds[0])
        os.dup2(fds[1], 1)
        os.dup2(fds[2], 2)
        _close_all(fds[1:])
        self._children.clear()
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        _lead_session(key)  # a group of its own for signals, and one for the scheduler
        mounted = isinstance(self.folders, MountedFolders)
        num_lost = self.folders.branch({fds[0]}, key if mounted else number)
        self._take_role(frozen=frozen)
        if not self.frozen and self.scoped:
            landlock.scope()
        return {"ok": True, "files": num_lost}

    def _take_role(self, *, frozen: bool) -> None:
        # A frozen process must reap at once, or its dead branches count as processes.
        if frozen and not self.frozen:
            self._user_handler = signal.getsignal(signal.SIGCHLD)
            signal.signal(signal.SIGCHLD, lambda *_: self.reap())
        elif self.frozen and not frozen:
            signal.signal(signal.SIGCHLD, self._user_handler)
        self.frozen = frozen

    def reap(self) -> None:
        """Take note of forks of ours that ended."""
        for child in list(self._children):
            try:
                done, _ = os.waitpid(child, os.WNOHANG)
            except ChildProcessError:
                done = child
            if done:
                self._children.discard(child)

    def _lacking(self, own_fds: list[int]) -> dict[str, int]:
        """How many things of each kind a fork does not carry over."""
        own = {self.channel.fileno(), *own_fds}
        num_threads = num_children = num_connections = 0
        try:
            threads = os.listdir("/proc/self/task")
            num_threads = len(threads) - 1
            for thread in threads:
                with open(f"/proc/self/task/{thread}/children") as file:
                    num_children += len(set(map(int, file.read().split())) - self._children)
            for name in os.listdir("/proc/self/fd"):
                with contextlib.suppress(OSError):  # the listing's own descriptor is gone by now
                    is_ours = int(name) <= 2 or int(name) in own
                    target = os.readlink(f"/proc/self/fd/{name}")
                    num_connections += not is_ours and target.startswith(("socket:", "pipe:", "anon_inode:"))
        except OSError:
            num_threads = len(sys._current_frames()) - 1  # without /proc, those Python knows of
        return {
            "threads": num_threads,
            "children": num_children,
            "connections": num_connections,
            "databases": num_open_databases(),
            "timers": sum(signal.getitimer(kind)[0] > 0 for kind in _TIMERS),
        }


def num_open_databases() -> int:
    """Files that SQLite has open: it notices that those of a branch are others, and does not write to them."""
    num_found = 0
    for fd in open_fds():
        with contextlib.suppress(OSError):  # closed by now, or not open for reading
            status = os.fstat(fd)
            if stat.S_ISREG(status.st_mode) and status.st_size:
                num_found += os.pread(fd, len(_SQLITE_HEADER), 0) == _SQLITE_HEADER
            elif stat.S_ISREG(status.st_mode) and status.st_nlink and "_sqlite3" in sys.modules:
                # A new database is empty. What else SQLite's flags are on is a temporary file with a name.
                num_found += bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NOFOLLOW)
    return num_found


def fork_alike() -> int:
    """fork(2), in whose child all is as in its parent: 0 there, the child's number here. Raises OSError.

    `os.fork` would run hooks, which reseed `random` and touch, and so copy, a hundred pages. They are needed
    only where threads were lost: they free the locks those held.
    """
    if len(sys._current_frames()) == 1:
        child = _python.fork()
        if child < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return child
    state = random.getstate()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about threads: the answer says it
        child = os.fork()
    if not child:
        random.setstate(state)
    return child


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def write_files(
    box: str, files: dict[str, str], limits: dict[str, Any], *, has_own_room: bool
) -> dict[str, Any]:
    """Write base64 contents below `box`. has_own_room: whether workdir_bytes of the limits hold there."""
    try:
        for name, content in files.items():
            path = f"{box}/{name}"
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(base64.b64decode(content))
    except OSError as error:
        return {"failed": f"{error}{limit_reached(error, limits, has_own_room=has_own_room)}"}
    return {"ok": True}


def limit_reached(error: OSError, limits: dict[str, Any], *, has_own_room: bool) -> str:
    """Which limit kept a file from being written, to go behind the error; "" if none did."""
    name = {errno.EFBIG: "file_bytes", errno.ENOSPC: "workdir_bytes" if has_own_room else ""}.get(
        error.errno or 0
    )
    return f" (limits.{name} is {limits[name]})" if name else ""


def reseed(seed: int) -> None:
    """Set the random states of the standard library and of numpy, if it is loaded."""
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % (1 << 32))


def refresh_streams() -> None:
    """sys.stdout and sys.stderr as cells should find them, whatever became of the old ones."""
    for fd, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if not isinstance(stream, _Stream) or stream.closed:
            setattr(sys, name, _Stream(fd))


def flush_streams() -> None:
    """Bring what is buffered on its way."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # a stream the code made may do anything
            stream.flush()


class _Stream(io.TextIOWrapper):
    """Output that is on its way at the end of each line, so that a cell that dies has shown what it did."""

    def __init__(self, fd: int) -> None:
        raw = io.FileIO(fd, "w", closefd=False)
        super().__init__(io.BufferedWriter(raw), "utf-8", "backslashreplace", line_buffering=True)


def limit_processes(limits: dict[str, Any], num_others: int, key: int) -> None:
    """Hold the number of processes. On top come `num_others`: the family's snapshots and branches, or where no
    user namespace counts apart, all that the user runs.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    soft = int(limits["num_processes"]) + num_others
    _set_process_limit(soft if hard < 0 else min(soft, hard), hard, key)


def allow_family(key: int) -> None:
    """Lift the limit of `limit_processes` as far as it goes: a fork for us is not one of the code's."""
    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    _set_process_limit(hard, hard, key)


def _set_process_limit(soft: int, hard: int, key: int) -> None:
    if "prlimit64" not in NUMBERS:  # then there is no filter either
        resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
        return
    both = struct.pack("=QQ", *(value & (1 << 64) - 1 for value in (soft, hard)))
    syscall("prlimit64", 0, resource.RLIMIT_NPROC, both, None, 0, key)


def _lead_session(key: int) -> None:
    if "setsid" in NUMBERS:
        syscall("setsid", 0, 0, 0, 0, 0, key)
    else:  # then there is no filter either
        os.setsid()


def limit_resources(limits: dict[str, Any]) -> None:
    """Hold memory, files, processes and core dumps of this process and each it starts."""
    with open("/proc/self/statm") as file:
        base_bytes = int(file.read().split()[0]) * resource.getpagesize()
    for kind, value in (
        (
            resource.RLIMIT_NPROC,
            int(limits["num_processes"]) + int(limits["num_others"]) + MAX_FAMILY_PROCESSES,
        ),
        (resource.RLIMIT_AS, base_bytes + int(limits["memory_bytes"])),
        (resource.RLIMIT_FSIZE, int(limits["file_bytes"])),
        (resource.RLIMIT_NOFILE, int(limits["num_open_files"])),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_SIGPENDING, _MAX_PENDING_SIGNALS),  # all processes of a user share theirs
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        _, allowed = resource.getrlimit(kind)
        value = value if allowed == resource.RLIM_INFINITY else min(value, allowed)
        resource.setrlimit(kind, (value, value))
