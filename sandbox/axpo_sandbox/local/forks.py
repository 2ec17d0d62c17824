"""Frozen processes from live ones and live ones from frozen ones. When to do which is left to
`axpo_sandbox.sessions`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from axpo_sandbox.backend import Stalled, patience
from axpo_sandbox.base import Limits
from axpo_sandbox.local.cgroup import MemoryState
from axpo_sandbox.local.live import Live
from axpo_sandbox.local.process import Node, Process, spawn
from axpo_sandbox.local.wire import MAX_FDS

_FORK_TIMEOUT_S = 30.0  # where the caller has no deadline
_LINE_TIMEOUT_S = 300.0
_MAX_AT_ONCE = MAX_FDS // 3


def freeze(live: Live) -> Node:
    """Fork a frozen process off a live one. Raises Dead."""
    (process,), answer = _fork(live.process, 1, frozen=True)
    return Node(process, _lacking({**answer, "files": process.hello.get("files")}))


def thaw(node: Node, limits: Limits, num_branches: int, memory: Callable[[], MemoryState]) -> list[Live]:
    """Fork live processes off a frozen one, all or none. Raises Dead."""
    branches: list[Live] = []
    try:
        if not node.lock.acquire(timeout=patience(_LINE_TIMEOUT_S)):
            raise Stalled("others still wait for it to fork")
        try:
            while len(branches) < num_branches:
                num_now = min(num_branches - len(branches), _MAX_AT_ONCE)
                processes, _ = _fork(node.process, num_now, frozen=False)
                branches.extend(Live(process, limits, memory) for process in processes)
        finally:
            node.lock.release()
    except BaseException:
        for branch in branches:
            branch.close()
        raise
    return branches


def _fork(parent: Process, num_forks: int, *, frozen: bool) -> tuple[list[Process], dict[str, Any]]:
    """Forks of `parent`, which begin beside each other, and what it said of them. All or none; raises Dead."""
    family = parent.family
    processes = [Process(family, frozen=frozen) for _ in range(num_forks)]
    numbers = [family.next_number() for _ in processes]
    request = {"op": "fork", "frozen": frozen, "numbers": numbers, "key": family.key}
    answer = spawn(
        lambda fds: parent.ask(request, patience(_FORK_TIMEOUT_S), fds),
        processes,
        ready_timeout_s=lambda: patience(_FORK_TIMEOUT_S),
    )
    return processes, answer


def _lacking(answer: Mapping[str, object]) -> tuple[str, ...]:
    """Sentences for the numbers in an untrusted answer."""
    gone = "of the session do not exist in its branches"
    sentences = {
        "threads": f"threads {gone}",
        "children": f"child processes {gone}",
        "connections": f"pipes or sockets {gone}",
        "timers": f"timers {gone}",
        "files": "open files of the session could not be copied and are closed in its branches",
        "databases": "SQLite databases are open: connections to them may be unable to write in branches; connect again",
    }
    found = []
    for key, sentence in sentences.items():
        number = answer.get(key)
        if isinstance(number, int) and number > 0:
            found.append(f"{number} {sentence}")
    return tuple(found)
