"""Many sessions over several sandboxes, within bounds: a `Sandbox` made of sandboxes.

    with SandboxPool.of("local", num_sandboxes=4, max_sessions=256) as pool:
        session = pool.session()

Sessions wait in line for a place, cells for a core; snapshots that were not used for longest are let go and
come back by replaying their journal. What a sandbox is, and what it isolates, is left to those it is made of.
"""

import inspect
import os
import signal
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

from axpo_sandbox import make_sandbox
from axpo_sandbox.base import (
    Closing,
    Divergence,
    Execution,
    Isolation,
    Limits,
    Releasing,
    Sandbox,
    SandboxClosed,
    SandboxUnavailable,
    Session,
    SessionClosed,
    Snapshot,
    SnapshotReleased,
)
from axpo_sandbox.fair import FairGate
from axpo_sandbox.names import unknown_name

_closed_by_sigterm: "weakref.WeakSet[SandboxPool]" = weakref.WeakSet()


class SandboxPool(Closing):
    """See `axpo_sandbox.base.Sandbox`. Threads may share it."""

    def __init__(
        self,
        make: Callable[[], Sandbox],
        *,
        num_sandboxes: int = 2,
        max_sessions: int = 256,
        max_running: int | None = None,
        max_snapshots: int = 256,
        max_memory_bytes: int | None = None,
        max_wait_s: float = 600.0,
        close_on_sigterm: bool = True,
    ) -> None:
        """make: called num_sandboxes times; the pool owns what it returns.

        max_sessions: sessions open at once, branches too. max_running: cells that run at once, by default two
        for each core. max_snapshots: frozen ones; beyond it the least recently used become journals.
        max_memory_bytes: of all sandboxes together, where they can tell; beyond it snapshots become journals,
        then new sessions wait. max_wait_s: seconds to wait in line before SandboxUnavailable.
        close_on_sigterm: where the program does nothing about SIGTERM itself, close the pool and exit with
        143. Raises ValueError, and what `make` raises.
        """
        for name, number in (
            ("num_sandboxes", num_sandboxes),
            ("max_sessions", max_sessions),
            ("max_running", max_running),
            ("max_snapshots", max_snapshots),
            ("max_memory_bytes", max_memory_bytes),
            ("max_wait_s", max_wait_s),
        ):
            if number is not None and not number > 0:
                raise ValueError(f"{name} must be positive, not {number!r}")
        self.max_wait_s = max_wait_s
        self._max_snapshots = max_snapshots
        self._max_memory_bytes = max_memory_bytes
        self._lock = threading.RLock()
        self._closed = False
        self._places = FairGate(max_sessions, self._has_memory)
        self._cores = FairGate(max_running or 2 * (os.cpu_count() or 1))
        self._frozen: OrderedDict[int, weakref.ref[PooledSnapshot]] = (
            OrderedDict()
        )  # least recently used first
        self._sessions: weakref.WeakSet[PooledSession] = weakref.WeakSet()
        self._num_sessions: dict[int, int] = {}  # index of a sandbox -> sessions open there
        self._sandboxes: list[Sandbox] = []
        try:
            for index in range(num_sandboxes):
                self._sandboxes.append(make())
                self._num_sessions[index] = 0
        except BaseException:
            self.close()
            raise
        if close_on_sigterm:
            _close_on_sigterm(self)

    @classmethod
    def of(cls, name: str, options: Mapping[str, Any] | None = None, **bounds: Any) -> "SandboxPool":
        """A pool of `make_sandbox(name, **options)`, with the bounds of `SandboxPool`. Raises ValueError."""
        known = [key for key in inspect.signature(cls).parameters if key != "make"]
        for key in bounds:
            if key not in known:
                raise ValueError(unknown_name("option of a pool", key, known))
        return cls(lambda: make_sandbox(name, **(options or {})), **bounds)

    @property
    def isolation(self) -> Isolation:
        """What all of its sandboxes hold."""
        first = self._sandboxes[0].isolation
        layers = {
            layer: all(sandbox.isolation.layers.get(layer, False) for sandbox in self._sandboxes)
            for layer in first.layers
        }
        return Isolation(tier=first.tier, layers=layers, open=first.open)

    @property
    def num_frozen(self) -> int:
        """Snapshots that are held as frozen processes now."""
        return len(self._frozen)

    def session(
        self,
        *,
        files: Mapping[str, bytes] | None = None,
        seed: int | None = None,
        limits: Limits | Mapping[str, Any] | None = None,
    ) -> "PooledSession":
        """See `axpo_sandbox.base.Sandbox.session`. Waits for a place."""
        self._enter(1)
        index = self._least_used()
        try:
            session = self._sandboxes[index].session(files=files, seed=seed, limits=limits)
        except BaseException:
            self._left(index)
            raise
        return PooledSession(self, session, index)

    def snapshot_from_bytes(self, data: bytes, *, strict: bool = False) -> "PooledSnapshot":
        """See `axpo_sandbox.base.Sandbox.snapshot_from_bytes`."""
        self._check_open()
        index = self._least_used(reserve=False)
        return PooledSnapshot(self, self._sandboxes[index].snapshot_from_bytes(data, strict=strict), index)

    def memory_bytes(self) -> int:
        """What its sandboxes use, those that can tell."""
        return sum(getattr(sandbox, "memory_bytes", lambda: 0)() for sandbox in self._sandboxes)

    def close(self) -> None:
        """See `axpo_sandbox.base.Sandbox.close`."""
        with self._lock:
            self._closed = True
        self._places.close()
        self._cores.close()
        for sandbox in self._sandboxes:
            sandbox.close()

    def _check_open(self) -> None:
        if self._closed:
            raise SandboxClosed("this pool was closed")

    def _enter(self, num_sessions: int) -> None:
        """Wait for places."""
        self._check_open()
        if not self._places.enter(num_sessions, self.max_wait_s):
            self._check_open()
            raise SandboxUnavailable(
                f"no place for {num_sessions} more sessions within {self.max_wait_s:g} s: {self._places.num_taken} "
                f"of {self._places.num_places} are open, {self._places.num_waiting} callers wait, and"
                f" {self.memory_bytes() >> 20} MB are in use; close sessions that are done, or raise"
                " max_sessions or max_memory_bytes"
            )

    def _least_used(self, *, reserve: bool = True) -> int:
        with self._lock:
            index = min(self._num_sessions, key=lambda number: self._num_sessions[number])
            self._num_sessions[index] += reserve
            return index

    def _left(self, index: int) -> None:
        """A session in that sandbox has ended."""
        with self._lock:
            self._num_sessions[index] -= 1
        self._places.leave()

    def _has_memory(self) -> bool:
        if self._max_memory_bytes is None:
            return True
        while self.memory_bytes() > self._max_memory_bytes:
            if not self._demote_one():
                return False
        return True

    def _used(self, snapshot: "PooledSnapshot") -> None:
        """It is frozen, and was used just now; others may have to go for it."""
        with self._lock:
            self._frozen[id(snapshot)] = weakref.ref(snapshot)
            self._frozen.move_to_end(id(snapshot))
        while len(self._frozen) > self._max_snapshots and self._demote_one(but=snapshot):
            continue

    def _forget(self, identity: int) -> None:
        """That one is not frozen any more."""
        with self._lock:
            self._frozen.pop(identity, None)

    def _demote_one(self, but: "PooledSnapshot | None" = None) -> bool:
        """Let the frozen process of the snapshot go that was not used for longest. False if there is none."""
        with self._lock:
            candidates = list(self._frozen.values())
        for reference in candidates:
            snapshot = reference()
            if snapshot is not None and snapshot is not but and snapshot.demote():
                return True
        return False


class PooledSession(Closing):
    """See `axpo_sandbox.base.Session`."""

    def __init__(self, pool: SandboxPool, session: Session, index: int) -> None:
        """index: of the sandbox it runs in; the session has taken its place in the pool."""
        self._pool = pool
        self._session = session
        self._index = index
        self._finalizer = weakref.finalize(self, _end_session, pool, session, index)

    def run(self, code: str, *, timeout_s: float | None = None) -> Execution:
        """See `axpo_sandbox.base.Session.run`. The wait for a core does not count."""
        if not self._finalizer.alive:
            raise SessionClosed("this session was closed")
        if not self._pool._cores.enter(1, self._pool.max_wait_s):
            self._pool._check_open()
            raise SandboxUnavailable(f"no core came free within {self._pool.max_wait_s:g} s")
        try:
            return self._session.run(code, timeout_s=timeout_s)
        finally:
            self._pool._cores.leave()

    def write_files(self, files: Mapping[str, bytes]) -> None:
        """See `axpo_sandbox.base.Session.write_files`."""
        self._session.write_files(files)

    def snapshot(self, *, strict: bool = False) -> "PooledSnapshot":
        """See `axpo_sandbox.base.Session.snapshot`."""
        return PooledSnapshot(self._pool, self._session.snapshot(strict=strict), self._index)

    def close(self) -> None:
        """See `axpo_sandbox.base.Session.close`."""
        self._finalizer()


class PooledSnapshot(Releasing):
    """See `axpo_sandbox.base.Snapshot`: a frozen process, or only its journal if it was not used for long."""

    def __init__(self, pool: SandboxPool, snapshot: Snapshot, index: int) -> None:
        """index: of the sandbox it is frozen in."""
        self._pool = pool
        self._index = index
        self._lock = threading.RLock()
        self._released = False
        self._divergences = snapshot.divergences
        self._warnings = snapshot.warnings
        self._frozen: Snapshot | None = snapshot
        self._journal = b""  # once it is not frozen
        self._finalizer = weakref.finalize(self, _end_snapshot, pool, id(self), snapshot)
        pool._used(self)

    @property
    def warnings(self) -> tuple[str, ...]:
        """See `axpo_sandbox.base.Snapshot.warnings`."""
        return self._warnings

    @property
    def divergences(self) -> tuple[Divergence, ...]:
        """See `axpo_sandbox.base.Snapshot.divergences`; those of the latest replay."""
        return self._divergences

    @property
    def is_frozen(self) -> bool:
        """Whether a process is held for it; otherwise the next fork replays the journal."""
        return self._frozen is not None

    @property
    def num_at_once(self) -> int:
        """How many branches it can have now without waiting for places, and 1 at least."""
        places = self._pool._places
        return max(1, places.num_places - places.num_taken)

    def fork(self, num_branches: int = 1, *, seed: int | Sequence[int] | None = None) -> list[Session]:
        """See `axpo_sandbox.base.Snapshot.fork`. Waits for places for all of them."""
        self._check_open()
        self._pool._enter(num_branches)
        try:
            with self._lock:
                self._check_open()
                index, branches = self._index, self._thawed().fork(num_branches, seed=seed)
        except BaseException:
            self._pool._places.leave(num_branches)
            raise
        with self._pool._lock:
            self._pool._num_sessions[index] += num_branches
        self._pool._used(self)
        return [PooledSession(self._pool, branch, index) for branch in branches]

    def to_bytes(self) -> bytes:
        """See `axpo_sandbox.base.Snapshot.to_bytes`."""
        with self._lock:
            return self._journal if self._frozen is None else self._frozen.to_bytes()

    def demote(self) -> bool:
        """Keep the journal alone. False if that is so already, or it is in use."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if self._frozen is None:
                return False
            self._journal = self._frozen.to_bytes()
            self._frozen = None
            self._finalizer()
            return True
        finally:
            self._lock.release()

    def release(self) -> None:
        """See `axpo_sandbox.base.Snapshot.release`."""
        with self._lock:
            self._released = True
            self._frozen = None
            self._finalizer()

    def _check_open(self) -> None:
        if self._released:
            raise SnapshotReleased("this snapshot was released")

    def _thawed(self) -> Snapshot:
        """The frozen one; brought back by its journal if need be."""
        if self._frozen is None:
            self._index = self._pool._least_used(reserve=False)
            again = self._pool._sandboxes[self._index].snapshot_from_bytes(self._journal)
            self._divergences = again.divergences
            self._frozen = again
            self._finalizer = weakref.finalize(self, _end_snapshot, self._pool, id(self), again)
        return self._frozen


def _end_session(pool: SandboxPool, session: Session, index: int) -> None:
    session.close()
    pool._left(index)


def _end_snapshot(pool: SandboxPool, identity: int, snapshot: Snapshot) -> None:
    pool._forget(identity)
    snapshot.release()


def _close_on_sigterm(pool: SandboxPool) -> None:
    """Unless the program handles SIGTERM itself. Only the main thread may set handlers."""
    _closed_by_sigterm.add(pool)
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _close_all_and_exit)


def _close_all_and_exit(number: int, frame: FrameType | None) -> None:
    for pool in list(_closed_by_sigterm):
        pool.close()  # so that no thread goes on waiting for a cell
    sys.exit(128 + number)
