r"""Numbers as people write them: with units, commas, words, as fractions; equal within a tolerance.

`read_number` takes a text for a number only if nothing else is in it; "6 or 7" is none. A percent sign may be
a unit or a hundredth, so "80%" reads both ways.
"""

import math
import re

from axpo_env.grading.chartqa import to_number
from axpo_env.grading.extract import final_phrase, innermost, plain_latex, unwrap
from axpo_env.grading.grade import Grade, make_grade

_UNITS_IN_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
_TENS_IN_WORDS = "twenty thirty forty fifty sixty seventy eighty ninety"
_TENS = dict(zip(_TENS_IN_WORDS.split(), range(20, 100, 10), strict=True))
_SCALES = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
_WORDS = {**{word: value for value, word in enumerate(_UNITS_IN_WORDS.split())}, **_TENS}
_ABOUT = re.compile(r"^(?:about|approximately|approx\.?|around|roughly|circa|≈|~|=)\s*", re.IGNORECASE)
# What is said to be the number: "x =", "The number of dots is", "There are".
_NAME = re.compile(
    r"^[A-Za-z∠][\w']*(?: +[A-Za-z]\w*){0,12}?(?:\([A-Za-z, ]{0,10}\))?\s*(?:=|≈|\bis\b|\bare\b)\s*(?=\S)"
)
_DENIED = re.compile(r"\b(?:not|no|never|neither)\b", re.IGNORECASE)
_BRACKETED = re.compile(r"[(\[{]\s*([^()\[\]{}]*?)\s*[)\]}]")
_EQUATION = re.compile(r"\$?\s*([A-Za-z]\w{0,3})\s*=(?!=)")
_NUMBER = r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?"
_LEADING = re.compile(rf"({_NUMBER}(?:[eE][+-]?\d{{1,3}}(?!\d))?)\s*(.*)", re.DOTALL)
_FRACTION = re.compile(r"([+-]?)\s*(?:(\d+)\s+)?(\d+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)\s*(.*)", re.DOTALL)
_LATEX_FRACTION = re.compile(
    r"([+-]?)\s*(\d*)\s*\\frac\s*\{?\s*(\d+)\s*\}?\s*\{?\s*(\d+)\s*\}?\s*(.*)", re.DOTALL
)
_POWER = re.compile(
    rf"({_NUMBER})\s*(?:\\times|\\cdot|×|·|\*|x)\s*10\s*(?:\^|\*\*)\s*\{{?\s*([+-]?\d{{1,3}})\s*\}}?\s*(.*)",
    re.DOTALL,
)
_WORD, _EXPONENT = r"(?:[A-Za-zµΩÅÀ-ÿ]+|[%°])", r"(?:\s*\^?\{?-?[123]\}?|[²³])?"
_UNIT = re.compile(rf"(?:{_WORD}|[$€£¥]){_EXPONENT}(?:\s*[/·*]?\s*{_WORD}{_EXPONENT}){{0,3}}\.?")
_MONEY = re.compile(r"^([+-]?)\s*[$€£¥]\s*")
# Words after a number that make it another number, or not an answer.
_NO_UNITS = {
    "or", "and", "to", "not", "but", "is", "are", "was", "minus", "plus", "times", "over", "than", "if", "then",
    "pi", "squared", "cubed", "factorial", "root", "sqrt", "half", "halves", "third", "thirds", "quarter", "quarters",
    "fourths", "fifths", "frac", "i", "x", "y", "z", "e", "n", "k", "p", "q", "r", "u", "v", "w", "a", "b",
    "percentage", "more", "less", "mod",
    *_SCALES,
}  # fmt: skip


def read_number(text: str) -> list[float]:
    """The values that `text` may stand for: one, two where there is a percent sign, none if it is no number."""
    text = unwrap(plain_latex(unwrap(text))).replace("\N{MINUS SIGN}", "-").replace("−", "-")
    bracketed = _BRACKETED.fullmatch(text)
    text = _ABOUT.sub("", bracketed.group(1) if bracketed else text)
    for _ in range(2):  # "the area is A = 6"
        name = _NAME.match(text)
        if name and not _DENIED.search(name.group()):
            text = _ABOUT.sub("", text[name.end() :]).strip()
    text = re.sub(r"^(?:minus|negative)\s+", "-", text, flags=re.IGNORECASE)
    text = _MONEY.sub(r"\1", text)
    for reader in (_read_power, _read_fraction, _read_digits, _read_words):
        found = reader(text)
        if found is not None:
            value, rest = found
            return _with_unit(value, rest)
    return []


def _read_digits(text: str) -> tuple[float, str] | None:
    match = _LEADING.fullmatch(text)
    value = to_number(match.group(1)) if match else None
    return None if match is None or value is None else (value, match.group(2))


def _read_power(text: str) -> tuple[float, str] | None:
    match = _POWER.fullmatch(text)
    value = to_number(f"{match.group(1).replace(',', '')}e{match.group(2)}") if match else None
    return None if match is None or value is None else (value, match.group(3))


def _read_fraction(text: str) -> tuple[float, str] | None:
    match = _FRACTION.fullmatch(text) or _LATEX_FRACTION.fullmatch(text)
    if match is None or float(match.group(4)) == 0:
        return None
    value = float(match.group(2) or 0) + float(match.group(3)) / float(match.group(4))
    return (-value if match.group(1) == "-" else value), match.group(5)


def _read_words(text: str) -> tuple[float, str] | None:
    """Small numbers in words, "twenty-one apples"; larger ones by one scale, "two hundred"."""
    sign, words = 1, text.lower().replace("-", " ").split()
    if text.startswith("-"):
        sign = -1
    if not words or words[0] not in _WORDS:
        return None
    value = _WORDS[words.pop(0)]
    if words and value in _TENS.values() and 0 < _WORDS.get(words[0], 0) < 10:
        value += _WORDS[words.pop(0)]
    if words and words[0] in _WORDS:
        return None
    return float(sign * value), " ".join(words)


def _with_unit(value: float, rest: str) -> list[float]:
    """`value` times the scale in `rest`; [] if what is left does not look like a unit."""
    words = rest.split()
    if words and words[0].lower() in _SCALES:
        value *= _SCALES[words.pop(0).lower()]
    unit = " ".join(words)
    if not unit:
        return [value]
    if unit in ("%", "percent", "per cent"):
        return [value, value / 100]
    if len(unit) > 60 or not _UNIT.fullmatch(unit):
        return []
    return [] if any(word in _NO_UNITS for word in re.findall(r"[^\W\d_]+", unit.lower())) else [value]


def numbers_in(answer: str) -> list[float]:
    """`read_number` of an answer, or of what follows its last "answer is"."""
    inner = unwrap(innermost(answer))
    phrase = final_phrase(inner)
    return read_number(inner) or ([] if phrase is None else read_number(phrase))


def other_name(answer: str, reference: str) -> bool:
    """Whether both name what they give ("x = 4", "y = 4"), and not the same."""
    names = [_EQUATION.match(unwrap(innermost(text))) for text in (answer, reference)]
    left, right = (None if name is None else name.group(1).lower() for name in names)
    return left is not None and right is not None and left != right


def number_match(answer: str, reference: str, *, tolerance: float) -> bool | None:
    """Whether both are the same number within `tolerance`, absolute; None if the reference is no number."""
    wanted = read_number(reference)
    if not wanted:
        return None
    if other_name(answer, reference):
        return False
    slack = tolerance * (1 + 1e-9) + 1e-12 * abs(wanted[0])  # a difference of exactly `tolerance` is inside
    return any(math.isclose(said, wanted[0], rel_tol=0, abs_tol=slack) for said in numbers_in(answer))


def grade_number(answer: str | None, reference: str, *, tolerance: float) -> Grade:
    """Right within `tolerance`, absolute, in the reference's unit; strict only if equal.

    A reference that is no number cannot be graded here: ungraded.
    """
    if answer is None:
        return make_grade(None, (reference,), correct=False)
    correct = number_match(answer, reference, tolerance=tolerance)
    strict = bool(number_match(answer, reference, tolerance=0.0))
    return make_grade(answer, (reference,), correct=correct, strict=strict)
