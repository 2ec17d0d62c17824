"""Emblems of invented firms and towns: mirrored patterns of a few colours, easy to tell apart when small."""

import random

from PIL import Image, ImageDraw

from axpo_env.tasks.synthetic.draws import pick, shuffled

EMBLEM_PX = 64
_CELLS = 5
_INKS = ((30, 60, 150), (150, 30, 40), (20, 110, 60), (90, 40, 120), (40, 40, 40), (170, 90, 10))
_PAPERS = ((250, 250, 245), (250, 235, 180), (215, 230, 250), (250, 215, 210))


def paint_emblem(rng: random.Random, side_px: int) -> Image.Image:
    """A square emblem of `side_px`: 5 x 5 cells, left and right alike, a third colour in its middle row."""
    ink, second = shuffled(rng, _INKS)[:2]
    picture = Image.new("RGB", (side_px, side_px), pick(rng, _PAPERS))
    draw = ImageDraw.Draw(picture)
    cell = side_px / (_CELLS + 1)
    for row in range(_CELLS):
        color = second if row == _CELLS // 2 else ink
        for column in range((_CELLS + 1) // 2):
            if rng.random() < 0.5:
                continue
            for mirrored in {column, _CELLS - 1 - column}:
                left, top = (0.5 + mirrored) * cell, (0.5 + row) * cell
                draw.rectangle((left, top, left + cell, top + cell), fill=color)
    return picture
