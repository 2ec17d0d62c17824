"""Machines and snapshots that are ours: renewed while they are used, ended in parallel and without waiting.

A snapshot is deleted once no machine made of it is left: the services refuse it before. A machine whose owner is
gone ends by itself when its lifetime is over. Making them is left to `cloud`.
"""

import contextlib
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial

from axpo_sandbox.base import SandboxUnavailable
from axpo_sandbox.e2b.cloud import Cloud
from axpo_sandbox.e2b.machine import Machine
from axpo_sandbox.e2b.rules import Gone, Refused

_NUM_MAKERS = 16
_NUM_ENDERS = 8
_RENEWALS_PER_LIFETIME = 4
_END_TIMEOUT_S = 30.0
_NUM_ROUNDS = 10  # to delete, at the end, snapshots that the cloud still takes to be in use
_ROUND_S = 1.0
_FAILURES = (Gone, Refused, SandboxUnavailable)


class Keeper:
    """Threads may share it, finalizers too: nothing here waits for the network but `close`."""

    def __init__(self, cloud: Cloud, lifetime_s: float) -> None:
        self._cloud = cloud
        self._period_s = lifetime_s / _RENEWALS_PER_LIFETIME
        self._lock = threading.RLock()  # the collector may end a machine while this thread is in here
        self._machines: dict[str, Machine] = {}  # in use
        self._ending: dict[str, str] = {}  # machines that may be there still -> what they were made of
        self._snapshots: set[str] = set()  # in use
        self._unwanted: set[str] = set()  # snapshots to be deleted
        self._jobs: set[Future[None]] = set()
        # Apart: those who wait for a place in the cloud wait for others to be ended.
        self._makers: ThreadPoolExecutor | None = None
        self._enders: ThreadPoolExecutor | None = None
        self._closing = threading.Event()
        self._closed = False
        self._renewer: threading.Thread | None = None
        self._owner_pid = os.getpid()

    def add(self, machine: Machine) -> None:
        """Keep it alive until it is ended; after `close` that is now."""
        with self._lock:
            self._machines[machine.id] = machine
            if self._closing.is_set():
                self.end(machine)
            elif self._renewer is None:
                self._renewer = threading.Thread(target=self._renew, name="axpo-e2b-renew", daemon=True)
                self._renewer.start()

    def add_snapshot(self, snapshot_id: str) -> None:
        """Take note of it."""
        with self._lock:
            self._snapshots.add(snapshot_id)

    def end(self, machine: Machine) -> None:
        """Kill it, soon. Idempotent."""
        with self._lock:
            if self._machines.pop(machine.id, None) is not None:
                self._ending[machine.id] = machine.source
                self._soon(partial(self._end_machine, machine.id))

    def end_snapshot(self, snapshot_id: str) -> None:
        """Delete it, soon, after the machines made of it. Idempotent."""
        with self._lock:
            if snapshot_id in self._snapshots:
                self._snapshots.discard(snapshot_id)
                self._unwanted.add(snapshot_id)
                self._delete_unused()

    def submit(self, job: Callable[[], Machine]) -> "Future[Machine]":
        """Make a machine in another thread."""
        with self._lock:
            if self._makers is None:
                self._makers = ThreadPoolExecutor(_NUM_MAKERS, thread_name_prefix="axpo-e2b-make")
            return self._makers.submit(job)

    def close(self) -> None:
        """End all there is and wait for it, at most about half a minute; warns of what is left. Idempotent."""
        if self._owner_pid != os.getpid():
            return  # a process forked from ours: they are not its
        deadline = time.monotonic() + _END_TIMEOUT_S
        with self._lock:
            self._closing.set()
            self._ending.update((name, machine.source) for name, machine in self._machines.items())
            self._machines.clear()
            self._unwanted |= self._snapshots
            self._snapshots.clear()
            anything = bool(self._ending or self._unwanted or self._jobs)
        if anything:
            self._all(self._end_machine, self._ending, deadline)
            with contextlib.suppress(*_FAILURES):  # those that nobody heard of: their answers were lost
                self._all(self._end_machine, [item.id for item in self._cloud.machines(own=True)], deadline)
        for _ in range(_NUM_ROUNDS):
            self._all(self._delete, self._unwanted, deadline)
            if not self._unwanted or time.monotonic() > deadline:
                break
            self._cloud.clock.sleep(_ROUND_S)
        self._let_threads_go(deadline)
        if self._ending or self._unwanted:
            warnings.warn(
                f"e2b sandbox: {len(self._ending)} machines could not be ended and {len(self._unwanted)} snapshots not"
                " deleted. Machines end by themselves; python -m axpo_sandbox.e2b.reaper deletes snapshots.",
                stacklevel=2,
            )
            self._ending.clear()
            self._unwanted.clear()

    def _let_threads_go(self, deadline: float) -> None:
        with self._lock:
            self._closed = True
            pools, self._makers, self._enders = (self._makers, self._enders), None, None
        for pool in pools:
            if pool is not None:
                pool.shutdown(wait=False, cancel_futures=True)
                if time.monotonic() < deadline:
                    pool.shutdown()
        if self._renewer is not None:
            self._renewer.join(max(0.0, deadline - time.monotonic()))

    def _all(self, job: Callable[[str], None], names: Iterable[str], deadline: float) -> None:
        """Do it for each of them, side by side, and wait for that and whatever else is under way."""
        with self._lock:
            for name in list(names):
                # Without threads, at the interpreter's end, each is waited for.
                if time.monotonic() < deadline:
                    self._soon(partial(job, name))
            jobs = set(self._jobs)
        wait(jobs, max(0.0, deadline - time.monotonic()))

    def _soon(self, job: Callable[[], None]) -> None:
        """In another thread, as long as there are any. Holds the lock."""
        if self._owner_pid != os.getpid():
            return
        if self._closed:
            job()
            return
        try:
            if self._enders is None:
                self._enders = ThreadPoolExecutor(_NUM_ENDERS, thread_name_prefix="axpo-e2b-end")
            future = self._enders.submit(job)
        except RuntimeError:  # the interpreter is ending: no more threads
            job()
            return
        self._jobs.add(future)
        future.add_done_callback(self._jobs.discard)

    def _end_machine(self, machine_id: str) -> None:
        try:
            self._cloud.kill(machine_id)
        except _FAILURES:  # tried again when others are renewed, and at the end
            return
        with self._lock:
            self._ending.pop(machine_id, None)
            self._delete_unused()

    def _delete_unused(self) -> None:
        """Delete the unwanted snapshots that no machine was made of. Holds the lock."""
        used = {*(machine.source for machine in self._machines.values()), *self._ending.values()}
        for name in self._unwanted - used:
            self._unwanted.discard(name)
            self._soon(partial(self._delete, name))

    def _delete(self, snapshot_id: str) -> None:
        try:
            self._cloud.delete_snapshot(snapshot_id)
        except _FAILURES:  # say, still in use: likewise
            with self._lock:
                self._unwanted.add(snapshot_id)
        else:
            with self._lock:
                self._unwanted.discard(snapshot_id)

    def _renew(self) -> None:
        while not self._closing.wait(self._period_s):
            with self._lock:
                machines = list(self._machines.values())
            for machine in machines:
                with contextlib.suppress(*_FAILURES):  # one that is gone is noticed where it is used
                    self._cloud.renew(machine)
            self._look_when_they_end()
            with self._lock:
                for name in list(self._ending):
                    self._soon(partial(self._end_machine, name))
                self._delete_unused()

    def _look_when_they_end(self) -> None:
        """The cloud may end machines before the time that was asked for: some hours after their start."""
        with contextlib.suppress(*_FAILURES):
            for item in self._cloud.machines(own=True):
                machine = self._machines.get(item.id)
                if machine is not None and item.left_s is not None:
                    machine.ends_at = self._cloud.clock.now() + item.left_s
