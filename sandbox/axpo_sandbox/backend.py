"""What a backend has to bring: processes that run cells, frozen ones, and how to make one from the other.

Sessions, snapshots, journals and falling back to them are the same for every backend: `sessions`, `revive`
and `host`. A process is whatever holds the state of an interpreter: a process here, one in a container, a
virtual machine.
"""

import contextlib
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import ClassVar, Protocol, TypeVar

from axpo_sandbox.base import FATAL, Execution, ExecutionError, Limits, SessionLost

NUM_HOSTS = 3  # that may end while a session is put back, before that is an outage

SharedPoint = TypeVar("SharedPoint", bound="CountedPoint")


_deadline_s: ContextVar[float] = ContextVar("deadline_s", default=float("inf"))  # by time.monotonic


@contextlib.contextmanager
def within(timeout_s: float) -> Iterator[None]:
    """Inside, waits that ask `patience` end timeout_s seconds from now; earlier if a block around says so."""
    token = _deadline_s.set(min(_deadline_s.get(), time.monotonic() + timeout_s))
    try:
        yield
    finally:
        _deadline_s.reset(token)


def lift_deadline() -> None:
    """For the rest of the innermost `within` block there is none."""
    _deadline_s.set(float("inf"))


def patience(most_s: float = float("inf")) -> float:
    """Seconds to wait for a process whose code may have spoilt it: most_s, less if the deadline is nearer."""
    return max(0.0, min(most_s, _deadline_s.get() - time.monotonic()))


class Dead(Exception):
    """A process ended, or stopped speaking the protocol, in the middle of something."""

    how: ClassVar[str] = "died between two cells"
    """what the session's user is told of it"""


class Stalled(Dead):
    """It is there, but did not answer in time: its code stopped or spoilt it, or the machine is too slow."""

    how = "did not answer"


class HostDied(Dead):
    """It ended with what it ran on, and all others there: a container, say. Not the doing of its own code."""

    how = "died with what it ran on"


class Starved(HostDied):
    """The kernel killed it for memory, most of which others used."""

    how = "was killed for memory that others use"


class Lost(Dead):
    """Nothing is heard of it any more, and nobody knows whether the cell had begun."""

    how = "was lost before the cell or while it ran"


class LostInCell(Lost):
    """The same, after the cell had begun."""

    how = "was lost while the cell ran"


class OutOfTime(Exception):
    """Cells could not be repeated before the deadline."""


class Live(Protocol):
    """A process that runs cells. One caller at a time, but for `kill`."""

    def run(self, code: str, *, timeout_s: float | None = None) -> Execution:
        """Run a cell. `survived(execution.error)` says whether it lives. Raises Dead if it was dead before,
        SandboxUnavailable.
        """

    def write_files(self, files: Mapping[str, bytes]) -> None:
        """Write checked files into the working folder. Raises FilesRefused, Dead."""

    def reseed(self, seed: int) -> None:
        """Set the random states. Raises Dead."""

    def check(self) -> None:
        """Find out whether it can run a cell, without a trace in what cells see. Raises Dead if not."""

    def kill(self) -> None:
        """End it now. Any thread may; one that waits for a cell then gets its answer."""

    def close(self) -> None:
        """End it and let go of everything. Idempotent."""


class Point(Protocol):
    """A frozen process with owners: it ends with the last of them."""

    lacking: tuple[str, ...]
    """what a fork of it lacks, in sentences"""

    def share(self) -> "Point":
        """One more owner. Raises SessionLost if there is none any more."""

    def release(self) -> None:
        """One owner less."""


class Endable(Protocol):
    """A session or a snapshot, as the sandbox sees it."""

    def end(self) -> None:
        """End it. Idempotent."""


class Backend(Protocol):
    """What sessions need of the sandbox they live in."""

    fallback: str
    """"snapshot": freeze before each cell; "replay": fall back to the last point and repeat the cells since"""

    def start(self, seed: int, limits: Limits) -> Live:
        """A new process. Raises SandboxUnavailable, SandboxClosed."""

    def freeze(self, live: Live) -> Point:
        """Freeze what it is now; it goes on. Raises Dead, SandboxUnavailable."""

    def thaw(self, point: Point, limits: Limits, num_branches: int) -> list[Live]:
        """Live processes that go on from there. All or none. Raises Dead, SandboxUnavailable."""

    def adopt(self, item: Endable) -> None:
        """Take note of it, to end it with the sandbox."""


class CountedPoint(ABC):
    """The owners of a `Point`."""

    def __init__(self, lacking: tuple[str, ...]) -> None:
        self.lacking = lacking
        self._num_owners = 1
        self._count_lock = threading.RLock()  # the collector may release one while this thread is in here

    def share(self: SharedPoint) -> SharedPoint:
        """See `Point.share`."""
        with self._count_lock:
            if self._num_owners == 0:
                raise SessionLost("the frozen process has ended")
            self._num_owners += 1
        return self

    def release(self) -> None:
        """See `Point.release`."""
        with self._count_lock:
            self._num_owners -= 1
            if self._num_owners:
                return
        self.let_go()

    @abstractmethod
    def let_go(self) -> None:
        """End it: nobody owns it any more."""


def survived(error: ExecutionError | None) -> bool:
    """Whether the process that gave this result lives."""
    return error is None or error.name not in FATAL or error.traceback != ""
