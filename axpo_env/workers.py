"""Threads that each own one environment, and the mailbox where their results come in as they finish.

What a job does, and what follows from its result, is left to `vector`. A thread cannot be stopped: one whose job
takes too long is abandoned, and ends, closing its environment, when the job does.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from queue import SimpleQueue
from typing import Any

Job = Callable[[Any], Any]  # environment -> result


class Failure:
    """What a job raised."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Mailbox:
    """Results by number, in the order in which they came. Belongs to one thread, but for `deliver`."""

    def __init__(self) -> None:
        self.results: dict[int, Any] = {}
        self.in_flight: dict[int, object] = {}  # number -> the worker whose result is expected
        self._arrived: deque[tuple[int, object, Any]] = deque()  # not yet looked at
        # No lock guards the above: a lock would make every result wait for the others. Instead, the waiting
        # thread says how many arrivals it needs, and whoever brings the last of them rings.
        self._num_needed = 1
        self._bell = threading.Lock()
        self._bell.acquire()

    @property
    def num_pending(self) -> int:
        """How many results are expected or there."""
        return len(self.in_flight) + len(self.results)

    def deliver(self, number: int, worker: object, result: Any) -> None:
        """Called by workers: bring a result."""
        self._arrived.append((number, worker, result))
        if len(self._arrived) >= self._num_needed:
            with contextlib.suppress(RuntimeError):  # it is ringing already
                self._bell.release()

    def abandon(self, number: int) -> None:
        """Expect this result no more; it is dropped if it comes."""
        del self.in_flight[number]

    def wait(self, num: int, wanted: Collection[int] | None = None, *, until_s: float | None = None) -> bool:
        """Wait until `num` results (of `wanted`) are there, at most until `time.monotonic()` is `until_s`.

        Returns whether they are.
        """
        while True:
            self._look()
            have = len(self.results) if wanted is None else sum(number in self.results for number in wanted)
            if have >= num:
                return True
            self._num_needed = num - have
            if len(self._arrived) >= self._num_needed:
                continue  # the last of them came before it could know that it was
            left_s = -1.0 if until_s is None else until_s - time.monotonic()
            if until_s is not None and left_s <= 0:
                return False
            self._bell.acquire(timeout=min(left_s, threading.TIMEOUT_MAX))

    def _look(self) -> None:
        """Take in what has arrived, but for results of abandoned workers."""
        while self._arrived:
            number, worker, result = self._arrived.popleft()
            if self.in_flight.get(number) is worker:
                del self.in_flight[number]
                self.results[number] = result


class Worker:
    """Runs jobs on one environment, one after another, in a thread that starts with the first job."""

    def __init__(self, number: int, make: Callable[[], Any], mailbox: Mailbox, *, env: Any = None) -> None:
        self.env = env  # None: made by the thread, before its first job
        self._number, self._make, self._mailbox = number, make, mailbox
        self._inbox: SimpleQueue[Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, job: Job) -> None:
        """Run `job`; its result, or `Failure`, goes to the mailbox."""
        self._mailbox.in_flight[self._number] = self
        if self._thread is None:
            # A daemon: an abandoned one must not keep the program from ending.
            self._thread = threading.Thread(target=self._run, name=f"env-{self._number}", daemon=True)
            self._thread.start()
        self._inbox.put(job)

    def end(self) -> None:
        """Close the environment once the jobs so far are done. Returns at once."""
        if self._thread is None:
            if self.env is not None:
                self.env.close()
        else:
            self._inbox.put(None)

    def join(self, timeout_s: float) -> None:
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while (job := self._inbox.get()) is not None:
            try:
                if self.env is None:
                    self.env = self._make()
                result = job(self.env)
            except BaseException as error:  # whoever waits must hear of an exit, too
                result = Failure(error)
            self._mailbox.deliver(self._number, self, result)
            del job, result  # an idle thread must not keep observations alive
        if self.env is not None:
            self.env.close()
