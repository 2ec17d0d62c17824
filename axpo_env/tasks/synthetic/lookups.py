"""Two-hop look-ups in an invented encyclopaedia, most of them started by small print in a picture.

The twin of HR-MMSearch (a large picture of plaques, one of which names the starting point) and MMSearch (such
a picture, an emblem, or no picture). The pages are in `encyclopaedia`; a search tool learns which encyclopaedia
an episode is about from `task.details["encyclopaedia_seed"]`. Each split has encyclopaedias of its own.

Knobs, from easy to hard: canvas, how small the plaques are seen, how many there are, the ways to start.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from PIL import Image, ImageDraw

from axpo_env.messages import format_action, format_answer, format_call
from axpo_env.tasks.base import SPLITS, Random
from axpo_env.tasks.synthetic.chart_drawing import font
from axpo_env.tasks.synthetic.draws import pick, shuffled
from axpo_env.tasks.synthetic.encyclopaedia import emblem, world
from axpo_env.tasks.synthetic.encyclopaedia_world import Start
from axpo_env.tasks.synthetic.items import Box, GeneratedSource, Item, Level, to_1000, wording
from axpo_env.tasks.synthetic.lookup_questions import Lookup, ask
from axpo_env.tasks.synthetic.signs import CAP_SHARE, COLORS

NUM_WORLDS = 1000  # encyclopaedias per split
_PLAQUE = (6.0, 2.0)  # width and height of a plaque, in font sizes
_PLACE = (7.0, 3.0)  # the same of the place it hangs in
_WALL = (228, 222, 210)


@dataclass(frozen=True, kw_only=True)
class LookupLevel(Level):
    """How large the pictures of a level are, and how questions start."""

    canvas_px: tuple[int, int]  # width and height
    font_px: int
    num_grey: int  # plaques beside the six coloured ones
    starts: Mapping[str, tuple[str, ...]]  # by form: plaque, emblem, text

    @property
    def seen_px(self) -> float:
        """How high a capital letter of a plaque is as the policy first sees it."""
        width, height = self.canvas_px
        return CAP_SHARE * self.font_px * min(1.0, math.sqrt(self.view_pixels / (width * height)))


@dataclass(frozen=True, kw_only=True)
class Plaque:
    """A plaque with a name on it."""

    text: str
    color: str
    place: tuple[int, int]  # column, row

    def box(self, font_px: int) -> Box:
        """Its place in pixels."""
        width, height = _PLACE[0] * font_px, _PLACE[1] * font_px
        column, row = self.place
        return column * width, row * height, (column + 1) * width, (row + 1) * height


_FORMS = {"hrmmsearch": ("plaque",), "mmsearch": ("plaque", "text")}
_FORMS_HARD = {"hrmmsearch": ("plaque",), "mmsearch": ("plaque", "text", "emblem")}
_LEVELS = (
    LookupLevel(
        name="nano", view_pixels=144 * 144, canvas_px=(592, 592), font_px=21, num_grey=4, starts=_FORMS
    ),
    LookupLevel(
        name="easy", view_pixels=256 * 256, canvas_px=(1032, 1032), font_px=21, num_grey=20, starts=_FORMS
    ),
    LookupLevel(
        name="medium",
        view_pixels=512 * 512,
        canvas_px=(2064, 2064),
        font_px=21,
        num_grey=60,
        starts=_FORMS_HARD,
    ),
    LookupLevel(
        name="hard",
        view_pixels=1024 * 1024,
        canvas_px=(4116, 4116),
        font_px=21,
        num_grey=160,
        starts=_FORMS_HARD,
    ),
)


class LookupSource(GeneratedSource[LookupLevel]):
    """The look-ups of one level and split. Forms: "hrmmsearch" and "mmsearch"; others start as the former."""

    family = "lookups"
    levels: ClassVar[Mapping[str, LookupLevel]] = {level.name: level for level in _LEVELS}

    def draw(self, rng: random.Random, index: int) -> Item:
        seed = len(SPLITS) * (index % NUM_WORLDS) + SPLITS.index(self.split)
        known = world(seed)
        start_by = pick(rng, self.level.starts.get(self.form, ("plaque",)))
        if start_by == "emblem":
            start = pick(rng, [start for start in known.starts if start.kind == "firm"])
            text = wording(
                self.split,
                (
                    "The picture shows the emblem of a firm.",
                    "A firm has this emblem.",
                    "This is how a firm marks its goods.",
                ),
            )
            lookup = ask(rng, start, it="this firm", split=self.split)
            picture = emblem(seed, start.name)
            return _item(
                lookup,
                seed,
                f"{text} {lookup.text}",
                tools=("image-search",),
                first=[("emblem", format_call("image-search", {"img_idx": 0}))],
                name=start.name,
                paint=lambda: (Image.fromarray(picture),),
            )
        start = pick(rng, known.starts)
        if start_by == "text":
            lookup = ask(rng, start, it=f"the {start.kind} {start.name}", split=self.split)
            return _item(lookup, seed, lookup.text, tools=(), first=[], name=start.name, paint=lambda: ())
        return self._draw_plaques(rng, start, seed)

    def _draw_plaques(self, rng: random.Random, start: Start, seed: int) -> Item:
        level = self.level
        plaques = _hang(rng, level, start, [other.name for other in world(seed).starts])
        target = plaques[0]
        text = wording(
            self.split,
            (
                "The {color} plaque names a {kind}.",
                "A {kind} is named on the {color} plaque.",
                "Look at the {color} plaque, which names a {kind}.",
            ),
        )
        lookup = ask(rng, start, it=f"this {start.kind}", split=self.split)
        box = to_1000(target.box(level.font_px), *level.canvas_px)
        zoom = format_call("image_zoom_in", {"label": f"{target.color} plaque", "bbox_2d": list(box)})
        return _item(
            lookup,
            seed,
            text.format(color=target.color, kind=start.kind) + " " + lookup.text,
            tools=("image_zoom_in",),
            first=[(f"zoom {target.color}", zoom)],
            name=start.name,
            paint=lambda: (_paint(level, plaques),),
            boxes=(box,),
            plaques=plaques,
        )


def _hang(rng: random.Random, level: LookupLevel, start: Start, names: list[str]) -> list[Plaque]:
    """Coloured plaques, the starting point's first, and grey ones; all at different places."""
    columns, rows = (
        int(side / (share * level.font_px)) for side, share in zip(level.canvas_px, _PLACE, strict=True)
    )
    places = shuffled(rng, [(column, row) for column in range(columns) for row in range(rows)])
    colors = shuffled(rng, [name for name in COLORS if name != "grey"]) + ["grey"] * level.num_grey
    others = shuffled(rng, [name for name in names if name != start.name])
    texts = [start.name] + [others[number % len(others)] for number in range(len(colors) - 1)]
    return [
        Plaque(text=text, color=color, place=place)
        for text, color, place in zip(texts, colors, places, strict=False)
    ]


def _paint(level: LookupLevel, plaques: Sequence[Plaque]) -> Image.Image:
    picture = Image.new("RGB", level.canvas_px, _WALL)
    draw = ImageDraw.Draw(picture)
    half_width, half_height = (share * level.font_px / 2 for share in _PLAQUE)
    for plaque in plaques:
        left, top, right, bottom = plaque.box(level.font_px)
        x, y = round((left + right) / 2), round((top + bottom) / 2)
        outline = (x - half_width, y - half_height, x + half_width, y + half_height)
        draw.rectangle(outline, fill=COLORS[plaque.color], outline=(90, 80, 70), width=2)
        draw.text((x, y), plaque.text, fill=(0, 0, 0), font=font(level.font_px), anchor="mm")
    return picture


def _item(
    lookup: Lookup,
    seed: int,
    question: str,
    *,
    tools: tuple[str, ...],
    first: list[tuple[str, str]],
    name: str,
    paint: Callable[[], tuple[Image.Image, ...]],
    boxes: tuple[tuple[int, int, int, int], ...] = (),
    plaques: Sequence[Plaque] = (),
) -> Item:
    """`first` holds thinking and call of what comes before the searches, if anything must."""

    def solve(rng: Random, aim_noise: Sequence[float] | float) -> list[str]:
        searches = [format_call("tavily-search", {"query": query}) for query in lookup.queries]
        return [
            *(format_action(thinking, call) for thinking, call in first),
            format_action(name, searches[0]),
            format_action(lookup.found[0], searches[1]),
            format_action(lookup.found[1], format_answer(lookup.answer)),
        ]

    return Item(
        kind=lookup.kind,
        question=question,
        answer=lookup.answer,
        aliases=lookup.aliases,
        guesses=("I do not know",),
        needs_tools=(*tools, "tavily-search"),
        gold_boxes=boxes,
        paint=paint,
        solve=solve,
        details={
            "encyclopaedia_seed": seed,
            "start": name,
            "queries": lookup.queries,
            "plaques": tuple(plaques),
        },
    )
