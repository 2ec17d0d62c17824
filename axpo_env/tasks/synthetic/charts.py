"""Rendered charts whose values are printed too small to read without zooming in.

The twin of ChartQA. `ChartSource` makes item `index` of a split from nothing but (level, split, index). What a chart
holds is drawn in `chart_data`, painted in `chart_drawing` and asked about in `chart_questions`.

Knobs, from easy to hard: bars and series, how small a value is against the canvas, decimals, how alike the colours
of series are, kinds asked (one value, two, several with weights). `ChartLevel` explains each.

Splits are disjoint: the data of a chart are hashed, and each hash belongs to one split. Levels above nano
also keep some kinds of question and of marks for the test split.
"""

from dataclasses import replace

from axpo_env.tasks.base import Task, check_index
from axpo_env.tasks.synthetic.chart_data import ChartLevel, draw_chart
from axpo_env.tasks.synthetic.chart_drawing import paint
from axpo_env.tasks.synthetic.chart_questions import KINDS, ask
from axpo_env.tasks.synthetic.draws import item_rng, pick
from axpo_env.tasks.synthetic.items import LevelledSource, find_kind
from axpo_env.views import from_pil

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
    canvas_px=(768, 768),
    num_bars=(8, 8),
    num_series=(1, 2),
    name_share=0.047,
    value_step=1,
    value_maxima=(60, 90, 150),
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
    canvas_px=(1440, 1560),
    num_bars=(10, 14),
    num_series=(2, 3),
    name_share=0.03,
    value_step=1,
    value_maxima=(300, 600, 999),
    value_floor=0.1,
    decimals=1,
    marks=("bars", "lines"),
    test_marks=("points",),
    questions=("difference", "ratio", "percent_change", "argmax_gap"),
    test_questions=("weighted_mean",),
    uses_python=True,
    view_pixels=512 * 512,
)
_HARD = ChartLevel(
    name="hard",
    layout="axes",
    canvas_px=(2400, 4000),
    num_bars=(20, 28),
    num_series=(3, 4),
    name_share=0.014,
    value_step=1,
    value_maxima=(3000, 6000, 9999),
    value_floor=0.1,
    decimals=1,
    near_colors=True,
    marks=("lines",),
    test_marks=("points",),
    questions=("ratio", "percent_change", "weighted_mean", "argmax_gap"),
    test_questions=("slope",),
    uses_python=True,
    view_pixels=1024 * 1024,
)
LEVELS = {level.name: level for level in (_NANO, _NANO_PLACES, _EASY, _MEDIUM, _HARD)}


class ChartSource(LevelledSource[ChartLevel]):
    """The charts of one level and split, painted whenever they are asked for."""

    family = "charts"
    levels = LEVELS

    def __init__(self, *, split: str, difficulty: str | ChartLevel) -> None:
        super().__init__(split=split, difficulty=difficulty)
        _check_questions(self.level)
        self.kinds = self.level.questions + (self.level.test_questions if split == "test" else ())

    def get(self, index: int) -> Task:
        index = check_index(index, self.num_tasks, self.key)
        rng = item_rng(self.key, self.split, index)
        chart = draw_chart(rng, self.level, self.split)
        picture, label_boxes = paint(chart)
        kind = pick(rng, self.kinds)
        question = ask(rng, chart, kind, label_boxes, uses_python=self.level.uses_python)
        return Task(
            id=f"{self.key}/{self.split}/{index}",
            index=index,
            split=self.split,
            source="synthetic",
            question=question.text,
            images=(from_pil(picture),),
            references=(question.answer, *question.aliases),
            needs_tools=question.needs_tools,
            gold_boxes=question.gold_boxes,
            details={"level": self.level.name, "kind": kind, "chart": chart},
            demonstrator=question.demonstrate,
        )


def _check_questions(level: ChartLevel) -> None:
    """Raises ValueError for a kind of question that there is not, or that the level's charts hold no answer to."""
    asked = (*level.questions, *level.test_questions)
    for kind in asked:
        find_kind(KINDS, kind)
    if level.num_series[0] < 2 and "argmax_gap" in asked:
        raise ValueError("argmax_gap compares two series, so num_series must be at least 2")
