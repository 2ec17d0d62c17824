"""Cells in a live process: from its untrusted answer to an `Execution`. What to do when it dies is left to
`axpo_sandbox.sessions`.
"""

import base64
import os
import signal
import time
from collections.abc import Callable, Mapping

from axpo_sandbox.answers import checked_answer
from axpo_sandbox.backend import Dead, Stalled, Starved, patience, survived
from axpo_sandbox.base import (
    EXITED,
    KILLED,
    OUT_OF_MEMORY,
    OUTPUT_LIMIT,
    PROTOCOL,
    TIMEOUT,
    Execution,
    ExecutionError,
    FilesRefused,
    Limits,
)
from axpo_sandbox.local.cgroup import MemoryState
from axpo_sandbox.local.process import Answer, Process

_TAKE_TIMEOUT_S = 1.0  # for a request: one that waits takes it at once
_FILES_TIMEOUT_S = 60.0
_SEED_TIMEOUT_S = 10.0
_OWN_SHARE = 0.7  # of its limit that a session had if its memory is to blame
_CHECK_TIMEOUT_S = 10.0


class Live:
    """See `axpo_sandbox.backend.Live`."""

    def __init__(self, process: Process, limits: Limits, memory: Callable[[], MemoryState]) -> None:
        """memory: how that of all sessions stands."""
        self.process = process
        self._limits = limits
        self._memory = memory
        self._num_oom_kills_before = 0

    def run(self, code: str, *, timeout_s: float | None = None) -> Execution:
        """See `axpo_sandbox.backend.Live.run`."""
        timeout_s = self._limits.timeout_s if timeout_s is None else timeout_s
        self._num_oom_kills_before = self._memory().num_kills
        start_s = time.monotonic()
        request = {"op": "run", "code": code, **self._process_limit()}
        self.process.tell(request, patience(_TAKE_TIMEOUT_S))
        answer = self.process.await_answer(timeout_s, self._limits.output_bytes)
        if answer.failure == "timeout" and self.process.is_behind:
            raise Stalled("it did not get as far as the cell")
        return self._execution(answer, timeout_s, start_s)

    def write_files(self, files: Mapping[str, bytes]) -> None:
        """See `axpo_sandbox.backend.Live.write_files`."""
        encoded = {name: base64.b64encode(content).decode() for name, content in files.items()}
        answer = self.process.ask({"op": "files", "files": encoded}, patience(_FILES_TIMEOUT_S))
        if answer.get("ok") is not True:
            raise FilesRefused(f"could not write {', '.join(files)}: {str(answer.get('failed'))[:500]}")

    def reseed(self, seed: int) -> None:
        """See `axpo_sandbox.backend.Live.reseed`."""
        self.process.ask({"op": "seed", "seed": seed}, patience(_SEED_TIMEOUT_S))

    def check(self) -> None:
        """See `axpo_sandbox.backend.Live.check`."""
        answer = self.process.ask({"op": "check", **self._process_limit()}, patience(_CHECK_TIMEOUT_S))
        if answer.get("ok") is not True:
            raise Dead("it cannot run cells any more")

    def _process_limit(self) -> dict[str, int]:
        """What the agent needs to say how many processes a cell may start."""
        return {"num_others": self.process.family.num_counted(), "key": self.process.family.key}

    def kill(self) -> None:
        """See `axpo_sandbox.backend.Live.kill`."""
        self.process.kill()

    def close(self) -> None:
        """See `axpo_sandbox.backend.Live.close`."""
        self.process.close()

    def _execution(self, answer: Answer, timeout_s: float, start_s: float) -> Execution:
        text: str | None = None
        images: tuple[bytes, ...] = ()
        error: ExecutionError | None = None
        warnings: list[str] = []
        if answer.frame is not None:
            try:
                text, images, error, warnings = checked_answer(answer.frame, self._limits)
            except ValueError as problem:
                error = _error(PROTOCOL, f"the interpreter's answer was malformed: {problem}")
        elif answer.failure == "timeout":
            error = _error(TIMEOUT, f"the cell ran longer than {timeout_s:g} s and was stopped")
        elif answer.failure == "flood":
            error = _error(OUTPUT_LIMIT, "the cell wrote output without end and was stopped")
        elif answer.failure == "died":
            error = self._cause_of_death()
        else:
            error = _error(PROTOCOL, f"the interpreter sent something else than an answer ({answer.failure})")
        if error is not None and not survived(error):
            self.process.kill()
            self.process.drain(answer)
        for name, num_bytes in zip(("stdout", "stderr"), answer.num_dropped_bytes, strict=True):
            if num_bytes:
                warnings.append(
                    f"{name} was cut at {self._limits.output_bytes} bytes; {num_bytes} more were dropped"
                )
        stdout, stderr = (bytes(part).decode("utf-8", "replace") for part in answer.outputs)
        return Execution(
            stdout=stdout,
            stderr=stderr,
            text=text,
            images=images,
            error=error,
            duration_s=time.monotonic() - start_s,
            warnings=tuple(warnings),
        )

    def _cause_of_death(self) -> ExecutionError:
        status = self.process.exit_info()
        if status is None:
            return _error(KILLED, "the interpreter died")
        if os.WIFEXITED(status):
            return _error(EXITED, f"the interpreter exited with status {os.WEXITSTATUS(status)}")
        number = os.WTERMSIG(status)
        state = self._memory()
        if number == signal.SIGKILL and state.num_kills > self._num_oom_kills_before:
            own, free, limit = self._limits.memory_bytes, state.free_bytes, state.limit_bytes
            # What is free now is what it had, within what others did meanwhile.
            if free is not None and limit is not None and free < _OWN_SHARE * min(own, limit):
                raise Starved(
                    f"of {limit >> 20} MB for all sessions together, {free >> 20} MB were left for this one, which"
                    f" may have {own >> 20} MB; raise total_memory_bytes, or run fewer sessions"
                )
            return _error(OUT_OF_MEMORY, "the sandbox's memory ran out and the kernel killed the interpreter")
        return _error(KILLED, f"the interpreter was killed by {_signal_name(number)}")


def _error(name: str, value: str) -> ExecutionError:
    return ExecutionError(name=name, value=value, traceback="")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
