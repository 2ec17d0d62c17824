"""Ledgers: a page of small-printed receipts, of which a few lines add up to the answer, exact to the cent.

Receipts lie in columns A, B, ... and rows 1, 2, ...; each prints items with group, quantity and price, marks
some as returned, and names its own tax. What a page holds is in `ledger_data`. This family is no benchmark's twin:
any environment offers it by `source="ledgers"`.

Knobs, from easy to hard: number of receipts and lines (40 to 120 lines on a page), how small they
are shown, and the kinds asked (one receipt filtered, two with a tax each, a threshold).
"""

import random
from collections.abc import Mapping
from typing import ClassVar

from axpo_env.tasks.synthetic.draws import pick
from axpo_env.tasks.synthetic.items import GeneratedSource, Item
from axpo_env.tasks.synthetic.ledger_data import LedgerLevel, draw_page
from axpo_env.tasks.synthetic.ledger_questions import ask

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
        return ask(rng, page, pick(rng, self.level.kinds), split=self.split)
