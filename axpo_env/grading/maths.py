r"""Equality of mathematics: "\frac{1}{2}" is "0.5", "(3,-4)" is "(3, -4)", "2x+1" is "1+2x".

Numbers are compared here; for all else the `math-verify` library reads both sides with SymPy, in a worker
process (`maths_worker`). SymPy may take forever, or all memory, on a few characters ("9^9^9^9"), and
math-verify's own time limit needs the main thread's SIGALRM; a process can be given a deadline and killed from any
thread. What is not done in time is not equal.
"""

import contextlib
import functools
import importlib.util
import json
import os
import re
import select
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

from axpo_env.grading.extract import final_phrase, innermost, plain_latex, unwrap
from axpo_env.grading.grade import Grade, make_grade
from axpo_env.grading.numeric import other_name, read_number
from axpo_env.grading.text import squash

TIME_LIMIT_S = 8.0  # per comparison; the worker gives up a little earlier by itself
START_LIMIT_S = 60.0  # for the worker to import SymPy
MAX_CHARS = 400  # longer answers are not parsed
_TOLERANCE = 1e-6  # relative, between numbers of different spelling, as math-verify's six digits
_WORD = re.compile(r"[A-Za-z]{3,}")
_NAMES = "sin cos tan cot sec csc arcsin arccos arctan log exp sqrt max min lim mod gcd lcm inf det"
_FUNCTIONS = set(_NAMES.split())


def maths_match(answer: str, reference: str) -> bool | None:
    """Whether the two are equal as text, as numbers or as mathematics.

    None if the reference is none of it, or if there is no worker to tell.
    """
    try:
        if _equal(reference, answer):
            return True
        if read_number(reference) or other_name(answer, reference):
            return False
        # Is it the answer or the reference that cannot be read?
        return False if is_maths(reference) and _verified(unwrap(reference), "0") is not None else None
    except _NoWorker:
        return None


def equal_maths(reference: str, answer: str) -> bool:
    """Whether the two are surely equal, reference first."""
    try:
        return _equal(reference, answer)
    except _NoWorker:
        return False


def _equal(reference: str, answer: str) -> bool:
    texts = _readings(answer)
    if squash(reference) in map(squash, texts):
        return True
    if other_name(answer, reference):
        return False
    wanted = read_number(reference)
    for text in texts:
        said = read_number(text)
        if said and wanted:
            return any(abs(value - wanted[0]) <= _TOLERANCE * abs(wanted[0]) for value in said)
    if not is_maths(reference):
        return False
    return any(
        _verified(unwrap(reference), text) for text in texts if is_maths(text) and len(text) <= MAX_CHARS
    )


def _readings(answer: str) -> list[str]:
    inner = unwrap(innermost(answer))
    phrase = final_phrase(inner)
    return [inner] if phrase is None else [inner, unwrap(phrase)]


def grade_maths(answer: str | None, reference: str) -> Grade:
    """Right if equal to the reference as mathematics; ungraded if the reference itself cannot be read so."""
    if answer is None:
        return make_grade(None, (reference,), correct=False)
    strict = squash(reference) in map(squash, _readings(answer))
    return make_grade(answer, (reference,), correct=maths_match(answer, reference), strict=strict)


def check_installed() -> None:
    """Raises ImportError where math-verify is missing, without importing it: that takes seconds."""
    if importlib.util.find_spec("math_verify") is None:
        raise ImportError("grading mathematics needs math-verify: pip install math-verify")


def is_maths(text: str) -> bool:
    """Whether `text` is a formula rather than prose: no word of three letters but functions and units."""
    bare = re.sub(r"\\[A-Za-z]+", " ", plain_latex(text))
    words = {word.lower() for word in _WORD.findall(bare)}
    return any(map(str.isalnum, bare + text)) and (not words - _FUNCTIONS or bool(read_number(text)))


@functools.lru_cache(maxsize=4096)
def _verified(reference: str, answer: str) -> bool | None:
    return _worker.compare(reference, answer)


class _NoWorker(Exception):
    """No worker could be started; nothing is known about the answer."""


class _Worker:
    """The one process that compares, started when first needed and again after it was killed. Thread-safe."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start anew, as after a fork: the parent's worker is the parent's."""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._finalizer: weakref.finalize | None = None

    def compare(self, reference: str, answer: str) -> bool | None:
        """True or False; False where time ran out; None where the reference cannot be read. Raises _NoWorker."""
        request = (
            json.dumps({"reference": plain_latex(reference), "answer": plain_latex(answer)}).encode() + b"\n"
        )
        with self._lock:
            process = self._started()
            try:
                assert process.stdin is not None
                process.stdin.write(request)
                process.stdin.flush()
                line = _read_line(process, TIME_LIMIT_S)
            except (OSError, TimeoutError):
                self._kill()
                return False
        verdict: bool | None = json.loads(line)
        return verdict

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._kill()
        # By its file, so that it imports nothing but what it needs; -P keeps our modules' names out of its way.
        command = [sys.executable, "-P", str(Path(__file__).with_name("maths_worker.py"))]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
            self._process, self._finalizer = process, weakref.finalize(self, _end, process, os.getpid())
            _read_line(process, START_LIMIT_S)
        except OSError as error:
            self._kill()
            raise _NoWorker(str(error)) from error
        return process

    def _kill(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._process = self._finalizer = None


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() == owner:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):  # for what was not written yet
                stream.close()


def _read_line(process: subprocess.Popen[bytes], limit_s: float) -> bytes:
    """The next line, without its end. Raises TimeoutError, or BrokenPipeError where the process is gone."""
    assert process.stdout is not None
    pipe, line, deadline = process.stdout.fileno(), b"", time.monotonic() + limit_s
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError("no answer in time")
        piece = os.read(pipe, 4096)
        if not piece:
            raise BrokenPipeError("the worker is gone")
        line += piece
    return line.strip()


_worker = _Worker()
os.register_at_fork(after_in_child=_worker.forget)
