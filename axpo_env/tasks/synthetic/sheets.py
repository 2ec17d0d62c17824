"""Line drawings with labels: what a figure consists of, where its labels stand, and its painting with PIL.

Positions are shares of the canvas's side, x to the right and y down. Deterministic: the same sheet gives the
same pixels. What a figure means is left to `figure`.
"""

from dataclasses import dataclass

from PIL import Image, ImageDraw

from axpo_env.tasks.synthetic.items import Box
from axpo_env.tasks.synthetic.painting import INK, RGB, Stains, font, make_stains

Point = tuple[float, float]

BLUE, GREY = (40, 80, 200), (170, 170, 170)
_LINE_SHARE = 0.005  # width of a line
_NAME_SHARE = 0.055  # font size of a large label


@dataclass(frozen=True, kw_only=True)
class Stroke:
    """A line through points, or the area inside them."""

    points: tuple[Point, ...]
    color: RGB = INK
    filled: bool = False


@dataclass(frozen=True, kw_only=True)
class Label:
    """A text centred at a point: small print that a question needs, or (large) a name seen before zooming."""

    text: str
    at: Point
    large: bool = False


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A square figure."""

    canvas_px: int
    font_px: int
    strokes: tuple[Stroke, ...]
    labels: tuple[Label, ...]

    def box(self, label: Label) -> Box:
        """A label with a margin of half a font size, in pixels, kept inside."""
        x, y = (share * self.canvas_px for share in label.at)
        half = font(self.font_px).getlength(label.text) / 2 + 0.5 * self.font_px
        return (
            max(0.0, x - half),
            max(0.0, y - 1.1 * self.font_px),
            min(float(self.canvas_px), x + half),
            min(float(self.canvas_px), y + 1.1 * self.font_px),
        )

    def paint(self, *, view_pixels: int, stain_depth: float) -> Image.Image:
        """The figure, with stains under its small print."""
        stains = make_stains(
            (self.canvas_px, self.canvas_px), view_pixels=view_pixels, depth=stain_depth, data=self.labels
        )
        picture = Image.new("RGB", (self.canvas_px, self.canvas_px), "white")
        draw = ImageDraw.Draw(picture)
        width = max(2, round(_LINE_SHARE * self.canvas_px))
        for stroke in self.strokes:
            points = [(x * self.canvas_px, y * self.canvas_px) for x, y in stroke.points]
            if stroke.filled:
                draw.polygon(points, fill=stroke.color)
            else:
                draw.line(points, fill=stroke.color, width=width, joint="curve")
        for label in self.labels:
            self._paint_label(picture, label, stains)
        return picture

    def _paint_label(self, picture: Image.Image, label: Label, stains: Stains) -> None:
        face = font(round(_NAME_SHARE * self.canvas_px) if label.large else self.font_px)
        # Whole pixels: glyphs look the same wherever they stand.
        x, y = (round(share * self.canvas_px) for share in label.at)
        if not label.large:
            half = face.getlength(label.text) / 2 + 0.3 * self.font_px
            box = (x - half, y - 0.6 * self.font_px, x + half, y + 0.6 * self.font_px)
            picture.paste(*stains.paper(box, (255, 255, 255)))
        ImageDraw.Draw(picture).text((x, y), label.text, fill=INK, font=face, anchor="mm")
