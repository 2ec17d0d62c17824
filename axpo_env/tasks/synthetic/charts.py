"""Rendered charts whose values are printed too small to read without zooming in.

A `ChartLevel` holds the knobs; `ChartSource` makes item `index` of a split from nothing but (level, split,
index). What a chart holds is drawn in `chart_data`, painted in `chart_drawing` and asked about in
`chart_questions`.

Splits are disjoint: the data of a chart are hashed, and each hash belongs to one split. Levels above nano
also keep some question templates and layouts for the test split.
"""

from dataclasses import dataclass, fields

from axpo_env.names import unknown_name
from axpo_env.tasks.base import Task, check_index, check_split
from axpo_env.tasks.synthetic.chart_data import draw_chart, item_rng
from axpo_env.tasks.synthetic.chart_drawing import paint
from axpo_env.tasks.synthetic.chart_questions import KINDS, ask
from axpo_env.views import from_pil

NUM_TASKS = 2**31 - 1  # per split: as good as unlimited


@dataclass(frozen=True, kw_only=True)
class ChartLevel:
    """How large, how crowded and how hard to ask about the charts of a level are."""

    name: str
    layout: str  # "slots": one coloured bar a slot, its value below; "axes": bars or lines between axes
    canvas_px: tuple[int, int]  # smallest and largest side of the square canvas, in pixels
    num_bars: tuple[int, int]  # fewest and most categories along the x axis
    num_series: tuple[int, int]  # fewest and most values per category
    label_px: int  # font size of a printed value, in pixels (a digit is about 0.7 of it high)
    value_step: int  # values are multiples of this
    value_maxima: tuple[int, ...]  # one is chosen per chart; values lie in value_step .. maximum
    questions: tuple[str, ...]  # kinds asked in every split
    test_questions: tuple[str, ...] = ()  # kinds asked in the test split only
    decimals: int = 0  # a value v is printed as v / 10 ** decimals
    near_colors: bool = False  # series in shades of one hue
    view_pixels: int  # the policy's max_pixels for which the level is meant: more, and labels turn legible

    def __post_init__(self) -> None:
        for kind in (*self.questions, *self.test_questions):
            if kind not in KINDS:
                raise ValueError(unknown_name("question kind", kind, KINDS))


LEVELS = {
    level.name: level
    for level in (
        ChartLevel(
            name="nano",
            layout="slots",
            canvas_px=(384, 384),
            num_bars=(6, 6),
            num_series=(1, 1),
            label_px=20,
            value_step=10,
            value_maxima=(30, 60, 90),
            questions=("lookup_color",),
            view_pixels=48 * 48,
        ),
    )
}


def get_level(difficulty: str | ChartLevel) -> ChartLevel:
    """A level by name, or the one given. Raises ValueError for an unknown name."""
    if isinstance(difficulty, ChartLevel):
        return difficulty
    if difficulty not in LEVELS:
        raise ValueError(unknown_name("difficulty", difficulty, LEVELS))
    return LEVELS[difficulty]


class ChartSource:
    """The charts of one level and split. Stateless, so any number of threads may share it."""

    def __init__(self, *, split: str, difficulty: str | ChartLevel) -> None:
        self.split = check_split(split)
        self.level = get_level(difficulty)
        known = LEVELS.get(self.level.name) == self.level
        # Knobs of one's own make other charts, so their ids must not be taken for the named level's.
        knobs = "" if known else repr(tuple(getattr(self.level, item.name) for item in fields(self.level)))
        self.key = f"charts/{self.level.name}{knobs}"

    @property
    def num_tasks(self) -> int:
        return NUM_TASKS

    def get(self, index: int) -> Task:
        index = check_index(index, self.num_tasks, self.key)
        rng = item_rng(self.key, self.split, index)
        chart = draw_chart(rng, self.level, self.split)
        picture, label_boxes = paint(chart)
        kinds = self.level.questions + (self.level.test_questions if self.split == "test" else ())
        question = ask(rng, chart, kinds[int(rng.random() * len(kinds))], label_boxes)
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
            details={"level": self.level.name, "kind": question.kind, "chart": chart},
            demonstrator=question.demonstrate,
        )
