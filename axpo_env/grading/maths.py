r"""Equality of mathematics: "\frac{1}{2}" is "0.5", "(3,-4)" is "(3, -4)", "2x+1" is "1+2x".

`shapes` takes apart what has pieces; numbers are compared here; formulas are read by math-verify's grammar and
compared with SymPy, in a worker process (`maths_pool`). What is not read whole is not equal, nor is what is not done in
its time.

One tolerance, `TOLERANCE`, relative: six digits are enough for a decimal, "2827.43339" for 900\pi. It does not hold
between whole numbers, nor between exact formulas.

A ratio, "3:2", is equal to ratios and fractions (6:4, 3/2), not to the decimal 1.5: where it is the answer it was asked
for as a ratio.
"""

import functools
import importlib.util
import re

from axpo_env.grading import shapes
from axpo_env.grading.extract import plain_latex, plain_unicode, readings, unwrap
from axpo_env.grading.grade import Grade, make_grade
from axpo_env.grading.latex import is_maths, peel_unit, typed
from axpo_env.grading.maths_pool import NoWorker, pool
from axpo_env.grading.numeric import (
    grade_number,
    numbers_in,
    other_name,
    read_number,
    read_quantity,
    same_number,
)
from axpo_env.grading.text import same_formula
from axpo_env.grading.units import is_known_unit, is_unit, other_unit, same_compound

MAX_CHARS = shapes.MAX_CHARS  # longer answers are not parsed
TOLERANCE = shapes.TOLERANCE
_EXACT = 2**53  # larger whole numbers are not all floats: the worker compares them
# What a formula is made of that only numbers and functions stand in.
_CLOSED = re.compile(r"[\d\s.+\-*/^_(){}\[\]e!]*")
_NAMED = re.compile(r"[A-Za-z]\w{0,3}\s*=\s*")
# Where a unit may begin after a formula: "36\pi cm^3", "2√3 units".
_BEFORE_UNIT = re.compile(r"(?<=[\d)}\]iπ])\s*(?=[A-Za-zµΩ°])")
_TRIGONOMETRY = re.compile(r"sin|cos|tan|cot|sec|csc")
_COMMANDS = re.compile(
    r"\\(?:frac|sqrt|pi|cdot|times|div|arcsin|arccos|arctan|sin|cos|tan|cot|sec|csc|log|ln|exp|left|right)(?![A-Za-z])"
)


def maths_match(answer: str, reference: str, *, percent: bool | None = None) -> bool | None:
    """Whether the two are equal as text, as numbers or as mathematics.

    None if the reference is none of it, if both have units that differ ("5 m", "500 cm"), if it hangs on what one of
    them leaves out ("4:00" and "4:00 pm"), or if there is no worker to tell. `percent`: whether the question asks for a
    percentage, see `numeric.same_number`.
    """
    same = functools.partial(_same, percent=percent)
    verdict: bool | None = False
    try:
        for text in readings(answer):
            found = shapes.compare(reference, text, same)
            if found:
                return True
            verdict = None if found is None else verdict
    except NoWorker:
        return None
    return verdict


def equal_maths(reference: str, answer: str) -> bool:
    """Whether the two are surely equal, reference first."""
    return maths_match(answer, reference) is True


def _same(reference: str, answer: str, *, percent: bool | None) -> bool | None:
    """Whether two single things are equal, a number, a quantity or a formula; None if it cannot be told."""
    compound = same_compound(answer, reference)
    if compound is not None:
        return compound
    if other_name(answer, reference):
        return False
    (wanted, unit), (said, other) = read_quantity(reference), read_quantity(answer)
    if unit and _is_product(reference, unit):  # "2ab", and "2t", which may be two tonnes
        if _verify(reference, answer):
            return True
        return None if said and said == wanted and is_known_unit(unit) and not other else False
    if wanted and said:
        if other_unit(unit, other):
            return None
        if not (_whole(said, wanted) and abs(wanted[0]) >= _EXACT):
            slack = 0.0 if _whole(said, wanted) else TOLERANCE * (1 + 1e-9) * abs(wanted[0])
            return same_number(said, wanted, slack, percent=percent)
    verdict = _same_as_formula(reference, answer)
    return False if verdict is None and wanted and not unit else verdict


def _is_product(text: str, unit: str) -> bool:
    """Whether what looks like a unit may be unknowns: two letters that are no unit, or one right behind the number."""
    letters = re.fullmatch(r"[A-Za-z]{1,2}", unit) is not None
    return letters and (
        not is_known_unit(unit) or (len(unit) == 1 and re.search(r"\d[A-Za-z]$", text) is not None)
    )


def _same_as_formula(reference: str, answer: str) -> bool | None:
    """Whether the worker finds two formulas equal; None if it cannot read the reference, or their units differ."""
    (formula, unit), (text, other) = split_unit(unwrap(reference)), split_unit(unwrap(answer))
    if (unit or other) and _verify(reference, answer):  # what looks like units may be unknowns
        return True
    return None if other_unit(unit, other) else _verify(formula, text)


def _verify(reference: str, answer: str) -> bool | None:
    gold, said = (
        typed(text) if is_maths(text) and len(text) <= MAX_CHARS else None for text in (reference, answer)
    )
    if gold is None or (said is None and read_number(reference)):
        return None if gold is None else False
    return _verified(gold, said or "")  # nothing is equal to nothing


def _whole(said: list[float], wanted: list[float]) -> bool:
    return said[0].is_integer() and wanted[0].is_integer()


def split_unit(text: str) -> tuple[str, str]:
    r"""A formula without unknowns, and the unit after it: "36\pi cm^3" is ("36\pi", "cm^3"), "2x" is ("2x", "").

    Of a number with more about it, "about 6 cm", all of the text, since `read_number` reads it with its unit.
    """
    if len(text) > MAX_CHARS:
        return text, ""
    plain = plain_unicode(plain_latex(peel_unit(unwrap(text))))
    for mark in _BEFORE_UNIT.finditer(plain):
        formula, unit = plain[: mark.start()], plain[mark.end() :].strip()
        argument = unit.startswith(("deg", "°")) and _TRIGONOMETRY.search(formula)  # "sin 30 degrees"
        if is_unit(unit) and not argument and is_closed(formula):
            return formula, unit
    values, unit = read_quantity(text)
    return text, unit if values else ""


def grade_maths(answer: str | None, reference: str, *, percent: bool | None = None) -> Grade:
    """Right if equal to the reference as mathematics; ungraded if the reference itself cannot be read so."""
    if answer is None:
        return make_grade(None, (reference,), correct=False)
    strict = any(same_formula(text, reference) for text in readings(answer))
    return make_grade(
        answer, (reference,), correct=maths_match(answer, reference, percent=percent), strict=strict
    )


def check_installed() -> None:
    """Raises ImportError where math-verify is missing, without importing it: that takes seconds."""
    if importlib.util.find_spec("math_verify") is None:
        raise ImportError("grading mathematics needs math-verify: pip install math-verify")


def grade_value(
    answer: str | None, reference: str, *, tolerance: float, percent: bool | None = None
) -> Grade:
    r"""Right within `tolerance`, absolute, of a number: as `numeric.grade_number`, and formulas are worked out.

    "\sqrt{2}" is 1.414 within 0.001. Only formulas of numbers, roots, powers, \pi, e and the common functions are.
    """
    grade = grade_number(answer, reference, tolerance=tolerance, percent=percent)
    if answer is None or grade.correct is not False or numbers_in(answer) or other_name(answer, reference):
        return grade
    slack, wanted = tolerance * (1 + 1e-9), read_number(reference)[:1]
    try:
        texts = [split_unit(_NAMED.sub("", text, count=1))[0] for text in readings(answer)]
        values = [_value(text) for text in texts if is_closed(text)]
    except NoWorker:
        return make_grade(answer, (reference,), correct=None)
    correct = any(same_number([value], wanted, slack) for value in values if value is not None)
    return make_grade(answer, (reference,), correct=correct)


def is_closed(text: str) -> bool:
    r"""Whether `text` is a formula without unknowns, lists or words: "\frac{\pi}{2}", not "2x", "1, 2", "5 squared"."""
    formula = typed(text) if len(text) <= MAX_CHARS else None
    return (
        formula is not None
        and (formula == "e" or any(char.isdigit() or char == "\\" for char in formula))
        and _CLOSED.fullmatch(_COMMANDS.sub(" ", formula)) is not None
    )


@functools.lru_cache(maxsize=4096)
def _verified(reference: str, answer: str) -> bool | None:
    return pool.compare(reference, answer)


@functools.lru_cache(maxsize=4096)
def _value(answer: str) -> float | None:
    formula = typed(answer)
    return None if formula is None else pool.value(formula)
