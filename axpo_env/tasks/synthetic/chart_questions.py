"""Questions about a chart: text, answer, where the needed values stand, and how to find out.

Each kind picks its values (cells) and says how an answer follows from them, in Python and in words. A
demonstration is what a policy would write turn by turn: very short thinking, then zooms into the cells, a
computation where the level wants one, the answer. A careless demonstrator (`aim_noise`) may zoom in beside
its target; it then honestly goes on with the value that it sees there.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from axpo_env.messages import format_action, format_answer, format_call
from axpo_env.tasks.base import Demonstrator, Random
from axpo_env.tasks.synthetic.chart_data import Chart
from axpo_env.tasks.synthetic.chart_drawing import LabelBoxes
from axpo_env.tasks.synthetic.draws import pick, pick_offset, shuffled
from axpo_env.tasks.synthetic.items import Box, Box1000, zoom_call

Cell = tuple[int, int]  # series, category


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question about one chart."""

    kind: str
    text: str
    answer: str
    aliases: tuple[str, ...]  # other right answers
    needs_tools: tuple[str, ...]
    gold_boxes: tuple[Box1000, ...]  # one per needed value, 0-1000
    demonstrate: Demonstrator


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a kind of question asks of a chart."""

    text: str
    cells: tuple[Cell, ...]  # the values needed
    compute: Callable[[Sequence[float]], str]  # the cells' values -> the answer
    code: Callable[[Sequence[str]], str] | None = None  # the cells' printed values -> Python that prints it
    aliases: Callable[[str], tuple[str, ...]] = lambda answer: ()  # the answer -> other spellings
    guess: str | None = None  # what one answers who does not look; None: a lucky guess, the answer
    places: bool = False  # only where the cells stand matters, which shows without a tool


def ask(
    rng: random.Random, chart: Chart, kind: str, label_boxes: LabelBoxes, *, uses_python: bool
) -> Question:
    """A question of `kind` about `chart`."""
    plan = KINDS[kind](rng, chart)
    computes = uses_python and plan.code is not None
    answer = plan.compute([float(chart.shown(*cell)) for cell in plan.cells])

    def demonstrate(
        rng: Random, *, use_tools: bool = True, aim_noise: Sequence[float] | float = 0
    ) -> list[str]:
        if plan.places:
            return [format_action(_places(chart, plan, label_boxes), format_answer(answer))]
        if not use_tools:
            guess = answer if plan.guess is None else plan.guess
            return [format_action(f"guess {_named(chart, plan)}", format_answer(guess))]
        return _demonstrate(rng, chart, plan, label_boxes, aim_noise, computes=computes)

    return Question(
        kind=kind,
        text=plan.text,
        answer=answer,
        aliases=plan.aliases(answer),
        needs_tools=() if plan.places else ("image_zoom_in", "python") if computes else ("image_zoom_in",),
        gold_boxes=tuple(round_to_1000(label_boxes[cell], chart.canvas_px) for cell in plan.cells),
        demonstrate=demonstrate,
    )


def round_to_1000(box: Box, canvas_px: int) -> Box1000:
    """A pixel box in thousandths of the canvas, rounded to the nearest and kept inside."""
    left, top, right, bottom = (min(max(round(1000 * side / canvas_px), 0), 1000) for side in box)
    return left, top, right, bottom


def _demonstrate(
    rng: Random,
    chart: Chart,
    plan: Plan,
    label_boxes: LabelBoxes,
    aim_noise: Sequence[float] | float,
    *,
    computes: bool,
) -> list[str]:
    """Zoom once per column, read what stands there, compute if need be, answer."""
    count = len(chart.categories)
    columns = list(dict.fromkeys(category for _, category in plan.cells))
    aimed = {column: pick_offset(rng, aim_noise, index=column, count=count) for column in columns}
    zooms = []
    for column in columns:
        boxes = [label_boxes[series, aimed[column]] for series, category in plan.cells if category == column]
        left, top, right, bottom = zip(*boxes, strict=True)
        box = round_to_1000((min(left), min(top), max(right), max(bottom)), chart.canvas_px)
        zooms.append(zoom_call(chart.categories[column], box))
    seen = [chart.shown(series, aimed[category]) for series, category in plan.cells]
    pairs = zip(plan.cells, seen, strict=True)
    notes = " ".join(f"{chart.categories[category]} {value}" for (_, category), value in pairs)
    answer = plan.compute([float(value) for value in seen])
    actions = [format_action(f"zoom {_named(chart, plan)}", *zooms)]
    if computes:
        assert plan.code is not None
        actions.append(format_action(notes, format_call("python", {"code": plan.code(seen)})))
        notes = answer
    return [*actions, format_action(notes, format_answer(answer))]


def _named(chart: Chart, plan: Plan) -> str:
    """The categories that a plan needs, in its order."""
    return " ".join(dict.fromkeys(chart.categories[category] for _, category in plan.cells))


def _places(chart: Chart, plan: Plan, label_boxes: LabelBoxes) -> str:
    """Each cell's name and where it begins, in thousandths of the width."""
    lefts = [
        (category, round_to_1000(label_boxes[series, category], chart.canvas_px)[0])
        for series, category in plan.cells
    ]
    return " ".join(f"{chart.categories[category]} {left}" for category, left in lefts)


def _rounded(value: float) -> str:
    """As `print(round(value, 2))` shows it, whole numbers without ".0"."""
    return str(round(value, 2) + 0.0).removesuffix(".0")  # adding 0.0 turns -0.0 into 0.0


def _name(chart: Chart, cell: Cell) -> str:
    series, category = cell
    return chart.categories[category] + (f" in {chart.series[series]}" if len(chart.series) > 1 else "")


def _draw_cells(rng: random.Random, chart: Chart, count: int) -> list[Cell]:
    """`count` cells of one series in different categories; the first two differ in value if any two do."""
    series = int(rng.random() * len(chart.series))
    categories = shuffled(rng, range(len(chart.categories)))
    if count > 1:
        first = chart.values[series][categories[0]]
        other = next((c for c in categories[1:] if chart.values[series][c] != first), categories[1])
        categories.remove(other)
        categories.insert(1, other)
    return [(series, category) for category in categories[:count]]


def _lookup_color(rng: random.Random, chart: Chart) -> Plan:
    """One bar's value. Where the chart has a typical value, that is asked for as often as the level says."""
    bars = list(range(len(chart.categories)))
    guess = None
    if chart.typical is not None:
        typical, share = chart.typical
        usual = chart.values[0].index(typical)
        bars = [usual] if rng.random() < share else [bar for bar in bars if bar != usual]
        guess = chart.shown(0, usual)
    cell = (0, pick(rng, bars))
    return Plan(
        text=f"What is the value of the {chart.categories[cell[1]]} bar?",
        cells=(cell,),
        compute=lambda values: _rounded(values[0]),
        guess=guess,
    )


def _leftmost_color(rng: random.Random, chart: Chart) -> Plan:
    """Where four bars stand, which shows without zooming; the demonstration says where each begins."""
    cells = _draw_cells(rng, chart, 4)
    names = [chart.categories[category] for _, category in cells]
    first = min(cells, key=lambda cell: cell[1])
    return Plan(
        text=f"Which bar is leftmost: {', '.join(names)}?",
        cells=tuple(cells),
        compute=lambda values: chart.categories[first[1]],
        places=True,
    )


def _lookup(rng: random.Random, chart: Chart) -> Plan:
    (cell,) = _draw_cells(rng, chart, 1)
    return Plan(
        text=f"What is the value of {_name(chart, cell)}?",
        cells=(cell,),
        compute=lambda values: _rounded(values[0]),
    )


def _of_two(
    wording: str, compute: Callable[[float, float], float], formula: str, *, percent: bool = False
) -> Callable[[random.Random, Chart], Plan]:
    """A kind that asks for a number made of two values, worded and computed by a formula of a and b."""

    def plan(rng: random.Random, chart: Chart) -> Plan:
        first, second = _draw_cells(rng, chart, 2)
        return Plan(
            text=wording.format(a=_name(chart, first), b=_name(chart, second)),
            cells=(first, second),
            compute=lambda values: _rounded(compute(values[0], values[1])),
            code=lambda shown: f"a, b = {shown[0]}, {shown[1]}\nprint(round({formula}, 2))",
            aliases=lambda answer: (f"{answer}%",) if percent else (),
        )

    return plan


def _weighted_mean(rng: random.Random, chart: Chart) -> Plan:
    cells = _draw_cells(rng, chart, 3)
    weights = [2 + int(rng.random() * 8) for _ in cells]
    weighted = zip(cells, weights, strict=True)
    parts = ", ".join(f"{_name(chart, cell)} (weight {weight})" for cell, weight in weighted)

    def compute(values: Sequence[float]) -> str:
        return _rounded(sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights))

    def code(shown: Sequence[str]) -> str:
        pairs = ", ".join(f"({value}, {weight})" for value, weight in zip(shown, weights, strict=True))
        return f"pairs = [{pairs}]\nprint(round(sum(v * w for v, w in pairs) / {sum(weights)}, 2))"

    return Plan(
        text=f"What is the weighted mean of {parts}? Round to two decimals.",
        cells=tuple(cells),
        compute=compute,
        code=code,
    )


def _slope(rng: random.Random, chart: Chart) -> Plan:
    first, second = sorted(_draw_cells(rng, chart, 2))
    steps = second[1] - first[1]
    return Plan(
        text=(
            f"From {_name(chart, first)} to {_name(chart, second)}, by how much does the value rise per step "
            "along the x axis, on average? A fall is negative. Round to two decimals."
        ),
        cells=(first, second),
        compute=lambda values: _rounded((values[1] - values[0]) / steps),
        code=lambda shown: f"a, b = {shown[0]}, {shown[1]}\nprint(round((b - a) / {steps}, 2))",
    )


def _argmax_gap(rng: random.Random, chart: Chart) -> Plan:
    """Of four categories, the one whose first two series lie furthest apart.

    Four with a unique answer if possible.
    """
    for _ in range(20):
        chosen = shuffled(rng, range(len(chart.categories)))[:4]
        gaps = sorted(abs(chart.values[0][category] - chart.values[1][category]) for category in chosen)
        if gaps[-1] > gaps[-2]:
            break
    names = [chart.categories[category] for category in chosen]

    def compute(values: Sequence[float]) -> str:
        gaps = [round(abs(a - b), 6) for a, b in zip(values[::2], values[1::2], strict=True)]
        return names[gaps.index(max(gaps))]

    def code(shown: Sequence[str]) -> str:
        entries = ", ".join(
            f"{n!r}: {a} - {b}" for n, a, b in zip(names, shown[::2], shown[1::2], strict=True)
        )
        return f"gaps = {{{entries}}}\nprint(max(gaps, key=lambda name: round(abs(gaps[name]), 6)))"

    return Plan(
        text=(
            f"Among {', '.join(names[:-1])} and {names[-1]}, where do {chart.series[0]} and "
            f"{chart.series[1]} lie furthest apart?"
        ),
        cells=tuple((series, category) for category in chosen for series in (0, 1)),
        compute=compute,
        code=code,
    )


KINDS: Mapping[str, Callable[[random.Random, Chart], Plan]] = {
    "lookup_color": _lookup_color,
    "leftmost_color": _leftmost_color,
    "lookup": _lookup,
    "sum": _of_two("What is the sum of {a} and {b}?", lambda a, b: a + b, "a + b"),
    "difference": _of_two("What is {a} minus {b}?", lambda a, b: a - b, "a - b"),
    "ratio": _of_two("What is {a} divided by {b}? Round to two decimals.", lambda a, b: a / b, "a / b"),
    "percent_change": _of_two(
        "By how many percent does {b} differ from {a}? Less is negative. Round to two decimals.",
        lambda a, b: (b - a) / a * 100,
        "(b - a) / a * 100",
        percent=True,
    ),
    "weighted_mean": _weighted_mean,
    "slope": _slope,
    "argmax_gap": _argmax_gap,
}
