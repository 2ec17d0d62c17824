"""Environments at work in threads, and the mailbox where their results come in as they finish.

What a job does, and what follows from its result, is left to `vector`. No thread belongs to an environment: the
one that is free takes the next job, so that under load a few threads go from job to job and the others sleep on.
A thread cannot be stopped: a job that takes too long is abandoned, and its environment closed when it is done.
"""

import contextlib
import sys
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


class Worker:
    """One environment, and the jobs on it: one at a time, until it is closed."""

    def __init__(self, number: int, make: Callable[[], Any], *, env: Any = None) -> None:
        self.number = number
        self.env = env  # None: made by `make` in a thread, before the first job
        self.has_begun = False  # a job was given to it
        self.has_ended = False  # it is to be closed once no job runs on it
        self._make = make
        self._turn = threading.Lock()
        self._is_closed = False

    def run(self, job: Job) -> Any:
        """The job's result, or `Failure`."""
        with self._turn:
            try:
                if self._is_closed:
                    raise RuntimeError("the environment is closed")
                if self.env is None:
                    self.env = self._make()
                result = job(self.env)
            except BaseException as error:  # whoever waits must hear of an exit, too
                result = Failure(error)
        return result

    def close(self) -> None:
        """Close the environment, unless a job runs on it: then whoever runs it must close, see `has_ended`."""
        if not self._turn.acquire(blocking=False):
            return
        try:
            if self.env is not None and not self._is_closed:
                self.env.close()
        finally:
            self._is_closed = True
            self._turn.release()


class Crew:
    """Threads for the jobs of many environments, and their results. Belongs to one thread."""

    def __init__(self) -> None:
        self.results: dict[int, Any] = {}  # by the environments' numbers, in the order in which they came
        self.in_flight: dict[int, Worker] = {}  # by number: whose result is expected
        self._num_others = 0  # tasks under way without a result to expect: abandoned jobs, closings
        self._threads: list[threading.Thread] = []
        self._tasks: SimpleQueue[tuple[Worker, Job | None] | None] = SimpleQueue()
        self._arrived: deque[tuple[Worker, Any]] = deque()  # not yet looked at
        # No lock guards the above: a lock would make every result wait for the others. Instead, the waiting
        # thread says how many arrivals it needs, and whoever brings the last of them rings.
        self._num_needed = 1
        self._bell = threading.Lock()
        self._bell.acquire()

    @property
    def num_pending(self) -> int:
        """How many results are expected or there."""
        return len(self.in_flight) + len(self.results)

    def submit(self, worker: Worker, job: Job) -> None:
        """Run `job`; its result, or `Failure`, comes under the worker's number."""
        worker.has_begun = True
        self.in_flight[worker.number] = worker
        self._start(worker, job)

    def abandon(self, number: int) -> None:
        """Expect this result no more: it is dropped if it comes, and the environment then closed."""
        worker = self.in_flight.pop(number)
        self._num_others += 1
        self.end(worker)

    def end(self, worker: Worker) -> None:
        """Close the environment once no job runs on it. Returns at once."""
        worker.has_ended = True
        if worker.has_begun:
            self._num_others += 1
            self._start(worker, None)
        else:
            worker.close()

    def dismiss(self, *, until_s: float) -> None:
        """Let the threads end when they have done what they were given.

        Returns when they have, or at the latest when `time.monotonic()` is `until_s`.
        """
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))
        self._threads.clear()

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

    def _start(self, worker: Worker, job: Job | None) -> None:
        """Put a task where a thread will find it: there is one for each task that is not known to be done."""
        if len(self._threads) < len(self.in_flight) + self._num_others:
            thread = threading.Thread(
                target=_work,
                args=(self._tasks, self._deliver),
                name=f"envs-{len(self._threads)}",
                daemon=True,  # an abandoned job must not keep the program from ending
            )
            thread.start()
            self._threads.append(thread)
        self._tasks.put((worker, job))

    def _deliver(self, worker: Worker, result: Any) -> None:
        """Called by the threads: bring a result."""
        self._arrived.append((worker, result))
        if len(self._arrived) >= self._num_needed:
            with contextlib.suppress(RuntimeError):  # it is ringing already
                self._bell.release()

    def _look(self) -> None:
        """Take in what has arrived, but for results that nobody expects."""
        while self._arrived:
            worker, result = self._arrived.popleft()
            if result is not _CLOSED and self.in_flight.get(worker.number) is worker:
                del self.in_flight[worker.number]
                self.results[worker.number] = result
            else:
                self._num_others -= 1


_CLOSED = object()  # the result of a closing


def _work(
    tasks: SimpleQueue[tuple[Worker, Job | None] | None], deliver: Callable[[Worker, Any], None]
) -> None:
    while (task := tasks.get()) is not None:
        worker, job = task
        result = _CLOSED if job is None else worker.run(job)
        if worker.has_ended:
            try:
                worker.close()
            except Exception:  # nobody waits for it
                threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
        deliver(worker, result)
        del worker, job, result, task  # an idle thread must not keep observations alive
