"""Mathematics worked out beside this process, many answers at a time, none of them for long.

SymPy may take forever, or all memory, on a few characters ("9^9^9^9"), so each answer gets a process of its own (a
fork of `maths_worker`) with a limit of processor time that the kernel enforces: how busy the machine is does not
change a verdict. An answer first gets `QUICK_S`, several times what most need, in one of `QUICK_SLOTS`; one that needs
more waits for one of `SLOW_SLOTS` and gets `SLOW_S` there, so that hostile answers hold up each other, hardly an honest
one. An answer that could not be read in that time, or not compared with two references, is not tried again, nor is a
reference that could not be worked out: that is no answer's fault.
"""

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Any

QUICK_S, QUICK_SLOTS = 0.3, 16  # seconds of processor time; answers at a time
SLOW_S, SLOW_SLOTS = 1.5, 2
WALL_LIMIT_S = 120.0  # for one answer, on however busy a machine
START_LIMIT_S = 120.0  # for the worker to import SymPy
REMEMBERED = 1000  # answers, and references, that were too slow
MAX_REQUEST_BYTES = 2**15


class NoWorker(Exception):
    """No worker could be started, or it was lost; nothing is known about the answer."""


class MathsPool:
    """Starts the worker when first needed and again where it is gone. Thread-safe; a fork has one of its own."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start anew, as after a fork: the parent's worker is the parent's."""
        inherited: socket.socket | None = getattr(self, "_socket", None)
        if inherited is not None:
            inherited.close()
        self._lock = threading.Lock()
        self._lanes = (
            (QUICK_S, threading.Semaphore(QUICK_SLOTS)),
            (SLOW_S, threading.Semaphore(SLOW_SLOTS)),
        )
        self._late: OrderedDict[str, int] = OrderedDict()  # how often each answer was
        self._unread: OrderedDict[str, int] = OrderedDict()  # references that were
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._finalizer: weakref.finalize | None = None

    def compare(self, reference: str, answer: str) -> bool | None:
        """True or False; False where time ran out; None where the reference cannot be worked out. Raises NoWorker."""
        verdict = self._work({"reference": reference, "answer": answer}, late=False)
        assert verdict is None or isinstance(verdict, bool)
        return verdict

    def value(self, answer: str) -> float | None:
        """The number that a formula stands for; None if it is none, or time ran out. Raises NoWorker."""
        number = self._work({"answer": answer}, late=None)
        return None if number is None else float(number)

    def _work(self, request: dict[str, Any], *, late: Any) -> Any:
        """The worker's verdict, or `late` if there is none in time."""
        answer, reference, got = request["answer"], request.get("reference"), b""
        for limit_s, slots in self._lanes:
            with slots:
                if reference in self._unread:  # perhaps since it waited
                    return None
                if self._is_late(answer):
                    return late
                got = self._ask({**request, "limit_s": limit_s})
            if got.endswith(b"\n"):
                return json.loads(got.lstrip(b"sra"))
        if got == b"s" and reference is not None:
            self._remember(self._unread, reference, 1)
            return None
        # If it was not even read, it does not matter what it is compared with.
        self._remember(self._late, answer, 1 if got.endswith(b"a") else 2)
        return late

    def _is_late(self, answer: str) -> bool:
        with self._lock:
            return self._late.get(answer, 0) >= 2

    def _remember(self, texts: OrderedDict[str, int], text: str, times: int) -> None:
        with self._lock:
            texts[text] = texts.get(text, 0) + times
            while len(texts) > REMEMBERED:
                texts.popitem(last=False)

    def _ask(self, request: dict[str, Any]) -> bytes:
        """What the worker's fork wrote until it ended."""
        message = json.dumps(request).encode()
        if len(message) > MAX_REQUEST_BYTES:
            return b"sa"
        for _ in range(2):  # a worker that is lost is replaced once
            read, write = os.pipe()
            try:
                try:
                    self._send(message, write)
                finally:
                    os.close(write)
                got = _read_line(read, WALL_LIMIT_S)
                if got:
                    return got
            except TimeoutError as error:
                raise NoWorker(str(error)) from error
            finally:
                os.close(read)
        raise NoWorker("the worker is gone")

    def _send(self, message: bytes, pipe: int) -> None:
        with self._lock:
            try:
                socket.send_fds(self._started(), [message], [pipe])
            except OSError:  # it died since
                self._kill()
                try:
                    socket.send_fds(self._started(), [message], [pipe])
                except OSError as error:
                    raise NoWorker(str(error)) from error

    def _started(self) -> socket.socket:
        if self._socket is not None and self._process is not None and self._process.poll() is None:
            return self._socket
        self._kill()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # By its file, so that it imports nothing but what it needs; -P keeps our modules' names out of its way.
        worker = Path(__file__).with_name("maths_worker.py")
        command = [sys.executable, "-P", str(worker), str(theirs.fileno())]
        try:
            with theirs:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                    start_new_session=True,
                )
        except OSError as error:
            ours.close()
            raise NoWorker(str(error)) from error
        self._process, self._socket = process, ours
        self._finalizer = weakref.finalize(self, _end, process, ours, os.getpid())
        ours.settimeout(START_LIMIT_S)
        try:
            ready = ours.recv(16)
        except OSError as error:
            self._kill()
            raise NoWorker(str(error)) from error
        if ready != b"ready":
            self._kill()
            raise NoWorker("the worker could not start; is math-verify installed?")
        return ours

    def _kill(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._process = self._socket = self._finalizer = None


def _end(process: subprocess.Popen[bytes], ours: socket.socket, owner: int) -> None:
    if os.getpid() == owner:
        with contextlib.suppress(OSError):
            ours.close()
        process.kill()
        process.wait()


def _read_line(pipe: int, limit_s: float) -> bytes:
    """What comes through `pipe` until a line ends or it is closed. Raises TimeoutError."""
    got, deadline = b"", time.monotonic() + limit_s
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    while not got.endswith(b"\n"):
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError("no verdict in time")
        piece = os.read(pipe, 4096)
        if not piece:
            break
        got += piece
    return got


pool = MathsPool()
os.register_at_fork(after_in_child=pool.forget)
