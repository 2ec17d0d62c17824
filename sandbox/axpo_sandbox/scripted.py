"""A sandbox for tests that runs nothing: answers come from a script.

It keeps the protocol (sessions, snapshots, branches, journals, closing) and starts no process, so loops
around a sandbox can be tested without one. It isolates nothing, as nothing runs, and `make_sandbox` does not
offer it.
"""

import dataclasses
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from axpo_sandbox import journal as journals
from axpo_sandbox.base import (
    Closing,
    Divergence,
    Execution,
    Isolation,
    Limits,
    Releasing,
    ReplayDiverged,
    SandboxClosed,
    Session,
    SessionClosed,
    SnapshotReleased,
)
from axpo_sandbox.journal import Cell, Files, Journal, Seed, branch_seeds


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What a script sees of the session a cell runs in."""

    cells: tuple[str, ...] = ()
    """code that ran before, oldest first"""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """what the working folder holds"""
    seed: int = 0
    """what the random states were last set to"""


# A script maps code to its answer: a mapping by exact code, or a function of code and moment. A str is short
# for an Execution with that text. An exception that it raises is raised by `run`, to play an outage.
Answer = Execution | str
Script = Mapping[str, Answer] | Callable[[str, Moment], Answer]


class ScriptedSandbox(Closing):
    """See `axpo_sandbox.base.Sandbox`. Answers must depend on code and moment alone, or replays diverge."""

    def __init__(self, script: Script) -> None:
        self.runs: list[str] = []  # all code that ran, in order
        self._script = script
        self._closed = False
        self._sessions: weakref.WeakSet[ScriptedSession] = weakref.WeakSet()
        self._num_seeds_drawn = 0

    @property
    def isolation(self) -> Isolation:
        """Nothing runs, so nothing is held back."""
        return Isolation(tier="scripted")

    @property
    def num_open_sessions(self) -> int:
        """Sessions that were neither closed nor collected."""
        return sum(not session.closed for session in self._sessions)

    def session(
        self,
        *,
        files: Mapping[str, bytes] | None = None,
        seed: int | None = None,
        limits: Limits | Mapping[str, Any] | None = None,
    ) -> "ScriptedSession":
        """See `axpo_sandbox.base.Sandbox.session`; a seed not given is 0, 1, ..."""
        if seed is None:
            seed, self._num_seeds_drawn = self._num_seeds_drawn, self._num_seeds_drawn + 1
        origin = {"backend": "scripted"}
        session = self.start(Journal(seed=seed, limits=Limits.of(limits), origin=origin), Moment(seed=seed))
        if files:
            session.write_files(files)
        return session

    def start(self, journal: Journal, moment: Moment) -> "ScriptedSession":
        """A session that stands at `moment`."""
        if self._closed:
            raise SandboxClosed("this sandbox was closed")
        session = ScriptedSession(self, journal, moment)
        self._sessions.add(session)
        return session

    def answer(self, code: str, moment: Moment) -> Execution:
        """What the script says. Raises KeyError if it says nothing."""
        self.runs.append(code)
        given = self._script(code, moment) if callable(self._script) else self._script[code]
        return Execution(text=given) if isinstance(given, str) else given

    def snapshot_from_bytes(self, data: bytes, *, strict: bool = False) -> "ScriptedSnapshot":
        """See `axpo_sandbox.base.Sandbox.snapshot_from_bytes`."""
        journal = journals.from_bytes(data)
        with self.session(seed=journal.seed, limits=journal.limits) as session:
            divergences = journals.replay(session, journal.entries)
            if divergences and strict:
                raise ReplayDiverged("cells gave other outputs than recorded", divergences)
            return dataclasses.replace(session.snapshot(), divergences=divergences)

    def close(self) -> None:
        """See `axpo_sandbox.base.Sandbox.close`."""
        self._closed = True
        for session in list(self._sessions):
            session.close()


class ScriptedSession(Closing):
    """See `axpo_sandbox.base.Session`."""

    def __init__(self, sandbox: ScriptedSandbox, journal: Journal, moment: Moment) -> None:
        self.closed = False
        self.moment = moment
        self._sandbox = sandbox
        self._journal = journal

    def run(self, code: str, *, timeout_s: float | None = None) -> Execution:
        """See `axpo_sandbox.base.Session.run`."""
        self._check_open()
        execution = self._sandbox.answer(code, self.moment)
        timeout_s = self._journal.limits.timeout_s if timeout_s is None else timeout_s
        cell = Cell(code=code, timeout_s=timeout_s, digests=journals.digests(execution))
        self._journal = self._journal.add(cell)
        self.moment = dataclasses.replace(self.moment, cells=(*self.moment.cells, code))
        return execution

    def write_files(self, files: Mapping[str, bytes]) -> None:
        """See `axpo_sandbox.base.Session.write_files`."""
        self._check_open()
        checked = journals.check_names(files)
        self._journal = self._journal.add(Files(files=checked))
        self.moment = dataclasses.replace(self.moment, files={**self.moment.files, **checked})

    def reseed(self, seed: int) -> None:
        """Set the random states."""
        self._journal = self._journal.add(Seed(seed=seed))
        self.moment = dataclasses.replace(self.moment, seed=seed)

    def snapshot(self, *, strict: bool = False) -> "ScriptedSnapshot":
        """See `axpo_sandbox.base.Session.snapshot`; it lacks nothing."""
        self._check_open()
        return ScriptedSnapshot(sandbox=self._sandbox, journal=self._journal, moment=self.moment)

    def close(self) -> None:
        """See `axpo_sandbox.base.Session.close`."""
        self.closed = True

    def _check_open(self) -> None:
        if self.closed:
            raise SessionClosed("this session was closed")


@dataclass(kw_only=True)
class ScriptedSnapshot(Releasing):
    """See `axpo_sandbox.base.Snapshot`."""

    sandbox: ScriptedSandbox
    journal: Journal
    moment: Moment
    divergences: tuple[Divergence, ...] = ()
    warnings: tuple[str, ...] = ()
    released: bool = False

    def fork(self, num_branches: int = 1, *, seed: int | Sequence[int] | None = None) -> list[Session]:
        """See `axpo_sandbox.base.Snapshot.fork`."""
        if self.released:
            raise SnapshotReleased("this snapshot was released")
        branches: list[Session] = []
        for branch_seed in branch_seeds(num_branches, seed):
            session = self.sandbox.start(self.journal, self.moment)
            if branch_seed is not None:
                session.reseed(branch_seed)
            branches.append(session)
        return branches

    def to_bytes(self) -> bytes:
        """See `axpo_sandbox.base.Snapshot.to_bytes`."""
        return journals.to_bytes(self.journal)

    def release(self) -> None:
        """See `axpo_sandbox.base.Snapshot.release`."""
        self.released = True
