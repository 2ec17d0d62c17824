r"""What mathematics is put together from: lists, tuples, named values, matrices, ratios, times, congruences.

`compare` takes both sides apart and leaves the pieces to the caller, so that one piece is compared like any other:
"1331 and 1728" is "1728, 1331", `x=2, y=3` is `y=3, x=2` and no `3, 2`, a matrix is its numbers row by row. What may be
a time of day, "3:20", is one, not a ratio: it has no quotient.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from axpo_env.grading.extract import plain_latex, plain_unicode, unwrap
from axpo_env.grading.latex import is_maths, peel_unit
from axpo_env.grading.numeric import read_number
from axpo_env.grading.text import same_formula
from axpo_env.grading.units import read_compound

Compare = Callable[[str, str], bool | None]  # reference, answer; None: cannot be told
MAX_ITEMS = 40
TOLERANCE = 1e-6  # relative, of ratios; `maths.TOLERANCE` says why

_CLOCK = re.compile(
    r"(?P<hour>\d{1,2})(?:\s*:\s*(?P<minute>[0-5]\d)(?:\s*:\s*(?P<second>[0-5]\d))?|(?=\s*(?:[ap]\.?\s?m\b|o'clock)))"
    r"\s*(?:o'clock)?\s*(?:(?P<half>[ap])\.?\s?m\.?|h)?",
    re.IGNORECASE,
)
_BEARING = re.compile(r"([NSEW])?\s*(\d[\d.]*\s*°(?:\s*\d+\s*')?)\s*([NSEW])?")
_NUMERAL = re.compile(r"\(?\s*([0-9A-Fa-f]+)\s*\)?\s*_\s*\{?\s*(\d{1,2})\s*\}?")
_CONGRUENCE = re.compile(
    r"(?:(?P<name>[^=]{1,20}?)\s*(?:\\equiv|≡|=)\s*)?(?P<rest>[^=]+?)\s*[,(]*\s*\\?[pb]?mod(?:ulo)?(?![a-z])\s*[{(]*\s*"
    r"(?P<modulus>[^{}()=]+?)\s*[)}]*"
)
_MATRIX = re.compile(
    r"[(\[]?\s*\\*begin\s*\{(?P<kind>[pbB]?matrix|array)\}\s*(?:\{[^{}]*\})?(?P<body>.*?)\\*end\s*\{(?P=kind)\}",
    re.DOTALL,
)
_NAMED = re.compile(r"([A-Za-z\\α-ωΑ-Ω∠][^=<>+*/;-]{0,20}?)\s*=\s*([^=<>]+)")
_WORDS_BETWEEN = re.compile(r",?\s+(and|or)\s+")
_SIGNS = re.compile(r"\\pm(?![A-Za-z])|±")
_BRACKETS = {"(": ")", "[": "]", r"\{": r"\}", r"\langle": r"\rangle"}
_THOUSANDS = re.compile(r"(?<=\d),\d{3}(?!\d)")
_TOKENS = re.compile(r"\\[{}]|\\[lr]angle|[()\[\]{},;]")


def compare(reference: str, answer: str, same: Compare, *, depth: int = 0) -> bool | None:
    """Whether two texts are the same, piece by piece; `same` tells of what has no pieces. None: cannot be told."""
    if same_formula(answer, reference):
        return True
    wanted_text, said_text = _plain(reference), _plain(answer)

    def piecewise(one: str, other: str) -> bool | None:
        return compare(one, other, same, depth=depth + 1) if depth < 3 else same(one, other)

    for read, decide in _KINDS:
        wanted = read(wanted_text)
        if wanted is not None:
            verdict = decide(wanted, read(said_text), said_text, piecewise)
            return same(reference, answer) if verdict == "whole" else verdict
    return same(reference, answer)


def _plain(text: str) -> str:
    return peel_unit(plain_unicode(plain_latex(unwrap(text))))


def _all(verdicts: Sequence[bool | None]) -> bool | None:
    return False if False in verdicts else (None if None in verdicts else True)


# Times of day, "4:00 pm": hours, minutes, seconds, half of the day.
_Clock = tuple[int, int, int, str]


def read_clock(text: str) -> _Clock | None:
    """A time of day, or what may be one."""
    match = _CLOCK.fullmatch(text)
    if match is None or int(match["hour"]) > 24:
        return None
    hour, half = int(match["hour"]), (match["half"] or "").lower()
    if half and not 1 <= hour <= 12:
        return None
    hour = hour % 12 + 12 * (half == "p") if half else hour
    return hour, int(match["minute"] or 0), int(match["second"] or 0), half


def _same_clock(wanted: _Clock, said: _Clock | None, answer: str, _: Compare) -> bool | None:
    if said is None:  # as a ratio it may be the same, or it may be a duration
        term = ":".join(str(number) for number in wanted[: 2 + bool(wanted[2])])
        unclear = (
            read_compound(answer) or _same_ratio(_terms(term) or [], _terms(answer), answer, _no) is True
        )
        return None if unclear else False
    if wanted[:3] == said[:3]:
        sure = wanted[3] == said[3] or max(wanted[0], said[0]) > 12 or 0 in (wanted[0], said[0])
        return True if sure else None  # "4:00" may be in the afternoon
    return (
        None
        if "" in (wanted[3], said[3]) and wanted[3] != said[3] and _on_the_dial(wanted) == _on_the_dial(said)
        else False
    )


def _on_the_dial(clock: _Clock) -> tuple[int, int, int]:
    return clock[0] % 12, clock[1], clock[2]


def _no(reference: str, answer: str) -> bool | None:
    return False


def _read_bearing(text: str) -> tuple[str, str, str] | None:
    match = _BEARING.fullmatch(text)
    if match is None or not (match[1] or match[3]):
        return None
    return match[1] or "", match[2], match[3] or ""


def _same_bearing(
    wanted: tuple[str, str, str], said: tuple[str, str, str] | None, _: str, same: Compare
) -> bool | None:
    if said is None or wanted[::2] != said[::2]:
        return False
    return same(wanted[1], said[1])


def _read_numeral(text: str) -> tuple[str, int] | None:
    """Digits and their base: "1011_2"."""
    match = _NUMERAL.fullmatch(text)
    if match is None or not 2 <= int(match[2]) <= 16:
        return None
    digits, base = match[1].upper().lstrip("0") or "0", int(match[2])
    return (digits, base) if all(int(digit, 16) < base for digit in digits) else None


def _same_numeral(
    wanted: tuple[str, int], said: tuple[str, int] | None, answer: str, _: Compare
) -> bool | None:
    value = int(*wanted)
    if said is None:  # the base may go without saying, or the value may be given in tens
        number = read_number(answer)
        return (
            None if number and number[0] in (value, float(re.sub(r"[A-F]", "", wanted[0]) or -1)) else False
        )
    return True if wanted == said else (None if int(*said) == value else False)


def _read_congruence(text: str) -> tuple[str, str, str] | None:
    match = _CONGRUENCE.fullmatch(text)
    return None if match is None else (match["name"] or "", match["rest"], match["modulus"])


def _same_congruence(
    wanted: tuple[str, str, str], said: tuple[str, str, str] | None, answer: str, same: Compare
) -> bool | None:
    if said is None:  # the modulus may go without saying
        return None if same(wanted[1], answer) else False
    numbers = [read_number(text) for text in (wanted[1], wanted[2], said[1])]
    verdicts = [same(wanted[2], said[2]), same(wanted[0], said[0]) if wanted[0] and said[0] else True]
    if all(numbers) and numbers[1][0]:
        verdicts.append((numbers[0][0] - numbers[2][0]) % numbers[1][0] == 0)
    else:
        verdicts.append(same(wanted[1], said[1]))
    return _all(verdicts)


def _read_matrix(text: str) -> list[list[str]] | None:
    match = _MATRIX.fullmatch(text)
    if match is None:
        return _read_rows(text)
    rows = [row for row in re.split(r"\\{2,}(?:\[[^\]]*\])?|\\(?=\s)", match["body"]) if row.strip()]
    return [[cell.strip() for cell in row.split("&")] for row in rows] or None


def _read_rows(text: str) -> list[list[str]] | None:
    """Rows as programs write them: "[[1, 2], [3, 4]]"."""
    whole = _read_items(text)
    rows = [_read_items(row) for row in whole.items] if whole and whole.opening == "[" else []
    if not rows or not all(row and row.opening == "[" for row in rows):
        return None
    return [list(row.items) for row in rows if row]


def _same_matrix(
    wanted: list[list[str]], said: list[list[str]] | None, answer: str, same: Compare
) -> bool | None:
    vector = _read_items(answer) if said is None and 1 in (len(wanted), len(wanted[0])) else None
    if vector is not None:  # a single row or column may be written as a tuple
        wanted, said = [[cell for row in wanted for cell in row]], [list(vector.items)]
    if said is None or [len(row) for row in wanted] != [len(row) for row in said]:
        return False
    pairs = [pair for rows in zip(wanted, said, strict=True) for pair in zip(*rows, strict=True)]
    return _all([same(one, other) for one, other in pairs[: MAX_ITEMS**2]])


def _terms(text: str) -> list[str] | None:
    """The terms of a ratio, "3:2" or "3 to 2"; None if it is none."""
    text = re.sub(r"(?<=\d)\s+to\s+(?=\d)", ":", text.replace(r"\colon", ":"))
    terms = [term.strip() for term in text.split(":")]
    return terms if 1 < len(terms) <= MAX_ITEMS and all(terms) and "=" not in text else None


def _same_ratio(wanted: list[str], said: list[str] | None, answer: str, same: Compare) -> bool | None:
    """Of numbers by their quotients, but a zero is equal to nothing but zero; "3:2" is 3/2, too, but not 1.5."""
    fraction = "/" in answer or r"\frac" in answer
    if said is None and (len(wanted) != 2 or not fraction):
        return False
    numbers, others = [read_number(term) for term in wanted], [read_number(term) for term in said or [answer]]
    if all(numbers) and all(others):
        one, other = [number[0] for number in numbers], [number[0] for number in others]
        other = other if said else [other[0], 1.0]
        if len(one) != len(other) or 0 in one + other:
            return one == other
        pairs = zip(one, other, strict=True)
        return all(abs(a * other[0] - b * one[0]) <= TOLERANCE * abs(a * other[0]) for a, b in pairs)
    if len(wanted) != 2 or (said and len(said) != 2) or [0.0] in numbers + others:
        return False
    quotient = f"({said[0]})/({said[1]})" if said else answer
    return same(f"({wanted[0]})/({wanted[1]})", quotient)


@dataclass(frozen=True, kw_only=True)
class Items:
    """Several answers in one text."""

    opening: str  # the brackets around them, "" without
    closing: str
    items: tuple[str, ...]
    alternatives: bool = False  # "or" stands between them

    @property
    def names(self) -> list[str]:
        """What each is the value of; [] unless all are named."""
        found = [_NAMED.fullmatch(item) for item in self.items]
        return [re.sub(r"[\s{}]", "", match[1]) for match in found if match] if all(found) else []

    @property
    def values(self) -> list[str]:
        return [match[2] if (match := _NAMED.fullmatch(item)) else item for item in self.items]


def _read_items(text: str) -> Items | None:
    """Items between commas, semicolons, "and", "or"; also "x = ±2" and "(x, y) = (2, 3)". None for a single thing."""
    sides = [side.strip() for side in text.split("=")]
    if len(sides) == 2 and sides[0].startswith("("):
        names, values = map(_read_items, sides)
        if names and values and len(names.items) == len(values.items):
            named = zip(names.items, values.items, strict=True)
            return Items(opening="", closing="", items=tuple(f"{name} = {value}" for name, value in named))
    if len(_SIGNS.findall(text)) == 1 and r"\mp" not in text and "," not in text:
        return Items(opening="", closing="", items=tuple(_SIGNS.sub(sign, text) for sign in "+-"))
    opening = next((mark for mark in _BRACKETS if text.startswith(mark)), "")
    if opening:
        pieces, end = _split(text[len(opening) :], (")", "]") if opening in "([" else (_BRACKETS[opening],))
        closing = text[len(opening) + end :].strip()
        if closing in _BRACKETS.values():
            return Items(opening=opening, closing=closing, items=pieces) if len(pieces) > 1 else None
    words = _WORDS_BETWEEN.findall(text)
    pieces, end = _split(_WORDS_BETWEEN.sub(", ", text), ())
    if end < 0 or not 1 < len(pieces) <= MAX_ITEMS or read_number(text) or read_compound(text):
        return None
    if not all(map(is_maths, pieces)):
        return None
    return Items(opening="", closing="", items=pieces, alternatives="or" in words)


def _split(text: str, closings: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
    """The pieces between commas and semicolons that no bracket holds, up to one of `closings`; and where they end.

    The end is -1 where brackets do not match. Where commas have spaces behind them, "1,234" is one number.
    """
    spaced = re.search(r",\s|;", text) is not None
    pieces, start, depth = [], 0, 0
    for token in _TOKENS.finditer(text):
        sign = token.group()
        if sign in ",;" and depth == 0:
            if sign == "," and spaced and _THOUSANDS.match(text, token.start()):
                continue
            pieces.append(text[start : token.start()].strip())
            start = token.end()
        elif sign in closings and depth == 0:
            return _pieces(pieces, text[start : token.start()]), token.start()
        elif sign in ("(", "[", "{", r"\{", r"\langle"):
            depth += 1
        elif sign not in (",", ";"):
            depth -= 1
            if depth < 0:
                return (), -1
    return _pieces(pieces, text[start:]), (len(text) if not closings and depth == 0 else -1)


def _pieces(pieces: list[str], last: str) -> tuple[str, ...]:
    found = [unwrap(piece) for piece in (*pieces, last.strip())]
    return tuple(found) if all(found) else ()


def _same_items(wanted: Items, said: Items | None, _: str, same: Compare) -> bool | str | None:
    if said is None:
        return "whole" if wanted.opening else False  # "(1, 2)" may be "1 < x < 2"
    if len(wanted.items) != len(said.items):
        return False
    if said.alternatives and not wanted.alternatives and len(set(said.names)) != 1:
        return False  # "2 or 3" offers two for one
    if wanted.names or said.names:
        return _same_named(wanted, said, same)
    ordered = _ordered(wanted, said)
    if ordered is None:
        return False
    return (
        _in_order(wanted.items, said.items, same)
        if ordered
        else _in_any_order(wanted.items, said.items, same)
    )


def _ordered(wanted: Items, said: Items) -> bool | None:
    """Whether the order counts; None where the brackets do not go together."""
    ends = [(items.opening, items.closing) for items in (wanted, said)]
    if ("", "") in ends:
        other = ends[0] if ends[1] == ("", "") else ends[1]
        if other[0] == "[" and len(wanted.items) < 3:
            return None  # an interval
        return other[0] not in ("", r"\{")
    if ends[0] == ends[1] or (len(wanted.items) > 2 and r"\{" not in (wanted.opening, said.opening)):
        return wanted.opening != r"\{"
    return None


def _same_named(wanted: Items, said: Items, same: Compare) -> bool | None:
    """By name, in any order; where one side has no names, in order, unless they are all the same name."""
    if wanted.names and said.names:
        if sorted(wanted.names) != sorted(said.names):
            return False
        verdicts = []
        for name in set(wanted.names):
            groups = [
                [value for key, value in zip(side.names, side.values, strict=True) if key == name]
                for side in (wanted, said)
            ]
            verdicts.append(_in_any_order(groups[0], groups[1], same))
        return _all(verdicts)
    if len(set(wanted.names or said.names)) == 1:
        return _in_any_order(wanted.values, said.values, same)
    return _in_order(wanted.values, said.values, same)


def _in_order(wanted: Sequence[str], said: Sequence[str], same: Compare) -> bool | None:
    return _all([same(one, other) for one, other in zip(wanted, said, strict=True)])


def _in_any_order(wanted: Sequence[str], said: Sequence[str], same: Compare) -> bool | None:
    left = list(said)
    if len(left) != len(wanted):
        return False
    for item in wanted:
        verdicts = [same(item, other) for other in left]
        if True not in verdicts:
            return None if None in verdicts else False
        left.pop(verdicts.index(True))
    return True


_KINDS: tuple[tuple[Callable[[str], Any], Callable[..., Any]], ...] = (
    (read_clock, _same_clock),
    (_read_bearing, _same_bearing),
    (_read_numeral, _same_numeral),
    (_read_congruence, _same_congruence),
    (_read_matrix, _same_matrix),
    (_terms, _same_ratio),
    (_read_items, _same_items),
)
