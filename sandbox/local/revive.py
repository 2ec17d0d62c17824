"""Processes for sessions: freezing a live one, thawing a frozen one, replaying a journal where that fails.

When to do which is left to `session`.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from sandbox import journal as journals
from sandbox.base import Limits
from sandbox.journal import Journal
from sandbox.local.live import Live
from sandbox.local.process import Dead, Family, Node, Process, spawn

_FORK_TIMEOUT_S = 30.0


class Endable(Protocol):
    """A session or a snapshot, as the sandbox sees it."""

    def end(self) -> None:
        """End it. Idempotent."""


class Host(Protocol):
    """What sessions need of the sandbox they live in."""

    fallback: str

    def num_oom_kills(self) -> int:
        """How often the kernel has killed a process of the sandbox for memory."""

    def spawn_first(self, seed: int, limits: Limits) -> Process:
        """A new family's first process. Raises SandboxUnavailable, SandboxClosed."""

    def adopt(self, item: "Endable") -> None:
        """Take note of it, to end it with the sandbox."""


def freeze(live: Live) -> Node:
    """Fork a frozen process off a live one. Raises Dead."""
    process = Process(live.process.family, quiet=True)
    request = _fork_request(process.family, frozen=True)
    answer = spawn(lambda fds: live.process.ask(request, _FORK_TIMEOUT_S, fds), process)
    return Node(process, _lacking(answer))


def thaw(host: Host, node: Node, limits: Limits) -> Live:
    """Fork a live process off a frozen one. Raises Dead."""
    with node.lock:
        process = Process(node.process.family)
        request = _fork_request(process.family, frozen=False)
        spawn(lambda fds: node.process.ask(request, _FORK_TIMEOUT_S, fds), process)
    return Live(process, limits, host.num_oom_kills)


def _fork_request(family: Family, *, frozen: bool) -> dict[str, object]:
    return {"op": "fork", "frozen": frozen, "number": family.next_number(), "key": family.key}


class Unrepeatable(Exception):
    """A cell that went well before ended the interpreter when it was run again."""


class Revived(NamedTuple):
    """A live process in the place of one that died, or of none yet."""

    live: Live
    from_point: bool
    warnings: tuple[str, ...]


def revive(host: Host, journal: Journal, point: Node | None, point_length: int) -> Revived:
    """A live process that stands where `journal` ends, and what to tell about it.

    point: equals the journal as of point_length. Raises Unrepeatable, SandboxUnavailable.
    """
    warnings: tuple[str, ...] = ()
    if point is not None:
        try:
            live = thaw(host, point, journal.limits)
        except Dead as death:
            warnings = (f"the frozen process could not go on ({death}); its cells were replayed",)
        else:
            return Revived(live, True, _catch_up(live, journal.entries[point_length:]))
    process = host.spawn_first(journal.seed, journal.limits)
    live = Live(process, journal.limits, host.num_oom_kills)
    return Revived(live, False, warnings + _catch_up(live, journal.entries))


def _catch_up(live: Live, entries: tuple[journals.Entry, ...]) -> tuple[str, ...]:
    try:
        found = journals.replay(live, entries)
    except Dead as death:
        live.process.close()
        raise Unrepeatable(str(death)) from death
    except BaseException:
        live.process.close()
        raise
    return tuple(f"replayed cell {item.cell} gave another {', '.join(item.fields)}" for item in found)


def _lacking(answer: Mapping[str, object]) -> tuple[str, ...]:
    """Sentences for the numbers in an untrusted answer."""
    names = {"threads": "threads", "children": "child processes", "connections": "pipes or sockets"}
    found = []
    for key, words in names.items():
        number = answer.get(key)
        if isinstance(number, int) and number > 0:
            found.append(f"{number} {words} of the session do not exist in its branches")
    return tuple(found)
