"""The e2b sandbox itself: makes machines, freezes and branches them, and ends everything.

What sessions do is left to `axpo_sandbox.sessions`, what a machine's ending means to `live`.
"""

import contextlib
import os
import threading
import warnings
import weakref

from axpo_sandbox.backend import CountedPoint, Dead
from axpo_sandbox.backend import Live as LiveProtocol
from axpo_sandbox.base import Isolation, Limits, RateLimited, SandboxUnavailable
from axpo_sandbox.e2b.config import E2BConfig
from axpo_sandbox.host import BackendSandbox
from axpo_sandbox.packages import check_missing

try:
    from axpo_sandbox.e2b.cloud import Cloud
except ImportError as missing:
    raise SandboxUnavailable(
        f"the e2b sandbox needs E2B's SDK ({missing}): pip install 'axpo[e2b]'"
    ) from missing
from axpo_sandbox.e2b.keeper import Keeper
from axpo_sandbox.e2b.live import E2BLive
from axpo_sandbox.e2b.machine import Machine
from axpo_sandbox.e2b.probe import probe
from axpo_sandbox.e2b.rules import Clock, Gone, Refused


class MachinePoint(CountedPoint):
    """A frozen machine: a snapshot, and the machine it was taken of while that has not moved on."""

    def __init__(
        self, snapshot_id: str | None, source: E2BLive, keeper: Keeper, lacking: tuple[str, ...]
    ) -> None:
        """snapshot_id: None where the cloud takes no snapshots; then only the source can be forked."""
        super().__init__(lacking)
        self.snapshot_id = snapshot_id
        self._source = weakref.ref(source)
        self._moment = source.moment
        self._keeper = keeper

    def standing(self) -> E2BLive | None:
        """The source, if it still stands at this point. Its lock must be held while one relies on it."""
        source = self._source()
        return None if source is None or source.is_dead or source.moment != self._moment else source

    def let_go(self) -> None:
        """See `axpo_sandbox.backend.CountedPoint.let_go`."""
        if self.snapshot_id is not None:
            self._keeper.end_snapshot(self.snapshot_id)


class E2BSandbox(BackendSandbox):
    """See `axpo_sandbox.base.Sandbox`."""

    name = "e2b"

    def __init__(self, config: E2BConfig, *, clock: Clock | None = None) -> None:
        """Start a machine, look what it holds, and keep it as the base of sessions. Raises SandboxUnavailable."""
        super().__init__(limits=config.limits, fallback=config.fallback)
        self.config = config
        self.missing: dict[str, str] = {}  # packages that were to be preloaded and could not be -> why
        self.can_fork = config.prefer_fork
        self.can_snapshot = True
        self.keeps_threads = True  # whether a machine made of a snapshot has them; seen at the first session
        self.memory_bytes = config.limits.memory_bytes  # that machines have for a process; likewise
        self._base: str | None = None  # snapshot of a machine that has booted
        self._base_lock = threading.Lock()
        self._owner_pid = os.getpid()
        self._cloud = Cloud(config, clock)
        self._keeper = Keeper(self._cloud, config.lifetime_s)
        self._finalizer = weakref.finalize(self, self._keeper.close)
        try:
            self._isolation = self._find_out()
        except BaseException:
            self.close()
            raise

    @property
    def isolation(self) -> Isolation:
        """See `axpo_sandbox.base.Sandbox.isolation`."""
        return self._isolation

    @property
    def owner(self) -> str:
        """What its machines are marked with, for `axpo_sandbox.e2b.reaper`."""
        return self._cloud.owner

    def check_open(self) -> None:
        """See `axpo_sandbox.host.BackendSandbox.check_open`. Raises SandboxUnavailable in a forked process."""
        super().check_open()
        if self._owner_pid != os.getpid():  # the SDK's connections and threads are not there
            raise SandboxUnavailable("a sandbox cannot be used in a process forked from the one that made it")

    def start(self, seed: int, limits: Limits) -> E2BLive:
        """See `axpo_sandbox.backend.Backend.start`."""
        self.check_open()
        live = self._booted(limits)
        try:
            self.keeps_threads, self.memory_bytes = live.begin(seed)
        except Dead as death:
            raise SandboxUnavailable(f"no session could be started: {death}") from death
        except BaseException:
            live.close()
            raise
        return live

    def freeze(self, live: E2BLive) -> MachinePoint:
        """See `axpo_sandbox.backend.Backend.freeze`."""
        with live.lock:
            if live.is_dead:
                raise Dead("its machine was ended")
            lacking = () if self.keeps_threads else live.lacking()
            return MachinePoint(self._snapshot(live), live, self._keeper, lacking)

    def thaw(self, point: MachinePoint, limits: Limits, num_branches: int) -> list[LiveProtocol]:
        """See `axpo_sandbox.backend.Backend.thaw`."""
        self.check_open()
        machines = self._fork(point, num_branches)
        lives = [self._live(machine, limits) for machine in machines]
        try:
            lives += self._made_of(point, limits, num_branches - len(lives))
        except BaseException:
            for live in lives:
                live.close()
            raise
        return [*lives]

    def shut_down(self) -> None:
        """See `axpo_sandbox.host.BackendSandbox.shut_down`."""
        self._finalizer()

    def _live(self, machine: Machine, limits: Limits) -> E2BLive:
        return E2BLive(self._cloud, self._keeper, machine, self.config, limits)

    def _booted(self, limits: Limits) -> E2BLive:
        """A machine that holds our package, from the base if there is one."""
        base = self._base
        if base is not None:
            try:
                return self._live(self._cloud.create(base), limits)
            except Refused as error:
                raise SandboxUnavailable(str(error)) from error
            except Gone:  # someone deleted it
                with self._base_lock:
                    if self._base == base:
                        self._base = None
                        self._keeper.end_snapshot(base)
        with self._base_lock:  # one makes the base, the others wait for it
            if self._base is not None:
                return self._live(self._create(self._base), limits)
            live = self._live(self._create(self.config.template), limits)
            try:
                said = live.boot(self.config.new_archive(), self.config.preload)
                missing = said.get("missing")
                self.missing = {str(key): str(why) for key, why in dict(missing or {}).items()}
                self._base = self._snapshot(live)
            except Dead as death:
                live.close()
                raise SandboxUnavailable(
                    f"machines of {self.config.template!r} do not work: {death}"
                ) from death
            except BaseException:
                live.close()
                raise
            return live

    def _create(self, source: str) -> Machine:
        try:
            return self._cloud.create(source)
        except Gone as error:
            raise SandboxUnavailable(
                f"{error}. The option template names what machines are made from; a cluster of one's own has none with"
                " a code interpreter until one is built there (sandbox/README.md)"
            ) from error
        except Refused as error:
            raise SandboxUnavailable(str(error)) from error

    def _snapshot(self, live: E2BLive) -> str | None:
        """The id of a snapshot of a machine; None where the cloud takes none, or not now. Raises Dead."""
        if not self.can_snapshot:
            return None
        name = self._cloud.snapshot_name()
        try:
            snapshot_id = self._cloud.snapshot(live.machine, name)
        except (Gone, Refused) as error:
            if not self._cloud.is_running(live.machine):
                live.kill()
                raise Dead(str(error)) from error
            if _is_missing(error):
                self.can_snapshot = False
                self._warn(f"this cluster takes no snapshots, so branches replay their journals ({error})")
            return None
        except SandboxUnavailable:  # it may be there all the same
            self._keeper.add_snapshot(name)
            self._keeper.end_snapshot(name)
            raise
        self._keeper.add_snapshot(snapshot_id)
        return snapshot_id

    def _fork(self, point: MachinePoint, num_branches: int) -> list[Machine]:
        """Branches of the point's source in one request; none or fewer where that does not go."""
        source = point.standing() if self.can_fork or point.snapshot_id is None else None
        # A source that runs a cell is about to move on: it is not waited for.
        if source is None or not source.lock.acquire(blocking=False):
            return []
        try:
            if point.standing() is None:
                return []
            return self._cloud.fork(source.machine, num_branches)
        except RateLimited:  # one request for each branch would not fare better
            raise
        except (Gone, Refused) as error:
            with contextlib.suppress(SandboxUnavailable):
                # No such route, although the machine runs: this cluster cannot. Otherwise it is gone, or busy for now.
                if self.can_fork and _is_missing(error) and self._cloud.is_running(source.machine):
                    self.can_fork = False
                    self._warn(
                        f"this cluster does not fork machines, so branches are made of snapshots ({error})"
                    )
            return []
        except SandboxUnavailable:
            return []
        finally:
            source.lock.release()

    def _made_of(self, point: MachinePoint, limits: Limits, num_branches: int) -> list[E2BLive]:
        """Machines made of the point's snapshot, side by side. All or none. Raises Dead, SandboxUnavailable."""
        snapshot_id = point.snapshot_id
        if not num_branches:
            return []
        if snapshot_id is None:
            raise Dead("the machine has moved on, and this cluster takes no snapshots")
        futures = [self._keeper.submit(lambda: self._cloud.create(snapshot_id)) for _ in range(num_branches)]
        lives: list[E2BLive] = []
        failures: list[BaseException] = []
        for future in futures:
            try:
                lives.append(self._live(future.result(), limits))
            except (Gone, Refused, SandboxUnavailable) as error:
                failures.append(error)
        if not failures:
            return lives
        for live in lives:
            live.close()
        try:
            if isinstance(failures[0], SandboxUnavailable):
                raise failures[0]
            raise Dead(str(failures[0])) from failures[0]
        finally:
            del failures, futures, future  # their tracebacks hold this frame, and so the caller's session

    def _find_out(self) -> Isolation:
        live = self.start(0, self.limits)
        try:
            where = f"template {self.config.template!r}"
            mend = "Set template to one that has them"
            check_missing(self.missing, self.name, where, mend, quiet=self.config.quiet)
            isolation = probe(live, self.memory_bytes, self.limits)
        except Dead as death:
            raise SandboxUnavailable(f"machines do not work: {death}") from death
        finally:
            live.close()
        wanted_open = {"network"} if self.config.allow_internet_access else set()
        surprises = [
            name for name, holds in isolation.layers.items() if not holds and name not in wanted_open
        ]
        if surprises:
            self._warn(" ".join(isolation.open))
        return isolation

    def _warn(self, what: str) -> None:
        if not self.config.quiet:
            warnings.warn(f"e2b sandbox: {what}", stacklevel=4)


def _is_missing(error: Gone | Refused) -> bool:
    return isinstance(error, Gone) or error.for_good
