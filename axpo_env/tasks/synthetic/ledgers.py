"""Ledgers: a page of small-printed receipts, of which a few lines add up to the answer, exact to the cent.

Receipts lie in columns A, B, ... and rows 1, 2, ...; each prints items with group, quantity and price, marks
some as returned, and names its own tax. Questions are in `ledger_questions`, painting in
`ledger_drawing`. This family is no benchmark's twin: any environment offers it by `source="ledgers"`.

Knobs, from easy to hard: number of receipts and lines (40 to 120 lines on a page), how small they
are shown, and the kinds asked (one receipt filtered, two with a tax each, a threshold).
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from axpo_env.tasks.synthetic.draws import between, invent, pick, shuffled, split_of_data
from axpo_env.tasks.synthetic.items import Box, GeneratedSource, Item, Level

CAP_SHARE = 0.7  # a capital letter's height as a share of the font's size
GROUPS = ("food", "tools", "paper", "toys")
_TAXES = (50, 70, 75, 100, 190, 200)  # in thousandths


@dataclass(frozen=True, kw_only=True)
class LedgerLevel(Level):
    """How large and how crowded the pages of a level are, and what is asked."""

    canvas_px: tuple[int, int]  # width and height
    receipts: tuple[int, int]  # columns and rows
    lines: tuple[int, int]  # fewest and most lines of a receipt
    font_px: int
    kinds: tuple[str, ...]

    @property
    def seen_px(self) -> float:
        """How high a capital letter is on the page as the policy first sees it."""
        return CAP_SHARE * self.font_px * self._scale(*self.canvas_px)

    @property
    def zoomed_px(self) -> float:
        """How high it is in a zoom into one receipt."""
        width, height = (side / count for side, count in zip(self.canvas_px, self.receipts, strict=True))
        return CAP_SHARE * self.font_px * self._scale(width, height)

    def _scale(self, width: float, height: float) -> float:
        return min(1.0, math.sqrt(self.view_pixels / (width * height)))


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a receipt."""

    item: str
    group: str
    quantity: int
    cents: int  # price of one
    returned: bool

    @property
    def total(self) -> int:
        """Quantity times price, in cents."""
        return self.quantity * self.cents


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """One receipt."""

    place: tuple[int, int]  # column, row on the page
    lines: tuple[Line, ...]
    tax: int  # in thousandths

    @property
    def name(self) -> str:
        """(2, 0) is "C1"."""
        return f"{chr(ord('A') + self.place[0])}{self.place[1] + 1}"


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page of receipts."""

    level: LedgerLevel
    receipts: tuple[Receipt, ...]

    def box(self, receipt: Receipt) -> Box:
        """Where a receipt lies, in pixels."""
        width, height = (
            side / count for side, count in zip(self.level.canvas_px, self.level.receipts, strict=True)
        )
        column, row = receipt.place
        return column * width, row * height, (column + 1) * width, (row + 1) * height


def tax_on(cents: int, tax: int) -> int:
    """Tax of `tax` thousandths on an amount, half a cent rounded up. Both in whole numbers."""
    return (cents * tax + 500) // 1000


def price(line: Line) -> str:
    """The price of one as it is printed."""
    return f"{line.cents // 100}.{line.cents % 100:02d}"


def draw_page(rng: random.Random, level: LedgerLevel, split: str) -> Page:
    """A page whose first receipt's items belong to `split`, by drawing that receipt until they do."""
    columns, rows = level.receipts
    while True:
        taken: set[str] = set()
        first = _draw_receipt(rng, level, (0, 0), taken)
        if split_of_data([line.item for line in first.lines]) == split:
            break
    places = [(column, row) for row in range(rows) for column in range(columns)]
    others = tuple(_draw_receipt(rng, level, place, taken) for place in places[1:])
    return Page(level=level, receipts=(first, *others))


def _draw_receipt(rng: random.Random, level: LedgerLevel, place: tuple[int, int], taken: set[str]) -> Receipt:
    lines = []
    for number in range(between(rng, level.lines)):
        lines.append(
            Line(
                item=invent(rng, taken, syllables=2),
                # The first lines make sure that two groups have two lines each.
                group=GROUPS[number % 2] if number < 4 else pick(rng, GROUPS),
                quantity=between(rng, (1, 9)),
                cents=between(rng, (105, 9989)),
                returned=number >= 4 and rng.random() < 0.3,
            )
        )
    return Receipt(place=place, lines=tuple(shuffled(rng, lines)), tax=pick(rng, _TAXES))


_LEVELS = (
    LedgerLevel(
        name="nano",
        view_pixels=294 * 294,
        canvas_px=(1080, 960),
        receipts=(3, 4),
        lines=(4, 4),
        font_px=21,
        kinds=("group_total",),
    ),
    LedgerLevel(
        name="easy",
        view_pixels=360 * 360,
        canvas_px=(1380, 1380),
        receipts=(3, 5),
        lines=(4, 6),
        font_px=21,
        kinds=("group_total",),
    ),
    LedgerLevel(
        name="medium",
        view_pixels=560 * 560,
        canvas_px=(1920, 1920),
        receipts=(3, 4),
        lines=(7, 10),
        font_px=21,
        kinds=("group_total", "above"),
    ),
    LedgerLevel(
        name="hard",
        view_pixels=1024 * 1024,
        canvas_px=(3840, 3840),
        receipts=(4, 4),
        lines=(5, 7),
        font_px=21,
        kinds=("two_totals", "above"),
    ),
)


class LedgerSource(GeneratedSource[LedgerLevel]):
    """The ledgers of one level and split."""

    family = "ledgers"
    levels: ClassVar[Mapping[str, LedgerLevel]] = {level.name: level for level in _LEVELS}

    def draw(self, rng: random.Random, index: int) -> Item:
        from axpo_env.tasks.synthetic.ledger_questions import ask

        page = draw_page(rng, self.level, self.split)
        return ask(rng, page, pick(rng, self.level.kinds), split=self.split)
