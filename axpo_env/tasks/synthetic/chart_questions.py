"""Questions about a chart: text, answer, where the needed values stand, and how to find out.

A demonstration is what a policy would write turn by turn: very short thinking, a tool call or an answer. A
careless demonstrator (`aim_noise`) may zoom in beside its target; it then honestly reports the value that it
sees there.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from axpo_env.messages import format_action, format_answer, format_call
from axpo_env.tasks.base import Demonstrator, Random
from axpo_env.tasks.synthetic.chart_data import Chart
from axpo_env.tasks.synthetic.chart_drawing import Box, LabelBoxes

Box1000 = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question about one chart."""

    kind: str
    text: str
    answer: str
    aliases: tuple[str, ...] = ()  # other right answers
    needs_tools: tuple[str, ...]
    gold_boxes: tuple[Box1000, ...]  # one per needed value, 0-1000
    demonstrate: Demonstrator


def ask(rng: random.Random, chart: Chart, kind: str, label_boxes: LabelBoxes) -> Question:
    """A question of `kind` about `chart`."""
    return KINDS[kind](rng, chart, label_boxes)


def box_1000(box: Box, canvas_px: int) -> Box1000:
    """A pixel box in thousandths of the canvas, rounded to the nearest and kept inside."""
    left, top, right, bottom = (min(max(round(1000 * side / canvas_px), 0), 1000) for side in box)
    return left, top, right, bottom


def pick_offset(rng: Random, aim_noise: Sequence[float] | float, *, index: int, count: int) -> int:
    """A neighbour of `index` among `count`, by the probabilities `aim_noise` gives to distances 0, 1, 2, ...

    A distance's probability is shared by both sides; what lies past the edges is renormalised away. A bare
    number is the probability of missing by one. Draws one random number; 0 always gives `index`.
    """
    distances = [1 - aim_noise, aim_noise] if isinstance(aim_noise, int | float) else list(aim_noise)
    weights = [
        distances[abs(other - index)] / (1 if other == index else 2)
        if abs(other - index) < len(distances)
        else 0.0
        for other in range(count)
    ]
    if min(distances) < 0 or sum(weights) <= 0:
        raise ValueError(
            f"aim_noise holds probabilities per distance, some reachable one above 0, not {aim_noise!r}"
        )
    point = rng.random() * sum(weights)
    for other, weight in enumerate(weights):
        point -= weight
        if point < 0:
            return other
    return index


def zoom_call(box: Box1000, label: str) -> str:
    return format_call("image_zoom_in", {"bbox_2d": list(box), "label": label})


def _lookup_color(rng: random.Random, chart: Chart, label_boxes: LabelBoxes) -> Question:
    target = int(rng.random() * len(chart.categories))
    color = chart.categories[target]
    boxes = [box_1000(label_boxes[0, index], chart.canvas_px) for index in range(len(chart.categories))]

    def demonstrate(
        rng: Random, *, use_tools: bool = True, aim_noise: Sequence[float] | float = 0
    ) -> list[str]:
        if not use_tools:
            return [format_action("guess", format_answer(chart.shown(0, target)))]
        seen = pick_offset(rng, aim_noise, index=target, count=len(boxes))
        value = chart.shown(0, seen)
        return [
            format_action(f"zoom {color}", zoom_call(boxes[seen], color)),
            format_action(f"{color} {value}", format_answer(value)),
        ]

    return Question(
        kind="lookup_color",
        text=f"What is the value of the {color} bar?",
        answer=chart.shown(0, target),
        needs_tools=("image_zoom_in",),
        gold_boxes=(boxes[target],),
        demonstrate=demonstrate,
    )


Asker = Callable[[random.Random, Chart, LabelBoxes], Question]
KINDS: Mapping[str, Asker] = {"lookup_color": _lookup_color}
