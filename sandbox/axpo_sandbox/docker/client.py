"""The docker sandbox itself: one container with a relay in it, started again if it dies.

What sessions do is left to `axpo_sandbox.sessions`, what is said to the relay to `remote`.
"""

import itertools
import os
import warnings
import weakref
from collections.abc import Callable, Mapping

from axpo_sandbox import journal as journals
from axpo_sandbox.backend import Dead
from axpo_sandbox.backend import Live as LiveProtocol
from axpo_sandbox.base import Isolation, Limits, SandboxUnavailable, UnisolatedRefused
from axpo_sandbox.docker import durable, remote
from axpo_sandbox.docker.advice import advice
from axpo_sandbox.docker.bundle import bundle
from axpo_sandbox.docker.config import DockerConfig
from axpo_sandbox.docker.container import Container
from axpo_sandbox.docker.engine import Engine
from axpo_sandbox.docker.link import Link
from axpo_sandbox.docker.probe import Findings, checked_findings, probe
from axpo_sandbox.docker.reaper import reap
from axpo_sandbox.docker.remote import RemoteLive, RemotePoint
from axpo_sandbox.host import BackendSandbox
from axpo_sandbox.packages import check_missing
from axpo_sandbox.sessions import BackendSession, BackendSnapshot

_ANSWER_SLACK_S = 30.0
_NUM_STARTS = 2  # tries to start a process: the container may be dying while we ask


class Inside:
    """A running container whose relay has been opened."""

    def __init__(self, engine: Engine, image_id: str, config: DockerConfig, profile: str) -> None:
        """Start it. Raises SandboxUnavailable with its last words."""
        self.container = Container(engine, image_id, config, profile)
        self.link = Link(self.container.stream)
        self.numbers = itertools.count(1)
        try:
            self.link.send(bundle())
            request = {"op": "open", "preload": list(config.preload), "timeout_s": config.start_timeout_s}
            answer = remote.ask(self.link, request, config.start_timeout_s + _ANSWER_SLACK_S)
            self.findings: Findings = checked_findings(answer)
        except (Dead, ValueError, SandboxUnavailable) as error:
            self.close()
            said = f"the container of image {config.image!r} does not work: {str(error).rstrip('.')}"
            raise SandboxUnavailable(f"{said}. {advice(str(error))}".rstrip()) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the container and everything in it. Idempotent."""
        self.link.close()
        self.container.remove()


class DockerSnapshot(BackendSnapshot):
    """A snapshot that can be kept as an image."""

    def commit(self, name: str) -> str:
        """Make image `name`, "repository:tag", in the engine, for `DockerSandbox.snapshot_from_image`; its id.

        Raises SandboxUnavailable.
        """
        assert isinstance(self._backend, DockerSandbox)
        return self._backend.commit(self.to_bytes(), name)


class DockerSession(BackendSession):
    """A session whose snapshots can be kept as images."""

    snapshot_type = DockerSnapshot


class DockerSandbox(BackendSandbox):
    """See `axpo_sandbox.base.Sandbox`."""

    name = "docker"
    session_type = DockerSession

    def __init__(self, config: DockerConfig, engine: Engine | None = None) -> None:
        """Start it and try what holds. engine: by default the one at DOCKER_HOST.

        Raises SandboxUnavailable, UnisolatedRefused.
        """
        super().__init__(limits=config.limits, fallback=config.fallback)
        self.config = config
        self._owner_pid = os.getpid()
        self._closes_engine = engine is None
        self._engine = engine or Engine()
        self._finalizer: Callable[[], object] = lambda: None
        try:
            reap(self._engine)
            self._image_id = self._engine.find_image(config.image)
            self._profile, inside, reasons = self._choose_profile()
            self._take(inside)
            mend = "Set image to one that has them (`python -m axpo_sandbox.docker.image` makes one)"
            check_missing(self.missing, self.name, f"image {config.image!r}", mend, quiet=config.quiet)
            self._isolation = self._find_out(reasons)
        except BaseException:
            self.close()
            raise

    @property
    def missing(self) -> dict[str, str]:
        """Packages that were to be preloaded and could not be -> why."""
        return dict(self._inside.findings.missing)

    @property
    def container_id(self) -> str:
        """Of the container that sessions run in now."""
        return self._inside.container.id

    @property
    def isolation(self) -> Isolation:
        """See `axpo_sandbox.base.Sandbox.isolation`."""
        return self._isolation

    def origin(self) -> dict[str, str]:
        """See `axpo_sandbox.host.BackendSandbox.origin`."""
        return {
            "backend": self.name,
            "image": self.config.image,
            "image_id": self._image_id,
            "python": self._inside.findings.python,
        }

    def snapshot_from_image(self, name: str, *, strict: bool = False) -> BackendSnapshot:
        """The snapshot that `DockerSnapshot.commit` made image `name` of, replayed as by `snapshot_from_bytes`.

        Where the sandbox runs another image than the snapshot's, a warning says so.
        """
        data = durable.journal_of(self._engine, name)
        made_in = journals.from_bytes(data).origin.get("image_id", "")
        if self._image_id not in (made_in, self._engine.find_image(name)):
            warnings.warn(
                f"image {name!r} holds a snapshot of image {made_in or '(unknown)'}, this sandbox runs"
                f" {self._image_id}: packages may differ",
                stacklevel=2,
            )
        return self.snapshot_from_bytes(data, strict=strict)

    def commit(self, journal: bytes, name: str) -> str:
        """Make an image of a journal: see `DockerSnapshot.commit`."""
        self.check_open()
        return durable.commit(self._engine, self._image_id, journal, name)

    def start(self, seed: int, limits: Limits) -> RemoteLive:
        """See `axpo_sandbox.backend.Backend.start`."""
        for _ in range(_NUM_STARTS):
            inside = self._living()
            try:
                number, num_processes = next(inside.numbers), self.config.total_processes
                return remote.start(inside.link, number, seed, limits, num_processes)
            except Dead as death:
                trouble = death
        raise SandboxUnavailable(f"no session could be started: {trouble}") from trouble

    def freeze(self, live: RemoteLive) -> RemotePoint:
        """See `axpo_sandbox.backend.Backend.freeze`."""
        return remote.freeze(live, next(self._inside.numbers))

    def thaw(self, point: RemotePoint, limits: Limits, num_branches: int) -> list[LiveProtocol]:
        """See `axpo_sandbox.backend.Backend.thaw`."""
        numbers = [next(self._inside.numbers) for _ in range(num_branches)]
        return list(remote.thaw(point, limits, numbers))

    def memory_bytes(self) -> int:
        """Memory the container takes, files in it included; 0 if it is gone."""
        try:
            said = remote.ask(self._inside.link, {"op": "memory"}, _ANSWER_SLACK_S).get("bytes")
        except Dead:
            return 0
        return said if isinstance(said, int) else 0

    def shut_down(self) -> None:
        """See `axpo_sandbox.host.BackendSandbox.shut_down`."""
        self._finalizer()
        if self._closes_engine:
            self._engine.close()

    def _living(self) -> Inside:
        """The container; another if it died. Raises SandboxUnavailable, SandboxClosed."""
        with self._lock:
            self.check_open()
            if self._owner_pid != os.getpid():
                raise SandboxUnavailable(
                    "a sandbox cannot be used in a process forked from the one that made it"
                )
            if not self._inside.link.is_alive:
                self._finalizer()
                self._take(self._start(self._profile))
            return self._inside

    def _take(self, inside: Inside) -> None:
        """Have sessions run in it from now on."""
        self._inside = inside
        self._finalizer = weakref.finalize(self, Inside.close, inside)

    def _start(self, profile: str) -> Inside:
        return Inside(self._engine, self._image_id, self.config, profile)

    def _choose_profile(self) -> tuple[str, Inside, Mapping[str, str]]:
        """The wanted profile, or the stronger that works; its container; why another does not work."""
        wanted = self.config.profile
        if wanted != "auto":
            return wanted, self._start(wanted), {}
        try:
            inside = self._start("nested")
        except SandboxUnavailable as error:
            return "default", self._start("default"), {"nested": str(error)}
        if inside.findings.tier == "namespaces":
            return "nested", inside, {}
        # Behind the engine's own profile the relay may do less, so with nothing gained that is the better one.
        inside.close()
        return "default", self._start("default"), {"nested": str(dict(inside.findings.reasons))}

    def _find_out(self, reasons: Mapping[str, str]) -> Isolation:
        with self.session(limits=Limits()) as session:
            isolation = probe(
                session,
                self._inside.findings,
                self._inside.container.memory_bytes,
                self.config.total_processes,
                reasons,
            )
        if not isolation.layers["files"] or not isolation.layers["network"]:
            raise UnisolatedRefused(f"the container does not hold: {' '.join(isolation.open)}")
        if isolation.open and not self.config.quiet:
            warnings.warn("docker sandbox: " + " ".join(isolation.open), stacklevel=4)
        return isolation
