"""A family: everything forked from one session. It shares a process tree, and ends when nobody holds any of it."""

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from axpo_sandbox.backend import Dead, Stalled
from axpo_sandbox.local.guard import REGISTERED, REGISTRATION
from axpo_sandbox.local.processes import number_inside

if TYPE_CHECKING:
    from axpo_sandbox.local.process import Process


class Family:
    """One process tree: held open by a lifeline, ended by letting go of it."""

    def __init__(
        self, name: str, on_end: Callable[["Family"], None], num_of_user: Callable[[], int] = lambda: 0
    ) -> None:
        """name: unlike any other's. on_end: called once it has ended.

        num_of_user: processes that count against its limit as the kernel sees it, if there are others.
        """
        ours, self.theirs = socket.socketpair()
        self.name = name
        self.key = secrets.randbits(63)  # see `seccomp`
        self._lifeline = ours
        self._owner_pid = os.getpid()
        self._on_end = on_end
        self._num_of_user = num_of_user
        self._lock = threading.RLock()  # the collector may close a session while this thread is in here
        self._register_lock = threading.Lock()
        self._num_registered = 0
        self._processes: set[Process] = set()
        self._num_made = 0
        self._ended = False

    def add(self, process: "Process") -> None:
        """Take in a process that is about to start."""
        with self._lock:
            self._processes.add(process)
            self._num_made += 1

    def register(self, processes: Sequence["Process"], timeout_s: float) -> None:
        """Have them be branches of their own, which no code outside of them can signal. See `guard`.

        Raises Dead; Stalled if there is no answer within timeout_s.
        """
        deadline = time.monotonic() + timeout_s
        if not self._register_lock.acquire(timeout=timeout_s):
            raise Stalled("others still wait for their branches to be registered")
        try:
            first = self._num_registered + 1
            self._num_registered += len(processes)
            inside = [number_inside(process.pid) for process in processes]
            records = [
                REGISTRATION.pack(number, pid, process.frozen)
                for number, (process, pid) in enumerate(zip(processes, inside, strict=True), first)
            ]
            self._lifeline.sendall(b"".join(records))
            number = 0
            while number < self._num_registered:
                number, taken = self._registered(deadline - time.monotonic())
                if number >= first and not taken:
                    raise Dead("it was signalled while it began, or has ended")
        except TimeoutError as error:
            raise Stalled(f"it was not registered within {timeout_s:.1f} s") from error
        except OSError as error:
            raise Dead(f"it is gone: {error}") from error
        finally:
            self._register_lock.release()

    def _registered(self, timeout_s: float) -> tuple[int, bool]:
        """The first process's next answer; of requests given up, too. Raises OSError."""
        self._lifeline.settimeout(max(timeout_s, 0.001))  # 0 would mean not to wait at all
        data = self._lifeline.recv(REGISTERED.size, socket.MSG_WAITALL)
        if len(data) < REGISTERED.size:
            raise BrokenPipeError("its tree has ended")
        number, taken = REGISTERED.unpack(data)
        return number, taken

    def next_number(self) -> int:
        """A number no process of the family has had."""
        with self._lock:
            self._num_made += 1
            return self._num_made

    def remove(self, process: "Process") -> None:
        """Take note of one that ended; with the last one the family does."""
        with self._lock:
            self._processes.discard(process)
            if self._processes or self._ended:
                return
            self._ended = True
        self.theirs.close()
        if self._owner_pid != os.getpid():
            self._lifeline.close()
            return
        hang_up(self._lifeline)
        self._on_end(self)

    def pids(self) -> set[int]:
        """Process ids on this machine of those that have said hello."""
        with self._lock:
            return {process.pid for process in self._processes if process.pid > 0}

    def num_counted(self) -> int:
        """Processes that count against the limit of what its code may start, and are not the code's."""
        return max(len(self._processes), self._num_of_user())


def hang_up(channel: socket.socket) -> None:
    """Close it for good: a process forked from ours may hold copies, and they must not keep it open."""
    with contextlib.suppress(OSError):  # the other side may be gone
        channel.shutdown(socket.SHUT_RDWR)
    channel.close()
