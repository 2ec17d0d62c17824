r"""Several answers in one text: lists, tuples, intervals, sets, named values, matrices; compared item by item.

The order counts in brackets and where things have names on one side only; a bare list, "2, 3", has none. "x = 2, y = 3"
is compared by name.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from axpo_env.grading.extract import unwrap
from axpo_env.grading.latex import is_maths
from axpo_env.grading.numeric import read_number
from axpo_env.grading.units import read_compound

Compare = Callable[[str, str], bool | None]  # reference, answer; None: cannot be told
MAX_ITEMS = 40

_MATRIX = re.compile(
    r"[(\[]?\s*\\*begin\s*\{(?P<kind>[pbB]?matrix|array)\}\s*(?:\{[^{}]*\})?(?P<body>.*?)\\*end\s*\{(?P=kind)\}\s*[)\]]?",
    re.DOTALL,
)
_CASES = re.compile(r"\\*begin\s*\{cases\}(.*?)\\*end\s*\{cases\}", re.DOTALL)
_NAMED = re.compile(r"([A-Za-z\\α-ωΑ-Ω∠][^=<>+*/;-]{0,20}?)\s*=\s*([^=<>]+)")
_WORDS_BETWEEN = re.compile(r",?\s+(and|or)\s+")
_SIGNS = re.compile(r"\\pm(?![A-Za-z])|±")
_BRACKETS = {"(": ")", "[": "]", r"\{": r"\}", r"\langle": r"\rangle"}
_THOUSANDS = re.compile(r"(?<=\d),\d{3}(?!\d)")
_TOKENS = re.compile(r"\\[{}]|\\[lr]angle|[()\[\]{},;]")


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


def read_items(text: str) -> Items | None:
    """Items between commas, semicolons, "and", "or"; also "x = ±2" and "(x, y) = (2, 3)". None for a single thing."""
    if cases := _CASES.fullmatch(text):
        text = ", ".join(filter(None, (row.strip(" ,;&") for row in re.split(r"\\{2,}", cases[1]))))
    sides = [side.strip() for side in text.split("=")]
    if len(sides) == 2 and sides[0].startswith("("):
        names, values = map(read_items, sides)
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


def same_items(wanted: Items, said: Items | None, _: str, same: Compare) -> bool | str | None:
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
        return all_true(verdicts)
    if len(set(wanted.names or said.names)) == 1:
        return _in_any_order(wanted.values, said.values, same)
    return _in_order(wanted.values, said.values, same)


def _in_order(wanted: Sequence[str], said: Sequence[str], same: Compare) -> bool | None:
    return all_true([same(one, other) for one, other in zip(wanted, said, strict=True)])


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


def read_matrix(text: str) -> list[list[str]] | None:
    match = _MATRIX.fullmatch(text)
    if match is None:
        return _read_rows(text)
    rows = [row for row in re.split(r"\\{2,}(?:\[[^\]]*\])?|\\(?=\s)", match["body"]) if row.strip()]
    return [[cell.strip() for cell in row.split("&")] for row in rows] or None


def _read_rows(text: str) -> list[list[str]] | None:
    """Rows as programs write them: "[[1, 2], [3, 4]]"."""
    whole = read_items(text)
    rows = [read_items(row) for row in whole.items] if whole and whole.opening == "[" else []
    if not rows or not all(row and row.opening == "[" for row in rows):
        return None
    return [list(row.items) for row in rows if row]


def same_matrix(
    wanted: list[list[str]], said: list[list[str]] | None, answer: str, same: Compare
) -> bool | None:
    vector = read_items(answer) if said is None and 1 in (len(wanted), len(wanted[0])) else None
    if vector is not None:  # a single row or column may be written as a tuple
        wanted, said = [[cell for row in wanted for cell in row]], [list(vector.items)]
    if said is None or [len(row) for row in wanted] != [len(row) for row in said]:
        return False
    pairs = [pair for rows in zip(wanted, said, strict=True) for pair in zip(*rows, strict=True)]
    return all_true([same(one, other) for one, other in pairs[: MAX_ITEMS**2]])


def all_true(verdicts: Sequence[bool | None]) -> bool | None:
    return False if False in verdicts else (None if None in verdicts else True)
