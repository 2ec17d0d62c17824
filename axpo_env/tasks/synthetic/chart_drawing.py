"""Paints a `Chart` with PIL and says where each value stands, in pixels.

Deterministic: the same chart gives the same pixels. What to read off the picture is left to
`chart_questions`.
"""

import math
from collections.abc import Mapping

from PIL import Image, ImageDraw

from axpo_env.tasks.synthetic.chart_data import Chart
from axpo_env.tasks.synthetic.items import Box
from axpo_env.tasks.synthetic.painting import INK, font

LabelBoxes = Mapping[tuple[int, int], Box]  # by (series, category)

_GRID = (220, 220, 220)
_NUM_TICKS = 5


def paint(chart: Chart) -> Image.Image:
    """The picture."""
    picture = Image.new("RGB", (chart.canvas_px, chart.canvas_px), "white")
    draw = ImageDraw.Draw(picture)
    if chart.layout == "slots":
        _paint_slots(draw, chart)
    else:
        _paint_axes(draw, chart)
    return picture


def label_boxes(chart: Chart) -> LabelBoxes:
    """Per value the box that a reader should zoom into, in pixels. Paints nothing."""
    if chart.layout == "slots":
        slot = chart.canvas_px / len(chart.categories)
        top, bottom = chart.canvas_px - slot, float(chart.canvas_px)
        return {
            (0, index): (index * slot, top, index * slot + slot, bottom)
            for index in range(len(chart.categories))
        }
    return {
        cell: _label_box(chart, cell, *point) for cell, point in _label_points(chart, Axes(chart)).items()
    }


def _paint_slots(draw: ImageDraw.ImageDraw, chart: Chart) -> None:
    """Equal slots: above a bar two thirds as wide, below the slot's square with the value in it."""
    size = chart.canvas_px
    slot = size / len(chart.categories)
    floor = size - slot
    for index, value in enumerate(chart.values[0]):
        left = index * slot
        top = floor - 0.95 * floor * value / chart.axis_top
        bar = (round(left + slot / 6), round(top), round(left + slot * 5 / 6) - 1, round(floor) - 1)
        draw.rectangle(bar, fill=chart.colors[index])
        center = (left + slot / 2, floor + slot / 2)
        draw.text(center, chart.shown(0, index), fill=INK, font=font(chart.label_px), anchor="mm")


class Axes:
    """The plot area of an axes chart, and where values lie in it."""

    def __init__(self, chart: Chart) -> None:
        size, row = chart.canvas_px, 1.5 * chart.name_px
        self.left, self.right = 4.0 * chart.label_px, size - 1.0 * chart.label_px
        self.top = row * (1 if len(chart.series) == 1 else 2) + 2.0 * chart.label_px * len(chart.series)
        self.bottom = size - row
        highest = max(max(values) for values in chart.values)
        self.tick = _nice_step(highest / _NUM_TICKS)
        self.limit = self.tick * math.ceil(highest / self.tick)
        self.slot = (self.right - self.left) / len(chart.categories)
        self.bar = 0.8 * self.slot / len(chart.series)  # width of a bar
        self.step = self.bar if chart.marks == "bars" else 0.0  # between the marks of a category
        self.middle = (len(chart.series) - 1) / 2

    def y(self, value: float) -> float:
        return self.bottom - (self.bottom - self.top) * value / self.limit

    def center(self, category: int) -> float:
        return self.left + (category + 0.5) * self.slot

    def x(self, series: int, category: int) -> float:
        """The middle of a mark: bars of a category stand side by side, other marks above one another."""
        return self.center(category) + (series - self.middle) * self.step


def _nice_step(least: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, ... that is at least `least`."""
    power = 10 ** max(0, math.floor(math.log10(max(least, 1))))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least)


def _paint_axes(draw: ImageDraw.ImageDraw, chart: Chart) -> None:
    axes = Axes(chart)
    _paint_frame(draw, chart, axes)
    _paint_marks(draw, chart, axes)
    for cell, (x, y) in _label_points(chart, axes).items():
        _paint_value(draw, chart, cell, x, y)


def _label_points(chart: Chart, axes: Axes) -> dict[tuple[int, int], tuple[float, float]]:
    """The middle of each printed value: above its mark, clear of the others of its category."""
    points = {}
    for category in range(len(chart.categories)):
        # From the lowest label up, each kept clear of the one before.
        ceiling = math.inf
        for series in sorted(range(len(chart.series)), key=lambda series: chart.values[series][category]):
            y = min(axes.y(chart.values[series][category]) - chart.label_px, ceiling)
            ceiling = y - 1.3 * chart.label_px
            points[series, category] = (axes.x(series, category), y)
    return points


def _label_box(chart: Chart, cell: tuple[int, int], x: float, y: float) -> Box:
    """What to zoom into: a value centred on (x, y), and a bit around it."""
    half_width, margin = font(chart.label_px).getlength(chart.shown(*cell)) / 2, chart.label_px
    return x - half_width - margin, y - 2 * margin, x + half_width + margin, y + 2 * margin


def _paint_value(draw: ImageDraw.ImageDraw, chart: Chart, cell: tuple[int, int], x: float, y: float) -> None:
    """A value centred on (x, y) on white."""
    face, text = font(chart.label_px), chart.shown(*cell)
    half_width, half_height = face.getlength(text) / 2, 0.55 * chart.label_px
    draw.rectangle((x - half_width - 2, y - half_height, x + half_width + 2, y + half_height), fill="white")
    draw.text((x, y), text, fill=INK, font=face, anchor="mm")
    if chart.marks != "bars" and len(chart.series) > 1:
        # A label may cover another series' mark, so each says by a swatch whose it is.
        right, side = x - half_width - 3, 0.4 * chart.label_px
        draw.rectangle((right - side, y - side / 2, right, y + side / 2), fill=chart.colors[cell[0]])


def _paint_frame(draw: ImageDraw.ImageDraw, chart: Chart, axes: Axes) -> None:
    """Title, legend, grid, tick labels, category names."""
    name, small = font(chart.name_px), font(chart.label_px)
    middle = chart.canvas_px / 2
    draw.text((middle, 0.75 * chart.name_px), chart.title, fill=INK, font=name, anchor="mm")
    if len(chart.series) > 1:
        y = 2.25 * chart.name_px
        for series, label in enumerate(chart.series):
            x = axes.left + (axes.right - axes.left) * series / len(chart.series)
            half = chart.name_px / 3
            draw.rectangle((x, y - half, x + 2 * half, y + half), fill=chart.colors[series])
            draw.text((x + 3 * half, y), label, fill=INK, font=name, anchor="lm")
    value = 0
    while value <= axes.limit:
        y = axes.y(value)
        draw.line((axes.left, y, axes.right, y), fill=_GRID if value else INK, width=2)
        text = f"{value / 10**chart.decimals:g}"
        draw.text((axes.left - 0.4 * chart.label_px, y), text, fill=INK, font=small, anchor="rm")
        value += axes.tick
    y = axes.bottom + 0.75 * chart.name_px
    for category, label in enumerate(chart.categories):
        draw.text((axes.center(category), y), label, fill=INK, font=name, anchor="mm")


def _paint_marks(draw: ImageDraw.ImageDraw, chart: Chart, axes: Axes) -> None:
    """Bars, lines or points."""
    radius = 0.3 * chart.label_px
    for series, values in enumerate(chart.values):
        color = chart.colors[series]
        path = [(axes.x(series, index), axes.y(value)) for index, value in enumerate(values)]
        if chart.marks == "bars":
            for x, y in path:
                draw.rectangle((x - axes.bar / 2 + 1, y, x + axes.bar / 2 - 1, axes.bottom - 1), fill=color)
            continue
        if chart.marks == "lines":
            draw.line(path, fill=color, width=3)
        for x, y in path:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
