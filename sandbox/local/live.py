"""Cells in a live process: from its untrusted answer to an `Execution`. What to do when it dies is left to
`session`.
"""

import base64
import binascii
import os
import signal
import struct
import time
from collections.abc import Callable, Mapping
from typing import Any

from sandbox.base import (
    EXITED,
    FATAL,
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
from sandbox.local.process import Answer, Dead, Process

_FILES_TIMEOUT_S = 60.0
_SEED_TIMEOUT_S = 10.0
_MAX_WARNINGS = 32
_MAX_WARNING_CHARS = 600
_MAX_ERROR_CHARS = 20_000
_PNG_START = b"\x89PNG\r\n\x1a\n"


class Live:
    """A process that runs cells for a session."""

    def __init__(self, process: Process, limits: Limits, num_oom_kills: Callable[[], int]) -> None:
        """num_oom_kills: how often the kernel has killed for memory."""
        self.process = process
        self._limits = limits
        self._num_oom_kills = num_oom_kills
        self._num_oom_kills_before = 0

    def run(self, code: str, *, timeout_s: float | None = None) -> Execution:
        """Run a cell. `survived(execution)` says whether the process lives. Raises Dead if it was dead
        before.
        """
        timeout_s = self._limits.timeout_s if timeout_s is None else timeout_s
        self._num_oom_kills_before = self._num_oom_kills()
        start_s = time.monotonic()
        request = {"op": "run", "code": code, "num_family": len(self.process.family)}
        try:
            self.process.tell(request, max(timeout_s, 1.0))
        except TimeoutError as error:
            raise Dead("it does not take requests") from error
        answer = self.process.await_answer(timeout_s, self._limits.output_bytes)
        return self._execution(answer, timeout_s, start_s)

    def write_files(self, files: Mapping[str, bytes]) -> None:
        """Write files. Raises FilesRefused, Dead."""
        encoded = {name: base64.b64encode(content).decode() for name, content in files.items()}
        try:
            answer = self.process.ask({"op": "files", "files": encoded}, _FILES_TIMEOUT_S)
        except TimeoutError as error:
            raise Dead("it does not write files") from error
        if answer.get("ok") is not True:
            raise FilesRefused(f"could not write {', '.join(files)}: {str(answer.get('failed'))[:500]}")

    def reseed(self, seed: int) -> None:
        """Set the random states. Raises Dead."""
        try:
            self.process.ask({"op": "seed", "seed": seed}, _SEED_TIMEOUT_S)
        except TimeoutError as error:
            raise Dead("it does not answer") from error

    def _execution(self, answer: Answer, timeout_s: float, start_s: float) -> Execution:
        text: str | None = None
        images: tuple[bytes, ...] = ()
        error: ExecutionError | None = None
        warnings: list[str] = []
        if answer.frame is not None:
            try:
                text, images, error, warnings = _checked(answer.frame, self._limits)
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
        if number == signal.SIGKILL and self._num_oom_kills() > self._num_oom_kills_before:
            return _error(OUT_OF_MEMORY, "the sandbox's memory ran out and the kernel killed the interpreter")
        return _error(KILLED, f"the interpreter was killed by {_signal_name(number)}")


def survived(error: ExecutionError | None) -> bool:
    """Whether the process that gave this result lives."""
    return error is None or error.name not in FATAL or error.traceback != ""


def _error(name: str, value: str) -> ExecutionError:
    return ExecutionError(name=name, value=value, traceback="")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _checked(
    frame: Mapping[str, Any], limits: Limits
) -> tuple[str | None, tuple[bytes, ...], ExecutionError | None, list[str]]:
    """text, images, error, warnings of an untrusted answer. Raises ValueError saying what is wrong."""
    text, images = frame.get("text"), frame.get("images")
    if text is not None and (
        not isinstance(text, str) or len(text.encode("utf-8", "replace")) > limits.output_bytes
    ):
        raise ValueError("text is not a string within the limit")
    if not isinstance(images, list) or len(images) > limits.num_images:
        raise ValueError("images is not a list within the limit")
    warnings = frame.get("warnings")
    if not isinstance(warnings, list) or not all(isinstance(item, str) for item in warnings):
        raise ValueError("warnings is not a list of strings")
    short = [item[:_MAX_WARNING_CHARS] for item in warnings[:_MAX_WARNINGS]]
    pictures = tuple(_checked_png(image, limits.image_pixels) for image in images)
    return text, pictures, _checked_error(frame.get("error")), short


def _checked_error(raw: Any) -> ExecutionError | None:
    if raw is None:
        return None
    fields = ("name", "value", "traceback")
    if not isinstance(raw, dict) or not all(isinstance(raw.get(name), str) for name in fields):
        raise ValueError("error is not a name, a value and a traceback")
    name, value, trace = (raw[field][:_MAX_ERROR_CHARS] for field in fields)
    return ExecutionError(name=name, value=value, traceback=trace or f"{name}: {value}\n")


def _checked_png(encoded: Any, max_pixels: int) -> bytes:
    if not isinstance(encoded, str):
        raise ValueError("an image is not base64 text")
    try:
        data = base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise ValueError("an image is not base64 text") from error
    if not data.startswith(_PNG_START) or data[12:16] != b"IHDR" or len(data) < 33:
        raise ValueError("an image is not a PNG file")
    width, height = struct.unpack("!II", data[16:24])
    if not 0 < width * height <= max_pixels:
        raise ValueError(f"an image has {width} x {height} px; at most {max_pixels} are allowed")
    return data
