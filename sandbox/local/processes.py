"""Ending a process with all it started, from outside, whatever it does about it.

Works through /proc alone. Who may be ended is left to the caller.
"""

import contextlib
import os
import signal
from collections.abc import Collection


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


def descendants_of(pid: int, keep: Collection[int] = ()) -> list[int]:
    """Everything below `pid`, without the processes in `keep` and what is below those."""
    found, waiting = [], [pid]
    while waiting:
        for child in children_of(waiting.pop()):
            if child not in keep:
                found.append(child)
                waiting.append(child)
    return found


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
