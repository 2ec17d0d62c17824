"""Plotted functions, their formula in the figure alone: integrals, zeros, several parts."""

import math
import random
from dataclasses import dataclass

from axpo_env.tasks.synthetic.answers import grade_parts, grade_within
from axpo_env.tasks.synthetic.draws import between
from axpo_env.tasks.synthetic.figure import CENT, CORNERS, THREE_PARTS, Figure, Prints, make_sheet, needed
from axpo_env.tasks.synthetic.items import wording
from axpo_env.tasks.synthetic.sheets import BLUE, GREY, Label, Point, Sheet, Stroke


@dataclass(frozen=True, kw_only=True)
class _Curve:
    """y = p sin(q x) + r x + s over 0 to 10."""

    p: str
    q: str
    r: str
    s: str

    def __call__(self, x: float) -> float:
        return float(self.p) * math.sin(float(self.q) * x) + float(self.r) * x + float(self.s)

    @property
    def formula(self) -> str:
        sign = "-" if self.s.startswith("-") else "+"
        return f"y = {self.p} sin({self.q}x) + {self.r}x {sign} {self.s.lstrip('-')}"

    @property
    def code(self) -> str:
        return f"from math import sin\nf = lambda x: {self.p} * sin({self.q} * x) + {self.r} * x + {self.s}\n"


def _plot(
    curve: _Curve, canvas_px: int, font_px: int, marks: tuple[str, ...], rng: random.Random
) -> tuple[Sheet, Prints]:
    """Axes, the curve, its formula as print, and marks on the x axis with their x."""
    heights = [curve(step / 20) for step in range(201)]
    low, high = min(0.0, *heights), max(0.0, *heights)

    def place(x: float, y: float) -> Point:
        return 0.1 + 0.08 * x, 0.72 - 0.55 * (y - low) / (high - low)

    strokes = [
        Stroke(points=(place(0, 0), place(10, 0)), color=GREY),
        Stroke(points=(place(0, low), place(0, high)), color=GREY),
        Stroke(points=tuple(place(step / 20, height) for step, height in enumerate(heights)), color=BLUE),
    ]
    prints = [("formula", Label(text=curve.formula, at=(0.35 + 0.3 * rng.random(), 0.08)))]
    names = []
    for name, x in zip(CORNERS, marks, strict=False):
        across, zero = place(float(x), 0)
        strokes.append(Stroke(points=((across, zero - 0.02), (across, zero + 0.02))))
        names.append(Label(text=name, at=(across, 0.8), large=True))
        prints.append((name, Label(text=f"x = {x}", at=(across, 0.87 if name == "A" else 0.92))))
    return make_sheet(canvas_px, font_px, strokes, names, prints), prints


def _tenths(rng: random.Random, low: int, high: int) -> str:
    return f"{between(rng, (low, high)) / 10:.1f}"


def _hundredths(rng: random.Random, low: int, high: int) -> str:
    return f"{between(rng, (low, high)) / 100:.2f}"


def _high_curve(rng: random.Random) -> _Curve:
    """A curve that stays above the x axis."""
    p = _tenths(rng, 15, 60)
    s = f"{float(p) + between(rng, (5, 60)) / 10:.1f}"
    return _Curve(p=p, q=_hundredths(rng, 60, 190), r=_hundredths(rng, 11, 99), s=s)


def _simpson(curve: _Curve, a: float, b: float) -> float:
    steps = 400
    width = (b - a) / steps
    inner = sum((4 if step % 2 else 2) * curve(a + step * width) for step in range(1, steps))
    return width / 3 * (curve(a) + inner + curve(b))


_INTEGRAL = (
    "n = 1000\nh = (b - a) / n\n"
    "area = h / 3 * (f(a) + f(b) + sum((4 if k % 2 else 2) * f(a + k * h) for k in range(1, n)))\n"
)


def integral(rng: random.Random, canvas_px: int, font_px: int, split: str) -> Figure:
    curve, a, b = _high_curve(rng), _tenths(rng, 5, 40), _tenths(rng, 55, 95)
    sheet, labels = _plot(curve, canvas_px, font_px, (a, b), rng)
    text = wording(
        split,
        (
            "What is the area between the curve and the x axis from A to B? Round to two decimals.",
            "Integrate the plotted function from A to B; give two decimals.",
            "How large is the area under the curve between the marks A and B, to two decimals?",
        ),
    )
    return Figure(
        text=text,
        answer=f"{_simpson(curve, float(a), float(b)):.2f}",
        sheet=sheet,
        needed=needed(sheet, labels),
        found=f"{curve.formula}, A {a}, B {b}",
        code=f"{curve.code}a, b = {a}, {b}\n{_INTEGRAL}print(f'{{area:.2f}}')",
        grader=grade_within(CENT),
    )


def curve_parts(rng: random.Random, canvas_px: int, font_px: int, split: str) -> Figure:
    curve, a, b = _high_curve(rng), _tenths(rng, 5, 40), _tenths(rng, 55, 95)
    sheet, labels = _plot(curve, canvas_px, font_px, (a, b), rng)
    area, width = _simpson(curve, float(a), float(b)), float(b) - float(a)
    rise = curve(float(b)) - curve(float(a))
    text = wording(
        split,
        (
            "Between A and B, find (1) the area under the curve, (2) the curve's mean height, (3) how much "
            "higher the curve is at B than at A.",
            "From A to B: (1) integrate the plotted function; (2) give its average; (3) by how much does it rise "
            "in all?",
            "On the stretch from A to B, what is (1) the area below the curve, (2) the mean of y, (3) y at B less "
            "y at A?",
        ),
    )
    return Figure(
        text=text + THREE_PARTS,
        answer=f"(1) {area:.2f}; (2) {area / width:.2f}; (3) {rise:.2f}",
        sheet=sheet,
        needed=needed(sheet, labels),
        found=f"{curve.formula}, A {a}, B {b}",
        code=f"{curve.code}a, b = {a}, {b}\n{_INTEGRAL}"
        "print(f'(1) {area:.2f}; (2) {area / (b - a):.2f}; (3) {f(b) - f(a):.2f}')",
        grader=grade_parts(CENT),
    )


def root(rng: random.Random, canvas_px: int, font_px: int, split: str) -> Figure:
    """A rising curve that crosses the axis once, somewhere from 1 to 9."""
    while True:
        p, q = _tenths(rng, 5, 20), _hundredths(rng, 60, 190)
        slope = float(p) * float(q) + between(rng, (5, 60)) / 100
        curve = _Curve(p=p, q=q, r=f"{slope:.2f}", s=f"-{_tenths(rng, 20, 180)}")
        if curve(1.0) < 0 < curve(9.0):
            break
    sheet, labels = _plot(curve, canvas_px, font_px, (), rng)
    low, high = 0.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if curve(middle) > 0 else (middle, high)
    text = wording(
        split,
        (
            "At which x does the curve cross the x axis? Round to three decimals.",
            "Find the zero of the plotted function, to three decimals.",
            "For which x is the plotted function 0? Give three decimals.",
        ),
    )
    return Figure(
        text=text,
        answer=f"{low:.3f}",
        sheet=sheet,
        needed=needed(sheet, labels),
        found=curve.formula,
        code=f"{curve.code}a, b = 0, 10\nfor _ in range(60):\n    m = (a + b) / 2\n"
        "    a, b = (a, m) if f(m) > 0 else (m, b)\nprint(f'{a:.3f}')",
        grader=grade_within(0.001),
    )
