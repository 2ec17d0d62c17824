"""Questions about a page of receipts: which lines count, their sum to the cent, and how Python adds them up.

Each kind has three wordings, one a split.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from axpo_env.messages import format_action, format_answer, format_call
from axpo_env.tasks.base import Random
from axpo_env.tasks.synthetic.draws import pick, shuffled
from axpo_env.tasks.synthetic.items import Item, find_kind, to_1000, wording, zoom_call
from axpo_env.tasks.synthetic.ledger_data import GROUPS, Line, Page, Receipt, money, tax_on
from axpo_env.tasks.synthetic.ledger_drawing import paint_page
from axpo_env.tasks.synthetic.places import tell_places


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
        return money(cents)

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
            f"{receipt.name} "
            + ", ".join(f"{line.item} {line.quantity} x {money(line.cents)}" for line in lines)
            for receipt, lines in self.parts
        )


def _kept(receipt: Receipt, group: str) -> tuple[Line, ...]:
    """The lines of a group, without returned ones."""
    return tuple(line for line in receipt.lines if line.group == group and not line.returned)


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
    return Sum(
        text=_explain(page, text.format(name=receipt.name, group=group)),
        parts=((receipt, _kept(receipt, group)),),
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
    parts = tuple((receipt, _kept(receipt, group)) for receipt in receipts)
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
    text = text.format(name=receipt.name, limit=money(limit))
    return Sum(text=_explain(page, text), parts=((receipt, lines),), taxed=False)


def _explain(page: Page, text: str) -> str:
    return (
        f"{tell_places('Receipts', page.level.receipts)}; R marks a returned line; tax is rounded to the cent. "
        f"{text} Answer to the cent."
    )


KINDS: Mapping[str, Callable[[random.Random, Page, str], Sum]] = {
    "group_total": _group_total,
    "two_totals": _two_totals,
    "above": _above,
}


def ask(rng: random.Random, page: Page, kind: str, *, split: str) -> Item:
    """A question of `kind` about `page`. Raises ValueError for an unknown kind."""
    asked = find_kind(KINDS, kind)(rng, page, split)
    width, height = page.level.canvas_px
    zooms = [(receipt.name, to_1000(page.box(receipt), width, height)) for receipt, _ in asked.parts]

    def solve(rng: Random, aim_noise: Sequence[float] | float) -> list[str]:
        calls = [zoom_call(f"receipt {name}", box) for name, box in zooms]
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
