"""What pictures of all families share: colours, the font, a plate with a text on it. Painted with PIL."""

import threading

from PIL import ImageDraw, ImageFont

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


def paint_plate(
    draw: ImageDraw.ImageDraw,
    place: Box,
    text: str,
    *,
    size_px: tuple[float, float],
    font_px: int,
    fill: RGB,
    outline: RGB | None = None,
) -> None:
    """A plate of `size_px` (width and height) in the middle of `place`, with a text in its own middle."""
    left, top, right, bottom = place
    # Whole pixels: glyphs look the same wherever they stand.
    x, y = round((left + right) / 2), round((top + bottom) / 2)
    half_width, half_height = size_px[0] / 2, size_px[1] / 2
    plate = (x - half_width, y - half_height, x + half_width, y + half_height)
    draw.rectangle(plate, fill=fill, outline=outline, width=2)
    draw.text((x, y), text, fill=INK, font=font(font_px), anchor="mm")
