"""What a chart holds: the hidden data behind a picture, drawn from an item's own random generator.

Painting is left to `chart_drawing`, questions to `chart_questions`.
"""

import hashlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from axpo_env.tasks.synthetic.charts import ChartLevel

RGB = tuple[int, int, int]

# Six colours far apart from each other and from white, even when a bar is a few pixels wide.
PALETTE: dict[str, RGB] = {
    "red": (225, 40, 40),
    "green": (40, 170, 60),
    "blue": (40, 90, 230),
    "yellow": (245, 205, 40),
    "purple": (170, 50, 200),
    "black": (35, 35, 35),
}


@dataclass(frozen=True, kw_only=True)
class Chart:
    """The data of one chart. `values[series][category]` are integers in units of 10 ** -decimals."""

    layout: str  # "slots" or "axes"
    canvas_px: int  # side of the square canvas, in pixels
    label_px: int  # font size of a printed value, in pixels
    categories: tuple[str, ...]
    series: tuple[str, ...]
    colors: tuple[RGB, ...]  # per category in the slots layout, else per series
    values: tuple[tuple[int, ...], ...]
    decimals: int = 0
    title: str = ""
    marks: str = "bars"  # "bars" or "lines"

    def shown(self, series: int, category: int) -> str:
        """A value as it is printed."""
        return show_number(self.values[series][category], self.decimals)


def show_number(value: int, decimals: int) -> str:
    """An integer in units of 10 ** -decimals as text: (1234, 1) is "123.4"."""
    return f"{value / 10**decimals:.{decimals}f}"


def item_rng(key: str, split: str, index: int) -> random.Random:
    """The generator of one item; the same on every machine and Python version."""
    return random.Random(hashlib.sha256(f"{key}/{split}/{index}".encode()).digest())


def split_of(chart: Chart) -> str:
    """The one split that may hold a chart with these data: 8 of 10 train, 1 validation, 1 test."""
    data = repr((chart.categories, chart.series, chart.values)).encode()
    bucket = hashlib.sha256(data).digest()[0] % 10
    return {8: "validation", 9: "test"}.get(bucket, "train")


def draw_chart(rng: random.Random, level: "ChartLevel", split: str) -> Chart:
    """A chart of `level` whose data belong to `split`, by drawing until one does."""
    while True:
        chart = _draw_slots(rng, level)
        if split_of(chart) == split:
            return chart


def _between(rng: random.Random, bounds: tuple[int, int]) -> int:
    return bounds[0] + int(rng.random() * (bounds[1] - bounds[0] + 1))


def _draw_slots(rng: random.Random, level: "ChartLevel") -> Chart:
    """One bar a slot, all colours different; the chart's own maximum keeps height from telling the value."""
    names = list(PALETTE)
    rng.shuffle(names)
    names = names[: _between(rng, level.num_bars)]
    steps = rng.choice(level.value_maxima) // level.value_step
    values = tuple(level.value_step * (1 + int(rng.random() * steps)) for _ in names)
    return Chart(
        layout="slots",
        canvas_px=_between(rng, level.canvas_px),
        label_px=level.label_px,
        categories=tuple(names),
        series=("value",),
        colors=tuple(PALETTE[name] for name in names),
        values=(values,),
        decimals=level.decimals,
    )
