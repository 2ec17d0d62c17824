"""Live processes that stand where a journal ends: thawed where that works, replayed where not.

When to do which is left to `sessions`.
"""

from typing import NamedTuple

from axpo_sandbox import journal as journals
from axpo_sandbox.backend import (
    NUM_HOSTS,
    Backend,
    Dead,
    HostDied,
    Live,
    Point,
    Stalled,
    lift_deadline,
    patience,
    within,
)
from axpo_sandbox.base import SandboxUnavailable
from axpo_sandbox.journal import Journal


class Unrepeatable(Exception):
    """A cell that went well before ended the interpreter when it was run again."""


class Revived(NamedTuple):
    """A live process in the place of one that died, or of none yet."""

    live: Live
    from_point: bool
    warnings: tuple[str, ...]


def revive(backend: Backend, journal: Journal, point: Point | None, point_length: int) -> Revived:
    """A live process that stands where `journal` ends, and what to tell about it.

    point: equals the journal as of point_length. Raises Unrepeatable, SandboxUnavailable; Stalled or OutOfTime
    where the deadline comes first.
    """
    return revive_all(backend, [journal], point, point_length)[0]


def revive_all(
    backend: Backend, wanted: list[Journal], point: Point | None, point_length: int
) -> list[Revived]:
    """One live process per journal. All of them begin as the point does. All or none; raises as `revive`."""
    for _ in range(NUM_HOSTS):
        try:
            return _revive_all(backend, wanted, point, point_length)
        except HostDied as death:
            lift_deadline()  # no doing of the code: so it may take the time it takes
            trouble = death
    raise SandboxUnavailable(f"what sessions run on ends again and again: {trouble}") from trouble


def _revive_all(
    backend: Backend, wanted: list[Journal], point: Point | None, point_length: int
) -> list[Revived]:
    """The same; raises HostDied, too."""
    warnings: tuple[str, ...] = ()
    thawed: list[Live] = []
    if point is not None:
        try:
            with within(patience() / 2):  # the rest is for repeating the cells
                thawed = backend.thaw(point, wanted[0].limits, len(wanted))
        except Dead as death:
            if isinstance(death, HostDied):
                lift_deadline()
            warnings = (f"the frozen process could not go on ({death}); its cells were replayed",)
    revived: list[Revived] = []
    try:
        for journal in wanted:
            if thawed:
                revived.append(Revived(thawed[len(revived)], True, ()))
                told = _catch_up(thawed[len(revived) - 1], journal.entries[point_length:])
            else:
                revived.append(Revived(backend.start(journal.seed, journal.limits), False, ()))
                told = warnings + _catch_up(revived[-1].live, journal.entries)
            revived[-1] = revived[-1]._replace(warnings=told)
    except BaseException as error:
        for live in {*thawed, *(item.live for item in revived)}:
            live.close()
        if isinstance(error, Dead) and not isinstance(error, HostDied | Stalled):
            raise Unrepeatable(str(error)) from error
        raise
    return revived


def _catch_up(live: Live, entries: tuple[journals.Entry, ...]) -> tuple[str, ...]:
    found = journals.replay(live, entries)
    return tuple(f"replayed cell {item.cell} gave another {', '.join(item.fields)}" for item in found)
