"""Paints a `Chart` with PIL and says where each value stands, in pixels.

Deterministic: the same chart gives the same pixels. What to read off the picture is left to
`chart_questions`.
"""

import threading
from collections.abc import Mapping

from PIL import Image, ImageDraw, ImageFont

from axpo_env.tasks.synthetic.chart_data import Chart

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
LabelBoxes = Mapping[tuple[int, int], Box]  # by (series, category)

_fonts = threading.local()  # FreeType faces must not be shared between threads


def font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's built-in font at `size_px`, cached per thread."""
    cache: dict[int, ImageFont.FreeTypeFont | ImageFont.ImageFont] = _fonts.__dict__.setdefault("by_size", {})
    if size_px not in cache:
        cache[size_px] = ImageFont.load_default(size=size_px)
    return cache[size_px]


def paint(chart: Chart) -> tuple[Image.Image, LabelBoxes]:
    """The picture, and per value the box that a reader should zoom into."""
    picture = Image.new("RGB", (chart.canvas_px, chart.canvas_px), "white")
    return picture, _paint_slots(ImageDraw.Draw(picture), chart)


def _paint_slots(draw: ImageDraw.ImageDraw, chart: Chart) -> LabelBoxes:
    """Equal slots side by side.

    A bar two thirds as wide in the upper part, its value in the slot's square below.
    """
    size = chart.canvas_px
    slot = size / len(chart.categories)
    floor = size - slot  # bars stand here; below it, a square per slot
    tallest = max(chart.values[0])
    boxes = {}
    for index, value in enumerate(chart.values[0]):
        left = index * slot
        top = floor - 0.95 * floor * value / tallest
        bar = (round(left + slot / 6), round(top), round(left + slot * 5 / 6) - 1, round(floor) - 1)
        draw.rectangle(bar, fill=chart.colors[index])
        center = (left + slot / 2, floor + slot / 2)
        draw.text(center, chart.shown(0, index), fill="black", font=font(chart.label_px), anchor="mm")
        boxes[0, index] = (left, floor, left + slot, float(size))
    return boxes
