r"""Units after numbers: which words may be one, which surely are, when two are the same; quantities of several units.

"2 h 30 min" and "30°15'" are one quantity each (`read_compound`), in the smallest unit of its kind. A single unit is
not converted: whether "5 km" will do for 5000 m is left to a judge.
"""

import re
from fractions import Fraction

from axpo_env.grading.text import normalize

_CURRENCIES = {"$": " usd ", "€": " eur ", "£": " gbp ", "¥": " jpy "}
_WORD, _EXPONENT = r"(?:[A-Za-zµΩÅÀ-ÿ]+|[%°])", r"(?:\s*\^\s*\{?-?[123]\}?|\{?-?[123]\}?|[²³])?"
_UNIT = re.compile(rf"(?:{_WORD}|[$€£¥]){_EXPONENT}(?:\s*[/·*]?\s*{_WORD}{_EXPONENT}){{0,3}}\.?")
_SPELLED = {
    "degree": "°", "deg": "°", "metre": "m", "meter": "m", "gram": "g", "litre": "l", "liter": "l", "second": "s",
    "sec": "s", "minute": "min", "hour": "h", "hr": "h", "inche": "in", "inch": "in", "foot": "ft", "feet": "ft",
    "mile": "mi", "yard": "yd", "dollar": "usd", "euro": "eur", "pound": "lb", "ounce": "oz", "day": "d", "week": "wk",
    **{f"{name}{unit}": f"{letter}{short}" for name, letter in (("kilo", "k"), ("centi", "c"), ("milli", "m"))
       for unit, short in (("metre", "m"), ("meter", "m"), ("gram", "g"), ("litre", "l"), ("liter", "l"))},
}  # fmt: skip
_SMALL_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety"
)
# Words after a number that make it another number, or not an answer.
_NO_UNITS = {
    "or", "and", "to", "not", "but", "is", "are", "was", "minus", "plus", "times", "over", "than", "if", "then",
    "pi", "squared", "cubed", "factorial", "root", "sqrt", "half", "halves", "third", "thirds", "quarter", "quarters",
    "fourths", "fifths", "frac", "i", "x", "y", "z", "e", "n", "k", "p", "q", "r", "u", "v", "w", "a", "b",
    "percentage", "more", "less", "mod", "st", "nd", "rd", "th", "am", "pm",
    "dozen", "hundred", "thousand", "million", "billion", "trillion",
    *_SMALL_NUMBERS.split(),
}  # fmt: skip
# Units beyond doubt: a number with one of them is that number.
_SYMBOL_NAMES = (
    "% ° °C °F $ € £ ¥ USD EUR GBP mm cm dm m km nm µm in ft yd mi mg g kg t lb oz ml mL cl dl l L ms s sec min h hr "
    "d wk yr Hz kHz MHz GHz J kJ cal kcal W kW V kV mV A mA N Ω Pa kPa kB KB MB GB TB mph kmh rad"
)
_SYMBOLS = set(_SYMBOL_NAMES.split())
_MORE_WORDS = (
    "percent celsius fahrenheit radian gallon ton tonne month year cent unit joule watt volt ampere newton"
)
_UNIT_WORDS = {*_SPELLED, *_MORE_WORDS.split()}
_COMPOUND_KINDS = (
    {"wk": 604800, "d": 86400, "h": 3600, "min": 60, "s": 1},
    {"°": 3600, "'": 60, '"': 1},
    {"mi": 63360, "yd": 36, "ft": 12, "in": 1},
    {"km": 10**6, "m": 1000, "cm": 10, "mm": 1},
    {"kg": 1000, "g": 1},
    {"lb": 16, "oz": 1},
)
_TERM = re.compile(r"\s*(?:,\s*|\band\s+)?(\d{1,12}(?:\.\d{1,12})?)\s*([A-Za-z]+\.?|[°'\"′″]+)")
_MARKS = {"′": "'", "″": '"', "''": '"', "′′": '"'}


def is_unit(text: str) -> bool:
    """Whether `text` looks like a unit, or like what is counted: "cm^2", "red apples"; not "or", "pi", "squared"."""
    if len(text) > 60 or not _UNIT.fullmatch(text):
        return False
    return not any(word in _NO_UNITS for word in re.findall(r"[^\W\d_]+", text.lower()))


def is_known_unit(text: str) -> bool:
    """Whether `text` is surely a unit, with "square", a power or "per" where it belongs; not "apples", not "G1"."""
    text = re.sub(r"[{}~]|\.$", "", text).strip()
    text = re.sub(r"^(?:sq(?:uare|\.)?|cu(?:bic|\.)?)\s*(?=[A-Za-z]{2})", "", text, flags=re.IGNORECASE)
    text = re.sub(r"\s*(?:\^\s*-?[1-3]|[²³]|(?<=m)[23])$", "", text)
    return all(_is_known(part.strip()) for part in re.split(r"/|\bper\b", text))


def _is_known(word: str) -> bool:
    lower = word.lower()
    return word in _SYMBOLS or lower in _UNIT_WORDS or lower.removesuffix("s") in _UNIT_WORDS


def other_unit(one: str, other: str) -> bool:
    """Whether both are units, and not the same one, so that equal numbers with them may not be equal."""
    return bool(one and other) and _plain_unit(one) != _plain_unit(other)


def _plain_unit(unit: str) -> str:
    unit = re.sub(r"\bsq(?:uare|\.)? ?(\w+)", r"\1^2", unit.rstrip("."))
    unit = re.sub(r"\bcu(?:bic|\.) ?(\w+)", r"\1^3", unit)
    for sign, name in _CURRENCIES.items():
        unit = unit.replace(sign, name)
    words = normalize(re.sub(r"[{}]", "", unit).replace("²", "^2").replace("³", "^3")).split()
    return " ".join(_SPELLED.get(word.removesuffix("s"), word.removesuffix("s")) for word in words)


def read_compound(text: str) -> tuple[int, Fraction] | None:
    """The kind of a quantity of two units or more, and what it comes to: "2 h 30 min" is (0, 9000). None if it is none.

    The units must fall: "30 min 2 h" is none.
    """
    found = _read_terms(text)
    return (found[0], found[1]) if found is not None and found[2] > 1 else None


def same_compound(answer: str, reference: str) -> bool | None:
    """Whether two quantities are the same, where one of them is of several units; None where neither is.

    "2.5 hours" is "2 h 30 min". Where the other side is no quantity of the kind, they are not the same.
    """
    if read_compound(answer) is None and read_compound(reference) is None:
        return None
    said, wanted = _read_terms(answer), _read_terms(reference)
    return said is not None and wanted is not None and said[:2] == wanted[:2]


def _read_terms(text: str) -> tuple[int, Fraction, int] | None:
    """Kind, amount in the smallest unit, number of terms."""
    position, terms = 0, list[tuple[Fraction, str]]()
    text = text.strip()
    while position < len(text) and len(terms) < 6:
        term = _TERM.match(text, position)
        if term is None:
            return None
        mark = _MARKS.get(term.group(2), term.group(2))
        terms.append((Fraction(term.group(1)), mark if mark in "'\"" else _plain_unit(mark)))
        position = term.end()
    for kind, sizes in enumerate(_COMPOUND_KINDS):
        if terms and position == len(text) and all(unit in sizes for _, unit in terms):
            in_order = [sizes[unit] for _, unit in terms]
            if in_order == sorted(set(in_order), reverse=True):
                return kind, sum((amount * sizes[unit] for amount, unit in terms), Fraction(0)), len(terms)
    return None
