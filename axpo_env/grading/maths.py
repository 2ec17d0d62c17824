r"""Equality of mathematics: "\frac{1}{2}" is "0.5", "(3,-4)" is "(3, -4)", "2x+1" is "1+2x".

Numbers are compared here; for all else the `math-verify` library reads both sides with SymPy, in a worker
process (`maths_pool`). What is not done in its time is not equal.

A ratio, "3:2", is equal to ratios and fractions (6:4, 3/2), not to the decimal 1.5: where it is the answer it was asked
for as a ratio, and what looks like one may be a time of day, which has no quotient.
"""

import functools
import importlib.util
import math
import re

from axpo_env.grading.extract import final_phrase, innermost, plain_latex, plain_unicode, unwrap
from axpo_env.grading.grade import Grade, make_grade
from axpo_env.grading.maths_pool import NoWorker, pool
from axpo_env.grading.numeric import (
    grade_number,
    is_unit,
    numbers_in,
    other_name,
    other_unit,
    read_number,
    read_quantity,
    same_number,
)
from axpo_env.grading.text import squash

MAX_CHARS = 400  # longer answers are not parsed
# Relative, between numbers of different spelling, as math-verify's six digits; whole numbers are compared exactly.
_TOLERANCE = 1e-6
_EXACT = 2**53  # larger whole numbers are not all floats: math-verify compares them
_WORD = re.compile(r"[A-Za-z]{3,}")
_NAMES = "sin cos tan cot sec csc arcsin arccos arctan log exp sqrt max min lim mod gcd lcm inf det"
_FUNCTIONS = set(_NAMES.split())
# How formulas are typed, and how math-verify reads them.
_TYPED = (
    *[(re.compile(r"(?:√|(?<![A-Za-z])\\?sqrt)\s*\(([^()]*)\)"), r"\\sqrt{\1}")] * 3,  # the inner ones first
    (re.compile(r"√\s*(\d+|[A-Za-z])"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![A-Za-z\\])sqrt\s*(\d+)"), r"\\sqrt{\1}"),
    (re.compile(r"π|(?<![A-Za-z\\])pi(?![A-Za-z])"), r"\\pi "),
    (re.compile(r"(?<![A-Za-z\\])(?:a|arc)(sin|cos|tan)(?![A-Za-z])"), r"\\arc\1 "),
    (re.compile(r"(?<![A-Za-z\\])(sin|cos|tan|cot|sec|csc|ln|log|exp)(?![A-Za-z])"), r"\\\1 "),
    (
        re.compile(r"\\(sin|cos|tan|cot|sec|csc)\s*(?:\(\s*([\d.]+)\s*°\s*\)|\{?\s*([\d.]+)\s*°\s*\}?)"),
        r"\\\1(\\frac{\2\3\\pi}{180})",
    ),
    (re.compile(r"∛\s*(\d+)"), r"\\sqrt[3]{\1}"),
    (re.compile(r"\*\*\s*\(([^()]*)\)"), r"^{\1}"),
    (re.compile(r"\*\*\s*(-?[\d.]+|[A-Za-z])"), r"^{\1}"),
    (re.compile(r"[×·⋅]"), r"\\cdot "),
    (re.compile("≤"), r"\\le "),
    (re.compile("≥"), r"\\ge "),
)
_ORDINAL = re.compile(r"\d(?:st|nd|rd|th)\b")
_RATIO = re.compile(r"[^:]+(?::[^:]+)+")
_CLOSED = re.compile(
    r"[\d\s.+\-*/^_(){}\[\]e!]*"
)  # what a formula is made of that only numbers and functions stand in
_NAMED = re.compile(r"[A-Za-z]\w{0,3}\s*=\s*")
# Where a unit may begin after a formula: "36\pi cm^3", "2√3 units".
_BEFORE_UNIT = re.compile(r"(?<=[\d)}\]iπ])\s*(?=[A-Za-zµΩ])")
_AND = re.compile(r",?\s+and\s+")
_COMMANDS = re.compile(
    r"\\(?:frac|sqrt|pi|cdot|times|div|arcsin|arccos|arctan|sin|cos|tan|cot|sec|csc|log|ln|exp|left|right)(?![A-Za-z])"
)


def maths_match(answer: str, reference: str, *, percent: bool | None = None) -> bool | None:
    """Whether the two are equal as text, as numbers or as mathematics.

    None if the reference is none of it, if both have units that differ ("5 m", "500 cm"), or if there is no worker to
    tell. `percent`: whether the question asks for a
    percentage, see `numeric.same_number`.
    """
    try:
        if _equal(reference, answer, percent):
            return True
        if other_name(answer, reference):
            return False
        if _other_units(answer, reference):
            return None
        if read_number(reference):
            return False
        # Is it the answer or the reference that cannot be read?
        return False if is_maths(reference) and _verified(unwrap(reference), "0") is not None else None
    except NoWorker:
        return None


def equal_maths(reference: str, answer: str) -> bool:
    """Whether the two are surely equal, reference first."""
    try:
        return _equal(reference, answer, None)
    except NoWorker:
        return False


def _equal(reference: str, answer: str, percent: bool | None) -> bool:
    texts = _readings(answer)
    if squash(reference) in map(squash, texts):
        return True
    if other_name(answer, reference):
        return False
    if _other_units(answer, reference):
        return False
    wanted = read_number(reference)
    for text in texts:
        said = read_number(text)
        if said and wanted and not (_whole(said, wanted) and abs(wanted[0]) >= _EXACT):
            slack = 0.0 if _whole(said, wanted) else _TOLERANCE * abs(wanted[0])
            return same_number(said, wanted, slack, percent=percent)
    ratio = _ratio(reference)
    if ratio:
        return any(_same_ratio(_ratio(text, fraction=len(ratio) == 2), ratio) for text in texts)
    if not is_maths(reference):
        return False
    texts = [_AND.sub(", ", split_unit(text)[0]) for text in texts]
    reference = split_unit(unwrap(reference))[0]
    return any(_verified(reference, text) for text in texts if is_maths(text) and len(text) <= MAX_CHARS)


def _whole(said: list[float], wanted: list[float]) -> bool:
    return said[0].is_integer() and wanted[0].is_integer()


def _other_units(answer: str, reference: str) -> bool:
    wanted = split_unit(reference)[1]
    return bool(wanted) and any(other_unit(split_unit(text)[1], wanted) for text in _readings(answer))


def split_unit(text: str) -> tuple[str, str]:
    r"""A formula without unknowns, and the unit after it: "36\pi cm^3" is ("36\pi", "cm^3"), "2x" is ("2x", "").

    Of a number, all of the text, since `read_number` reads it with its unit.
    """
    if len(text) > MAX_CHARS:
        return text, ""
    values, unit = read_quantity(text)
    if values:
        return text, unit
    plain = plain_unicode(plain_latex(unwrap(text)))
    for mark in _BEFORE_UNIT.finditer(plain):
        formula, unit = plain[: mark.start()], plain[mark.end() :].strip()
        if is_unit(unit) and is_closed(formula) and not unit.startswith("deg"):  # "sin 30 degrees"
            return formula, unit
    return text, ""


def _readings(answer: str) -> list[str]:
    inner = unwrap(innermost(answer))
    phrase = final_phrase(inner)
    return [inner] if phrase is None else [inner, unwrap(phrase)]


def _ratio(text: str, *, fraction: bool = False) -> list[float]:
    """The terms of a ratio, "3:2" or "3 to 2", also of a fraction if that is asked; [] if it is none."""
    text = plain_unicode(plain_latex(unwrap(text))).replace(r"\colon", ":")
    text = re.sub(r"\s+to\s+", ":", text)
    if fraction and ":" not in text:
        if "/" not in text and r"\frac" not in text:
            return []
        return [values[0], 1.0] if (values := read_number(text)) else []
    terms = [read_number(term) for term in text.split(":")] if _RATIO.fullmatch(text) else []
    return [term[0] for term in terms] if all(terms) else []


def _same_ratio(said: list[float], wanted: list[float]) -> bool:
    return len(said) == len(wanted) and all(
        math.isclose(one * wanted[0], other * said[0], rel_tol=_TOLERANCE)
        for one, other in zip(said, wanted, strict=True)
    )


def grade_maths(answer: str | None, reference: str, *, percent: bool | None = None) -> Grade:
    """Right if equal to the reference as mathematics; ungraded if the reference itself cannot be read so."""
    if answer is None:
        return make_grade(None, (reference,), correct=False)
    strict = squash(reference) in map(squash, _readings(answer))
    return make_grade(
        answer, (reference,), correct=maths_match(answer, reference, percent=percent), strict=strict
    )


def check_installed() -> None:
    """Raises ImportError where math-verify is missing, without importing it: that takes seconds."""
    if importlib.util.find_spec("math_verify") is None:
        raise ImportError("grading mathematics needs math-verify: pip install math-verify")


def is_maths(text: str) -> bool:
    """Whether `text` is a formula rather than prose: no word of three letters but functions and units, no "3rd"."""
    if _ORDINAL.search(text):
        return False
    bare = re.sub(r"\\[A-Za-z]+", " ", plain_latex(text))
    words = {word.lower() for word in _WORD.findall(bare)}
    return any(map(str.isalnum, bare + text)) and (not words - _FUNCTIONS or bool(read_number(text)))


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
        texts = [split_unit(_NAMED.sub("", text, count=1))[0] for text in _readings(answer)]
        values = [_value(text) for text in texts if is_closed(text)]
    except NoWorker:
        return make_grade(answer, (reference,), correct=None)
    correct = any(same_number([value], wanted, slack) for value in values if value is not None)
    return make_grade(answer, (reference,), correct=correct)


def is_closed(text: str) -> bool:
    r"""Whether `text` is a formula without unknowns, lists or words: "\frac{\pi}{2}", not "2x", "1, 2", "5 squared"."""
    text = _typed(text)
    return (
        len(text) <= MAX_CHARS
        and (text == "e" or any(char.isdigit() or char == "\\" for char in text))
        and not re.search(r"\d\s+\d", text)
        and _CLOSED.fullmatch(_COMMANDS.sub(" ", text)) is not None
    )


def _typed(text: str) -> str:
    """`text` as LaTeX: roots, \\pi and signs that were typed as such."""
    text = plain_unicode(plain_latex(text))
    for pattern, latex in _TYPED:
        text = pattern.sub(latex, text)
    return text


@functools.lru_cache(maxsize=4096)
def _verified(reference: str, answer: str) -> bool | None:
    return pool.compare(_typed(reference), _typed(answer))


@functools.lru_cache(maxsize=4096)
def _value(answer: str) -> float | None:
    return pool.value(_typed(answer))
