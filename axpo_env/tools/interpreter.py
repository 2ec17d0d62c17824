"""An episode's interpreter: nothing until its first use, then one sandbox session that freezes and branches.

It knows sandboxes only by their protocol (`session`, `run`, `write_files`, `snapshot`, `fork`) and turns
every typed sandbox error into `ToolUnavailable`. What the python tool puts into a session is left to
`tools.python`.
"""

import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from axpo_env.names import shorten
from axpo_env.tools.base import ToolUnavailable
from axpo_sandbox import (
    BACKENDS,
    Execution,
    FilesRefused,
    Sandbox,
    SandboxError,
    Session,
    check_options,
    make_sandbox,
)
from axpo_sandbox import Snapshot as SandboxSnapshot

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

_shared: dict[tuple[int, Any], Sandbox] = {}  # (process id, config of the backend) -> sandbox
_shared_lock = threading.Lock()


def shared_sandbox(given: str | Mapping[str, Any]) -> Sandbox:
    """This process's one sandbox of that backend and these options, made on first use and closed at exit.

    given: as `check_sandbox` allows. Thread-safe.
    """
    name, options = _backend_of(given)
    key = (os.getpid(), check_options(name, options))  # a forked child must not use its parent's
    with _shared_lock:
        if key not in _shared:
            _shared[key] = outage_as_unavailable(lambda: make_sandbox(name, **options))
            atexit.register(_close_shared, key)
        return _shared[key]


def check_sandbox(sandbox: object) -> None:
    """Raises for what the keyword `sandbox` does not take: a backend's name, a mapping, a ready Sandbox, or None.

    A mapping has the backend's name under "backend" and its options beside it, for example
    `{"backend": "docker", "image": "axpo-sandbox:latest", "total_processes": 8192}`. ValueError for an unknown
    backend or option or a value that is not allowed, TypeError for anything else.
    """
    if isinstance(sandbox, str | Mapping):
        name, options = _backend_of(sandbox)
        try:
            check_options(name, options)
        except ValueError as error:
            raise ValueError(f"sandbox: {error}") from error
    elif sandbox is not None and (
        isinstance(sandbox, type) or not callable(getattr(sandbox, "session", None))
    ):
        raise TypeError(
            f"sandbox must be a backend's name ({', '.join(BACKENDS)}), a mapping of it and its options such as "
            f"{{'backend': 'docker', 'image': NAME}}, or a ready Sandbox, not {shorten(sandbox)}"
        )


def sandbox_name(sandbox: object) -> str:
    """What to call a sandbox that `check_sandbox` accepts: its backend, or a ready one's class."""
    return _backend_of(sandbox)[0] if isinstance(sandbox, str | Mapping) else type(sandbox).__name__


def _backend_of(given: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """(backend, options) of a name or a mapping. Raises ValueError for a mapping that names no backend."""
    if isinstance(given, str):
        return given, {}
    options = dict(given)
    if "backend" not in options:
        keys = ", ".join(map(str, options)) or "nothing"
        raise ValueError(
            f"sandbox: a mapping must name a backend ({', '.join(BACKENDS)}), got {keys} without 'backend'"
        )
    return options.pop("backend"), options


def _close_shared(key: tuple[int, Any]) -> None:
    with _shared_lock:
        sandbox = _shared.pop(key, None) if key[0] == os.getpid() else None
    if sandbox is not None:
        sandbox.close()


def outage_as_unavailable(call: Callable[[], Result]) -> Result:
    """`call()`, with a typed sandbox error raised as `ToolUnavailable`."""
    try:
        return call()
    except SandboxError as error:
        raise ToolUnavailable(f"{type(error).__name__}: {error}") from error


class FrozenInterpreter:
    """A sandbox snapshot held by several owners (snapshots, branches not yet started).

    Released by the last one.
    """

    def __init__(self, snapshot: SandboxSnapshot, *, num_images: int) -> None:
        self.num_images = num_images
        self.warnings = tuple(getattr(snapshot, "warnings", ()))  # what branches lack, for the user
        self._snapshot = snapshot
        self._owners = 1
        self._lock = threading.Lock()

    def share(self) -> "FrozenInterpreter":
        """Take one more share in it."""
        with self._lock:
            if self._owners == 0:
                raise RuntimeError("the snapshot was released")
            self._owners += 1
        return self

    def release(self) -> None:
        """Give one share back."""
        with self._lock:
            self._owners -= 1
            last = self._owners == 0
        if last:
            self._snapshot.release()

    @property
    def num_at_once(self) -> int:
        """How many branches can be made at once: a pool of sandboxes has so many places."""
        return getattr(self._snapshot, "num_at_once", sys.maxsize)

    def fork(self, num_branches: int = 1) -> list[Session]:
        """New sessions that go on from here."""
        return outage_as_unavailable(lambda: self._snapshot.fork(num_branches))

    def batch(self, num_branches: int) -> "list[Branch]":
        """As many origins of interpreters, whose sessions are forked all at once when the first of them is used."""
        batch = _Batch(self, num_branches)
        return [Branch(self.share(), batch) for _ in range(num_branches)]


class _Batch:
    """The sessions of branches made together."""

    def __init__(self, frozen: FrozenInterpreter, num_branches: int) -> None:
        self._frozen = frozen  # each branch has a share in it
        self._num_waiting = num_branches
        self._sessions: list[Session] = []
        self._lock = threading.Lock()

    def take(self) -> Session:
        """One of them, for a branch that holds its share in the frozen one."""
        with self._lock:
            if not self._sessions:
                self._sessions = self._frozen.fork(min(self._num_waiting, self._frozen.num_at_once))
            self._num_waiting -= 1
            return self._sessions.pop()

    def leave(self) -> None:
        """A branch will not need its session."""
        with self._lock:
            self._num_waiting -= 1
            session = self._sessions.pop() if self._sessions else None
        if session is not None:
            session.close()


class Branch:
    """Where one interpreter of a batch goes on from: like a share in the frozen one."""

    def __init__(self, frozen: FrozenInterpreter, batch: _Batch) -> None:
        self.num_images, self.warnings = frozen.num_images, frozen.warnings
        self._frozen = frozen
        self._batch: _Batch | None = batch

    def share(self) -> FrozenInterpreter:
        """A share in the frozen one, which is not of the batch."""
        return self._frozen.share()

    def fork(self) -> list[Session]:
        """The session of this branch: once."""
        assert self._batch is not None
        session = self._batch.take()
        self._batch = None
        return [session]

    def release(self) -> None:
        """Give the share back, and the session if it was not used."""
        batch, self._batch = self._batch, None
        if batch is not None:
            batch.leave()
        self._frozen.release()


class Interpreter:
    """One episode's interpreter. Used by one thread at a time; close it, or hand it over, exactly once."""

    def __init__(
        self,
        open_sandbox: Callable[[], Sandbox],
        *,
        seed: int,
        origin: FrozenInterpreter | Branch | None = None,
    ) -> None:
        self._notes = [] if origin is None else list(origin.warnings)
        self.num_images = 0 if origin is None else origin.num_images  # of the episode, already in the session
        self._open_sandbox = open_sandbox
        self._seed = seed
        self._origin = origin  # where to go on from at first use; a share of it is ours
        self._session: Session | None = None
        self._closed = False

    @property
    def started(self) -> bool:
        """Whether code has run in this episode, in this branch or before it."""
        return self._session is not None or self._origin is not None

    def run(self, code: str, *, timeout_s: float) -> Execution:
        """Run a cell and return its Execution. Raises ToolUnavailable for an outage."""
        session = self._ready()
        execution = outage_as_unavailable(lambda: session.run(code, timeout_s=timeout_s))
        self._note(execution.incidents)
        return execution

    def take_notes(self) -> list[str]:
        """What befell the sandbox since the last call, and what a branch lacks: for the user, not for the policy."""
        notes, self._notes = self._notes, []
        return notes

    def _note(self, sentences: Iterable[str]) -> None:
        for sentence in sentences:
            logger.warning("sandbox: %s", sentence)
            self._notes.append(sentence)

    def write_files(self, files: Mapping[str, bytes]) -> str | None:
        """Put files into the working folder. Returns why they were refused (it is full), or None.

        Raises ToolUnavailable for an outage.
        """
        session = self._ready()
        try:
            outage_as_unavailable(lambda: session.write_files(files))
        except ToolUnavailable as error:
            if isinstance(error.__cause__, FilesRefused):
                return str(error.__cause__)
            raise
        return None

    def freeze(self) -> FrozenInterpreter | None:
        """A share in this moment, for the caller to release.

        None if nothing has run. This interpreter goes on.
        """
        if self._session is not None:
            frozen = FrozenInterpreter(
                outage_as_unavailable(self._session.snapshot), num_images=self.num_images
            )
            self._note(frozen.warnings)
            return frozen
        return None if self._origin is None else self._origin.share()

    def close(self) -> None:
        """End the session and give the origin back. Idempotent; running code afterwards raises."""
        self._closed = True
        session, self._session = self._session, None
        origin, self._origin = self._origin, None
        if session is not None:
            session.close()
        if origin is not None:
            origin.release()

    def _ready(self) -> Session:
        if self._closed:
            raise RuntimeError("the interpreter is closed: reset or restore the environment")
        if self._session is None:
            if self._origin is None:
                sandbox = self._open_sandbox()
                self._session = outage_as_unavailable(lambda: sandbox.session(seed=self._seed))
            else:
                (self._session,) = self._origin.fork()
                origin, self._origin = self._origin, None
                origin.release()
        return self._session
