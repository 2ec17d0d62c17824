"""Pictures of plaques with names on them, one of which a look-up starts from."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from axpo_env.names import unknown_name
from axpo_env.tasks.synthetic.draws import shuffled
from axpo_env.tasks.synthetic.items import Box, Level
from axpo_env.tasks.synthetic.painting import make_stains, paint_plate
from axpo_env.tasks.synthetic.places import Place, place_box
from axpo_env.tasks.synthetic.sign_data import COLORS

STARTS = ("plaque", "emblem", "text")  # how a look-up may begin
_PLAQUE = (6.0, 2.0)  # width and height of a plaque, in font sizes
_PLACE = (7.0, 3.0)  # the same of the place it hangs in
_WALL, _EDGE = (228, 222, 210), (90, 80, 70)


@dataclass(frozen=True, kw_only=True)
class LookupLevel(Level):
    """How large the pictures of a level are, and how questions start."""

    canvas_px: tuple[int, int]  # width and height
    font_px: int
    num_grey: int  # plaques beside the six coloured ones
    starts: Mapping[str, tuple[str, ...]]  # by form: plaque, emblem, text
    from_zero = ("num_grey",)

    def __post_init__(self) -> None:
        super().__post_init__()
        for start in (start for starts in self.starts.values() for start in starts):
            if start not in STARTS:
                raise ValueError(unknown_name("start", start, STARTS))

    @property
    def seen_px(self) -> float:
        """How high a capital letter of a plaque is as the policy first sees it."""
        return self.print_px(self.font_px, *self.canvas_px)


@dataclass(frozen=True, kw_only=True)
class Plaque:
    """A plaque with a name on it."""

    text: str
    color: str
    place: Place

    def box(self, font_px: int) -> Box:
        """Its place in pixels."""
        return place_box(self.place, (_PLACE[0] * font_px, _PLACE[1] * font_px))


def hang_plaques(rng: random.Random, level: LookupLevel, name: str, others: Sequence[str]) -> list[Plaque]:
    """Coloured plaques, the first with `name`, and grey ones, all with `others`; each in a place of its own."""
    columns, rows = (
        int(side / (share * level.font_px)) for side, share in zip(level.canvas_px, _PLACE, strict=True)
    )
    places = shuffled(rng, [(column, row) for column in range(columns) for row in range(rows)])
    colors = shuffled(rng, [color for color in COLORS if color != "grey"]) + ["grey"] * level.num_grey
    others = shuffled(rng, others)
    texts = [name] + [others[number % len(others)] for number in range(len(colors) - 1)]
    return [
        Plaque(text=text, color=color, place=place)
        for text, color, place in zip(texts, colors, places, strict=False)
    ]


def paint_plaques(level: LookupLevel, plaques: Sequence[Plaque]) -> Image.Image:
    """The picture at full resolution."""
    picture = Image.new("RGB", level.canvas_px, _WALL)
    stains = make_stains(
        level.canvas_px,
        view_pixels=level.view_pixels,
        depth=level.stain_depth,
        data=[(plaque.text, plaque.place) for plaque in plaques],
    )
    size_px = (_PLAQUE[0] * level.font_px, _PLAQUE[1] * level.font_px)
    for plaque in plaques:
        place, fill = plaque.box(level.font_px), COLORS[plaque.color]
        paint_plate(
            picture,
            place,
            plaque.text,
            size_px=size_px,
            font_px=level.font_px,
            fill=fill,
            outline=_EDGE,
            stains=stains,
        )
    return picture
