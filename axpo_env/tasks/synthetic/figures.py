"""Geometry and plots: lengths stand in the figure only, and the answer takes a computation.

The twin of MathVision (areas and ways), DynaMath (integrals and zeros of plotted functions) and Math-VR
(several parts, right only if all are). Kinds are in `figure_shapes`, `figure_grids` and `figure_plots`,
painting in `sheets`.

Knobs, from easy to hard: whether labels are legible before zooming (`FigureLevel.zooms`), canvas and font,
how dark stains are (`stain_depth`), and the kinds asked by form. Triangles and quadrilaterals are not to scale.
Options are answers that take one number or two for ones that look alike. In the "mathvision" form,
half of the areas are multiple choice.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from axpo_env.messages import format_action, format_answer, format_call
from axpo_env.tasks.base import Random
from axpo_env.tasks.synthetic import figure_grids, figure_plots, figure_shapes
from axpo_env.tasks.synthetic.draws import pick, split_of_data
from axpo_env.tasks.synthetic.figure import Draw, Figure
from axpo_env.tasks.synthetic.items import (
    GeneratedSource,
    Item,
    Level,
    find_kind,
    make_choice,
    to_1000,
    zoom_call,
)

KINDS: Mapping[str, Draw] = {
    "side": figure_shapes.side,
    "triangle_area": figure_shapes.triangle_area,
    "quad_area": figure_shapes.quad_area,
    "best_path": figure_grids.best_path,
    "count_paths": figure_grids.count_paths,
    "integral": figure_plots.integral,
    "root": figure_plots.root,
    "triangle_parts": figure_shapes.triangle_parts,
    "curve_parts": figure_plots.curve_parts,
}

FORMS: Mapping[str, tuple[str, ...]] = {
    "mathvision": ("triangle_area", "quad_area", "best_path", "count_paths"),
    "dynamath": ("integral", "root", "quad_area"),
    "mathvr": ("triangle_parts", "curve_parts"),
}
_ALL = tuple(dict.fromkeys(kind for kinds in FORMS.values() for kind in kinds))


@dataclass(frozen=True, kw_only=True)
class FigureLevel(Level):
    """How large the figures of a level are, and how small their labels."""

    canvas_px: int  # side of the square canvas
    font_px: int
    zooms: bool  # labels must be zoomed into
    kinds: tuple[str, ...] | None = None  # None: those of the form

    @property
    def seen_px(self) -> float:
        """How high a digit is in the figure as the policy first sees it."""
        return self.print_px(self.font_px, self.canvas_px, self.canvas_px)


_LEVELS = (
    FigureLevel(name="nano", view_pixels=48 * 48, canvas_px=384, font_px=28, zooms=True, kinds=("side",)),
    FigureLevel(name="easy", view_pixels=448 * 448, canvas_px=448, font_px=20, zooms=False, stain_depth=0),
    FigureLevel(name="medium", view_pixels=224 * 224, canvas_px=1792, font_px=21, zooms=True),
    FigureLevel(name="hard", view_pixels=512 * 512, canvas_px=4096, font_px=21, zooms=True),
)


class FigureSource(GeneratedSource[FigureLevel]):
    """The figures of one level and split. Forms: "mathvision", "dynamath", "mathvr", or all kinds mixed."""

    family = "figures"
    levels: ClassVar[Mapping[str, FigureLevel]] = {level.name: level for level in _LEVELS}
    asks = KINDS

    def draw(self, rng: random.Random, index: int) -> Item:
        level = self.level
        kind = pick(rng, level.kinds or FORMS.get(self.form, _ALL))
        draw = find_kind(KINDS, kind)
        while True:
            figure = draw(rng, level.canvas_px, level.font_px, self.split)
            if split_of_data((figure.answer, figure.found)) == self.split:
                break
        chooses = self.form == "mathvision" and bool(figure.others) and rng.random() < 0.5
        return _item(rng, kind, figure, level, chooses=chooses)


def _item(rng: random.Random, kind: str, figure: Figure, level: FigureLevel, *, chooses: bool) -> Item:
    question, answer, grader = figure.text, figure.answer, figure.grader
    guesses = figure.guesses or tuple(f"{float(0.5 + step / 10):.1f}" for step in range(10))
    if chooses:
        choice = make_choice(rng, question, answer, figure.others)
        question, answer, guesses, grader = choice.question, choice.letter, choice.letters, choice.grader
    zooms = [
        (name, to_1000(box, level.canvas_px, level.canvas_px)) for name, box in figure.needed if level.zooms
    ]
    tools = ("image_zoom_in",) * bool(zooms) + ("python",) * (figure.code is not None)

    def solve(rng: Random, aim_noise: Sequence[float] | float) -> list[str]:
        actions = []
        if zooms:
            calls = [zoom_call(name, box) for name, box in zooms]
            actions.append(format_action("zoom " + " ".join(name for name, _ in zooms), *calls))
        if figure.code is not None:
            actions.append(format_action(figure.found, format_call("python", {"code": figure.code})))
        last = figure.answer if figure.code is not None else figure.found
        actions.append(format_action(last, format_answer(answer)))
        return actions

    return Item(
        kind=kind,
        question=question,
        answer=answer,
        guesses=guesses,
        needs_tools=tools,
        gold_boxes=tuple(box for _, box in zooms),
        paint=lambda: (figure.sheet.paint(view_pixels=level.view_pixels, stain_depth=level.stain_depth),),
        solve=solve,
        grader=grader,
        details={"figure": figure},
    )
