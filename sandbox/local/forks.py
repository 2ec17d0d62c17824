"""Frozen processes from live ones and live ones from frozen ones. When to do which is left to
`sandbox.sessions`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from sandbox.base import Limits
from sandbox.local.live import Live
from sandbox.local.process import Node, Process, spawn

_FORK_TIMEOUT_S = 30.0


def freeze(live: Live) -> Node:
    """Fork a frozen process off a live one. Raises Dead."""
    process, answer = _fork(live.process, quiet=True)
    return Node(process, _lacking(answer))


def thaw(node: Node, limits: Limits, num_branches: int, num_oom_kills: Callable[[], int]) -> list[Live]:
    """Fork live processes off a frozen one, all or none. Raises Dead."""
    branches: list[Live] = []
    try:
        with node.lock:
            for _ in range(num_branches):
                branches.append(Live(_fork(node.process, quiet=False)[0], limits, num_oom_kills))
    except BaseException:
        for branch in branches:
            branch.close()
        raise
    return branches


def _fork(parent: Process, *, quiet: bool) -> tuple[Process, dict[str, Any]]:
    """A fork of `parent`, frozen if quiet, and what the parent said of it. Raises Dead."""
    family = parent.family
    process = Process(family, quiet=quiet)
    request = {"op": "fork", "frozen": quiet, "number": family.next_number(), "key": family.key}
    return process, spawn(lambda fds: parent.ask(request, _FORK_TIMEOUT_S, fds), process)


def _lacking(answer: Mapping[str, object]) -> tuple[str, ...]:
    """Sentences for the numbers in an untrusted answer."""
    names = {"threads": "threads", "children": "child processes", "connections": "pipes or sockets"}
    found = []
    for key, words in names.items():
        number = answer.get(key)
        if isinstance(number, int) and number > 0:
            found.append(f"{number} {words} of the session do not exist in its branches")
    return tuple(found)
