"""Handles of processes in a container, as `axpo_sandbox.backend` wants them; what the relay says of them, checked."""

import base64
import time
from collections.abc import Mapping
from typing import Any

from axpo_sandbox.answers import checked_answer
from axpo_sandbox.backend import CountedPoint, patience
from axpo_sandbox.base import (
    FATAL,
    PROTOCOL,
    Execution,
    ExecutionError,
    FilesRefused,
    Limits,
)
from axpo_sandbox.docker.failures import failure_of
from axpo_sandbox.docker.link import Link

# What the relay may take beyond the time that it was given, and keeps by itself: one that takes longer hangs, and
# its container is replaced.
_SLACK_S = 30.0
_FILES_S = 60.0  # that a process has to write files, where the caller has no deadline
_FORK_S = 30.0  # to fork, to reseed, to check that it works
_START_TIMEOUT_S = 90.0
_MAX_MESSAGE_CHARS = 1000
_MAX_LACKING = 8


class RemoteLive:
    """See `axpo_sandbox.backend.Live`."""

    def __init__(self, link: Link, number: int, limits: Limits) -> None:
        """number: what the relay was told to call it."""
        self.link = link
        self.number = number
        self.limits = limits
        self._closed = False

    def run(self, code: str, *, timeout_s: float | None = None) -> Execution:
        """See `axpo_sandbox.backend.Live.run`. Raises HostDied if the container ends meanwhile."""
        timeout_s = self.limits.timeout_s if timeout_s is None else timeout_s
        start_s = time.monotonic()
        request = self._about("run", code=code, timeout_s=timeout_s)
        try:
            answer = ask_in_time(self.link, request, timeout_s)
        except KeyboardInterrupt:
            self.close()  # nobody will know what the cell did
            raise
        return checked_execution(answer, self.limits, start_s)

    def write_files(self, files: Mapping[str, bytes]) -> None:
        """See `axpo_sandbox.backend.Live.write_files`."""
        encoded = {name: base64.b64encode(content).decode() for name, content in files.items()}
        try:
            ask_in_time(self.link, self._about("files", files=encoded), _FILES_S)
        except ValueError as error:
            raise FilesRefused(f"could not write {', '.join(files)}: {error}") from error

    def reseed(self, seed: int) -> None:
        """See `axpo_sandbox.backend.Live.reseed`."""
        ask_in_time(self.link, self._about("seed", seed=seed), _FORK_S)

    def check(self) -> None:
        """See `axpo_sandbox.backend.Live.check`."""
        ask_in_time(self.link, self._about("check"), _FORK_S)

    def kill(self) -> None:
        """See `axpo_sandbox.backend.Live.kill`."""
        if not self._closed:
            self.link.tell(self._about("kill"))

    def close(self) -> None:
        """See `axpo_sandbox.backend.Live.close`."""
        if not self._closed:
            self._closed = True
            self.link.tell(self._about("close"))

    def _about(self, operation: str, **more: Any) -> dict[str, Any]:
        return {"op": operation, "live": self.number, **more}


class RemotePoint(CountedPoint):
    """See `axpo_sandbox.backend.Point`."""

    def __init__(self, link: Link, number: int, lacking: tuple[str, ...]) -> None:
        super().__init__(lacking)
        self.link = link
        self.number = number

    def let_go(self) -> None:
        """See `axpo_sandbox.backend.CountedPoint.let_go`."""
        self.link.tell({"op": "release", "point": self.number})


def start(link: Link, number: int, seed: int, limits: Limits, num_processes: int) -> RemoteLive:
    """A new process. num_processes: of the whole container, for where a session's cannot be counted.

    Raises SandboxUnavailable, HostDied if the container is gone.
    """
    request = {"op": "start", "live": number, "seed": seed, "limits": _plain(limits)}
    ask(link, {**request, "num_processes": num_processes}, _START_TIMEOUT_S)
    return RemoteLive(link, number, limits)


def freeze(live: RemoteLive, number: int) -> RemotePoint:
    """Freeze it under that number. Raises Dead."""
    answer = ask_in_time(live.link, {"op": "freeze", "live": live.number, "point": number}, _FORK_S)
    said = answer.get("lacking")
    lacking = said if isinstance(said, list) else []
    sentences = [item[:_MAX_MESSAGE_CHARS] for item in lacking[:_MAX_LACKING] if isinstance(item, str)]
    return RemotePoint(live.link, number, tuple(sentences))


def thaw(point: RemotePoint, limits: Limits, numbers: list[int]) -> list[RemoteLive]:
    """Live processes under those numbers. Raises Dead."""
    request = {"op": "thaw", "point": point.number, "lives": numbers, "limits": _plain(limits)}
    ask_in_time(point.link, request, _FORK_S + len(numbers))
    return [RemoteLive(point.link, number, limits) for number in numbers]


def ask(link: Link, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """What the relay answers if it could do it.

    Raises Dead and its kinds, FilesRefused, SandboxUnavailable as it says, HostDied if it says nothing in time.
    """
    answer = link.ask(request, timeout_s)
    if answer.get("ok") is True:
        return answer
    raise failure_of(answer.get("failed"), str(answer.get("message"))[:_MAX_MESSAGE_CHARS])


def ask_in_time(link: Link, request: dict[str, Any], most_s: float) -> dict[str, Any]:
    """`ask` for what code can keep from being done: the relay gives up by our deadline, `backend.within`."""
    left_s = patience()
    if left_s < float("inf"):
        request = {**request, "within_s": left_s}
    return ask(link, request, min(most_s, left_s) + _SLACK_S)


def checked_execution(answer: Mapping[str, Any], limits: Limits, start_s: float) -> Execution:
    """A cell's result from an answer that is not trusted. start_s: when the cell began, by `monotonic`."""
    try:
        stdout, stderr = (_output(answer.get(name), limits) for name in ("stdout", "stderr"))
        text, images, error, warnings = checked_answer(answer, limits)
        if answer.get("survived") is not True:
            error = _death(error)
    except ValueError as problem:
        trouble = f"the container's answer was malformed: {problem}"
        error = ExecutionError(name=PROTOCOL, value=trouble, traceback="")
        return Execution(error=error, duration_s=time.monotonic() - start_s)
    return Execution(
        stdout=stdout,
        stderr=stderr,
        text=text,
        images=images,
        error=error,
        duration_s=time.monotonic() - start_s,
        warnings=tuple(warnings),
    )


def _output(said: Any, limits: Limits) -> str:
    if not isinstance(said, str) or len(said) > limits.output_bytes:
        raise ValueError("an output is not a string within the limit")
    return said


def _death(error: ExecutionError | None) -> ExecutionError:
    """How a process ended: one of few words, and no traceback, which only a living one has."""
    if error is None or error.name not in FATAL:
        raise ValueError("a process ended in an unknown way")
    return ExecutionError(name=error.name, value=error.value, traceback="")


def _plain(limits: Limits) -> dict[str, Any]:
    return {name: getattr(limits, name) for name in limits.__dataclass_fields__}
