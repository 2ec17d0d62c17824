"""Questions about a chart: text, answer, where the needed values stand, and how to find out.

Each kind picks its values (cells) and says how an answer follows from them, in Python and in words: three wordings,
one a split, but for the kinds of the nano levels. A demonstration is what a policy would write turn by turn: very
short thinking, then zooms into the cells, a computation where the level wants one, the answer. A careless
demonstrator (`aim_noise`) may zoom in beside its target; it then honestly goes on with the value that it sees there.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from axpo_env.grading import grade_chartqa
from axpo_env.messages import format_action, format_answer, format_call
from axpo_env.tasks.base import Random
from axpo_env.tasks.synthetic.answers import Grader, grade_exact
from axpo_env.tasks.synthetic.chart_data import Chart, ChartLevel, draw_range
from axpo_env.tasks.synthetic.chart_drawing import LabelBoxes, label_boxes, paint
from axpo_env.tasks.synthetic.draws import between, pick, pick_offset, shuffled
from axpo_env.tasks.synthetic.items import Box, Box1000, Item, wording, zoom_call

Cell = tuple[int, int]  # series, category

NUM_GUESSES = 12
RATIO_DECIMALS = 4  # measured on the largest canvas, a ratio is known to three


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a kind of question asks of a chart."""

    text: str
    cells: tuple[Cell, ...]  # the values needed
    compute: Callable[[Sequence[Fraction]], tuple[str, ...]]  # the cells' values -> the answer, then others
    code: Callable[[Sequence[str]], str] | None = None  # the cells' printed values -> Python that prints it
    guesses: tuple[str, ...] = ()  # what one answers who does not look; (): what made-up values would give
    places: bool = False  # only where the cells stand matters, which shows without a tool
    grader: Grader = grade_exact


def ask(rng: random.Random, chart: Chart, kind: str, *, level: ChartLevel, split: str) -> Item:
    """A question of `kind` about `chart`."""
    plan = KINDS[kind](rng, chart, split)
    boxes = label_boxes(chart)
    computes = level.uses_python and plan.code is not None
    answer, *aliases = plan.compute([_value(chart, chart.values[s][c]) for s, c in plan.cells])

    def solve(rng: Random, aim_noise: Sequence[float] | float) -> list[str]:
        if plan.places:
            return [format_action(_places(chart, plan, boxes), format_answer(answer))]
        return _demonstrate(rng, chart, plan, boxes, aim_noise, computes=computes)

    return Item(
        kind=kind,
        question=plan.text,
        answer=answer,
        aliases=tuple(aliases),
        guesses=plan.guesses or _guesses(rng, chart, plan, level),
        guess_note=f"guess {_named(chart, plan)}",
        needs_tools=() if plan.places else ("image_zoom_in", "python") if computes else ("image_zoom_in",),
        gold_boxes=tuple(round_to_1000(boxes[cell], chart.canvas_px) for cell in plan.cells),
        places=tuple(round_to_1000(box, chart.canvas_px) for box in boxes.values()),
        paint=lambda: (paint(chart),),
        solve=solve,
        grader=plan.grader,
        details={"chart": chart, "plan": plan},
    )


def _value(chart: Chart, value: int) -> Fraction:
    """A value as it is printed, exactly."""
    return Fraction(value, 10**chart.decimals)


def _guesses(rng: random.Random, chart: Chart, plan: Plan, level: ChartLevel) -> tuple[str, ...]:
    """The answers that some made-up values would give."""
    guesses = []
    for _ in range(NUM_GUESSES):
        steps = draw_range(rng, level)
        values = [_value(chart, level.value_step * between(rng, steps)) for _ in plan.cells]
        guesses.append(plan.compute(values)[0])
    return tuple(guesses)


def round_to_1000(box: Box, canvas_px: int) -> Box1000:
    """A pixel box in thousandths of the canvas, rounded to the nearest and kept inside."""
    left, top, right, bottom = (min(max(round(1000 * side / canvas_px), 0), 1000) for side in box)
    return left, top, right, bottom


def _demonstrate(
    rng: Random,
    chart: Chart,
    plan: Plan,
    boxes: LabelBoxes,
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
        needed = [boxes[series, aimed[column]] for series, category in plan.cells if category == column]
        left, top, right, bottom = zip(*needed, strict=True)
        box = round_to_1000((min(left), min(top), max(right), max(bottom)), chart.canvas_px)
        zooms.append(zoom_call(chart.categories[column], box))
    seen = [chart.shown(series, aimed[category]) for series, category in plan.cells]
    pairs = zip(plan.cells, seen, strict=True)
    notes = " ".join(f"{chart.categories[category]} {value}" for (_, category), value in pairs)
    answer = plan.compute([Fraction(value) for value in seen])[0]
    actions = [format_action(f"zoom {_named(chart, plan)}", *zooms)]
    if computes:
        assert plan.code is not None
        actions.append(format_action(notes, format_call("python", {"code": plan.code(seen)})))
        notes = answer
    return [*actions, format_action(notes, format_answer(answer))]


def _named(chart: Chart, plan: Plan) -> str:
    """The categories that a plan needs, in its order."""
    return " ".join(dict.fromkeys(chart.categories[category] for _, category in plan.cells))


def _places(chart: Chart, plan: Plan, boxes: LabelBoxes) -> str:
    """Each cell's name and where it begins, in thousandths of the width."""
    lefts = [
        (category, round_to_1000(boxes[series, category], chart.canvas_px)[0])
        for series, category in plan.cells
    ]
    return " ".join(f"{chart.categories[category]} {left}" for category, left in lefts)


def _rounded(value: Fraction, decimals: int) -> tuple[str, ...]:
    """`value` with so many decimals; both ways if it lies halfway, since floats may round it either way."""
    scaled = value * 10**decimals
    nearest = {math.ceil(scaled - Fraction(1, 2)), math.floor(scaled + Fraction(1, 2))}
    return tuple(f"{whole / 10**decimals:.{decimals}f}" for whole in sorted(nearest))


def _shorn(value: Fraction) -> tuple[str, ...]:
    """`value` as the nano levels write it: whole numbers without decimals."""
    return (str(round(float(value), 2)).removesuffix(".0"),)


def _to(decimals: int) -> str:
    """The sentence that says to which decimal an answer is graded."""
    precision = {0: "a whole number", 1: "one decimal"}.get(decimals, f"{decimals} decimals")
    return f" Round to {precision}."


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


def _lookup_color(rng: random.Random, chart: Chart, split: str) -> Plan:
    """One bar's value. Where the chart has a typical value, that is asked for as often as the level says."""
    bars = list(range(len(chart.categories)))
    guesses: tuple[str, ...] = ()
    if chart.typical is not None:
        typical, share = chart.typical
        usual = chart.values[0].index(typical)
        bars = [usual] if rng.random() < share else [bar for bar in bars if bar != usual]
        guesses = (chart.shown(0, usual),)
    cell = (0, pick(rng, bars))
    return Plan(
        text=f"What is the value of the {chart.categories[cell[1]]} bar?",
        cells=(cell,),
        compute=lambda values: _shorn(values[0]),
        guesses=guesses,
        grader=grade_chartqa,
    )


def _leftmost_color(rng: random.Random, chart: Chart, split: str) -> Plan:
    """Where four bars stand, which shows without zooming; the demonstration says where each begins."""
    cells = _draw_cells(rng, chart, 4)
    names = [chart.categories[category] for _, category in cells]
    first = min(cells, key=lambda cell: cell[1])
    return Plan(
        text=f"Which bar is leftmost: {', '.join(names)}?",
        cells=tuple(cells),
        compute=lambda values: (chart.categories[first[1]],),
        guesses=tuple(names),
        places=True,
        grader=grade_chartqa,
    )


def _lookup(rng: random.Random, chart: Chart, split: str) -> Plan:
    (cell,) = _draw_cells(rng, chart, 1)
    text = wording(
        split, ("What is the value of {a}?", "How much does {a} show?", "Which number stands at {a}?")
    )
    return Plan(
        text=text.format(a=_name(chart, cell)) + _to(chart.decimals),
        cells=(cell,),
        compute=lambda values: _rounded(values[0], chart.decimals),
    )


def _of_two(
    wordings: tuple[str, str, str],
    compute: Callable[[Fraction, Fraction], Fraction],
    formula: str,
    *,
    decimals: int | None = None,
) -> Callable[[random.Random, Chart, str], Plan]:
    """A kind that asks for a number made of two values, worded and computed by a formula of a and b.

    Graded to so many decimals; None: to as many as values have.
    """

    def plan(rng: random.Random, chart: Chart, split: str) -> Plan:
        first, second = _draw_cells(rng, chart, 2)
        places = chart.decimals if decimals is None else decimals
        text = wording(split, wordings).format(a=_name(chart, first), b=_name(chart, second))
        return Plan(
            text=text + _to(places),
            cells=(first, second),
            compute=lambda values: _rounded(compute(values[0], values[1]), places),
            code=lambda shown: f"a, b = {shown[0]}, {shown[1]}\nprint(f'{{{formula}:.{places}f}}')",
        )

    return plan


def _weighted_mean(rng: random.Random, chart: Chart, split: str) -> Plan:
    cells, places = _draw_cells(rng, chart, 3), chart.decimals + 1
    weights = [2 + int(rng.random() * 8) for _ in cells]
    weighted = zip(cells, weights, strict=True)
    parts = ", ".join(f"{_name(chart, cell)} (weight {weight})" for cell, weight in weighted)
    text = wording(
        split,
        (
            "What is the weighted mean of {parts}?",
            "Average these, each with its weight: {parts}.",
            "How large is the mean of {parts}, weighted as the brackets say?",
        ),
    )

    def compute(values: Sequence[Fraction]) -> tuple[str, ...]:
        total = sum((v * w for v, w in zip(values, weights, strict=True)), Fraction())
        return _rounded(total / sum(weights), places)

    def code(shown: Sequence[str]) -> str:
        pairs = ", ".join(f"({value}, {weight})" for value, weight in zip(shown, weights, strict=True))
        return f"pairs = [{pairs}]\nprint(f'{{sum(v * w for v, w in pairs) / {sum(weights)}:.{places}f}}')"

    return Plan(text=text.format(parts=parts) + _to(places), cells=tuple(cells), compute=compute, code=code)


def _slope(rng: random.Random, chart: Chart, split: str) -> Plan:
    first, second = sorted(_draw_cells(rng, chart, 2))
    steps, places = second[1] - first[1], chart.decimals + 1
    text = wording(
        split,
        (
            "From {a} to {b}, by how much does the value rise per step along the x axis, on average, a fall being "
            "negative?",
            "Going from {a} to {b}, what does a step along the x axis add on average, less being negative?",
            "How steep is the way from {a} to {b}, as the mean change per step along the x axis, with its sign?",
        ),
    )
    return Plan(
        text=text.format(a=_name(chart, first), b=_name(chart, second)) + _to(places),
        cells=(first, second),
        compute=lambda values: _rounded((values[1] - values[0]) / steps, places),
        code=lambda shown: f"a, b = {shown[0]}, {shown[1]}\nprint(f'{{(b - a) / {steps}:.{places}f}}')",
    )


def _largest_gap(rng: random.Random, chart: Chart, split: str) -> Plan:
    """How far the first two series lie apart where they do most, among four categories."""
    chosen = shuffled(rng, range(len(chart.categories)))[:4]
    names = [chart.categories[category] for category in chosen]
    places = chart.decimals
    text = wording(
        split,
        (
            "Among {names}, how far do {s} and {t} lie apart where they lie furthest apart?",
            "Looking at {names} only, what is the largest gap between {s} and {t}?",
            "By how much do {s} and {t} differ at most, if only {names} count?",
        ),
    )

    def compute(values: Sequence[Fraction]) -> tuple[str, ...]:
        return _rounded(max(abs(a - b) for a, b in zip(values[::2], values[1::2], strict=True)), places)

    def code(shown: Sequence[str]) -> str:
        pairs = ", ".join(f"({a}, {b})" for a, b in zip(shown[::2], shown[1::2], strict=True))
        return f"pairs = [{pairs}]\nprint(f'{{max(abs(a - b) for a, b in pairs):.{places}f}}')"

    return Plan(
        text=text.format(
            names=f"{', '.join(names[:-1])} and {names[-1]}", s=chart.series[0], t=chart.series[1]
        )
        + _to(places),
        cells=tuple((series, category) for category in chosen for series in (0, 1)),
        compute=compute,
        code=code,
    )


KINDS: Mapping[str, Callable[[random.Random, Chart, str], Plan]] = {
    "lookup_color": _lookup_color,
    "leftmost_color": _leftmost_color,
    "lookup": _lookup,
    "sum": _of_two(
        (
            "What is the sum of {a} and {b}?",
            "How much do {a} and {b} make together?",
            "Add up {a} and {b}: what is the total?",
        ),
        lambda a, b: a + b,
        "a + b",
    ),
    "difference": _of_two(
        (
            "What is {a} minus {b}?",
            "What is left of {a} if {b} is taken away?",
            "How much more than {b} does {a} show, less being negative?",
        ),
        lambda a, b: a - b,
        "a - b",
    ),
    "ratio": _of_two(
        (
            "What is {a} divided by {b}?",
            "What is the ratio of {a} to {b}?",
            "How many times as large as {b} is {a}?",
        ),
        lambda a, b: a / b,
        "a / b",
        decimals=RATIO_DECIMALS,
    ),
    "percent_change": _of_two(
        (
            "By how many percent does {b} differ from {a}, less being negative?",
            "From {a} to {b}, what is the change in percent of {a}, a fall being negative?",
            "Taking {a} for 100 percent, how many percent more is {b}, less being negative?",
        ),
        lambda a, b: (b - a) / a * 100,
        "(b - a) / a * 100",
        decimals=RATIO_DECIMALS - 2,
    ),
    "weighted_mean": _weighted_mean,
    "slope": _slope,
    "largest_gap": _largest_gap,
}
