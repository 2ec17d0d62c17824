"""Threads that each own one environment, and the mailbox where their results come in as they finish.

What a job does, and what follows from its result, is left to `vector`. A thread cannot be stopped: one whose job
takes too long is abandoned, and ends, closing its environment, when the job does.
"""

import threading
import time
from collections.abc import Callable, Collection
from queue import SimpleQueue
from typing import Any

Job = Callable[[Any], Any]  # environment -> result


class Failure:
    """What a job raised."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Mailbox:
    """Results by number, in the order in which they came. One thread waits; any number deliver."""

    def __init__(self) -> None:
        self.results: dict[int, Any] = {}
        self.in_flight: dict[int, object] = {}  # number -> the worker whose result is expected
        self._changed = threading.Condition()
        self._missing = 0  # results that the waiting thread still needs
        self._wanted: Collection[int] | None = None  # numbers it needs them of; None: any

    @property
    def num_pending(self) -> int:
        """How many results are expected or there."""
        with self._changed:
            return len(self.in_flight) + len(self.results)

    def expect(self, number: int, worker: object) -> None:
        with self._changed:
            self.in_flight[number] = worker

    def deliver(self, number: int, worker: object, result: Any) -> None:
        """Take in a result, unless its worker was abandoned."""
        with self._changed:
            if self.in_flight.get(number) is worker:
                del self.in_flight[number]
                self._take(number, result)

    def abandon(self, number: int) -> bool:
        """Expect this result no more. False if it has come meanwhile."""
        with self._changed:
            return self.in_flight.pop(number, None) is not None

    def put(self, number: int, result: Any) -> None:
        """A result that no worker had to find."""
        with self._changed:
            self._take(number, result)

    def wait(self, num: int, wanted: Collection[int] | None = None, *, until_s: float | None = None) -> bool:
        """Wait until `num` results (of `wanted`) are there, at most until `time.monotonic()` is `until_s`.

        Returns whether they are.
        """
        with self._changed:
            have = len(self.results) if wanted is None else sum(number in self.results for number in wanted)
            self._missing, self._wanted = num - have, wanted
            while self._missing > 0:
                left_s = None if until_s is None else until_s - time.monotonic()
                if left_s is not None and left_s <= 0:
                    return False
                self._changed.wait(left_s)
            return True

    def _take(self, number: int, result: Any) -> None:
        self.results[number] = result
        if self._wanted is None or number in self._wanted:
            self._missing -= 1
            if self._missing == 0:
                self._changed.notify_all()


class Worker:
    """Runs jobs on one environment, one after another, in a thread that starts with the first job."""

    def __init__(self, number: int, make: Callable[[], Any], mailbox: Mailbox, *, env: Any = None) -> None:
        self.env = env  # None: made by the thread, before its first job
        self._number, self._make, self._mailbox = number, make, mailbox
        self._inbox: SimpleQueue[Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, job: Job) -> None:
        """Run `job`; its result, or `Failure`, goes to the mailbox."""
        self._mailbox.expect(self._number, self)
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
