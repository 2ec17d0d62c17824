"""The sandbox of every backend but for its processes: hands out sessions, replays journals, ends everything."""

import secrets
import threading
import weakref
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from axpo_sandbox import journal as journals
from axpo_sandbox.backend import NUM_HOSTS, Dead, Endable, HostDied, Live, Point
from axpo_sandbox.base import (
    Closing,
    Divergence,
    Isolation,
    Limits,
    ReplayDiverged,
    SandboxClosed,
    SandboxError,
    SandboxUnavailable,
    SessionLost,
)
from axpo_sandbox.journal import Journal
from axpo_sandbox.sessions import BackendSession, BackendSnapshot


class BackendSandbox(Closing):
    """See `axpo_sandbox.base.Sandbox`; `axpo_sandbox.backend.Backend` is what subclasses implement."""

    name: ClassVar[str]
    """what `make_sandbox` calls it"""
    session_type: ClassVar[type[BackendSession]] = BackendSession

    def __init__(self, *, limits: Limits, fallback: str) -> None:
        """limits: of sessions that are not told otherwise."""
        self.limits = limits
        self.fallback = fallback
        self._lock = threading.RLock()
        self._closed = False
        self._open: weakref.WeakSet[Endable] = weakref.WeakSet()

    @property
    @abstractmethod
    def isolation(self) -> Isolation:
        """See `axpo_sandbox.base.Sandbox.isolation`."""

    @abstractmethod
    def start(self, seed: int, limits: Limits) -> Live:
        """See `axpo_sandbox.backend.Backend.start`."""

    @abstractmethod
    def freeze(self, live: Any) -> Point:
        """See `axpo_sandbox.backend.Backend.freeze`; only processes it made are given to it."""

    @abstractmethod
    def thaw(self, point: Any, limits: Limits, num_branches: int) -> list[Live]:
        """See `axpo_sandbox.backend.Backend.thaw`; only points it made are given to it."""

    @abstractmethod
    def shut_down(self) -> None:
        """End what sessions ran on. All of them have ended. Idempotent."""

    def origin(self) -> dict[str, str]:
        """Where a journal is made, for whoever reads it."""
        return {"backend": self.name}

    def session(
        self,
        *,
        files: Mapping[str, bytes] | None = None,
        seed: int | None = None,
        limits: Limits | Mapping[str, Any] | None = None,
    ) -> BackendSession:
        """See `axpo_sandbox.base.Sandbox.session`."""
        checked = journals.check_names(files or {})
        journal = Journal(
            seed=secrets.randbits(32) if seed is None else int(seed),
            limits=Limits.of(limits, self.limits),
            origin=self.origin(),
        )
        session = self.session_type(self, self.start(journal.seed, journal.limits), journal)
        if checked:
            try:
                session.write_files(checked)
            except SandboxError:
                session.close()
                raise
        return session

    def snapshot_from_bytes(self, data: bytes, *, strict: bool = False) -> BackendSnapshot:
        """See `axpo_sandbox.base.Sandbox.snapshot_from_bytes`."""
        journal = journals.from_bytes(data)
        live, divergences = self._replayed(journal)
        with self.session_type(self, live, journal, divergences=divergences) as session:
            if divergences and strict:
                cells = ", ".join(f"{item.cell} ({', '.join(item.fields)})" for item in divergences)
                raise ReplayDiverged(f"cells gave other outputs than recorded: {cells}", divergences)
            return session.snapshot()

    def _replayed(self, journal: Journal) -> tuple[Live, tuple[Divergence, ...]]:
        """A process that did all of it. Raises SessionLost, SandboxUnavailable."""
        for _ in range(NUM_HOSTS):
            live = self.start(journal.seed, journal.limits)
            try:
                return live, journals.replay(live, journal.entries)
            except HostDied as death:
                live.close()
                trouble = death
            except Dead as death:
                live.close()
                raise SessionLost(f"the journal could not be replayed: {death}") from death
            except BaseException:
                live.close()
                raise
        raise SandboxUnavailable(f"what sessions run on ends again and again: {trouble}") from trouble

    def adopt(self, item: Endable) -> None:
        """See `axpo_sandbox.backend.Backend.adopt`."""
        with self._lock:
            self._open.add(item)

    def check_open(self) -> None:
        """Raises SandboxClosed once it was closed."""
        if self._closed:
            raise SandboxClosed("this sandbox was closed")

    def close(self) -> None:
        """See `axpo_sandbox.base.Sandbox.close`."""
        with self._lock:
            self._closed = True
            items = list(self._open)
        for item in items:
            item.end()
        self.shut_down()
