"""What /proc says of processes; ending one and all it started, whatever it does about it; and how it ended.

Works through /proc and pidfds. Who may be ended is left to the caller.
"""

import contextlib
import fcntl
import os
import re
import signal
import struct
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass

_PIDFD_GET_INFO = 0xC040FF0B  # _IOWR(0xFF, 11, 64 bytes)
_PIDFD_INFO = struct.Struct("=Q52xi")  # mask, ..., exit code
_PIDFD_INFO_EXIT = 1 << 3
_TGID = re.compile(rb"^Tgid:\s*(\d+)", re.MULTILINE)
_INNERMOST_PID = re.compile(rb"^NSpid:.*?(\d+)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Stat:
    """Of a process, as /proc says."""

    parent: int
    group: int
    session: int
    started: int
    """clock ticks since boot: with the number it is one process and no other"""


def children_of(pid: int) -> list[int]:
    """Direct children, of all its threads; [] if it is gone."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    for thread in threads:
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found.extend(map(int, file.read().split()))
    return found


def number_inside(pid: int) -> int:
    """A process's number in the innermost tree it belongs to. Raises OSError if it is gone."""
    with open(f"/proc/{pid}/status", "rb", buffering=0) as file:
        found = _INNERMOST_PID.search(file.read())
    return int(found[1]) if found else pid


def process_of(thread: int) -> int | None:
    """The process that a thread belongs to; None if there is none."""
    try:
        with open(f"/proc/{thread}/status", "rb", buffering=0) as file:
            found = _TGID.search(file.read(4096))
    except OSError:
        return None
    return int(found[1]) if found else None


def stat_of(pid: int) -> Stat | None:
    """None if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            fields = file.read(4096).rpartition(b")")[2].split()
    except OSError:
        return None
    parent, group, session = map(int, fields[1:4])
    return Stat(parent=parent, group=group, session=session, started=int(fields[19]))


def descendants_of(pid: int, keep: Collection[int] = ()) -> list[int]:
    """Everything below `pid`, without the processes in `keep` and what is below those."""
    found, waiting = [], [pid]
    while waiting:
        for child in children_of(waiting.pop()):
            if child not in keep:
                found.append(child)
                waiting.append(child)
    return found


def num_threads_of_user(uid: int) -> int:
    """Threads of all processes of a user, as the kernel counts them for its limit; of those seen in /proc."""
    total = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{name}").st_uid == uid:
                    total += len(os.listdir(f"/proc/{name}/task"))
    return total


def memory_bytes(pids: Iterable[int]) -> int:
    """Memory of processes, pages they share with others in parts. One that is gone or not ours counts 0."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/smaps_rollup") as file:
                total += sum(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))
    return total


def kill_descendants(pid: int, keep: Collection[int] = ()) -> None:
    """Kill all below `pid`, but not `keep`. They are stopped first, so none can start another meanwhile."""
    stopped: set[int] = set()
    while True:
        new = [child for child in descendants_of(pid, keep) if child not in stopped]
        if not new:
            break
        for child in new:
            _signal(child, signal.SIGSTOP)
        stopped.update(new)
    for child in stopped:
        _signal(child, signal.SIGKILL)


def kill_tree(pid: int, pidfd: int, keep: Collection[int] = ()) -> None:
    """Kill a process, known by `pidfd`, and all below it, but not `keep`. Does nothing if it is gone."""
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
    except ProcessLookupError:
        return
    kill_descendants(pid, keep)
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def exit_status(pidfd: int, patience_s: float = 0.2) -> int | None:
    """The wait status of a process that has ended; None if the kernel does not tell (before Linux 6.15)."""
    deadline = time.monotonic() + patience_s
    while True:
        buffer = bytearray(_PIDFD_INFO.pack(_PIDFD_INFO_EXIT, 0))
        try:
            fcntl.ioctl(pidfd, _PIDFD_GET_INFO, buffer)
            mask, status = _PIDFD_INFO.unpack(buffer)
            if mask & _PIDFD_INFO_EXIT:
                return status
        except ProcessLookupError:
            pass  # it ended a moment ago, and nobody has collected it yet
        except OSError:
            return None
        if time.monotonic() > deadline:
            return None
        time.sleep(0.001)
