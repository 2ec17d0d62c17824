"""What a sandbox is: sessions that run code, snapshots that freeze and branch them, words for results.

Nothing here knows a backend, a task or a policy. Code that goes wrong is data (`Execution.error`); a sandbox
that goes wrong is a `SandboxError`. Running code is left to the backends, their promises to `contract`.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

from axpo_sandbox.names import shorten, unknown_name

MAX_SECONDS = 1e6  # what poll and sockets can wait

# The names an `ExecutionError` has when the interpreter did not live to say its own. In each case the session
# is put back to the moment before the cell: it costs that cell, its variables and its files, and no more.
TIMEOUT = "Timeout"  # the cell ran past its timeout_s and was killed
KILLED = "Killed"  # a signal ended the interpreter: a segmentation fault, kill, ...
EXITED = "Exited"  # the interpreter ended itself: os._exit
OUT_OF_MEMORY = "OutOfMemory"  # the kernel killed it for memory; Python's own MemoryError keeps its name
OUTPUT_LIMIT = "OutputLimit"  # it wrote without end
PROTOCOL = "ProtocolError"  # what came back was not a well-formed answer: code tampered with its interpreter
FATAL = (TIMEOUT, KILLED, EXITED, OUT_OF_MEMORY, OUTPUT_LIMIT, PROTOCOL)


class SandboxError(Exception):
    """An outage or a misuse of the sandbox, never the fault of the code that ran in it."""


class SandboxUnavailable(SandboxError):
    """The backend cannot start, or died."""


class RateLimited(SandboxUnavailable):
    """The backend's service was asked too often, and repeating the request did not help in time."""


class SandboxClosed(SandboxError):
    """The sandbox was closed."""


class SessionLost(SandboxError):
    """The session's state is gone and could not be put back."""


class SessionClosed(SandboxError):
    """The session was closed."""


class SnapshotReleased(SandboxError):
    """The snapshot was released."""


class SnapshotRefused(SandboxError):
    """A strict snapshot would have lacked something of the session; the message says what."""


class FilesRefused(SandboxError):
    """Input files do not fit into the working folder or could not be written there."""


class UnisolatedRefused(SandboxError):
    """This machine offers no isolation worth the name, and `allow_unisolated=True` was not given."""


class ReplayDiverged(SandboxError):
    """A journal replayed strictly gave other outputs than it recorded; `divergences` lists them."""

    def __init__(self, message: str, divergences: Sequence["Divergence"] = ()) -> None:
        super().__init__(message)
        self.divergences = tuple(divergences)


@dataclass(frozen=True, kw_only=True)
class ExecutionError:
    """Why a cell did not finish."""

    name: str
    """the exception's class name, or one of TIMEOUT, KILLED, EXITED, OUT_OF_MEMORY, PROTOCOL"""
    value: str
    """its message"""
    traceback: str
    """as Python prints it, cut down to the frames of cells; "" where there is none"""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What came of one cell."""

    stdout: str = ""
    """what it and its child processes wrote there, up to Limits.output_bytes"""
    stderr: str = ""
    """likewise"""
    text: str | None = None
    """repr of the last expression; None if there is none, or it is None or an image"""
    images: tuple[bytes, ...] = ()
    """PNG files: figures shown or left open, then an image that is the last expression"""
    error: ExecutionError | None = None
    """None if the cell finished"""
    duration_s: float = 0.0
    """seconds, as the caller saw it"""
    warnings: tuple[str, ...] = ()
    """what was cut, left out or lost, one sentence each"""
    incidents: tuple[str, ...] = ()
    """those of `warnings` that tell what befell the session beside the cell: for its user, not for the code's author"""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one session may use. Backends that cannot hold a limit say so in `Isolation.open`."""

    timeout_s: float = 12.0
    """seconds a cell may take when `run` is not told"""
    memory_bytes: int = 2 << 30
    """memory a process of the session may add to what the interpreter starts with"""
    num_processes: int = 64
    """processes and threads the session may have at once"""
    num_open_files: int = 256
    """open files per process"""
    file_bytes: int = 64 << 20
    """largest file a process may write"""
    workdir_bytes: int = 128 << 20
    """working folder, temporary folder and shared memory together"""
    output_bytes: int = 1 << 20
    """stdout, stderr and text, each; the rest is dropped while it is read"""
    num_images: int = 16
    """images per cell"""
    image_pixels: int = 16 << 20
    """px per image, width times height; checked before it is drawn or encoded"""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            is_time = item.name == "timeout_s"
            kinds, most = ((int, float), MAX_SECONDS) if is_time else ((int,), float("inf"))
            if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value <= most:
                kind = f"number of at most {MAX_SECONDS:g}" if is_time else "whole number"
                raise ValueError(f"limit {item.name} must be a positive {kind}, not {shorten(value)}")

    @classmethod
    def of(cls, given: "Limits | Mapping[str, Any] | None", default: "Limits | None" = None) -> "Limits":
        """`given` as Limits; a mapping changes fields of `default`. Raises ValueError on unknown keys."""
        if isinstance(given, Limits):
            return given
        if not isinstance(given, Mapping | None):
            raise ValueError(f"limits must be Limits or a mapping of single ones, not {shorten(given)}")
        default = default or cls()
        names = [item.name for item in dataclasses.fields(cls)]
        for key in given or {}:
            if key not in names:
                raise ValueError(unknown_name("limit", key, names))
        return dataclasses.replace(default, **dict(given or {}))


@dataclass(frozen=True, kw_only=True)
class Isolation:
    """What stands between code in the sandbox and the machine, found out by trying at start."""

    tier: str
    """the backend's name for the set of mechanisms in use"""
    layers: Mapping[str, bool] = field(default_factory=dict)
    """promise -> whether an attempt to break it failed"""
    open: tuple[str, ...] = ()
    """what is not held, one sentence each, with how to close it"""


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """A cell whose replay gave another output than the journal recorded."""

    cell: int
    """which cell of the journal, from 0"""
    fields: tuple[str, ...]
    """which parts differ: stdout, stderr, text, images, error"""


@runtime_checkable
class Session(Protocol):
    """One interpreter with a working folder. Variables and files live on between cells."""

    def run(self, code: str, *, timeout_s: float | None = None) -> Execution:
        """Run a cell and wait. Raises SessionClosed, SessionLost, SandboxUnavailable; never for the code."""

    def write_files(self, files: Mapping[str, bytes]) -> None:
        """Write files, named relative to the working folder. Raises ValueError for a name, FilesRefused."""

    def snapshot(self, *, strict: bool = False) -> "Snapshot":
        """Freeze this moment; the session goes on.

        strict: raise SnapshotRefused where branches would lack threads, child processes or connections of it.
        """

    def close(self) -> None:
        """End it; snapshots of it live on. Idempotent."""

    def __enter__(self) -> "Session": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class Snapshot(Protocol):
    """A frozen session: any number of sessions go on from it."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What of the session a branch will lack: threads, child processes, connections."""

    @property
    def divergences(self) -> tuple[Divergence, ...]:
        """Where the replay that made this snapshot differed from its journal; () if it was not replayed."""

    def fork(self, num_branches: int = 1, *, seed: int | Sequence[int] | None = None) -> list[Session]:
        """New sessions that go on from here: identical, random states too.

        seed: an int reseeds `random` and numpy's global generator, each branch another way; a sequence gives
        each branch its own. Raises SnapshotReleased, SessionLost, SandboxUnavailable.
        """

    def to_bytes(self) -> bytes:
        """The journal as self-describing JSON, for `Sandbox.snapshot_from_bytes` in any process."""

    def release(self) -> None:
        """Let go of it; sessions forked from it live on. Idempotent."""

    def __enter__(self) -> "Snapshot": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class Sandbox(Protocol):
    """A backend that is running. Threads may share it; a process forked from the one that made it may not."""

    @property
    def isolation(self) -> Isolation:
        """What holds, as found out at start."""

    def session(
        self,
        *,
        files: Mapping[str, bytes] | None = None,
        seed: int | None = None,
        limits: Limits | Mapping[str, Any] | None = None,
    ) -> Session:
        """A new session. files: name -> content, written first. seed: of the random states; None draws one.

        limits: a mapping changes single fields of the sandbox's own. Raises ValueError, FilesRefused,
        SandboxUnavailable.
        """

    def snapshot_from_bytes(self, data: bytes, *, strict: bool = False) -> Snapshot:
        """Replay a journal. Differences are in `Snapshot.divergences`; strict raises ReplayDiverged instead.

        Raises ValueError for data that is not a journal.
        """

    def close(self) -> None:
        """End it and everything in it. Idempotent."""

    def __enter__(self) -> "Sandbox": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Closing(ABC):
    """A `with` block closes it."""

    @abstractmethod
    def close(self) -> None:
        """End it. Idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Releasing(ABC):
    """A `with` block releases it."""

    @abstractmethod
    def release(self) -> None:
        """Let go of it. Idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
