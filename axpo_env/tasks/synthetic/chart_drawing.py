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


def paint(chart: Chart) -> tuple[Image.Image, LabelBoxes]:
    """The picture, and per value the box that a reader should zoom into."""
    picture = Image.new("RGB", (chart.canvas_px, chart.canvas_px), "white")
    draw = ImageDraw.Draw(picture)
    return picture, _paint_slots(draw, chart) if chart.layout == "slots" else _paint_axes(draw, chart)


def _paint_slots(draw: ImageDraw.ImageDraw, chart: Chart) -> LabelBoxes:
    """Equal slots: above a bar two thirds as wide, below the slot's square with the value in it."""
    size = chart.canvas_px
    slot = size / len(chart.categories)
    floor = size - slot
    boxes = {}
    for index, value in enumerate(chart.values[0]):
        left = index * slot
        top = floor - 0.95 * floor * value / chart.axis_top
        bar = (round(left + slot / 6), round(top), round(left + slot * 5 / 6) - 1, round(floor) - 1)
        draw.rectangle(bar, fill=chart.colors[index])
        center = (left + slot / 2, floor + slot / 2)
        draw.text(center, chart.shown(0, index), fill=INK, font=font(chart.label_px), anchor="mm")
        boxes[0, index] = (left, floor, left + slot, float(size))
    return boxes


class _Axes:
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

    def y(self, value: float) -> float:
        return self.bottom - (self.bottom - self.top) * value / self.limit

    def center(self, category: int) -> float:
        return self.left + (category + 0.5) * self.slot


def _nice_step(least: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, ... that is at least `least`."""
    power = 10 ** max(0, math.floor(math.log10(max(least, 1))))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least)


def _paint_axes(draw: ImageDraw.ImageDraw, chart: Chart) -> LabelBoxes:
    axes = _Axes(chart)
    _paint_frame(draw, chart, axes)
    tops = _paint_marks(draw, chart, axes)
    boxes = {}
    for category in range(len(chart.categories)):
        # From the lowest label up, each kept clear of the one before.
        column = sorted(range(len(chart.series)), key=lambda series: -tops[series, category][1])
        ceiling = math.inf
        for series in column:
            x, y = tops[series, category]
            y = min(y - chart.label_px, ceiling)
            ceiling = y - 1.3 * chart.label_px
            boxes[series, category] = _paint_value(draw, chart, (series, category), x, y)
    return boxes


def _paint_value(draw: ImageDraw.ImageDraw, chart: Chart, cell: tuple[int, int], x: float, y: float) -> Box:
    """A value centred on (x, y) on white; returns the box to zoom into, which shows a bit around it."""
    face, text = font(chart.label_px), chart.shown(*cell)
    half_width, half_height = face.getlength(text) / 2, 0.55 * chart.label_px
    draw.rectangle((x - half_width - 2, y - half_height, x + half_width + 2, y + half_height), fill="white")
    draw.text((x, y), text, fill=INK, font=face, anchor="mm")
    if chart.marks != "bars" and len(chart.series) > 1:
        # A label may cover another series' mark, so each says by a swatch whose it is.
        right, side = x - half_width - 3, 0.4 * chart.label_px
        draw.rectangle((right - side, y - side / 2, right, y + side / 2), fill=chart.colors[cell[0]])
    margin = chart.label_px
    return x - half_width - margin, y - 2 * margin, x + half_width + margin, y + 2 * margin


def _paint_frame(draw: ImageDraw.ImageDraw, chart: Chart, axes: _Axes) -> None:
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


def _paint_marks(
    draw: ImageDraw.ImageDraw, chart: Chart, axes: _Axes
) -> dict[tuple[int, int], tuple[float, float]]:
    """Bars, lines or points; returns the top middle of each mark."""
    tops = {}
    bar = 0.8 * axes.slot / len(chart.series)
    radius = 0.3 * chart.label_px
    for series, values in enumerate(chart.values):
        color = chart.colors[series]
        shift = (series - (len(chart.series) - 1) / 2) * bar if chart.marks == "bars" else 0.0
        path = [(axes.center(index) + shift, axes.y(value)) for index, value in enumerate(values)]
        tops.update({(series, index): point for index, point in enumerate(path)})
        if chart.marks == "bars":
            for x, y in path:
                draw.rectangle((x - bar / 2 + 1, y, x + bar / 2 - 1, axes.bottom - 1), fill=color)
            continue
        if chart.marks == "lines":
            draw.line(path, fill=color, width=3)
        for x, y in path:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
    return tops
