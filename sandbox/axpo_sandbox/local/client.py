"""The local sandbox itself: starts the zygote, finds out what holds, makes processes for sessions, ends everything.

What sessions do is left to `axpo_sandbox.sessions`, what runs inside to `zygote` and `agent`.
"""

import contextlib
import dataclasses
import os
import secrets
import socket
import subprocess
import threading
import time
import warnings
import weakref
from pathlib import Path
from typing import Any

from axpo_sandbox.backend import Dead
from axpo_sandbox.backend import Live as LiveProtocol
from axpo_sandbox.base import Isolation, Limits, SandboxUnavailable, UnisolatedRefused
from axpo_sandbox.host import BackendSandbox
from axpo_sandbox.local import processes, wire
from axpo_sandbox.local.cgroup import Cgroup, MemoryState
from axpo_sandbox.local.config import LocalConfig
from axpo_sandbox.local.family import Family, hang_up
from axpo_sandbox.local.forks import freeze, thaw
from axpo_sandbox.local.live import Live
from axpo_sandbox.local.probe import probe
from axpo_sandbox.local.process import Node, Process, spawn
from axpo_sandbox.local.runfolder import RunFolder, remove_tree, sweep
from axpo_sandbox.packages import check_missing
from axpo_sandbox.sessions import BackendSession

_REQUEST_TIMEOUT_S = 30.0
_END_TIMEOUT_S = 5.0
_ENDING_TIMEOUT_S = 1.0
_COUNT_EVERY_S = 1.0
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); from axpo_sandbox.local.zygote import main; del sys.path[0];"
    " main(int(sys.argv[2]), int(sys.argv[3]))"
)


# What was imported as another user than sessions run as works until more of it is imported.
_UNREADABLE = """
def _unreadable(names):
    import os, sys
    paths = [(name, getattr(sys.modules.get(name), "__file__", None)) for name in names]
    return [f"{{name}} ({{path}})" for name, path in paths if path and not os.access(path, os.R_OK)]
_unreadable({names!r})
"""


class Zygote:
    """The running fork server. Only its lock's holder speaks with it."""

    def __init__(self, config: LocalConfig) -> None:
        """Start it. Raises SandboxUnavailable with what it said."""
        sweep()
        self._folder = RunFolder()
        self.run_folder = self._folder.path
        self.cgroup = Cgroup(total_bytes=config.total_memory_bytes, total_processes=config.total_processes)
        self._lock = threading.RLock()
        self._control, theirs = socket.socketpair()
        self._control.setblocking(False)
        self._receiver = wire.Receiver(self._control)
        self._owner_pid = os.getpid()
        self.tier = ""
        self._counted_s, self._num_counted = -float("inf"), 0
        try:
            self._process = self._start(config, theirs)
        except OSError as error:
            self._clean_up()
            raise SandboxUnavailable(f"cannot start {config.python!r}: {error}") from error
        finally:
            theirs.close()
        try:
            self.cgroup.add(self._process.pid)
            answer = self.ask(
                {
                    "preload": list(config.preload),
                    "isolation": config.isolation,
                    "run_folder": self.run_folder,
                },
                timeout_s=config.start_timeout_s,
            )
            if "failed" in answer:
                raise SandboxUnavailable(f"the interpreter cannot be forked: {answer['failed']}")
        except BaseException:
            self.close()
            raise
        self.tier = str(answer["tier"])
        self.missing = {str(name): str(reason) for name, reason in answer["missing"].items()}
        self.reasons = {str(tier): str(reason) for tier, reason in answer["reasons"].items()}

    def _start(self, config: LocalConfig, control: socket.socket) -> subprocess.Popen[bytes]:
        trainer_fd = os.pidfd_open(os.getpid())
        package_parent = str(Path(__file__).resolve().parents[2])
        command = [config.python, "-s", "-P", "-B", "-c", _BOOT, package_parent]
        try:
            return subprocess.Popen(
                [*command, str(control.fileno()), str(trainer_fd)],
                pass_fds=(control.fileno(), trainer_fd),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environment(self.run_folder),
                cwd="/",
                start_new_session=True,
            )
        finally:
            os.close(trainer_fd)

    def ask(
        self, request: dict[str, Any], fds: tuple[int, ...] = (), timeout_s: float = _REQUEST_TIMEOUT_S
    ) -> Any:
        """Send a request and return its answer. Raises SandboxUnavailable."""
        with self._lock:
            try:
                self._control.settimeout(timeout_s)
                try:
                    wire.send(self._control, request, fds)
                finally:
                    self._control.setblocking(False)
                return self._receiver.wait(timeout_s)
            except (wire.WireError, OSError) as error:
                raise SandboxUnavailable(f"the sandbox's fork server does not answer: {error}") from error

    def spawn_first(self, seed: int, limits: Limits) -> Process:
        """The first process of a new session. Raises SandboxUnavailable."""
        run_folder = self.run_folder
        family = Family(
            secrets.token_hex(8), lambda ended: _remove_folders(run_folder, ended.name), self.num_of_user
        )
        request = {
            "seed": seed,
            "limits": {**dataclasses.asdict(limits), "num_others": self.num_of_user()},
            "family": family.name,
            "key": family.key,
        }
        process = Process(family)

        def ask(fds: tuple[int, ...]) -> dict[str, Any]:
            with family.theirs:
                return self.ask(request, fds)

        try:
            spawn(ask, [process], (family.theirs.fileno(),))
        except Dead as error:
            why = f"{error}{self.cgroup.what_is_full()}"
            raise SandboxUnavailable(f"no session could be started: {why}") from error
        return process

    def num_of_user(self) -> int:
        """Processes and threads of the user that sessions run as, where all of them count against the limit of
        each session; 0 where sessions are counted apart. Looked up once a second.
        """
        if self.tier == "namespaces":
            return 0
        now = time.monotonic()
        if now > self._counted_s + _COUNT_EVERY_S:
            uid = os.stat(f"/proc/{self.pid}").st_uid
            self._counted_s, self._num_counted = now, processes.num_threads_of_user(uid)
        return self._num_counted

    @property
    def pid(self) -> int:
        """Of the process we started."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether it runs, and is ours rather than that of the process we were forked from."""
        return self._owner_pid == os.getpid() and self._process.poll() is None

    def is_ending(self) -> bool:
        """Whether it has ended, or does so within a moment."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_ENDING_TIMEOUT_S)
        return not self.is_alive()

    def close(self) -> None:
        """End it, all sessions, and what they left on disk. Idempotent."""
        if self._owner_pid != os.getpid():
            self._control.close()
            return
        hang_up(self._control)
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._clean_up()

    def _clean_up(self) -> None:
        self.cgroup.remove()
        self._folder.close()


class LocalSession(BackendSession):
    """A session whose interpreter is a process of this machine."""

    @property
    def process_id(self) -> int:
        """Of its interpreter, as this machine counts."""
        with self.ready() as live:
            assert isinstance(live, Live)
            return live.process.pid


class LocalSandbox(BackendSandbox):
    """See `axpo_sandbox.base.Sandbox`."""

    name = "local"
    session_type = LocalSession

    def __init__(self, config: LocalConfig, *, needs_images: bool = True) -> None:
        """Start it and try what its isolation holds. Raises SandboxUnavailable, UnisolatedRefused.

        needs_images: refuse an interpreter without the packages of `preload` that images need.
        """
        super().__init__(limits=config.limits, fallback=config.fallback)
        self.config = config
        self._zygote = Zygote(config)
        self._finalizer = weakref.finalize(self, Zygote.close, self._zygote)
        try:
            if needs_images:
                mend = f"Install them ({config.python} -m pip install {{packages}}), give python= another interpreter"
                check_missing(self.missing, self.name, config.python, mend, quiet=config.quiet)
            self._isolation = self._find_out()
        except BaseException:
            self.close()
            raise

    @property
    def missing(self) -> dict[str, str]:
        """Packages that were to be preloaded and could not be -> why."""
        return self._zygote.missing

    @property
    def reasons(self) -> dict[str, str]:
        """Stronger tiers than the one in use -> why they do not work here."""
        return self._zygote.reasons

    @property
    def zygote_pid(self) -> int:
        """Of the fork server, as this machine counts."""
        return self._zygote.pid

    @property
    def isolation(self) -> Isolation:
        """See `axpo_sandbox.base.Sandbox.isolation`."""
        return self._isolation

    def start(self, seed: int, limits: Limits) -> Live:
        """See `axpo_sandbox.backend.Backend.start`."""
        zygote = self._living()
        try:
            process = zygote.spawn_first(seed, limits)
        except SandboxUnavailable:
            if not zygote.is_ending():
                raise
            process = self._living().spawn_first(seed, limits)
        return Live(process, limits, self.memory_state)

    def freeze(self, live: Live) -> Node:
        """See `axpo_sandbox.backend.Backend.freeze`."""
        return freeze(live)

    def thaw(self, point: Node, limits: Limits, num_branches: int) -> list[LiveProtocol]:
        """See `axpo_sandbox.backend.Backend.thaw`."""
        return list(thaw(point, limits, num_branches, self.memory_state))

    def memory_state(self) -> MemoryState:
        """How often the kernel has killed a process of the sandbox for memory, and how much is free."""
        return self._zygote.cgroup.memory_state()

    def memory_bytes(self) -> int:
        """Memory of all its processes: as its control group counts, else the sum of their shares."""
        counted = self._zygote.cgroup.memory_bytes()
        if counted is not None:
            return counted
        pid = self._zygote.pid
        return processes.memory_bytes([pid, *processes.descendants_of(pid)])

    def shut_down(self) -> None:
        """See `axpo_sandbox.host.BackendSandbox.shut_down`."""
        self._finalizer()

    def _living(self) -> Zygote:
        """The zygote; started again if it died."""
        with self._lock:
            self.check_open()
            if self._zygote._owner_pid != os.getpid():
                raise SandboxUnavailable(
                    "a sandbox cannot be used in a process forked from the one that made it"
                )
            if not self._zygote.is_alive():
                self._finalizer()
                self._zygote = Zygote(self.config)
                self._finalizer = weakref.finalize(self, Zygote.close, self._zygote)
            return self._zygote

    def _find_out(self) -> Isolation:
        zygote = self._zygote
        if not zygote.tier:
            raise SandboxUnavailable(
                f"isolation {self.config.isolation!r} does not work here: {zygote.reasons}"
            )
        with self.session(limits=Limits()) as session:
            assert isinstance(session, LocalSession)
            unreadable = session.run(
                _UNREADABLE.format(names=self.config.preload), timeout_s=_REQUEST_TIMEOUT_S
            )
            if unreadable.text not in (None, "[]"):
                raise SandboxUnavailable(
                    f"sessions cannot read installed packages of {self.config.python}: {unreadable.text}. They run as"
                    " nobody if this process is root's: let everyone read those folders (chmod -R a+rX), or give"
                    " python= another interpreter."
                )
            isolation = probe(
                session,
                session.process_id,
                zygote.tier,
                zygote.reasons,
                zygote.cgroup,
                environment(""),
            )
        broken = not isolation.layers["files"] or not isolation.layers["network"]
        if broken and not self.config.allow_unisolated:
            raise UnisolatedRefused(
                "code could read this machine's files or use its network here: "
                + " ".join(isolation.open)
                + " Pass allow_unisolated=True to run all the same."
            )
        if isolation.open and not self.config.quiet:
            warnings.warn("local sandbox: " + " ".join(isolation.open), stacklevel=4)
        return isolation


def environment(run_folder: str) -> dict[str, str]:
    """All that sessions see of environment variables; none of ours."""
    threads = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "VECLIB_MAXIMUM")
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/box",
        "TMPDIR": "/tmp",
        "LANG": "C.UTF-8",
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # large objects in huge pages: see `hugepages`
        "PYTHONHASHSEED": "0",  # sets iterate alike in every run
        "PYTHONDONTWRITEBYTECODE": "1",
        "MPLBACKEND": "Agg",
        "MPLCONFIGDIR": run_folder,
        "JE_ARROW_MALLOC_CONF": "background_thread:false",  # pyarrow's, which pandas loads
        **{f"{name}_NUM_THREADS": "1" for name in threads},  # a thread pool does not survive a fork
    }


def _remove_folders(run_folder: str, family: str) -> None:
    with contextlib.suppress(OSError):
        remove_tree(f"{run_folder}/boxes/{family}")
