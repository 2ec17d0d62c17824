"""What a chart holds: the hidden data behind a picture, drawn from an item's own random generator.

Painting is left to `chart_drawing`, questions to `chart_questions`.
"""

import math
import random
from dataclasses import dataclass

from axpo_env.names import unknown_name
from axpo_env.tasks.synthetic.draws import CONSONANTS, VOWELS, between, pick, shuffled, split_of_data
from axpo_env.tasks.synthetic.items import AnyLevel
from axpo_env.tasks.synthetic.painting import RGB

# Six colours far apart from each other and from white, even when a bar is a few pixels wide.
PALETTE: dict[str, RGB] = {
    "red": (225, 40, 40),
    "green": (40, 170, 60),
    "blue": (40, 90, 230),
    "yellow": (245, 205, 40),
    "purple": (170, 50, 200),
    "black": (35, 35, 35),
}
MARKS = ("bars", "lines", "points")
_TITLES = ("Output", "Revenue", "Visitors", "Rainfall", "Exports", "Energy use")
_SERIES = ("Nova", "Orin", "Pelt", "Quay", "Rusk", "Sorn")


@dataclass(frozen=True, kw_only=True)
class ChartLevel(AnyLevel):
    """How large, how crowded and how hard to ask about the charts of a level are."""

    name: str
    layout: str  # "slots": one coloured bar a slot, its value below; "axes": marks between labelled axes
    canvas_px: tuple[int, int]  # smallest and largest side of the square canvas, in pixels
    num_bars: tuple[int, int]  # fewest and most categories along the x axis
    num_series: tuple[int, int] = (1, 1)  # fewest and most values per category
    label_px: int = 20  # font size of a printed value, in pixels (a digit is about 0.7 of it high)
    name_share: float = 0.04  # font size of names and title, as a share of the canvas side
    value_step: int  # values are multiples of this
    value_maxima: tuple[int, ...]  # one is chosen per chart: its largest possible value
    distinct: bool = False  # no two bars of a series show the same value
    # A value that every series shows, and how often a lookup asks for it.
    typical: tuple[int, float] | None = None
    # Slots: smallest and largest axis top, as a multiple of the highest value.
    headroom: tuple[float, float] = (1.0, 1.0)
    value_floor: float = 0.0  # no value lies below this share of the chart's maximum (nor below value_step)
    decimals: int = 0  # a value v is printed as v / 10 ** decimals
    near_colors: bool = False  # series in shades of one hue
    marks: tuple[str, ...] = ("bars",)  # how values are drawn, in every split: bars, lines, points
    test_marks: tuple[str, ...] = ()  # ways that only the test split draws them in
    questions: tuple[str, ...]  # kinds asked in every split
    test_questions: tuple[str, ...] = ()  # kinds asked in the test split only
    uses_python: bool = False  # demonstrations compute with the python tool
    view_pixels: int
    from_zero = ("decimals",)
    ranges = ("canvas_px", "num_bars", "num_series")

    def __post_init__(self) -> None:
        super().__post_init__()
        for mark in (*self.marks, *self.test_marks):
            if mark not in MARKS:
                raise ValueError(unknown_name("mark", mark, MARKS))
        if self.layout not in ("slots", "axes"):
            raise ValueError(unknown_name("layout", self.layout, ("slots", "axes")))
        if self.typical is not None and not self.distinct:
            raise ValueError("a typical value stands once in a chart: it needs distinct=True")
        fewest = min(self.value_maxima) // self.value_step
        if self.distinct and (self.value_floor or fewest < self.num_bars[1]):
            raise ValueError(f"{self.num_bars[1]} bars cannot all differ among {fewest} values")
        colored = self.num_bars if self.layout == "slots" else self.num_series
        if colored[1] > len(PALETTE):
            raise ValueError(f"at most {len(PALETTE)} colours can be told apart, not {colored[1]}")


@dataclass(frozen=True, kw_only=True)
class Chart:
    """The data of one chart. `values[series][category]` are integers in units of 10 ** -decimals."""

    layout: str  # "slots" or "axes"
    marks: str  # "bars", "lines" or "points"
    canvas_px: int  # side of the square canvas, in pixels
    label_px: int  # font size of a printed value, in pixels
    name_px: int  # font size of names and title, in pixels
    title: str
    categories: tuple[str, ...]
    series: tuple[str, ...]
    colors: tuple[RGB, ...]  # per category in the slots layout, else per series
    values: tuple[tuple[int, ...], ...]
    decimals: int
    typical: tuple[int, float] | None = None  # as in the level: a guesser's best bet
    axis_top: float = 0.0  # slots: the value that a bar as high as the plot would have

    def shown(self, series: int, category: int) -> str:
        """A value as it is printed: 1234 with one decimal is "123.4"."""
        return f"{self.values[series][category] / 10**self.decimals:.{self.decimals}f}"


def split_of(chart: Chart) -> str:
    """The one split that may hold a chart with these data: 8 of 10 train, 1 validation, 1 test."""
    return split_of_data((chart.categories, chart.series, chart.values))


def draw_chart(rng: random.Random, level: ChartLevel, split: str) -> Chart:
    """A chart of `level` whose data belong to `split`, by drawing until one does."""
    while True:
        chart = _draw_slots(rng, level) if level.layout == "slots" else _draw_axes(rng, level, split)
        if split_of(chart) == split:
            return chart


def _draw_slots(rng: random.Random, level: ChartLevel) -> Chart:
    """One bar a slot, all colours different; an axis whose top is not shown keeps height from telling the value."""
    names = shuffled(rng, list(PALETTE))[: between(rng, level.num_bars)]
    canvas_px = between(rng, level.canvas_px)
    values = _draw_values(rng, level, 1, len(names))
    low, high = level.headroom
    return Chart(
        layout="slots",
        marks="bars",
        canvas_px=canvas_px,
        label_px=level.label_px,
        name_px=round(level.name_share * canvas_px),
        title="",
        categories=tuple(names),
        series=("value",),
        colors=tuple(PALETTE[name] for name in names),
        values=values,
        decimals=level.decimals,
        typical=level.typical,
        axis_top=max(values[0]) * (low + (high - low) * rng.random()),
    )


def _draw_axes(rng: random.Random, level: ChartLevel, split: str) -> Chart:
    num_bars, num_series = between(rng, level.num_bars), between(rng, level.num_series)
    canvas_px = between(rng, level.canvas_px)
    names = [first + vowel for first in CONSONANTS for vowel in VOWELS]
    title = f"{pick(rng, _TITLES)} by {pick(rng, ('region', 'month', 'model', 'firm'))}"
    return Chart(
        layout="axes",
        marks=pick(rng, level.marks + (level.test_marks if split == "test" else ())),
        canvas_px=canvas_px,
        label_px=level.label_px,
        name_px=round(level.name_share * canvas_px),
        title=title,
        categories=tuple(name.capitalize() for name in shuffled(rng, names)[:num_bars]),
        series=tuple(shuffled(rng, list(_SERIES))[:num_series]),
        colors=_series_colors(rng, num_series, near=level.near_colors),
        values=_draw_values(rng, level, num_series, num_bars),
        decimals=level.decimals,
    )


def draw_range(rng: random.Random, level: ChartLevel) -> tuple[int, int]:
    """The smallest and the largest value that a chart may show, in value steps."""
    maximum = pick(rng, level.value_maxima)
    return max(1, math.ceil(level.value_floor * maximum / level.value_step)), maximum // level.value_step


def _draw_values(
    rng: random.Random, level: ChartLevel, num_series: int, num_bars: int
) -> tuple[tuple[int, ...], ...]:
    steps = draw_range(rng, level)
    if level.distinct:
        always = [] if level.typical is None else [level.typical[0]]
        others = [level.value_step * step for step in range(steps[0], steps[1] + 1)]
        others = [value for value in others if value not in always]
        return tuple(
            tuple(shuffled(rng, always + shuffled(rng, others)[: num_bars - len(always)]))
            for _ in range(num_series)
        )
    return tuple(
        tuple(level.value_step * between(rng, steps) for _ in range(num_bars)) for _ in range(num_series)
    )


def _series_colors(rng: random.Random, num_series: int, *, near: bool) -> tuple[RGB, ...]:
    base = shuffled(rng, list(PALETTE.values()))
    if not near:
        return tuple(base[:num_series])
    red, green, blue = base[0]
    shades = [45 * step for step in range(num_series)]
    return tuple((min(red + up, 215), min(green + up, 215), min(blue + up, 215)) for up in shades)
