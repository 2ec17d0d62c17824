"""How every command ends: a user's mistake in one line and exit code 2, a failure of the machine in one line and 1,
Ctrl-C in one line and 130. Whatever else is raised is a bug and keeps its traceback.

    with command() as ending:
        config = load_config(argv, TrainConfig)  # ConfigError: exit code 2
        ending.how_to_go_on = "go on with ..."  # said where the machine failed or the user stopped it

Loads the standard library alone, so that a command can say which extra is missing before it needs it.
"""

import errno
import importlib.util
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

from axpo_sandbox import SandboxError

__all__ = ["CtrlC", "Ending", "RunFailed", "command", "one_line", "require_extra"]

MISTAKE, FAILURE, INTERRUPTED = 2, 1, 130  # exit codes

# What the packages of an extra are imported as, as far as a command needs them.
EXTRAS = {
    "train": ("docstring_parser", "huggingface_hub", "jsonargparse", "rich", "torch", "transformers", "yaml")
}

# Numbers of OSErrors that say something about the machine, not about the program.
_MACHINE = frozenset(
    getattr(errno, name)
    for name in (
        "EACCES", "EDQUOT", "EFBIG", "EHOSTDOWN", "EHOSTUNREACH", "EIO", "EMFILE", "ENETDOWN", "ENETUNREACH",
        "ENFILE", "ENODEV", "ENOMEM", "ENOSPC", "ENXIO", "EPERM", "EROFS", "ESTALE",
    )
)  # fmt: skip
# How torch and safetensors say that a file could not be written whole.
_FAILED_WRITES = ("No space left on device", "PytorchStreamWriter failed", "inline_container.cc")


class RunFailed(RuntimeError):
    """What a run stands on has failed, such as a sandbox: it stops, and says so in one line with exit code 1."""

    can_go_on = True
    """whether running on from the newest checkpoint could end otherwise"""


@dataclass(kw_only=True)
class Ending:
    """What a command says as it ends early."""

    how_to_go_on: str = ""
    """appended where the machine failed or the user stopped it"""


@contextmanager
def command() -> Iterator[Ending]:
    """Ends a command as the module's docstring says, raising SystemExit."""
    ending = Ending()
    try:
        yield ending
    except KeyboardInterrupt as error:
        _end(INTERRUPTED, "interrupted", str(error), ending.how_to_go_on)
    except Exception as error:
        if is_mistake(error):
            _end(MISTAKE, "error", one_line(error))
        if is_failure(error):
            how_to_go_on = ending.how_to_go_on if getattr(error, "can_go_on", True) else ""
            _end(FAILURE, "failed", one_line(error), how_to_go_on)
        raise


def is_mistake(error: BaseException) -> bool:
    """Whether the user gave something that will not do; whoever checks it raises ConfigError."""
    from axpo_algo.config.schema import ConfigError

    return isinstance(error, ConfigError)


def is_failure(error: BaseException) -> bool:
    """Whether the machine failed rather than the program: a full disk, a lost connection, a sandbox that is gone."""
    from axpo_algo.run.folder import RunFolderError
    from axpo_env.tools.base import ToolUnavailable

    known = RunFailed | RunFolderError | SandboxError | ToolUnavailable | ConnectionError | TimeoutError
    if isinstance(error, known):
        return True
    if isinstance(error, OSError):
        return error.errno in _MACHINE
    return any(text in str(error) for text in _FAILED_WRITES)


def one_line(error: BaseException) -> str:
    """An error's text in one line; an OSError's with what was written or read, and why that failed."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror}"
    text = " ".join(str(error).split()) or type(error).__name__
    return (
        f"a file could not be written, the disk may be full ({text})" if "inline_container" in text else text
    )


def require_extra(extra: str) -> None:
    """Ends the program in one line where a package of `extra` is not installed. Called before they are imported."""
    missing = [name for name in EXTRAS[extra] if importlib.util.find_spec(name) is None]
    if missing:
        _end(
            MISTAKE,
            "error",
            f"{', '.join(missing)} not installed; install the extra: pip install 'axpo[{extra}]'",
        )


def _end(code: int, kind: str, *parts: str) -> NoReturn:
    print(f"{kind}: {'; '.join(part for part in parts if part)}", file=sys.stderr)
    raise SystemExit(code)


class CtrlC:
    """Ctrl-C in a loop that changes something in steps: at once where nothing is half done, else after the step.

    is_half_done: whether a step has begun to change what an interrupted run saves. The first Ctrl-C while it has is
    kept, `say` is told, and `check` raises it; a second one raises KeyboardInterrupt at once. Does nothing
    outside the main thread, where Python handles no signals.
    """

    def __init__(self, is_half_done: Callable[[], bool], say: Callable[[str], None]) -> None:
        self._is_half_done, self._say = is_half_done, say
        self._kept = False
        self._old: Any = None

    def __enter__(self) -> "CtrlC":
        if threading.current_thread() is threading.main_thread():
            self._old = signal.signal(signal.SIGINT, self._handle)
        return self

    def check(self) -> None:
        """Raises the KeyboardInterrupt that was kept."""
        if self._kept:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._kept or not self._is_half_done():
            raise KeyboardInterrupt
        self._kept = True
        self._say("interrupted: the step is finished first; Ctrl-C again stops at once and loses it")

    def __exit__(self, *exception: Any) -> None:
        if self._old is not None:
            signal.signal(signal.SIGINT, self._old)
