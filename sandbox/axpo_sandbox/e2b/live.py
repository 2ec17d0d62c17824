"""Cells in a machine: from the untrusted reply of its kernel to an `Execution`, and what an ending means.

A machine that has gone wrong is ended, never mended. What takes its place is left to `axpo_sandbox.sessions`.
"""

import contextlib
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from axpo_sandbox.answers import checked_answer
from axpo_sandbox.backend import Dead, HostDied, Lost, LostInCell
from axpo_sandbox.base import (
    KILLED,
    OUTPUT_LIMIT,
    PROTOCOL,
    TIMEOUT,
    Execution,
    ExecutionError,
    FilesRefused,
    Limits,
    RateLimited,
    SandboxUnavailable,
)
from axpo_sandbox.e2b.cloud import Cloud
from axpo_sandbox.e2b.config import E2BConfig
from axpo_sandbox.e2b.keeper import Keeper
from axpo_sandbox.e2b.machine import Machine, Reply
from axpo_sandbox.e2b.package import MODULE, archive_of, boot_code, call_code, packed
from axpo_sandbox.e2b.replies import Outputs, Parts, answer_in, checked_counts
from axpo_sandbox.e2b.rules import Gone, Refused

_ASK_TIMEOUT_S = 60.0
_LEAST_TIMEOUT_S = 0.5  # for the answer to a request that was sent again
_MAX_REPLY_BYTES = 128 << 20  # images of one cell, in base64, and room for the rest
_MAX_SHORT_REPLY_BYTES = 1 << 20  # of what is not a cell
_MAX_ESCAPED = 14  # bytes that one character may take as JSON in JSON
_NUM_STREAMS = 3  # stdout, stderr, text
# Between repetitions of a request whose connection was lost, or that the proxy before a machine answered with an
# error, as it does while one that was just made is not reachable yet. The runner does a request once.
_WAITS_S = (0.1, 0.4, 1.6)


# How an interpreter was lost, by whether the cell had begun; None where nobody knows.
_LOST: Mapping[bool | None, type[Dead]] = {False: Dead, None: Lost, True: LostInCell}


class Begun(NamedTuple):
    """What a machine says of itself as a session begins in it. Not trusted, and no more than told."""

    threads_kept: bool
    """whether the threads of the machine that it was made of are there"""
    memory_bytes: int
    """that a process may add, which is less than the limit in a small machine"""


class E2BLive:
    """See `axpo_sandbox.backend.Live`."""

    def __init__(
        self, cloud: Cloud, keeper: Keeper, machine: Machine, config: E2BConfig, limits: Limits
    ) -> None:
        """machine: owned by it from now on."""
        self.machine = machine
        self.moment = 0  # how often its state may have changed
        self.lock = threading.RLock()  # held while the machine is busy with us
        self._cloud = cloud
        self._keeper = keeper
        self._config = config
        self._limits = limits
        self._killed = False
        keeper.add(machine)

    @property
    def is_dead(self) -> bool:
        """Whether it was ended."""
        return self._killed

    def boot(self, path: str, preload: tuple[str, ...]) -> dict[str, Any]:
        """Bring our package into a fresh machine; returns what it says. Raises Dead, SandboxUnavailable."""
        try:
            self._upload(path, packed())
        except (Gone, Refused) as error:
            raise Dead(str(error)) from error
        reply = self._execute(boot_code(path), self._config.start_timeout_s)
        if reply.ending != "done" or reply.error:
            raise Dead(f"its interpreter does not take our package: {reply.error or reply.ending}")
        return self._ask({"op": "hello", "preload": list(preload)}, self._config.start_timeout_s)

    def begin(self, seed: int) -> Begun:
        """Become a session. Raises Dead, SandboxUnavailable."""
        request = {"op": "begin", "seed": seed, "limits": asdict(self._limits), "folder": self._config.folder}
        answer = self._ask(request, _ASK_TIMEOUT_S)
        granted, wanted = answer.get("memory_bytes"), self._limits.memory_bytes
        return Begun(
            answer.get("threads_kept") is True,
            granted if isinstance(granted, int) and granted < wanted else wanted,
        )

    def run(self, code: str, *, timeout_s: float | None = None) -> Execution:
        """See `axpo_sandbox.backend.Live.run`."""
        timeout_s = self._limits.timeout_s if timeout_s is None else timeout_s
        outputs = Outputs(self._limits.output_bytes)
        start_s = time.monotonic()
        with self.lock:
            self._check_alive()
            self.moment += 1
            token = secrets.token_hex(8)
            reply = self._execute(
                call_code({"op": "run", "code": code, "token": token}),
                timeout_s + self._config.grace_s,
                _MAX_REPLY_BYTES + _NUM_STREAMS * _MAX_ESCAPED * self._limits.output_bytes,
                outputs,
            )
            parts = self._parts(reply, token, timeout_s)
        stdout, stderr = outputs.texts()
        return Execution(
            stdout=stdout,
            stderr=stderr,
            text=parts.text,
            images=parts.images,
            error=parts.error,
            duration_s=time.monotonic() - start_s,
            warnings=(*parts.warnings, *outputs.warnings(parts.num_dropped_bytes)),
        )

    def write_files(self, files: Mapping[str, bytes]) -> None:
        """See `axpo_sandbox.backend.Live.write_files`."""
        with self.lock:
            self._check_alive()
            self.moment += 1
            path = self._config.new_archive()
            try:
                self._upload(path, archive_of(dict(files)))
            except Gone as error:
                self.kill()
                raise Dead(str(error)) from error
            except Refused as error:
                raise FilesRefused(f"could not write {', '.join(files)}: {error}") from error
            answer = self._ask({"op": "files", "archive": path}, _ASK_TIMEOUT_S, may_fail=True)
        if answer.get("ok") is not True:
            raise FilesRefused(f"could not write {', '.join(files)}: {str(answer.get('failed'))[:500]}")

    def reseed(self, seed: int) -> None:
        """See `axpo_sandbox.backend.Live.reseed`."""
        with self.lock:
            self._check_alive()
            self.moment += 1
            self._ask({"op": "seed", "seed": seed}, _ASK_TIMEOUT_S)

    def check(self) -> None:
        """See `axpo_sandbox.backend.Live.check`."""
        with self.lock:
            self._check_alive()
            self._ask({"op": "check"}, _ASK_TIMEOUT_S)

    def lacking(self) -> tuple[str, ...]:
        """What a snapshot without threads would lack, in sentences. Raises Dead, SandboxUnavailable."""
        with self.lock:
            self._check_alive()
            number = self._ask({"op": "lacking"}, _ASK_TIMEOUT_S).get("threads")
        if isinstance(number, int) and number > 0:
            return (f"{number} threads of the session do not exist in its branches",)
        return ()

    def kill(self) -> None:
        """See `axpo_sandbox.backend.Live.kill`."""
        self._killed = True
        self._keeper.end(self.machine)

    def close(self) -> None:
        """See `axpo_sandbox.backend.Live.close`."""
        self.kill()

    def _check_alive(self) -> None:
        if self._killed:
            raise Dead("its machine was ended")

    def _upload(self, path: str, data: bytes) -> None:
        """Write a file there, again if the connection is lost. Raises Gone, Refused, SandboxUnavailable."""
        for wait_s in _WAITS_S:
            try:
                return self.machine.write(path, data)
            except RateLimited:
                raise
            except (Gone, Refused, SandboxUnavailable) as error:
                if (isinstance(error, Refused) and error.for_good) or not self._is_running():
                    raise
                self._cloud.clock.sleep(wait_s)
        self.machine.write(path, data)

    def _execute(
        self,
        code: str,
        timeout_s: float,
        max_bytes: int = _MAX_SHORT_REPLY_BYTES,
        outputs: Outputs | None = None,
    ) -> Reply:
        """What the kernel says to `code`. Raises RateLimited; nothing was run then."""
        outputs = outputs or Outputs(0)
        deadline = time.monotonic() + timeout_s
        began_before: bool | None = False
        for number, wait_s in enumerate((*_WAITS_S, None)):
            outputs.clear()
            left_s = max(_LEAST_TIMEOUT_S, deadline - time.monotonic())
            try:
                reply = self.machine.execute(
                    code, timeout_s=left_s, max_bytes=max_bytes, on_output=outputs.take
                )
            except SandboxUnavailable:
                raise
            except BaseException:  # say, the user's interrupt: the code may run on
                self.kill()
                raise
            reply.again, reply.began_before = number > 0, began_before
            began_before = _either(began_before, reply.began)
            if reply.ending != "lost" or wait_s is None or not self._is_running():
                break
            self._cloud.clock.sleep(wait_s)
        return reply

    def _is_running(self) -> bool:
        """Whether the cloud says so."""
        with contextlib.suppress(SandboxUnavailable):
            return not self._killed and self._cloud.is_running(self.machine)
        return False

    def _ask(self, request: dict[str, Any], timeout_s: float, *, may_fail: bool = False) -> dict[str, Any]:
        """The runner's answer to a request that is not a cell. Raises Dead, SandboxUnavailable."""
        token = secrets.token_hex(8)
        reply = self._execute(call_code({**request, "token": token}), timeout_s)
        answer = answer_in(reply, token)
        if answer is None or ("failed" in answer and not may_fail):
            self.kill()
            said = (answer or {}).get("failed") or reply.error or reply.ending
            raise Dead(f"it does not answer: {str(said)[:500]}")
        return answer

    def _parts(self, reply: Reply, token: str, timeout_s: float) -> Parts:
        """What the reply to a cell says. Raises Dead if the cell did not run, or nobody can know."""
        answer = answer_in(reply, token)
        if answer is not None:
            try:
                text, images, error, warnings = checked_answer(answer, self._limits)
                if reply.again and error is not None and error.name == "KeyboardInterrupt":
                    self.kill()  # E2B's server interrupts code that nobody listens to any more
                    raise LostInCell("the cell was interrupted when the connection to its machine was lost")
                return Parts(
                    text=text,
                    images=images,
                    error=error,
                    warnings=warnings,
                    num_dropped_bytes=checked_counts(answer.get("dropped")),
                )
            except ValueError as problem:
                return self._fatal(PROTOCOL, f"the interpreter's answer was malformed: {problem}")
        if reply.ending == "flood":
            return self._fatal(OUTPUT_LIMIT, "the cell sent output without end and was stopped")
        if reply.ending == "malformed":
            return self._fatal(PROTOCOL, "the machine sent something else than an answer")
        if reply.ending == "done":
            if reply.error.startswith("KeyError") and MODULE in reply.error:
                self.kill()
                raise _LOST[reply.began_before]("its interpreter was another one")
            return self._fatal(KILLED, f"the interpreter ended in the middle of the cell ({reply.error})")
        return self._ending_of_machine(reply, timeout_s)

    def _ending_of_machine(self, reply: Reply, timeout_s: float) -> Parts:
        """The reply did not come to an end: the SDK cannot tell why, the cloud can."""
        if self._killed:
            return self._fatal(KILLED, "the machine was ended while the cell ran")
        try:
            is_running = self._cloud.is_running(self.machine)
        except SandboxUnavailable:
            self.kill()  # nobody knows its state, so it is of no use any more
            raise
        if is_running and reply.ending == "timeout":
            return self._fatal(TIMEOUT, f"the cell ran longer than {timeout_s:g} s and was stopped")
        has_expired = not is_running and self.machine.has_expired
        began = _either(reply.began_before, reply.began)
        if not is_running and not has_expired and (began or reply.ending == "timeout"):
            return self._fatal(KILLED, "the machine ended while the cell ran")
        self.kill()
        if has_expired:
            raise HostDied("its machine reached the end of its lifetime")
        if is_running:  # so it did not die, but it is of no use
            raise (LostInCell if began else Lost)("the connection to its machine was lost")
        raise _LOST[began]("its machine is gone")

    def _fatal(self, name: str, value: str) -> Parts:
        self.kill()
        return Parts(error=ExecutionError(name=name, value=value, traceback=""))


def _either(one: bool | None, other: bool | None) -> bool | None:
    """Whether one of them is true; None where nobody knows."""
    return True if one or other else None if one is None or other is None else False
