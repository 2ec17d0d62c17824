"""Works out mathematics for `maths_pool`, in a process of its own that imports SymPy once and forks per request.

It is started with the number of a Unix socket (SOCK_SEQPACKET). A message is a request in JSON, with the end of a
pipe beside it. {"answer": str, "reference": str, "limit_s": float} is answered true, false, or null where the
reference cannot be read; without a reference, by the answer's value as a number, null where it has none.

What comes through the pipe: "s" once the fork runs, "a" once the answer is read, the verdict in JSON, a line end. A
fork whose seconds of processor time are up is ended by the kernel, wherever it is, and so the rest does not come.
Errors while reading or comparing the answer are false (or null).
"""

import contextlib
import json
import logging
import os
import resource
import signal
import socket
import sys
from typing import Any

MAX_REQUEST_BYTES = 2**16
MEMORY_BYTES = 3 * 2**28  # of one fork, what it shares included
NICENESS = 10  # of a fork that has more time than SLOW_S: who needs little goes first
SLOW_S = 1.0
# Read and compared before the first fork: SymPy imports and builds much only when it is first needed.
_WARM_UP = (
    ("x+1", "2x-1"),
    (r"\sqrt{2}+x", r"\frac{1}{\sqrt{3}}"),
    ("(1,2)", "(2,1)"),
    ("x^2-1", "(x-1)(x+2)"),
    ("x<3", "x>3"),
    (r"\sin(x)", r"\pi"),
    (r"\{1,2\}", r"\{2,3\}"),
)


def compare(reference: str, answer: str, pipe: int | None = None) -> bool | None:
    """Whether math-verify finds the two equal; None where it cannot read the reference."""
    from math_verify import verify

    gold = _parse(reference)
    if not gold:
        return None
    said = _parse(answer)
    if pipe is not None:
        os.write(pipe, b"a")
    # The reference first: math-verify is not symmetric.
    return bool(said) and bool(verify(gold, said, timeout_seconds=None))


def value(answer: str) -> float | None:
    """The real number that `answer` stands for, to 15 digits; None if it is none, or more than one."""
    said = _parse(answer)
    if len(said) != 1 or not getattr(said[0], "is_number", False):
        return None
    number = complex(said[0].evalf(15))
    return number.real if number.imag == 0 else None


def _parse(text: str) -> list[Any]:
    """What `text`, all of it, says as a formula: SymPy objects, [] if it cannot be read."""
    from math_verify import parse

    parsed = parse(f"${text}$", fallback_mode="no_fallback", parsing_timeout=None)
    return [item for item in parsed if not isinstance(item, str)]


def work(request: dict[str, Any], pipe: int) -> None:
    """Answer one request into `pipe`."""
    os.write(pipe, b"s")
    if request["limit_s"] > SLOW_S:
        os.nice(NICENESS)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # it ends the process
    signal.setitimer(signal.ITIMER_PROF, request["limit_s"])
    reference, verdict = request.get("reference"), None
    try:
        if reference is None:
            verdict = value(request["answer"])
        else:
            verdict = compare(reference, request["answer"], pipe)
    except BaseException:  # RecursionError, MemoryError, whatever SymPy raises
        verdict = None if reference is None else False
    os.write(pipe, json.dumps(verdict).encode() + b"\n")


def main(number: int) -> None:
    """Answer the requests of socket `number` until it is closed."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    logging.disable(logging.CRITICAL)  # math-verify logs every answer that it cannot read
    for reference, answer in _WARM_UP:
        compare(reference, answer)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    with socket.socket(fileno=number) as requests:
        requests.send(b"ready")
        while True:
            message, pipes, _, _ = socket.recv_fds(requests, MAX_REQUEST_BYTES, 1)
            if not message:
                return
            if os.fork() == 0:
                with contextlib.suppress(BaseException):  # whoever asked is gone
                    requests.close()
                    work(json.loads(message), pipes[0])
                os._exit(0)
            for pipe in pipes:
                os.close(pipe)


if __name__ == "__main__":
    main(int(sys.argv[1]))
