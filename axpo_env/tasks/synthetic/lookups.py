"""Two-hop look-ups in an invented encyclopaedia, most of them started by small print in a picture.

The twin of HR-MMSearch (a large picture of plaques, one of which names the starting point) and MMSearch (such
a picture, an emblem, or no picture). The pages are in `encyclopaedia`; a search tool learns which encyclopaedia
an episode is about from `task.details["encyclopaedia_seed"]`. Each split has encyclopaedias of its own.

Knobs, from easy to hard: canvas, how small the plaques are seen and how dark their stains are (`stain_depth`),
how many there are, the ways to start.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from PIL import Image

from axpo_env.messages import format_action, format_answer, format_call
from axpo_env.tasks.base import SPLITS, Random
from axpo_env.tasks.synthetic.draws import pick
from axpo_env.tasks.synthetic.encyclopaedia import emblem, world
from axpo_env.tasks.synthetic.encyclopaedia_world import Start
from axpo_env.tasks.synthetic.items import Box1000, GeneratedSource, Item, to_1000, wording, zoom_call
from axpo_env.tasks.synthetic.lookup_plaques import LookupLevel, Plaque, hang_plaques, paint_plaques
from axpo_env.tasks.synthetic.lookup_questions import Lookup, ask

NUM_WORLDS = 1000  # encyclopaedias per split
_FORMS = {"hrmmsearch": ("plaque",), "mmsearch": ("plaque", "text")}
_FORMS_HARD = {"hrmmsearch": ("plaque",), "mmsearch": ("plaque", "text", "emblem")}
_LEVELS = (
    LookupLevel(
        name="nano", view_pixels=96 * 96, canvas_px=(592, 592), font_px=21, num_grey=4, starts=_FORMS
    ),
    LookupLevel(
        name="easy", view_pixels=160 * 160, canvas_px=(1032, 1032), font_px=21, num_grey=20, starts=_FORMS
    ),
    LookupLevel(
        name="medium",
        view_pixels=320 * 320,
        canvas_px=(2064, 2064),
        font_px=21,
        num_grey=60,
        starts=_FORMS_HARD,
    ),
    LookupLevel(
        name="hard",
        view_pixels=640 * 640,
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
            firms = [start for start in known.starts if start.kind == "firm"]
            return self._draw_emblem(rng, pick(rng, firms), seed)
        start = pick(rng, known.starts)
        if start_by == "plaque":
            return self._draw_plaques(rng, start, seed)
        lookup = ask(rng, start, it=f"the {start.kind} {start.name}", split=self.split)
        return _item(lookup, seed, lookup.text, tools=(), first=[], name=start.name, paint=lambda: ())

    def _draw_emblem(self, rng: random.Random, start: Start, seed: int) -> Item:
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

    def _draw_plaques(self, rng: random.Random, start: Start, seed: int) -> Item:
        level = self.level
        others = [other.name for other in world(seed).starts if other.name != start.name]
        plaques = hang_plaques(rng, level, start.name, others)
        target = plaques[0]
        text = wording(
            self.split,
            (
                "The {color} plaque names a {kind}.",
                "A {kind} is named on the {color} plaque.",
                "Look at the {color} plaque, which names a {kind}.",
            ),
        ).format(color=target.color, kind=start.kind)
        lookup = ask(rng, start, it=f"this {start.kind}", split=self.split)
        box = to_1000(target.box(level.font_px), *level.canvas_px)
        return _item(
            lookup,
            seed,
            f"{text} {lookup.text}",
            tools=("image_zoom_in",),
            first=[(f"zoom {target.color}", zoom_call(f"{target.color} plaque", box))],
            name=start.name,
            paint=lambda: (paint_plaques(level, plaques),),
            boxes=(box,),
            plaques=plaques,
        )


def _item(
    lookup: Lookup,
    seed: int,
    question: str,
    *,
    tools: tuple[str, ...],
    first: list[tuple[str, str]],
    name: str,
    paint: Callable[[], tuple[Image.Image, ...]],
    boxes: tuple[Box1000, ...] = (),
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
