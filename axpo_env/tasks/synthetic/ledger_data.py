"""A page of receipts: its level, its hidden data, drawn from an item's own random generator, and where they lie.

Painting is left to `ledger_drawing`, questions to `ledger_questions`.
"""

import random
from dataclasses import dataclass

from axpo_env.tasks.synthetic.draws import between, invent, pick, shuffled, split_of_data
from axpo_env.tasks.synthetic.items import Box, Level
from axpo_env.tasks.synthetic.places import Place, place_box, place_name, place_size

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
    stain_depth: float = 0.5
    ranges = ("lines",)

    @property
    def seen_px(self) -> float:
        """How high a capital letter is on the page as the policy first sees it."""
        return self.print_px(self.font_px, *self.canvas_px)

    @property
    def zoomed_px(self) -> float:
        """How high it is in a zoom into one receipt."""
        return self.print_px(self.font_px, *place_size(self.canvas_px, self.receipts))


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

    place: Place  # on the page
    lines: tuple[Line, ...]
    tax: int  # in thousandths

    @property
    def name(self) -> str:
        return place_name(self.place)


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page of receipts."""

    level: LedgerLevel
    receipts: tuple[Receipt, ...]

    def box(self, receipt: Receipt) -> Box:
        """Where a receipt lies, in pixels."""
        return place_box(receipt.place, place_size(self.level.canvas_px, self.level.receipts))


def tax_on(cents: int, tax: int) -> int:
    """Tax of `tax` thousandths on an amount, half a cent rounded up. Both in whole numbers."""
    return (cents * tax + 500) // 1000


def money(cents: int) -> str:
    """An amount as it is printed: 1205 is "12.05"."""
    return f"{cents // 100}.{cents % 100:02d}"


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


def _draw_receipt(rng: random.Random, level: LedgerLevel, place: Place, taken: set[str]) -> Receipt:
    lines = []
    for number in range(between(rng, level.lines)):
        lines.append(
            Line(
                item=invent(rng, taken),
                # The first lines make sure that two groups have two lines each.
                group=GROUPS[number % 2] if number < 4 else pick(rng, GROUPS),
                quantity=between(rng, (1, 9)),
                cents=between(rng, (105, 9989)),
                returned=number >= 4 and rng.random() < 0.3,
            )
        )
    return Receipt(place=place, lines=tuple(shuffled(rng, lines)), tax=pick(rng, _TAXES))
