"""Kinds of figures: each draws its numbers, says what is asked, and how Python finds the answer.

Every length, coordinate and coefficient stands in the figure alone. `compute` is ours, the code is the
demonstration's; tests run one against the other.
"""

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from axpo_env.tasks.synthetic.answers import Grader, grade_exact, grade_parts, grade_within
from axpo_env.tasks.synthetic.draws import between, pick
from axpo_env.tasks.synthetic.items import Box, wording
from axpo_env.tasks.synthetic.sheets import BLUE, GREY, Label, Point, Sheet, Stroke

_CENT = 0.01
_GRID = 5  # cells a side of a grid of numbers
_NAMES = "ABCD"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A sheet and a question about it."""

    text: str
    answer: str
    sheet: Sheet
    needed: tuple[tuple[str, Box], ...]  # what must be read where, in pixels
    found: str  # what is read there
    code: str | None  # Python that prints the answer; None where reading is enough
    grader: Grader = grade_exact
    spread: float | None = None  # factor between the options of a multiple choice; None: no such form
    guesses: tuple[str, ...] = ()  # for a reader who does not look; empty: numbers near the answer


Draw = Callable[[random.Random, int, int, str], Figure]  # rng, canvas_px, font_px, split


def _needed(sheet: Sheet, labels: list[tuple[str, Label]]) -> tuple[tuple[str, Box], ...]:
    return tuple((name, sheet.box(label)) for name, label in labels)


def _triangle(rng: random.Random) -> list[Point]:
    """Three corners, well apart from each other and from one line."""
    while True:
        corners = [(0.14 + 0.72 * rng.random(), 0.14 + 0.72 * rng.random()) for _ in range(3)]
        (ax, ay), (bx, by), (cx, cy) = corners
        if abs((bx - ax) * (cy - ay) - (cx - ax) * (by - ay)) > 0.2:
            return corners


def _outline(corners: list[Point]) -> tuple[Stroke, list[Label]]:
    """The closed line through the corners, and a large name outside each."""
    middle = [sum(axis) / len(corners) for axis in zip(*corners, strict=True)]
    names = []
    for name, (x, y) in zip(_NAMES, corners, strict=False):
        far = math.hypot(x - middle[0], y - middle[1])
        names.append(
            Label(
                text=name,
                at=(x + 0.055 * (x - middle[0]) / far, y + 0.055 * (y - middle[1]) / far),
                large=True,
            )
        )
    return Stroke(points=(*corners, corners[0])), names


def _labelled_triangle(
    rng: random.Random, canvas_px: int, font_px: int
) -> tuple[Sheet, list[tuple[str, Label]]]:
    """A triangle true to scale; sides AB, BC, CA carry lengths with one decimal."""
    corners = _triangle(rng)
    outline, names = _outline(corners)
    unit = 20 + 180 * rng.random()  # lengths per canvas side
    sides = []
    for index in range(3):
        (ax, ay), (bx, by) = corners[index], corners[(index + 1) % 3]
        length = f"{unit * math.hypot(bx - ax, by - ay):.1f}"
        name = _NAMES[index] + _NAMES[(index + 1) % 3]
        sides.append((name, Label(text=length, at=((ax + bx) / 2, (ay + by) / 2))))
    labels = (*names, *(label for _, label in sides))
    return Sheet(canvas_px=canvas_px, font_px=font_px, strokes=(outline,), labels=labels), sides


def _side(rng: random.Random, canvas_px: int, font_px: int, split: str) -> Figure:
    """A square ABCD whose sides claim lengths: a matter of reading alone."""
    corners = [(0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8)]
    outline, names = _outline(corners)
    sides = []
    for index in range(4):
        (ax, ay), (bx, by) = corners[index], corners[(index + 1) % 4]
        name = _NAMES[index] + _NAMES[(index + 1) % 4]
        sides.append((name, Label(text=str(between(rng, (10, 99))), at=((ax + bx) / 2, (ay + by) / 2))))
    sheet = Sheet(
        canvas_px=canvas_px,
        font_px=font_px,
        strokes=(outline,),
        labels=(*names, *(label for _, label in sides)),
    )
    name, label = pick(rng, sides)
    text = wording(
        split, ("How long is side {name}?", "Read the length of side {name}.", "What length has side {name}?")
    )
    return Figure(
        text=text.format(name=name),
        answer=label.text,
        sheet=sheet,
        needed=_needed(sheet, [(name, label)]),
        found=f"{name} {label.text}",
        code=None,
        guesses=tuple(str(number) for number in range(10, 100)),
    )


def _heron(a: float, b: float, c: float) -> float:
    half = (a + b + c) / 2
    return math.sqrt(half * (half - a) * (half - b) * (half - c))


def _read(sides: list[tuple[str, Label]]) -> str:
    return ", ".join(f"{name} {label.text}" for name, label in sides)


def _triangle_area(rng: random.Random, canvas_px: int, font_px: int, split: str) -> Figure:
    sheet, sides = _labelled_triangle(rng, canvas_px, font_px)
    a, b, c = (label.text for _, label in sides)
    text = wording(
        split,
        (
            "What is the area of triangle ABC? Round to two decimals.",
            "Find the area that triangle ABC encloses, to two decimals.",
            "How large is the area inside triangle ABC? Give two decimals.",
        ),
    )
    return Figure(
        text=text,
        answer=f"{_heron(float(a), float(b), float(c)):.2f}",
        sheet=sheet,
        needed=_needed(sheet, sides),
        found=_read(sides),
        code=f"a, b, c = {a}, {b}, {c}\ns = (a + b + c) / 2\n"
        "print(f'{(s * (s - a) * (s - b) * (s - c)) ** 0.5:.2f}')",
        grader=grade_within(_CENT),
        spread=1.15,
    )


def _triangle_parts(rng: random.Random, canvas_px: int, font_px: int, split: str) -> Figure:
    sheet, sides = _labelled_triangle(rng, canvas_px, font_px)
    a, b, c = sorted(float(label.text) for _, label in sides)
    angle = math.degrees(math.acos((a * a + b * b - c * c) / (2 * a * b)))
    text = wording(
        split,
        (
            "For triangle ABC, find (1) its perimeter, (2) its area, (3) its largest angle in degrees.",
            "Triangle ABC: (1) How long is its boundary? (2) What area has it? (3) How many degrees has its "
            "widest angle?",
            "Give for triangle ABC (1) the sum of its sides, (2) the area, (3) the greatest angle in degrees.",
        ),
    )
    return Figure(
        text=text + ' Round to two decimals; answer as "(1) ...; (2) ...; (3) ...".',
        answer=f"(1) {a + b + c:.2f}; (2) {_heron(a, b, c):.2f}; (3) {angle:.2f}",
        sheet=sheet,
        needed=_needed(sheet, sides),
        found=_read(sides),
        code=f"from math import acos, degrees\na, b, c = sorted([{', '.join(lab.text for _, lab in sides)}])\n"
        "s = (a + b + c) / 2\narea = (s * (s - a) * (s - b) * (s - c)) ** 0.5\n"
        "angle = degrees(acos((a * a + b * b - c * c) / (2 * a * b)))\n"
        "print(f'(1) {2 * s:.2f}; (2) {area:.2f}; (3) {angle:.2f}')",
        grader=grade_parts(_CENT),
    )


def _quad_area(rng: random.Random, canvas_px: int, font_px: int, split: str) -> Figure:
    """A quadrilateral around the middle; each corner carries its coordinates."""
    corners: list[Point] = []
    for start in (0.15, 0.4, 0.65, 0.9):
        turn, far = 2 * math.pi * (start + 0.15 * rng.random()), 0.22 + 0.14 * rng.random()
        corners.append((0.5 + far * math.cos(turn), 0.5 + far * math.sin(turn)))
    unit = 40 + 160 * rng.random()
    shift = (between(rng, (-60, 10)), between(rng, (-60, 10)))
    spots = [(round(unit * x + shift[0]), round(unit * (1 - y) + shift[1])) for x, y in corners]
    outline, names = _outline(corners)
    marks = [
        (name, Label(text=f"({x}, {y})", at=(place[0], place[1] + (0.06 if place[1] > 0.5 else -0.06))))
        for name, place, (x, y) in zip(_NAMES, [label.at for label in names], spots, strict=True)
    ]
    labels = (*names, *(label for _, label in marks))
    sheet = Sheet(canvas_px=canvas_px, font_px=font_px, strokes=(outline,), labels=labels)
    twice = sum(x * spots[(i + 1) % 4][1] - spots[(i + 1) % 4][0] * y for i, (x, y) in enumerate(spots))
    text = wording(
        split,
        (
            "What is the area of the quadrilateral ABCD, whose corners carry their coordinates?",
            "The corners of ABCD carry coordinates. Find its area.",
            "How large is the area inside ABCD, given the coordinates at its corners?",
        ),
    )
    return Figure(
        text=text,
        answer=f"{abs(twice) / 2:.1f}",
        sheet=sheet,
        needed=_needed(sheet, marks),
        found=_read(marks),
        code=f"p = [{', '.join(label.text for _, label in marks)}]\n"
        "s = sum(x * v - u * y for (x, y), (u, v) in zip(p, p[1:] + p[:1]))\nprint(f'{abs(s) / 2:.1f}')",
        spread=1.15,
    )


def _cells(
    canvas_px: int, cell_px: float, count: int, rng: random.Random
) -> tuple[list[list[Point]], tuple[Stroke, ...], Box]:
    """Centres by row and column, lines and pixel box of a square grid put at random."""
    cell = cell_px / canvas_px
    left, top = (0.02 + (0.96 - count * cell) * rng.random() for _ in range(2))
    centres = [
        [(left + (column + 0.5) * cell, top + (row + 0.5) * cell) for column in range(count)]
        for row in range(count)
    ]
    end = count * cell
    lines = [
        stroke
        for step in range(count + 1)
        for stroke in (
            Stroke(points=((left + step * cell, top), (left + step * cell, top + end)), color=GREY),
            Stroke(points=((left, top + step * cell), (left + end, top + step * cell)), color=GREY),
        )
    ]
    margin = 0.1 * cell
    box = [
        canvas_px * side for side in (left - margin, top - margin, left + end + margin, top + end + margin)
    ]
    return centres, tuple(lines), (box[0], box[1], box[2], box[3])


def _best_path(rng: random.Random, canvas_px: int, font_px: int, split: str) -> Figure:
    """The largest sum of numbers on a way right and down."""
    numbers = [[between(rng, (10, 99)) for _ in range(_GRID)] for _ in range(_GRID)]
    centres, lines, box = _cells(canvas_px, 3.0 * font_px, _GRID, rng)
    best = [[0] * _GRID for _ in range(_GRID)]
    for row in range(_GRID):
        for column in range(_GRID):
            before = [best[row - 1][column]] * (row > 0) + [best[row][column - 1]] * (column > 0)
            best[row][column] = numbers[row][column] + max(before, default=0)
    text = wording(
        split,
        (
            "Going right or down from the grid's upper left cell to its lower right cell, what is the largest "
            "possible sum of the numbers passed, both ends included?",
            "A way leads from the upper left cell to the lower right one, by steps right and down. Find the "
            "greatest sum that its numbers can have, ends included.",
            "Over all ways from the first cell (upper left) to the last (lower right) by moves right and down: "
            "what is the maximum of the sum of their numbers?",
        ),
    )
    rows = ["\n".join(str(row) for row in numbers).replace("\n", ", ")]
    return Figure(
        text=text,
        answer=str(best[-1][-1]),
        sheet=Sheet(
            canvas_px=canvas_px,
            font_px=font_px,
            strokes=lines,
            labels=tuple(
                Label(text=str(numbers[row][column]), at=centres[row][column])
                for row in range(_GRID)
                for column in range(_GRID)
            ),
        ),
        needed=(("grid", box),),
        found=" / ".join(" ".join(str(number) for number in row) for row in numbers),
        code=f"g = [{rows[0]}]\nn = len(g)\nbest = {{}}\nfor i in range(n):\n    for j in range(n):\n"
        "        before = [best[p] for p in ((i - 1, j), (i, j - 1)) if p in best]\n"
        "        best[i, j] = g[i][j] + max(before, default=0)\nprint(best[n - 1, n - 1])",
    )


def _count_paths(rng: random.Random, canvas_px: int, font_px: int, split: str) -> Figure:
    """Ways through a grid with walls: seen without zooming, but many to count."""
    size = between(rng, (8, 10))
    while True:
        walls = [[rng.random() < 0.12 for _ in range(size)] for _ in range(size)]
        walls[0][0] = walls[-1][-1] = False
        ways = [[0] * size for _ in range(size)]
        for row in range(size):
            for column in range(size):
                before = (ways[row - 1][column] if row else 0) + (ways[row][column - 1] if column else 0)
                ways[row][column] = 0 if walls[row][column] else before or int(row == column == 0)
        if ways[-1][-1] >= 200:
            break
    cell_px = 0.9 * canvas_px / size
    centres, lines, _ = _cells(canvas_px, cell_px, size, rng)
    half = cell_px / canvas_px / 2
    blocks = [
        Stroke(
            points=tuple(
                (x + half * right, y + half * down) for right, down in ((-1, -1), (1, -1), (1, 1), (-1, 1))
            ),
            filled=True,
        )
        for row in range(size)
        for column in range(size)
        if walls[row][column]
        for x, y in (centres[row][column],)
    ]
    text = wording(
        split,
        (
            "How many ways lead from the upper left cell to the lower right cell by steps right and down that "
            "avoid the black cells?",
            "Count the ways from the upper left cell to the lower right one: steps right and down, never onto "
            "black.",
            "Moving only right and down and never onto a black cell, in how many ways can one get from the upper "
            "left corner to the lower right one?",
        ),
    )
    shown = ", ".join(repr("".join("#" if wall else "." for wall in row)) for row in walls)
    return Figure(
        text=text,
        answer=str(ways[-1][-1]),
        sheet=Sheet(canvas_px=canvas_px, font_px=font_px, strokes=(*lines, *blocks), labels=()),
        needed=(),
        found=" ".join("".join("#" if wall else "." for wall in row) for row in walls),
        code=f"g = [{shown}]\nn = len(g)\nw = {{(0, 0): 1}}\nfor i in range(n):\n    for j in range(n):\n"
        "        if (i, j) != (0, 0):\n"
        "            w[i, j] = 0 if g[i][j] == '#' else w.get((i - 1, j), 0) + w.get((i, j - 1), 0)\n"
        "print(w[n - 1, n - 1])",
    )


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
) -> tuple[Sheet, list[tuple[str, Label]]]:
    """Axes, the curve, its formula as a label, and marks on the x axis with their x."""
    heights = [curve(step / 20) for step in range(201)]
    low, high = min(0.0, *heights), max(0.0, *heights)

    def place(x: float, y: float) -> Point:
        return 0.1 + 0.08 * x, 0.72 - 0.55 * (y - low) / (high - low)

    line = Stroke(points=tuple(place(step / 20, height) for step, height in enumerate(heights)), color=BLUE)
    axes = (
        Stroke(points=(place(0, 0), place(10, 0)), color=GREY),
        Stroke(points=(place(0, low), place(0, high)), color=GREY),
    )
    strokes, labels = (
        [*axes, line],
        [("formula", Label(text=curve.formula, at=(0.35 + 0.3 * rng.random(), 0.08)))],
    )
    names = []
    for name, x in zip(_NAMES, marks, strict=False):
        across, zero = place(float(x), 0)
        strokes.append(Stroke(points=((across, zero - 0.02), (across, zero + 0.02))))
        names.append(Label(text=name, at=(across, 0.8), large=True))
        labels.append((name, Label(text=f"x = {x}", at=(across, 0.87 if name == "A" else 0.92))))
    everything = (*names, *(label for _, label in labels))
    sheet = Sheet(canvas_px=canvas_px, font_px=font_px, strokes=tuple(strokes), labels=everything)
    return sheet, labels


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


def _integral(rng: random.Random, canvas_px: int, font_px: int, split: str) -> Figure:
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
        needed=_needed(sheet, labels),
        found=f"{curve.formula}, A {a}, B {b}",
        code=f"{curve.code}a, b = {a}, {b}\n{_INTEGRAL}print(f'{{area:.2f}}')",
        grader=grade_within(_CENT),
    )


def _curve_parts(rng: random.Random, canvas_px: int, font_px: int, split: str) -> Figure:
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
        text=text + ' Round to two decimals; answer as "(1) ...; (2) ...; (3) ...".',
        answer=f"(1) {area:.2f}; (2) {area / width:.2f}; (3) {rise:.2f}",
        sheet=sheet,
        needed=_needed(sheet, labels),
        found=f"{curve.formula}, A {a}, B {b}",
        code=f"{curve.code}a, b = {a}, {b}\n{_INTEGRAL}"
        "print(f'(1) {area:.2f}; (2) {area / (b - a):.2f}; (3) {f(b) - f(a):.2f}')",
        grader=grade_parts(_CENT),
    )


def _root(rng: random.Random, canvas_px: int, font_px: int, split: str) -> Figure:
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
        needed=_needed(sheet, labels),
        found=curve.formula,
        code=f"{curve.code}a, b = 0, 10\nfor _ in range(60):\n    m = (a + b) / 2\n"
        "    a, b = (a, m) if f(m) > 0 else (m, b)\nprint(f'{a:.3f}')",
        grader=grade_within(0.001),
    )


KINDS: Mapping[str, Draw] = {
    "side": _side,
    "triangle_area": _triangle_area,
    "quad_area": _quad_area,
    "best_path": _best_path,
    "count_paths": _count_paths,
    "integral": _integral,
    "root": _root,
    "triangle_parts": _triangle_parts,
    "curve_parts": _curve_parts,
}
