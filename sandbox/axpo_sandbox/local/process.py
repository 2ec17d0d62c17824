"""The trusted side's handles: a sandboxed process, a frozen one with owners.

Who forks what, and why, is left to `client`.
"""

import os
import secrets
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from axpo_sandbox.backend import CountedPoint, Dead, Stalled
from axpo_sandbox.local import wire
from axpo_sandbox.local.family import Family, hang_up
from axpo_sandbox.local.processes import exit_status, kill_tree

_READY_TIMEOUT_S = 30.0
_PIPE_CHUNK_BYTES = 1 << 16
_MAX_DROPPED_BYTES = 64 << 20  # reading without end would cost the reader, too


class Process:
    """A sandboxed process: its channel, its output, and a sure way to end it. Callers see to locking."""

    def __init__(self, family: Family, *, frozen: bool = False) -> None:
        """frozen: it only waits, and nobody will read its output."""
        self.family = family
        self.frozen = frozen
        self.pid = 0
        self.hello: dict[str, Any] = {}  # what it said when it was ready
        self._pidfd = -1
        self._closed = False
        self._owner_pid = os.getpid()
        self._request_id = 0
        self._given_up: set[int] = set()  # requests whose answer came too late, and may still come
        self._garbled = False  # a request went out in part
        self._end_lock = threading.RLock()  # a thread may kill what another waits for
        self._channel, self._theirs = socket.socketpair()
        wire.ask_for_sender(self._channel)
        self._channel.setblocking(False)
        self._receiver = wire.Receiver(self._channel)
        if frozen:
            self._outputs: tuple[int, ...] = ()
            sink = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            self._their_outputs = [sink, os.dup(sink)]
        else:
            pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(2)]
            self._outputs = tuple(reader for reader, _ in pipes)
            self._their_outputs = [writer for _, writer in pipes]
            for reader in self._outputs:
                os.set_blocking(reader, False)
        family.add(self)

    @property
    def is_behind(self) -> bool:
        """Whether it still owes the answer to a request that was given up."""
        return bool(self._given_up)

    @property
    def their_fds(self) -> tuple[int, ...]:
        """What to hand to the new process: channel, stdout, stderr."""
        return (self._theirs.fileno(), *self._their_outputs)

    def handed_over(self) -> None:
        """Close our copies of them."""
        self._theirs.close()
        for fd in self._their_outputs:
            os.close(fd)
        self._their_outputs = []

    def await_hello(self, timeout_s: float) -> None:
        """Wait until it is ready and get a firm hold of it. Raises Dead; Stalled after timeout_s."""
        try:
            self.hello = hello = self._receiver.wait(timeout_s)
            pid = self._receiver.sender_pid or 0
            self._pidfd = self._receiver.take_sender_pidfd()
            if hello.get("ok") is not True or pid <= 0:
                raise Dead(f"it could not start: {str(hello.get('failed', ''))[:500]}")
            if self._pidfd < 0:  # before Linux 6.5
                self._pidfd = os.pidfd_open(pid)
                # It speaks again after we hold it: so the number was not another's by then.
                proof = self.ask({"op": "ping"}, timeout_s)
                if proof.get("ok") is not True or self._receiver.sender_pid != pid:
                    raise Dead("it did not prove to be there")
            self.pid = pid
        except TimeoutError as error:
            raise Stalled(f"it did not start within {timeout_s:.1f} s") from error
        except (wire.WireError, OSError) as error:
            raise Dead(f"it could not start: {error}") from error

    def ask(self, request: dict[str, Any], timeout_s: float, fds: tuple[int, ...] = ()) -> dict[str, Any]:
        """Send a request and wait for its answer. Raises Dead; Stalled if there is none within timeout_s."""
        deadline = time.monotonic() + timeout_s
        self.tell(request, timeout_s, fds)
        try:
            while True:
                frame = self._checked(self._receiver.wait(deadline - time.monotonic()))
                if frame is not None:
                    return frame
        except TimeoutError as error:
            self._given_up.add(self._request_id)
            raise Stalled(f"it did not answer within {timeout_s:.1f} s") from error
        except wire.WireError as error:
            raise Dead(str(error)) from error

    def tell(self, request: dict[str, Any], timeout_s: float, fds: tuple[int, ...] = ()) -> None:
        """Send a request. Raises Dead; Stalled if it does not take it."""
        self._check_silence()
        self._request_id = secrets.randbits(53)
        request = {**request, "id": self._request_id}
        self._channel.settimeout(max(timeout_s, 0.001))  # 0 would mean not to wait at all
        try:
            wire.send(self._channel, request, fds)
        except TimeoutError as error:
            self._garbled = True
            raise Stalled(f"it did not take a request within {timeout_s:.1f} s") from error
        except OSError as error:
            raise Dead(f"it is gone: {error}") from error
        finally:
            self._channel.setblocking(False)

    def await_answer(self, timeout_s: float, max_bytes: int) -> "Answer":
        """Wait for the answer to a cell while reading its output, up to max_bytes of each stream."""
        answer = Answer(max_bytes)
        deadline = time.monotonic() + timeout_s
        poller = select.poll()
        # The pidfd too: what a dead interpreter started may keep its channel open.
        for fd in (self._channel.fileno(), self._pidfd, *self._outputs):
            poller.register(fd, select.POLLIN)
        while answer.frame is None and answer.failure is None:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                answer.failure = "timeout"
                break
            events = {fd for fd, _ in poller.poll(max(1, int(left_s * 1000)))}
            for index, fd in enumerate(self._outputs):
                if fd in events and not answer.take(index, _read(fd)):
                    poller.unregister(fd)
            try:
                frame = self._receiver.poll()
                answer.frame = None if frame is None else self._checked(frame)
            except wire.Gone:
                answer.failure = "died"
            except wire.WireError as error:
                answer.failure = f"protocol: {error}"
            if answer.frame is None and answer.failure is None:
                if self._pidfd in events:
                    answer.failure = "died"
                elif sum(answer.num_dropped_bytes) > _MAX_DROPPED_BYTES:
                    answer.failure = "flood"
        self.drain(answer)
        return answer

    def drain(self, answer: "Answer") -> None:
        """Take the output that is there already. Bounded, since it may never end."""
        for index, fd in enumerate(self._outputs):
            for _ in range(2 + (1 << 20) // _PIPE_CHUNK_BYTES):
                data = _read(fd)
                if not data:
                    break
                answer.take(index, data)

    def exit_info(self) -> int | None:
        """Its wait status, if the kernel tells; None otherwise."""
        return exit_status(self._pidfd) if self._pidfd >= 0 else None

    def kill(self) -> None:
        """End it and what it started, except what the family holds of it. Its output can still be drained."""
        with self._end_lock:
            if self.pid > 0 and self._pidfd >= 0 and self._owner_pid == os.getpid():
                kill_tree(self.pid, self._pidfd, self.family.pids() - {self.pid})

    def close(self) -> None:
        """Kill it and let go of everything. Idempotent."""
        with self._end_lock:
            if self._closed:
                return
            self._closed = True
            self.kill()
            if self._owner_pid == os.getpid():
                hang_up(self._channel)
            self._receiver.close()
            self._channel.close()
            self._theirs.close()
            for fd in (*self._outputs, *self._their_outputs, self._pidfd):
                if fd >= 0:
                    os.close(fd)
            self._pidfd = -1
        self.family.remove(self)

    def _checked(self, frame: dict[str, Any]) -> dict[str, Any] | None:
        """A frame that answers the latest request; None if it answers one given up. Raises WireError."""
        number = frame.pop("id", None)
        if number == self._request_id:
            return frame
        if not isinstance(number, int) or number not in self._given_up:
            raise wire.WireError("a frame that answers no request")
        self._given_up.discard(number)
        return None

    def _check_silence(self) -> None:
        """An answer nobody asked for would be taken for that to the next request. Raises Dead."""
        if self._garbled:
            raise Dead("it did not take all of a request before")
        try:
            while (frame := self._receiver.poll()) is not None:
                if frame.get("id") not in self._given_up:
                    raise Dead("it spoke without being asked")
                self._given_up.discard(frame["id"])
        except (wire.WireError, TypeError) as error:
            raise Dead(str(error)) from error


class Answer:
    """What a process sent while it was waited for."""

    def __init__(self, max_bytes: int) -> None:
        self.frame: dict[str, Any] | None = None
        self.failure: str | None = None  # "timeout", "died", "flood", or "protocol: ..."
        self.outputs = (bytearray(), bytearray())
        self.num_dropped_bytes = [0, 0]
        self._max_bytes = max_bytes

    def take(self, index: int, data: bytes | None) -> bool:
        """Keep output up to the limit and count the rest. False at the end of the stream."""
        if data is None:
            return True
        room = self._max_bytes - len(self.outputs[index])
        self.outputs[index].extend(data[: max(0, room)])
        self.num_dropped_bytes[index] += max(0, len(data) - room)
        return data != b""


class Node(CountedPoint):
    """A frozen process."""

    def __init__(self, process: Process, lacking: tuple[str, ...]) -> None:
        super().__init__(lacking)
        self.process = process
        self.lock = threading.RLock()  # one request at a time

    def let_go(self) -> None:
        """See `axpo_sandbox.backend.CountedPoint.let_go`."""
        self.process.close()


Ask = Callable[[tuple[int, ...]], dict[str, Any]]


def spawn(
    ask: Ask,
    processes: Sequence[Process],
    extra_fds: tuple[int, ...] = (),
    ready_timeout_s: Callable[[], float] = lambda: _READY_TIMEOUT_S,
) -> dict[str, Any]:
    """Have a parent fork into `processes`, wait for their hellos, register them, and return what the parent answered.

    ask: sends the request for it with these descriptors. ready_timeout_s: for each step. Raises Dead if one does
    not come to life, and what `ask` raises; all `processes` are closed then.
    """
    try:
        try:
            answer = ask((*(fd for process in processes for fd in process.their_fds), *extra_fds))
        finally:
            for process in processes:
                process.handed_over()
        if answer.get("ok") is not True:
            raise Dead(f"it could not fork: {str(answer.get('failed', answer))[:500]}")
        for process in processes:
            process.await_hello(ready_timeout_s())
        processes[0].family.register(processes, ready_timeout_s())
        return answer
    except BaseException:
        for process in processes:
            process.close()
        raise


def _read(fd: int) -> bytes | None:
    """What is there; None if nothing is yet, b"" at the end."""
    try:
        return os.read(fd, _PIPE_CHUNK_BYTES)
    except BlockingIOError:
        return None
