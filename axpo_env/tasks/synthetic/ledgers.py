"""Ledgers: a page of small-printed receipts, of which a few lines add up to the answer, exact to the cent.

Receipts lie in columns A, B, ... and rows 1, 2, ...; each prints items with group, quantity and price, marks
some as returned, and names its own tax. Painting is in `ledger_drawing`. This family is no benchmark's twin:
any environment offers it by `source="ledgers"`.

Knobs, from easy to hard: number of receipts and lines (40 to 120 lines on a page), how small they
are shown, and the kinds asked (one receipt filtered, two with a tax each, a threshold).
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from axpo_env.messages import format_action, format_answer, format_call
from axpo_env.tasks.base import Random
from axpo_env.tasks.synthetic.draws import between, invent, pick, shuffled, split_of_data
from axpo_env.tasks.synthetic.items import Box, GeneratedSource, Item, Level, to_1000, wording

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


@dataclass(frozen=True, kw_only=True)
class Sum:
    """What a kind asks: lines of receipts to add up, each with or without its receipt's tax."""

    text: str
    parts: tuple[tuple[Receipt, tuple[Line, ...]], ...]
    taxed: bool

    @property
    def answer(self) -> str:
        cents = 0
        for receipt, lines in self.parts:
            net = sum(line.total for line in lines)
            cents += net + (tax_on(net, receipt.tax) if self.taxed else 0)
        return f"{cents // 100}.{cents % 100:02d}"

    @property
    def code(self) -> str:
        """Python that computes the answer from what is printed."""
        shown = []
        for receipt, lines in self.parts:
            pairs = ", ".join(f"({line.quantity}, {line.cents})" for line in lines)
            shown.append(f"({receipt.tax if self.taxed else 0}, [{pairs}])")
        return (
            f"cents = 0\nfor tax, lines in [{', '.join(shown)}]:\n    net = sum(n * price for n, price in lines)\n"
            "    cents += net + (net * tax + 500) // 1000\nprint(f'{cents // 100}.{cents % 100:02d}')"
        )

    @property
    def read(self) -> str:
        return "; ".join(
            f"{receipt.name} " + ", ".join(f"{line.item} {line.quantity} x {price(line)}" for line in lines)
            for receipt, lines in self.parts
        )


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


def _group_total(rng: random.Random, page: Page, split: str) -> Sum:
    receipt = pick(rng, page.receipts)
    group = pick(rng, GROUPS[:2])
    text = wording(
        split,
        (
            "On receipt {name}, what do the {group} lines come to, without returned ones and with the tax "
            "printed on the receipt?",
            "Add up the {group} of receipt {name} (returned lines do not count), then add the receipt's tax.",
            "What was paid for {group} on receipt {name}, its tax included and returned lines left out?",
        ),
    )
    lines = tuple(line for line in receipt.lines if line.group == group and not line.returned)
    return Sum(
        text=_explain(page, text.format(name=receipt.name, group=group)),
        parts=((receipt, lines),),
        taxed=True,
    )


def _two_totals(rng: random.Random, page: Page, split: str) -> Sum:
    receipts = sorted(shuffled(rng, page.receipts)[:2], key=lambda receipt: receipt.place)
    group = pick(rng, GROUPS[:2])
    text = wording(
        split,
        (
            "What do the {group} lines of receipts {a} and {b} come to together, without returned ones, each "
            "receipt with its own tax?",
            "Add up the {group} of receipts {a} and {b}: returned lines do not count, and each receipt's tax is "
            "added to its part.",
            "Receipts {a} and {b} both hold {group}. What was paid for it in all, returned lines left out, the "
            "tax of each included?",
        ),
    )
    parts = tuple(
        (receipt, tuple(line for line in receipt.lines if line.group == group and not line.returned))
        for receipt in receipts
    )
    names = {"a": receipts[0].name, "b": receipts[1].name}
    return Sum(text=_explain(page, text.format(group=group, **names)), parts=parts, taxed=True)


def _above(rng: random.Random, page: Page, split: str) -> Sum:
    receipt = pick(rng, page.receipts)
    totals = sorted(line.total for line in receipt.lines if not line.returned)
    # A round amount that about half of the lines surpass, the middle one among them.
    limit = (totals[len(totals) // 2] - 1) // 100 * 100
    lines = tuple(line for line in receipt.lines if line.total > limit and not line.returned)
    text = wording(
        split,
        (
            "On receipt {name}, what is the sum of all lines that come to more than {limit} each (quantity times "
            "price), without returned ones and without tax?",
            "Add up those lines of receipt {name} whose quantity times price is above {limit}; leave out returned "
            "lines and tax.",
            "Receipt {name}: only lines of more than {limit} (quantity times price) count, returned ones never. "
            "What is their sum before tax?",
        ),
    )
    text = text.format(name=receipt.name, limit=f"{limit // 100}.00")
    return Sum(text=_explain(page, text), parts=((receipt, lines),), taxed=False)


def _explain(page: Page, text: str) -> str:
    columns, rows = page.level.receipts
    return (
        f"Receipts are named by column (A to {chr(ord('A') + columns - 1)} from the left) and row (1 to {rows} "
        f"from the top); R marks a returned line; tax is rounded to the cent. {text} Answer to the cent."
    )


KINDS: Mapping[str, Callable[[random.Random, Page, str], Sum]] = {
    "group_total": _group_total,
    "two_totals": _two_totals,
    "above": _above,
}

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
        page = draw_page(rng, self.level, self.split)
        kind = pick(rng, self.level.kinds)
        return _item(page, kind, KINDS[kind](rng, page, self.split))


def _item(page: Page, kind: str, asked: Sum) -> Item:
    from axpo_env.tasks.synthetic.ledger_drawing import paint_page

    width, height = page.level.canvas_px
    zooms = [(receipt.name, to_1000(page.box(receipt), width, height)) for receipt, _ in asked.parts]

    def solve(rng: Random, aim_noise: Sequence[float] | float) -> list[str]:
        calls = [
            format_call("image_zoom_in", {"label": f"receipt {name}", "bbox_2d": list(box)})
            for name, box in zooms
        ]
        return [
            format_action("zoom " + " ".join(name for name, _ in zooms), *calls),
            format_action(asked.read, format_call("python", {"code": asked.code})),
            format_action(asked.answer, format_answer(asked.answer)),
        ]

    return Item(
        kind=kind,
        question=asked.text,
        answer=asked.answer,
        guesses=tuple(f"{amount}.00" for amount in range(20, 500, 20)),
        needs_tools=("image_zoom_in", "python"),
        gold_boxes=tuple(box for _, box in zooms),
        paint=lambda: (paint_page(page),),
        solve=solve,
        details={"page": page, "parts": asked.parts},
    )
