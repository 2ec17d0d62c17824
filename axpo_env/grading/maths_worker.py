"""Compares mathematics for `maths`, in a process of its own: a request a line, JSON in, JSON out.

A request {"reference": str, "answer": str} gets true, false, or null where the reference cannot be read.
Errors and time-outs while reading or comparing the answer are false. Memory is bounded; whoever started this
kills it where time is up all the same.
"""

import json
import logging
import resource
import sys
from typing import Any

LIMIT_S = 2  # seconds, whole: math-verify's limit for each parse and each comparison
MEMORY_BYTES = 2 * 2**30


def compare(reference: str, answer: str) -> bool | None:
    """Whether math-verify finds the two equal; None where it cannot read the reference."""
    from math_verify import parse, verify

    gold = _parse(parse, reference)
    if not gold:
        return None
    said = _parse(parse, answer)
    # The reference first: math-verify is not symmetric.
    return bool(said) and bool(verify(gold, said, timeout_seconds=LIMIT_S))


def _parse(parse: Any, text: str) -> list[Any]:
    """What `text`, all of it, says as a formula: SymPy objects, [] if it cannot be read."""
    parsed = parse(f"${text}$", fallback_mode="no_fallback", parsing_timeout=LIMIT_S)
    return [item for item in parsed if not isinstance(item, str)]


def main() -> None:
    """Answer requests until the input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    logging.disable(logging.CRITICAL)  # math-verify logs every answer that it cannot read
    import math_verify  # noqa: F401 - before "ready", so that a request's time is its own

    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            verdict = compare(request["reference"], request["answer"])
        except BaseException:  # math-verify's TimeoutException is none of Exception's
            verdict = False
        print(json.dumps(verdict), flush=True)


if __name__ == "__main__":
    main()
