"""Machines and snapshots that are ours: renewed while they are used, ended in parallel and without waiting.

A machine whose owner is gone ends by itself when its lifetime is over. Making them is left to `cloud`.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from axpo_sandbox.base import SandboxUnavailable
from axpo_sandbox.e2b.cloud import Cloud, Gone, Machine, Refused

_NUM_THREADS = 8
_RENEWALS_PER_LIFETIME = 4
_END_TIMEOUT_S = 30.0
_WAITS_S = (0.3, 1.0)  # between attempts to end something
_FAILURES = (Gone, Refused, SandboxUnavailable)


class Keeper:
    """Threads may share it, finalizers too: nothing here waits for the network but `close`."""

    def __init__(self, cloud: Cloud, lifetime_s: float) -> None:
        self._cloud = cloud
        self._period_s = lifetime_s / _RENEWALS_PER_LIFETIME
        self._lock = threading.RLock()  # the collector may end a machine while this thread is in here
        self._machines: set[str] = set()
        self._snapshots: set[str] = set()
        self._ending: set[Future[None]] = set()
        self._pool: ThreadPoolExecutor | None = None
        self._closing = threading.Event()
        self._renewer: threading.Thread | None = None
        self._owner_pid = os.getpid()

    def add(self, machine: Machine) -> None:
        """Keep it alive until it is ended; after `close` that is now."""
        with self._lock:
            self._machines.add(machine.id)
            if self._closing.is_set():
                self._machines.discard(machine.id)
                self._quietly(lambda: self._cloud.kill(machine.id))
                return
            if self._renewer is None:
                self._renewer = threading.Thread(target=self._renew, name="axpo-e2b-renew", daemon=True)
                self._renewer.start()

    def add_snapshot(self, snapshot_id: str) -> None:
        """Take note of it."""
        with self._lock:
            self._snapshots.add(snapshot_id)

    def end(self, machine: Machine) -> None:
        """Kill it, soon. Idempotent."""
        with self._lock:
            if machine.id in self._machines:
                self._machines.discard(machine.id)
                self._soon(lambda: self._cloud.kill(machine.id))

    def end_snapshot(self, snapshot_id: str) -> None:
        """Delete it, soon. Idempotent."""
        with self._lock:
            if snapshot_id in self._snapshots:
                self._snapshots.discard(snapshot_id)
                self._soon(lambda: self._cloud.delete_snapshot(snapshot_id))

    def submit(self, job: Callable[[], Machine]) -> "Future[Machine]":
        """Make a machine in another thread."""
        with self._lock:
            return self._the_pool().submit(job)

    def close(self) -> None:
        """End all there is and wait for it, at most half a minute. Idempotent."""
        if self._owner_pid != os.getpid():
            return  # a process forked from ours: they are not its
        self._closing.set()
        deadline = time.monotonic() + _END_TIMEOUT_S
        with self._lock:
            machines, self._machines = self._machines, set()
            snapshots, self._snapshots = self._snapshots, set()
            jobs = [lambda name=name: self._cloud.kill(name) for name in machines]
            jobs += [lambda name=name: self._cloud.delete_snapshot(name) for name in snapshots]
            for job in jobs:
                if (
                    time.monotonic() < deadline
                ):  # without threads, at the interpreter's end, each is waited for
                    self._soon(job)
            ending, pool, renewer = set(self._ending), self._pool, self._renewer
            self._pool = None
        wait(ending, max(0.0, deadline - time.monotonic()))
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
            if time.monotonic() < deadline:
                pool.shutdown()
        if renewer is not None:
            renewer.join(max(0.0, deadline - time.monotonic()))

    def _the_pool(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="axpo-e2b")
        return self._pool

    def _soon(self, job: Callable[[], object]) -> None:
        if self._owner_pid != os.getpid():
            return

        try:
            future = self._the_pool().submit(self._quietly, job)
        except RuntimeError:  # the interpreter is ending: no more threads
            self._quietly(job)
            return
        self._ending.add(future)
        future.add_done_callback(self._ending.discard)

    def _quietly(self, job: Callable[[], object]) -> None:
        for wait_s in _WAITS_S:
            try:
                job()
                return
            except (Gone, Refused):
                return
            except SandboxUnavailable:
                time.sleep(wait_s)
        with contextlib.suppress(*_FAILURES):  # a machine's lifetime ends it, the reaper a snapshot
            job()

    def _renew(self) -> None:
        while not self._closing.wait(self._period_s):
            with self._lock:
                machines = list(self._machines)
            for machine_id in machines:
                with contextlib.suppress(*_FAILURES):  # one that is gone is noticed where it is used
                    self._cloud.renew(machine_id)
