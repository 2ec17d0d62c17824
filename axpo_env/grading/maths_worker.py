"""Works out mathematics for `maths_pool`, in a process of its own that imports SymPy once and forks per request.

It is started with the number of a Unix socket (SOCK_SEQPACKET). A message is a request in JSON, with the end of a
pipe beside it. {"answer": str, "reference": str, "limit_s": float} is answered true, false, or null where the
reference cannot be read; without a reference, by the answer's value as a number, null where it has none.

What comes through the pipe: "s" once the fork runs, "r" once the reference is worked out, "a" once the answer is read,
the verdict in JSON, a line end. A fork whose seconds of processor time are up is ended by the kernel, wherever it is,
and so the rest does not come. Errors while reading or comparing the answer are false (or null).
"""

import contextlib
import json
import logging
import math
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

TOLERANCE = Fraction(1, 10**6)  # relative, of a decimal, see `maths`, which imports too much for a worker
_SLACK = TOLERANCE * (1 + Fraction(1, 10**9))  # a difference of exactly the tolerance is inside
_DIGITS = 50  # of values that are compared
_EQUAL = Fraction(1, 10**30)  # relative: what exact formulas of one value may differ by, in so many digits
# The first symbol's value and what each later one's is greater by.
_POINTS = tuple(
    (Fraction(first, 10**4), Fraction(step, 10**4))
    for first, step in ((7321, 3779), (26183, 9697), (1373, 641), (-13721, -4451))
)
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
    """Whether the two are equal; None where the reference cannot be read."""
    gold = read(reference)
    if gold is None:
        return None
    with contextlib.suppress(Exception):  # if that takes too long, it is not the answer's fault
        _exact(gold).doit()
    if pipe is not None:
        os.write(pipe, b"r")
    said = read(answer)
    if pipe is not None:
        os.write(pipe, b"a")
    return said is not None and equal(gold, said)


def value(answer: str) -> float | None:
    """The real number that `answer` stands for, to 15 digits; None if it is none, or more than one."""
    said = read(answer)
    if said is None or not getattr(said, "is_number", False):
        return None
    number = complex(said.doit().evalf(15))
    return number.real if number.imag == 0 and math.isfinite(number.real) else None


def read(text: str) -> Any:
    """What `text`, all of it, says as a formula, decimals as exact fractions; None if it cannot be read.

    The grammar stops without a word where it knows no further, so the end of the text is looked for.
    """
    import sympy
    from antlr4 import Token
    from latex2sympy2_extended import latex2sympy2
    from sympy.core.function import AppliedUndef

    # Capitals stay capitals, and "2(3)" is a product.
    config = latex2sympy2.ConversionConfig(interpret_as_mixed_fractions=False, lowercase_symbols=False)
    converter = latex2sympy2._Latex2Sympy(config=config)
    try:
        make, parser = converter.create_parser, converter.create_parser(text)
        tree = parser.math()
        if parser.getCurrentToken().type != Token.EOF:
            return None
        # Parsing it once is slow enough; pieces of it may be parsed again.
        converter.create_parser = lambda it: SimpleNamespace(math=lambda: tree) if it is text else make(it)
        found = converter.parse(text)
    except Exception:  # whatever the grammar or SymPy raises
        return None
    if isinstance(found, sympy.MatrixBase) or not isinstance(found, sympy.Basic):
        return None  # matrices are read row by row elsewhere
    if found.has(sympy.nan, sympy.zoo):
        return None
    meanings = {"i": sympy.I, "varnothing": sympy.S.EmptySet}
    named = {symbol: meanings[symbol.name] for symbol in found.free_symbols if symbol.name in meanings}
    # f(x) is a number like any other
    named |= {call: sympy.Symbol(str(call)) for call in found.atoms(AppliedUndef)}
    return found.xreplace(named) if named else found


def equal(gold: Any, said: Any) -> bool:
    """Whether two things that were read are the same: formulas, equations, inequalities, sets, tuples."""
    import sympy

    gold, said = _chained(gold), _chained(said)
    if _assigns(said) and not isinstance(gold, sympy.Eq):
        said = said.rhs  # "y = 2x" is 2x
    elif _assigns(gold) and not isinstance(said, sympy.Rel | sympy.And):
        gold = gold.rhs
    if isinstance(gold, sympy.Rel | sympy.And) and isinstance(said, sympy.Set):
        gold = gold.as_set()
    if isinstance(gold, sympy.And) and isinstance(said, sympy.And):
        return _in_any_order(gold.args, said.args)
    if isinstance(gold, sympy.Rel) and isinstance(said, sympy.Rel):
        return _same_relation(gold, said)
    if isinstance(gold, sympy.Interval) and isinstance(said, sympy.Interval):
        ends = (gold.left_open, gold.right_open) == (said.left_open, said.right_open)
        return ends and equal(gold.start, said.start) and equal(gold.end, said.end)
    if isinstance(gold, sympy.Tuple) and isinstance(said, sympy.Tuple):
        return len(gold) == len(said) and all(map(equal, gold, said))
    if isinstance(gold, sympy.Set) and isinstance(said, sympy.Set):
        together = (sympy.FiniteSet, sympy.Union, sympy.Intersection)
        kind = next((kind for kind in together if isinstance(gold, kind) and isinstance(said, kind)), None)
        return gold == said if kind is None else _in_any_order(gold.args, said.args)
    if isinstance(gold, sympy.Expr) and isinstance(said, sympy.Expr):
        return _same_formula(gold, said)
    return bool(gold == said)


def _chained(found: Any) -> Any:
    """A chain of equations from its first side to its last: "x = 1 + 1 = 2" is "x = 2"."""
    import sympy

    links = getattr(found, "_unsorted_args", ()) if isinstance(found, sympy.And) else ()
    if links and all(isinstance(link, sympy.Eq) for link in links):
        return sympy.Eq(links[0].lhs, links[-1].rhs, evaluate=False)
    return found


def _assigns(found: Any) -> bool:
    import sympy

    return isinstance(found, sympy.Eq) and bool(found.lhs.is_Symbol)


def _in_any_order(gold: Any, said: Any) -> bool:
    left = list(said)
    if len(gold) != len(left):
        return False
    for item in gold:
        twin = next((place for place, other in enumerate(left) if equal(item, other)), None)
        if twin is None:
            return False
        left.pop(twin)
    return True


def _same_relation(gold: Any, said: Any) -> bool:
    """Whether one is the other times a number: "2x < 6" is "3 > x"; of inequalities a negative one turns the sign."""
    import sympy

    said = said if type(gold) is type(said) else said.reversed
    if type(gold) is not type(said):
        return False
    ratio, found = None, 0
    for one, other in _probe(gold.lhs - gold.rhs, said.lhs - said.rhs):
        if abs(other) == 0 or abs(one) == 0:
            return False
        ratio = one / other if ratio is None else ratio
        if not _near(one / other, ratio, _EQUAL):
            return False
        found += 1
    if ratio is None or found < 2:
        return False
    return isinstance(gold, sympy.Eq | sympy.Ne) or bool(ratio.is_real and ratio > 0)


def _same_formula(gold: Any, said: Any) -> bool:
    """Whether two formulas have the same value: to `TOLERANCE` if one of them is a decimal number, else exactly."""
    import sympy

    if gold == said:
        return True
    decimal = gold.has(sympy.Float) or said.has(sympy.Float)
    gold, said = _exact(gold).doit(), _exact(said).doit()
    if gold == said:
        return True
    if gold.is_Rational and said.is_Rational:
        return decimal and _near(gold, said, _SLACK)
    numbers = not gold.free_symbols | said.free_symbols
    if numbers and (gold.is_infinite or said.is_infinite):
        return False
    tolerance = _SLACK if numbers and decimal else _EQUAL
    verdicts = [_near(one, other, tolerance) for one, other in _probe(gold, said)]
    if not verdicts or (len(verdicts) < 2 and not numbers):
        return bool(sympy.simplify(gold - said) == 0)
    return all(verdicts)


def _probe(gold: Any, said: Any) -> Iterator[tuple[Any, Any]]:
    """The values of two formulas at a few points, those left out where one of them has none.

    Where no imaginary unit stands in them, they are compared as functions of real numbers: a value that is none, as
    of the logarithm of a negative number, is outside.
    """
    import sympy

    gold, said = _exact(gold), _exact(said)
    symbols = sorted(gold.free_symbols | said.free_symbols, key=str)
    imaginary = gold.has(sympy.I) or said.has(sympy.I)
    for first, step in _POINTS if symbols else _POINTS[:1]:
        point = {symbol: sympy.Rational(first + step * place) for place, symbol in enumerate(symbols)}
        pair = [side.xreplace(point).doit().evalf(_DIGITS) for side in (gold, said)]
        real = imaginary or not symbols or all(side.is_real for side in pair)
        if real and all(side.is_number and side.is_finite for side in pair):
            yield pair[0], pair[1]


def _near(one: Any, other: Any, tolerance: Fraction) -> bool:
    import sympy

    return bool(abs(one - other) <= sympy.Rational(tolerance) * max(abs(one), abs(other)))


def _exact(found: Any) -> Any:
    import sympy

    return found.xreplace({number: sympy.Rational(str(number)) for number in found.atoms(sympy.Float)})


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
    logging.disable(logging.CRITICAL)
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
