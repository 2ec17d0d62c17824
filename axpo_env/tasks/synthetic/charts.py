"""Rendered charts whose values are printed too small to read without zooming in.

The twin of ChartQA. What a chart holds is drawn in `chart_data`, painted in `chart_drawing` and asked about in
`chart_questions`.

Knobs, from easy to hard: bars and series, how small a value is against the canvas, decimals, how alike the colours
of series are, kinds asked (one value, two, several with weights). `ChartLevel` explains each. Above nano, a value
has four digits or five, and several of its units share a row of pixels even on the full canvas: whoever measures
marks instead of reading their labels misses the last digit, and answers are graded to the last digit asked for.

Splits are disjoint: the data of a chart are hashed, and each hash belongs to one split. Levels above nano also ask
in words of each split's own, and keep some kinds of question and of marks for the test split. The nano levels ask in
the same words in all splits, and a guess at nano's typical value is right as often as the level says.
"""

import random
from dataclasses import replace

from axpo_env.tasks.synthetic.chart_data import ChartLevel, draw_chart
from axpo_env.tasks.synthetic.chart_questions import KINDS, ask
from axpo_env.tasks.synthetic.draws import pick
from axpo_env.tasks.synthetic.items import GeneratedSource, Item, find_kind

_NANO = ChartLevel(
    name="nano",
    layout="slots",
    canvas_px=(384, 384),
    num_bars=(6, 6),
    label_px=24,
    value_step=10,
    value_maxima=(90,),
    distinct=True,
    typical=(50, 0.35),
    headroom=(1.0, 1.5),
    questions=("lookup_color",),
    view_pixels=48 * 48,
)
_NANO_PLACES = replace(
    _NANO, name="nano-places", questions=("leftmost_color",)
)  # where things are, without a tool
_EASY = ChartLevel(
    name="easy",
    layout="axes",
    canvas_px=(1280, 1280),
    num_bars=(8, 8),
    num_series=(1, 2),
    name_share=0.047,
    value_step=1,
    value_maxima=(5000, 7000, 9999),
    value_floor=0.1,
    marks=("bars",),
    test_marks=("points",),
    questions=("lookup", "sum", "difference"),
    test_questions=("ratio",),
    view_pixels=256 * 256,
)
_MEDIUM = ChartLevel(
    name="medium",
    layout="axes",
    canvas_px=(2400, 2600),
    num_bars=(10, 14),
    num_series=(2, 3),
    name_share=0.03,
    value_step=1,
    value_maxima=(8000, 9999),
    value_floor=0.1,
    decimals=1,
    marks=("bars", "lines"),
    test_marks=("points",),
    questions=("difference", "ratio", "percent_change", "largest_gap"),
    test_questions=("weighted_mean",),
    uses_python=True,
    view_pixels=512 * 512,
)
_HARD = ChartLevel(
    name="hard",
    layout="axes",
    canvas_px=(3600, 4000),
    num_bars=(20, 28),
    num_series=(3, 4),
    name_share=0.014,
    value_step=1,
    value_maxima=(30000, 60000, 99999),
    value_floor=0.1,
    decimals=2,
    near_colors=True,
    marks=("lines",),
    test_marks=("points",),
    questions=("ratio", "percent_change", "weighted_mean", "largest_gap"),
    test_questions=("slope",),
    uses_python=True,
    view_pixels=1024 * 1024,
)
LEVELS = {level.name: level for level in (_NANO, _NANO_PLACES, _EASY, _MEDIUM, _HARD)}


class ChartSource(GeneratedSource[ChartLevel]):
    """The charts of one level and split."""

    family = "charts"
    levels = LEVELS

    def __init__(self, *, split: str, difficulty: str | ChartLevel) -> None:
        super().__init__(split=split, difficulty=difficulty)
        _check_questions(self.level)
        self.kinds = self.level.questions + (self.level.test_questions if split == "test" else ())

    def draw(self, rng: random.Random, index: int) -> Item:
        chart = draw_chart(rng, self.level, self.split)
        return ask(rng, chart, pick(rng, self.kinds), level=self.level, split=self.split)


def _check_questions(level: ChartLevel) -> None:
    """Raises ValueError for a kind of question that there is not, or that the level's charts hold no answer to."""
    asked = (*level.questions, *level.test_questions)
    for kind in asked:
        find_kind(KINDS, kind)
    if level.num_series[0] < 2 and "largest_gap" in asked:
        raise ValueError("largest_gap compares two series, so num_series must be at least 2")
