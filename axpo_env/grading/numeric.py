r"""Numbers as people write them: with units, commas, words, as fractions; equal within a tolerance.

`read_number` takes a text for a number only if nothing else is in it; "6 or 7" is none. A percent sign may be
a unit or a hundredth, so "80%" reads both ways.
"""

import math
import re

from axpo_env.grading.chartqa import to_number
from axpo_env.grading.extract import DENIES, innermost, plain_latex, plain_unicode, readings, unwrap
from axpo_env.grading.grade import Grade, make_grade
from axpo_env.grading.units import is_unit, read_compound

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
_SHARES = dict(half=2, halves=2, third=3, quarter=4, fourth=4, fifth=5, sixth=6, eighth=8, tenth=10)
_SHARES |= {f"{share}s": count for share, count in _SHARES.items() if count > 2}
_ABOUT = re.compile(r"^(?:about|approximately|approx\.?|around|roughly|circa|≈|~|=)\s*", re.IGNORECASE)
# What is said to be the number: "x =", "The number of dots is", "There are".
_NAME = re.compile(
    r"^[A-Za-z∠][\w']*(?: +[A-Za-z]\w*){0,12}?(?:\([\w, .+-]{0,10}\))?\s*(?:=|≈|\bis\b|\bare\b)\s*(?=\S)"
)
_TWICE = re.compile(r"([^()]*[^()\s])\s*\(([^()]+)\)")
_SPACED = re.compile(r"(?<![\w.,/])\d{1,3}(?: \d{3})+(?![\w/])(?! *\d)")
_BRACKETED = re.compile(r"[(\[{]\s*([^()\[\]{}]*?)\s*[)\]}]")
_EQUATION = re.compile(r"\$?\s*([A-Za-z]\w{0,3})\s*=(?!=)")
_NUMBER = r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?"
_LEADING = re.compile(rf"({_NUMBER}(?:[eE][+-]?\d{{1,3}}(?!\d))?)\s*(.*)", re.DOTALL)
_FRACTION = re.compile(r"([+-]?)\s*(?:(\d+)\s+)?(\d+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)\s*(.*)", re.DOTALL)
_LATEX_FRACTION = re.compile(
    r"([+-]?)\s*(\d*)\s*\\frac\s*(\{\s*\d+\s*\}|\d)\s*(\{\s*\d+\s*\}|\d)\s*(.*)", re.DOTALL
)
# 0.1\overline{6}, 0.1\dot6, 0.1(6): the places before the period, and the period.
_PERIODIC = re.compile(
    r"(?<![\d.])(\d*)\.(\d*?)(?:\\(?:overline|bar)\s*(?:\{\s*(\d+)\s*\}|(\d))"
    r"|\\dot\s*(?:\{(?P<first>\d)\}|(?P<bare>\d))(?:(?P<between>\d*)\\dot\s*(?:\{(?P<last>\d)\}|(?P<end>\d)))?"
    r"|\((\d+)\)|(?P<marked>(?:\d\u0305)+))(?!\d)"
)
_POWER = re.compile(
    rf"({_NUMBER})\s*(?:\\times|\\cdot|×|·|\*|x)\s*10\s*(?:\^|\*\*)\s*\{{?\s*([+-]?\d{{1,3}})\s*\}}?\s*(.*)",
    re.DOTALL,
)
_PERCENT = re.compile(r"%|\bper\s?cent(?:age)?s?\b", re.IGNORECASE)
_MONEY = re.compile(r"^([+-]?)\s*([$€£¥])\s*")


def read_number(text: str) -> list[float]:
    """The values that `text` may stand for: one, two where there is a percent sign, none if it is no number."""
    return read_quantity(text)[0]


def read_quantity(text: str) -> tuple[list[float], str]:
    """`read_number`, and the unit that stands with it, "" if none does: "about 6 km" is ([6.0], "km")."""
    if read_compound(text) is not None:
        return [], ""  # "2 h 3 min" is no number, see `units.same_compound`
    text = _spell(text)
    twice = _TWICE.fullmatch(text)
    if twice:  # "3 (three)"
        first, second = read_quantity(twice.group(1)), read_quantity(twice.group(2))
        return first if first[0] and first[0] == second[0] else ([], "")
    bracketed = _BRACKETED.fullmatch(text)
    text = _ABOUT.sub("", bracketed.group(1) if bracketed else text)
    for _ in range(2):  # "the area is A = 6"
        name = _NAME.match(text)
        if name and not DENIES.search(name.group()):
            text = _ABOUT.sub("", text[name.end() :]).strip()
    text = re.sub(r"^(?:minus\s+|negative\s+|-\s+(?=\d))", "-", text, flags=re.IGNORECASE)
    text = re.sub(r"^the\s+", "", text, flags=re.IGNORECASE)
    money, text = _MONEY.match(text), _MONEY.sub(r"\1", text)
    for reader in (_read_power, _read_fraction, _read_digits, _read_words):
        found = reader(text)
        if found is not None:
            values, unit = _with_unit(*found)
            unit = unit or (money.group(2) if money else "")
            return (values, unit) if all(map(math.isfinite, values)) else ([], "")
    return [], ""


def _spell(text: str) -> str:
    """`text` without looks, and thousands set apart by spaces or LaTeX commas joined: "1 000" is 1000."""
    text = unwrap(plain_latex(unwrap(text).replace("{,}", ",")))
    text = without_periods(plain_unicode(text))
    return _SPACED.sub(lambda match: "".join(match.group().split()), text)


def without_periods(text: str) -> str:
    r"""`text` with fractions for periodic decimals: "0.\overline{3}", "0.\dot3" and "0.(3)" are "\frac{3}{9}"."""
    return _PERIODIC.sub(_as_fraction, text)


def _as_fraction(match: re.Match[str]) -> str:
    whole, places, *periods = (group or "" for group in match.groups())
    period = re.sub(r"\D", "", "".join(periods))
    if len(whole + places + period) > 15:
        return match.group()
    count = int(whole + places + period) - int(whole + places or "0")
    return rf"\frac{{{count}}}{{{10 ** len(places) * (10 ** len(period) - 1)}}}"


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
    if match is None:
        return None
    above, below = (float(match.group(part).strip("{} ")) for part in (3, 4))
    if below == 0:
        return None
    value = float(match.group(2) or 0) + above / below
    return (-value if match.group(1) == "-" else value), match.group(5)


def _read_words(text: str) -> tuple[float, str] | None:
    """Numbers in words: "minus six", "a hundred and twenty apples", "one half", "two and a half"."""
    sign = -1 if text.startswith("-") else 1
    words = text.lower().replace("-", " ").split()
    whole = _whole_in_words(words)
    if whole is None:
        words = words[1:] if words[:1] == ["a"] else words
        return (sign / _SHARES[words[0]], " ".join(words[1:])) if words and words[0] in _SHARES else None
    value, rest = whole
    if rest and rest[0] in _SHARES:
        return sign * value / _SHARES[rest[0]], " ".join(rest[1:])
    if rest[:2] == ["and", "a"] and rest[2:] and rest[2] in _SHARES:
        return sign * (value + 1 / _SHARES[rest[2]]), " ".join(rest[3:])
    return float(sign * value), " ".join(rest)


def _whole_in_words(words: list[str]) -> tuple[int, list[str]] | None:
    """The whole number at the start of `words`, and the words after it; None where they are no number in good order."""
    total, group, last, used = 0, 0, "", 0
    while used < len(words):
        word = words[used]
        if word == "a" and not used and words[1:2] and words[1] in _SCALES:
            group, last = 1, "one"
        elif word == "and" and last in _SCALES and words[used + 1 : used + 2] and words[used + 1] in _WORDS:
            used += 1
            continue
        elif word in _WORDS:
            small = _WORDS[word]
            after_tens = last in _TENS and 0 < small < 10
            if last and last not in _SCALES and not after_tens:
                return None
            group, last = group + small, word
        elif word in _SCALES and group and (_SCALES[word] < 1000 or not total or _SCALES[word] < total):
            if _SCALES[word] < 1000:
                group *= _SCALES[word]
            else:
                total, group = total + group * _SCALES[word], 0
            last = word
        else:
            break
        used += 1
    return (total + group, words[used:]) if used else None


def _with_unit(value: float, rest: str) -> tuple[list[float], str]:
    """`value` times the scale in `rest`, and the unit; ([], "") if what is left does not look like a unit."""
    words = rest.split()
    if words and words[0].lower() in _SCALES:
        value *= _SCALES[words.pop(0).lower()]
    unit = " ".join(words)
    if not unit:
        return [value], ""
    if unit.lower() in ("%", "percent", "per cent"):
        return [value, value / 100], "%"
    return ([value], unit) if is_unit(unit) else ([], "")


def numbers_in(answer: str) -> list[float]:
    """`read_number` of an answer, or of what follows its last "answer is"."""
    return next(filter(None, map(read_number, readings(answer))), [])


def other_name(answer: str, reference: str) -> bool:
    """Whether both name what they give ("x = 4", "y = 4"), and not the same."""
    names = [_EQUATION.match(unwrap(innermost(text))) for text in (answer, reference)]
    left, right = (None if name is None else name.group(1).lower() for name in names)
    return left is not None and right is not None and left != right


def asks_percent(question: str) -> bool:
    """Whether the answer to `question` is a percentage, so that a percent sign after it is only its unit."""
    return bool(_PERCENT.search(question))


def same_number(said: list[float], wanted: list[float], slack: float, *, percent: bool | None = None) -> bool:
    """Whether two readings (`read_number`) are the same within `slack`, absolute.

    "80%" is 0.8, and 80 where it was asked for in percent. Where it is not known whether it was (`percent` is None),
    a sign after a number below 1 changes the number: "0.5%" is not 0.5.
    """
    if len(said) == 2 and len(wanted) == 1 and (percent is False or (percent is None and abs(said[0]) < 1)):
        said = said[1:]
    # Of a reference with the sign: "5%" is "5%", "5" and "0.05".
    wanted = wanted if len(said) == 1 else wanted[:1]
    return any(math.isclose(one, other, rel_tol=0, abs_tol=slack) for one in said for other in wanted)


def number_match(
    answer: str, reference: str, *, tolerance: float, percent: bool | None = None
) -> bool | None:
    """Whether both are the same number within `tolerance`, absolute; None if the reference is no number.

    `percent`: whether the question asks for a percentage, see `same_number`.
    """
    wanted = read_number(reference)
    if not wanted:
        return None
    if other_name(answer, reference):
        return False
    slack = tolerance * (1 + 1e-9) + 1e-15 * abs(wanted[0])  # a difference of exactly `tolerance` is inside
    return same_number(numbers_in(answer), wanted, slack, percent=percent)


def grade_number(
    answer: str | None, reference: str, *, tolerance: float, percent: bool | None = None
) -> Grade:
    """Right within `tolerance`, absolute, in the reference's unit; strict only if equal.

    A reference that is no number cannot be graded here: ungraded.
    """
    if answer is None:
        return make_grade(None, (reference,), correct=False)
    correct = number_match(answer, reference, tolerance=tolerance, percent=percent)
    strict = bool(number_match(answer, reference, tolerance=0.0, percent=percent))
    return make_grade(answer, (reference,), correct=correct, strict=strict)
