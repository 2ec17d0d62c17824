"""Ledgers: a page of small-printed receipts, of which a few lines add up to the answer, exact to the cent.

Receipts lie in columns A, B, ... and rows 1, 2, ...; each prints items with group, quantity and price, marks
some as returned, and names its own tax. What a page holds is in `ledger_data`. This family is no benchmark's twin:
any environment offers it by `source="ledgers"`.

Knobs, from easy to hard: number of receipts and lines (120 to 400 lines on a page), how small they
are shown, how dark stains are (`stain_depth`), and the kinds asked (one receipt filtered, two with a tax
each, a threshold).
"""

import random
from collections.abc import Mapping
from typing import ClassVar

from axpo_env.tasks.synthetic.draws import pick
from axpo_env.tasks.synthetic.items import GeneratedSource, Item
from axpo_env.tasks.synthetic.ledger_data import LedgerLevel, draw_page
from axpo_env.tasks.synthetic.ledger_questions import KINDS, ask

_LEVELS = (
    LedgerLevel(
        name="nano",
        view_pixels=276 * 276,
        canvas_px=(1800, 1260),
        receipts=(5, 6),
        lines=(4, 4),
        font_px=21,
        kinds=("group_total",),
    ),
    LedgerLevel(
        name="easy",
        view_pixels=330 * 330,
        canvas_px=(1950, 1656),
        receipts=(5, 6),
        lines=(4, 6),
        font_px=21,
        kinds=("group_total",),
    ),
    LedgerLevel(
        name="medium",
        view_pixels=400 * 400,
        canvas_px=(1950, 2000),
        receipts=(5, 5),
        lines=(7, 10),
        font_px=21,
        kinds=("group_total", "above"),
    ),
    LedgerLevel(
        name="hard",
        view_pixels=352 * 352,
        canvas_px=(3120, 2480),
        receipts=(8, 8),
        lines=(5, 7),
        font_px=21,
        kinds=("two_totals", "above"),
    ),
)


class LedgerSource(GeneratedSource[LedgerLevel]):
    """The ledgers of one level and split."""

    family = "ledgers"
    levels: ClassVar[Mapping[str, LedgerLevel]] = {level.name: level for level in _LEVELS}
    asks = KINDS

    def draw(self, rng: random.Random, index: int) -> Item:
        page = draw_page(rng, self.level, self.split)
        return ask(rng, page, pick(rng, self.level.kinds), split=self.split)
