r"""What mathematics is put together from: lists and matrices (`items`), ratios, times, bearings, congruences.

`compare` takes both sides apart and leaves the pieces to the caller, so that one piece is compared like any other:
"1331 and 1728" is "1728, 1331", `x=2, y=3` is `y=3, x=2` and no `3, 2`, a matrix is its numbers row by row. What may be
a time of day, "3:20", is one, not a ratio: it has no quotient.
"""

import re
from collections.abc import Callable
from typing import Any

from axpo_env.grading.extract import plain_latex, plain_unicode, unwrap
from axpo_env.grading.items import (
    MAX_ITEMS,
    Compare,
    all_true,
    read_items,
    read_matrix,
    same_items,
    same_matrix,
)
from axpo_env.grading.latex import peel_unit
from axpo_env.grading.numeric import read_number
from axpo_env.grading.text import same_formula
from axpo_env.grading.units import read_compound

MAX_CHARS = 400  # longer texts are not taken apart
TOLERANCE = 1e-6  # relative, of ratios; `maths.TOLERANCE` says why

_CLOCK = re.compile(
    r"(?P<hour>\d{1,2})(?:\s*:\s*(?P<minute>[0-5]\d)(?:\s*:\s*(?P<second>[0-5]\d))?|(?=\s*(?:[ap]\.?\s?m\b|o'clock)))"
    r"\s*(?:o'clock)?\s*(?:(?P<half>[ap])\.?\s?m\.?|h)?",
    re.IGNORECASE,
)
_BEARING = re.compile(r"([NSEW])?\s*(\d[\d.]*\s*°(?:\s*\d+\s*')?)\s*([NSEW])?")
_NUMERAL = re.compile(r"\(?\s*([0-9A-Fa-f]+)\s*\)?\s*_\s*\{?\s*(\d{1,2})\s*\}?")
_MODULO = re.compile(r"\\?[pb]?mod(?:ulo)?(?![a-z])")
_CONGRUENT = re.compile(r"\\equiv(?![A-Za-z])|≡|=")


def compare(reference: str, answer: str, same: Compare, *, depth: int = 0) -> bool | None:
    """Whether two texts are the same, piece by piece; `same` tells of what has no pieces. None: cannot be told."""
    if same_formula(answer, reference):
        return True
    wanted_text, said_text = _plain(reference), _plain(answer)
    if max(len(wanted_text), len(said_text)) > MAX_CHARS:
        return same(reference, answer)

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
    r"""The left side, "" without, what it is congruent to, and the modulus: "x \equiv 2 \pmod 7", "2 mod 7"."""
    parts = _MODULO.split(text)
    sides = [side.strip() for side in _CONGRUENT.split(parts[0].rstrip(" ,({"))]
    modulus = parts[-1].strip(" {}()")
    if len(parts) != 2 or len(sides) > 2 or not all((*sides, modulus)):
        return None
    return sides[0] if len(sides) == 2 else "", sides[-1], modulus


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
    return all_true(verdicts)


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


_KINDS: tuple[tuple[Callable[[str], Any], Callable[..., Any]], ...] = (
    (read_clock, _same_clock),
    (_read_bearing, _same_bearing),
    (_read_numeral, _same_numeral),
    (_read_congruence, _same_congruence),
    (read_matrix, same_matrix),
    (_terms, _same_ratio),
    (read_items, same_items),
)
