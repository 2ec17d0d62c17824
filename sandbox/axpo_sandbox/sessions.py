"""Sessions and snapshots of every backend: what to fork, when, and what to fall back to when a process dies.

A session is a live process, a journal, and a point: the frozen process that equals it as of some entry of the
journal. When the live process dies, a fork of the point takes its place, and what the journal has since is
done again; by default a new point is frozen before each cell, so nothing is. Where a process cannot be
forked (it died, or is forked too deeply) the whole journal is.
"""

import contextlib
import dataclasses
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from axpo_sandbox import journal as journals
from axpo_sandbox.backend import (
    Backend,
    Dead,
    HostDied,
    Live,
    Lost,
    OutOfTime,
    Point,
    Stalled,
    lift_deadline,
    patience,
    survived,
    within,
)
from axpo_sandbox.base import (
    EXITED,
    KILLED,
    PROTOCOL,
    Closing,
    Divergence,
    Execution,
    ExecutionError,
    Releasing,
    SandboxUnavailable,
    Session,
    SessionClosed,
    SessionLost,
    SnapshotRefused,
    SnapshotReleased,
)
from axpo_sandbox.journal import Cell, Files, Journal, Seed, branch_seeds
from axpo_sandbox.revive import Revived, Unrepeatable, revive, revive_all

GRACE_S = 1.9  # that a call takes beyond its cell's time-out at most, whatever code did to its interpreter
_FREEZE_S = 0.6  # of it for a snapshot to fall back to; the cell goes without if that takes longer
_LAST_S = 0.6  # of it for putting the session back after the cell
_DEADLY = (KILLED, EXITED, PROTOCOL)
_NUM_ATTEMPTS = 3  # to put a session back: as it was; without the last cells; without any


class Held:
    """What a session or snapshot holds. Apart from it, so that its finalizer can let go."""

    def __init__(self, live: Live | None = None, point: Point | None = None) -> None:
        self.live = live
        self.point = point

    def let_go(self) -> None:
        """End the process, give up the point. Idempotent."""
        live, self.live = self.live, None
        point, self.point = self.point, None
        if live is not None:
            live.close()
        if point is not None:
            point.release()


class BackendSession(Closing):
    """See `axpo_sandbox.base.Session`. Threads may share it; its cells run one after the other."""

    snapshot_type: ClassVar[type["BackendSnapshot"]]

    def __init__(
        self,
        backend: Backend,
        live: Live,
        journal: Journal,
        *,
        point: Point | None = None,
        point_length: int = 0,
        warnings: tuple[str, ...] = (),
        divergences: tuple[Divergence, ...] = (),
    ) -> None:
        """point: equals the session as of journal entry point_length; owned by it from now on.

        divergences: of the replay that made it.
        """
        self._backend = backend
        self._journal = journal
        self._point_length = point_length
        self._warnings = warnings  # to be told with the next cell
        self._divergences = divergences
        self._lock = threading.RLock()
        self._closing = False
        self._held = Held(live, point)
        self._finalizer = weakref.finalize(self, self._held.let_go)
        backend.adopt(self)

    def run(self, code: str, *, timeout_s: float | None = None) -> Execution:
        """See `axpo_sandbox.base.Session.run`."""
        with self._lock:
            self._check_open()
            timeout_s = self._journal.limits.timeout_s if timeout_s is None else float(timeout_s)
            if not 0 < timeout_s < float("inf"):
                raise ValueError(f"timeout_s must be positive and finite, not {timeout_s}")
            with self._bounded(timeout_s):
                if self._backend.fallback == "snapshot" and any(
                    isinstance(entry, Cell) for entry in self._since_point()
                ):
                    with within(_FREEZE_S), contextlib.suppress(Stalled):
                        self._freeze()
                execution = self._run_at_last(code, timeout_s)
                if survived(execution.error):
                    cell = Cell(code=code, timeout_s=timeout_s, digests=journals.digests(execution))
                    self._journal = self._journal.add(cell)
                else:
                    self._recover(can_wait=True)
            warnings, self._warnings = self._warnings, ()
            return dataclasses.replace(execution, warnings=execution.warnings + warnings, incidents=warnings)

    def write_files(self, files: Mapping[str, bytes]) -> None:
        """See `axpo_sandbox.base.Session.write_files`."""
        checked = journals.check_names(files)
        with self._lock, self._bounded(self._journal.last_timeout_s):
            self._check_open()
            try:
                self._ready().write_files(checked)
            except Dead as death:
                self._recover(f"the interpreter {death.how} ({death})")
                try:
                    self._ready().write_files(checked)
                except HostDied as again:
                    raise SandboxUnavailable(f"what the session ran on keeps ending: {again}") from again
                except Dead as again:
                    self._take_back(again)
                    self._write_again(checked)
            self._journal = self._journal.add(Files(files=checked))

    def snapshot(self, *, strict: bool = False) -> "BackendSnapshot":
        """See `axpo_sandbox.base.Session.snapshot`."""
        with self._lock, self._bounded(self._journal.last_timeout_s):
            self._check_open()
            self._ready()
            if self._held.point is None or self._since_point():
                try:
                    with within(patience() / 2):
                        self._freeze()
                except Stalled as death:
                    self._take_back(death)
                    with contextlib.suppress(Stalled):
                        self._freeze()
            point = None if self._since_point() else self._held.point
            if strict and point is not None and point.lacking:
                raise SnapshotRefused("; ".join(point.lacking))
            return self.snapshot_type(
                self._backend,
                self._journal,
                None if point is None else point.share(),
                divergences=self._divergences,
                session_type=type(self),
            )

    @contextlib.contextmanager
    def ready(self) -> Iterator[Live]:
        """Its process, held against other threads' cells; put back if it died. Raises as `run`."""
        with self._lock:
            self._check_open()
            yield self._ready()

    def is_busy(self) -> bool:
        """Whether a thread is in the middle of something here."""
        free = self._lock.acquire(blocking=False)
        if free:
            self._lock.release()
        return not free

    def close(self) -> None:
        """See `axpo_sandbox.base.Session.close`."""
        self._closing = True
        live = self._held.live
        if live is not None:
            live.kill()  # so that a cell another thread waits for ends now
        with self._lock:
            self._finalizer()

    def end(self) -> None:
        """`close`, for the sandbox."""
        self.close()

    def _check_open(self) -> None:
        if self._closing or not self._finalizer.alive:
            raise SessionClosed("this session was closed")

    def _bounded(self, timeout_s: float) -> contextlib.AbstractContextManager[None]:
        """No wait for the session's processes is longer. Repeating cells, if that is the fallback, takes its time."""
        return within(timeout_s + GRACE_S if self._backend.fallback == "snapshot" else float("inf"))

    def _since_point(self) -> tuple[journals.Entry, ...]:
        return self._journal.entries[self._point_length :]

    def _ready(self) -> Live:
        if self._held.live is None:
            self._recover("the interpreter could not be put back in time before")
        assert self._held.live is not None
        return self._held.live

    def _run_once(self, code: str, timeout_s: float) -> Execution:
        live = self._ready()
        # Putting it back may have taken some of the time: a session whose cells spoil it has less.
        return live.run(code, timeout_s=max(0.1, min(timeout_s, patience() - _LAST_S)))

    def _run_at_last(self, code: str, timeout_s: float) -> Execution:
        """Run a cell, in a process put back if it died since the last one."""
        try:
            return self._run_once(code, timeout_s)
        except Dead as death:
            blameless = isinstance(death, HostDied | Lost)  # the cells before are
            if isinstance(death, HostDied):
                lift_deadline()
            if isinstance(death, Stalled):
                self._take_back(death)
            else:
                self._recover(f"the interpreter {death.how} ({death})")
        try:
            execution = self._run_once(code, timeout_s)
        except HostDied as death:
            raise SandboxUnavailable(f"what the session ran on keeps ending: {death}") from death
        except Dead as death:
            trouble = f"the interpreter {death.how}, and again when cells were repeated ({death})"
            execution = Execution(error=ExecutionError(name=KILLED, value=trouble, traceback=""))
        if execution.error is not None and execution.error.name in _DEADLY and not blameless:
            # Dead twice: the code's doing, so it is a result. Say, a thread that ends the interpreter.
            self._drop_cells()
            self._warnings += ("the cells before, which keep ending the interpreter, were taken back",)
        return execution

    def _write_again(self, files: Mapping[str, bytes]) -> None:
        try:
            self._ready().write_files(files)
        except Dead as death:
            raise SessionLost(f"the session's interpreter keeps dying: {death}") from death

    def _take_back(self, death: Dead) -> None:
        """Give up the latest cells: what they left behind ends the interpreter, or keeps it from answering."""
        self._strike(everything=False)
        self._recover(f"cells that cannot be repeated were taken back ({death})")

    def _drop_cells(self) -> None:
        """Strike the cells since the point from the journal. Input files stay."""
        kept = tuple(entry for entry in self._since_point() if not isinstance(entry, Cell))
        entries = (*self._journal.entries[: self._point_length], *kept)
        self._journal = dataclasses.replace(self._journal, entries=entries)

    def _freeze(self) -> None:
        """Make now the point. If that fails, the old one stays, and what came since would be done again.

        Raises Stalled.
        """
        live = self._held.live
        if live is None:
            return
        try:
            point = self._backend.freeze(live)
        except Stalled:
            raise
        except Dead:
            return
        old, self._held.point = self._held.point, point
        self._point_length = len(self._journal.entries)
        if old is not None:
            old.release()

    def _recover(self, warning: str = "", *, can_wait: bool = False) -> None:
        """Put the session back to its journal. Raises SessionLost if it will not go.

        can_wait: if time runs out, leave it to the next call, which has more of it.
        """
        live, self._held.live = self._held.live, None
        if live is not None:
            live.close()
        if self._closing:
            raise SessionClosed("this session was closed while a cell ran")
        told = [warning] if warning else []
        num_strikes = 0
        for attempt in range(_NUM_ATTEMPTS):
            try:
                with within(patience() if can_wait else patience() / 2):
                    revived = self._put_back()
            except HostDied as death:
                lift_deadline()
                if attempt == _NUM_ATTEMPTS - 1:
                    raise SandboxUnavailable(f"what the session ran on keeps ending: {death}") from death
            except OutOfTime as late:
                if can_wait:
                    return
                raise SessionLost(f"the session could not be put back in time: {late}") from late
            except (Unrepeatable, Dead) as death:
                if can_wait and isinstance(death, Stalled):
                    return
                if attempt == _NUM_ATTEMPTS - 1:
                    raise SessionLost(f"the session could not be put back: {death}") from death
                told.append(f"cells were taken back: they keep ending the interpreter ({death})")
                self._strike(everything=num_strikes > 0)
                num_strikes += 1
            else:
                self._held.live = revived.live
                self._warnings += (*told, *revived.warnings)
                return

    def _put_back(self) -> Revived:
        """A live process as of the journal's end that can run cells. Raises what `revive` does, and Dead."""
        point = self._held.point
        revived = revive(self._backend, self._journal, point, self._point_length)
        if point is not None and not revived.from_point:
            self._give_up_point()
        try:
            revived.live.check()
        except BaseException:
            revived.live.close()
            raise
        return revived

    def _strike(self, *, everything: bool) -> None:
        """Strike cells that do not let the session go on: those since the point, else the last one, or all."""
        since = any(isinstance(entry, Cell) for entry in self._since_point())
        if since and self._held.point is not None and not everything:
            self._drop_cells()
            return
        self._give_up_point()
        entries = self._journal.entries
        cells = [index for index, entry in enumerate(entries) if isinstance(entry, Cell)]
        struck = set(cells if everything else cells[-1:])
        kept = tuple(entry for index, entry in enumerate(entries) if index not in struck)
        self._journal = dataclasses.replace(self._journal, entries=kept)

    def _give_up_point(self) -> None:
        point, self._held.point, self._point_length = self._held.point, None, 0
        if point is not None:
            point.release()


class BackendSnapshot(Releasing):
    """See `axpo_sandbox.base.Snapshot`. Threads may share it."""

    def __init__(
        self,
        backend: Backend,
        journal: Journal,
        point: Point | None,
        *,
        divergences: tuple[Divergence, ...] = (),
        session_type: type[BackendSession] = BackendSession,
    ) -> None:
        """point: owned by it from now on; without one, branches replay the journal."""
        self._backend = backend
        self._journal = journal
        self._divergences = divergences
        self._session_type = session_type
        self._warnings = point.lacking if point else ("it could not be frozen: a branch replays the journal",)
        self._held = Held(point=point)
        self._lock = threading.RLock()
        self._finalizer = weakref.finalize(self, self._held.let_go)
        backend.adopt(self)

    @property
    def warnings(self) -> tuple[str, ...]:
        """See `axpo_sandbox.base.Snapshot.warnings`."""
        return self._warnings

    @property
    def divergences(self) -> tuple[Divergence, ...]:
        """See `axpo_sandbox.base.Snapshot.divergences`."""
        return self._divergences

    def fork(self, num_branches: int = 1, *, seed: int | Sequence[int] | None = None) -> list[Session]:
        """See `axpo_sandbox.base.Snapshot.fork`."""
        journals_wanted = [
            self._journal if branch_seed is None else self._journal.add(Seed(seed=branch_seed))
            for branch_seed in branch_seeds(num_branches, seed)
        ]
        with self._lock:
            if not self._finalizer.alive:
                raise SnapshotReleased("this snapshot was released")
            point = self._held.point.share() if self._held.point is not None else None
        length = len(self._journal.entries)
        bounded = self._backend.fallback == "snapshot"
        timeout_s = self._journal.last_timeout_s + GRACE_S if bounded else float("inf")
        try:
            with within(timeout_s):
                revived = revive_all(self._backend, journals_wanted, point, length)
            branches: list[Session] = []
            for journal, (live, from_point, warnings) in zip(journals_wanted, revived, strict=True):
                kept = point.share() if point is not None and from_point else None
                branch = self._session_type(
                    self._backend,
                    live,
                    journal,
                    point=kept,
                    point_length=0 if kept is None else length,
                    warnings=warnings,
                )
                branches.append(branch)
            return branches
        except (Unrepeatable, Stalled, OutOfTime) as death:
            raise SessionLost(f"the snapshot's cells could not be repeated: {death}") from death
        finally:
            if point is not None:
                point.release()

    def to_bytes(self) -> bytes:
        """See `axpo_sandbox.base.Snapshot.to_bytes`."""
        return journals.to_bytes(self._journal)

    def release(self) -> None:
        """See `axpo_sandbox.base.Snapshot.release`."""
        with self._lock:
            self._finalizer()

    def end(self) -> None:
        """`release`, for the sandbox."""
        self.release()


BackendSession.snapshot_type = BackendSnapshot
