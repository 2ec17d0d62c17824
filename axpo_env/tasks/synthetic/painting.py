"""What pictures of all families share: colours, the font, stained paper, a plate with a text on it.

Painted with PIL. Print is kept from being read before zooming by two means: it is small, and it stands on stains
about as large as one pixel of the first view. Small print alone is not enough: who knows font and place finds the
text whose picture, shrunk, comes closest. A zoom shows stains as smooth shades with sharp letters on them.
"""

import hashlib
import math
import threading
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw, ImageFont

from axpo_env.tasks.synthetic.items import Box

RGB = tuple[int, int, int]
INK: RGB = (0, 0, 0)

_fonts = threading.local()  # FreeType faces must not be shared between threads


def font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's built-in font at `size_px`, cached per thread."""
    cache: dict[int, ImageFont.FreeTypeFont | ImageFont.ImageFont] = _fonts.__dict__.setdefault("by_size", {})
    if size_px not in cache:
        cache[size_px] = ImageFont.load_default(size=size_px)
    return cache[size_px]


@dataclass(frozen=True, kw_only=True)
class Stains:
    """Dark stains over a whole picture, of which papers and plates show their part."""

    mask: Image.Image  # one pixel a stain, 255 where there is none
    cell_px: float

    def paper(self, box: Box, fill: RGB) -> tuple[Image.Image, tuple[int, int]]:
        """Paper of a colour for a box, rounded to whole pixels, and where its upper left corner belongs."""
        left, top, right, bottom = (round(side) for side in box)
        size = (max(1, right - left), max(1, bottom - top))
        left, top = max(0, left), max(0, top)
        columns, rows = self.mask.size
        part = (
            min(left / self.cell_px, columns),
            min(top / self.cell_px, rows),
            min((left + size[0]) / self.cell_px, columns),
            min((top + size[1]) / self.cell_px, rows),
        )
        shade = self.mask.resize(size, Image.Resampling.BICUBIC, box=part)
        return ImageChops.multiply(Image.new("RGB", size, fill), Image.merge("RGB", [shade] * 3)), (left, top)


def make_stains(canvas_px: tuple[int, int], *, view_pixels: int, depth: float, data: object) -> Stains:
    """Stains for a canvas, each a pixel of the first view; decided by `data` alone.

    `depth` is how much of the light the darkest take; all shades down to it are as frequent.
    """
    cell_px = max(1.0, math.sqrt(canvas_px[0] * canvas_px[1] / view_pixels))
    columns, rows = (math.ceil(side / cell_px) for side in canvas_px)
    light = hashlib.shake_256(repr(data).encode()).digest(columns * rows)
    mask = Image.frombytes("L", (columns, rows), light).point(
        [255 - round(depth * value) for value in range(256)]
    )
    return Stains(mask=mask, cell_px=cell_px)


def paint_plate(
    picture: Image.Image,
    place: Box,
    text: str,
    *,
    size_px: tuple[float, float],
    font_px: int,
    fill: RGB,
    outline: RGB | None = None,
    stains: Stains,
) -> None:
    """A plate of `size_px` (width and height) in the middle of `place`, with a text in its own middle."""
    left, top, right, bottom = place
    # Whole pixels: glyphs look the same wherever they stand.
    x, y = round((left + right) / 2), round((top + bottom) / 2)
    half_width, half_height = size_px[0] / 2, size_px[1] / 2
    plate = (x - half_width, y - half_height, x + half_width, y + half_height)
    picture.paste(*stains.paper(plate, fill))
    draw = ImageDraw.Draw(picture)
    if outline is not None:
        draw.rectangle(plate, outline=outline, width=2)
    draw.text((x, y), text, fill=INK, font=font(font_px), anchor="mm")
