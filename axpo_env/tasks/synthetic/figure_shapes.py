"""Figures of triangles, squares and quadrilaterals: lengths, areas, several parts."""

import math
import random
from collections.abc import Sequence

from axpo_env.tasks.synthetic.answers import grade_parts, grade_within
from axpo_env.tasks.synthetic.draws import between, pick
from axpo_env.tasks.synthetic.figure import (
    CENT,
    CORNERS,
    THREE_PARTS,
    Figure,
    Prints,
    make_sheet,
    misread,
    needed,
    read,
)
from axpo_env.tasks.synthetic.items import wording
from axpo_env.tasks.synthetic.sheets import Label, Point, Sheet, Stroke


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
    for name, (x, y) in zip(CORNERS, corners, strict=False):
        far = math.hypot(x - middle[0], y - middle[1])
        names.append(
            Label(
                text=name,
                at=(x + 0.055 * (x - middle[0]) / far, y + 0.055 * (y - middle[1]) / far),
                large=True,
            )
        )
    return Stroke(points=(*corners, corners[0])), names


def _along_sides(corners: list[Point], texts: Sequence[str]) -> Prints:
    """A text in the middle of each side AB, BC, ..., by the side's name."""
    prints = []
    for index, text in enumerate(texts):
        after = (index + 1) % len(corners)
        (ax, ay), (bx, by) = corners[index], corners[after]
        at = ((ax + bx) / 2, (ay + by) / 2)
        prints.append((CORNERS[index] + CORNERS[after], Label(text=text, at=at)))
    return prints


def _measured_triangle(rng: random.Random, canvas_px: int, font_px: int) -> tuple[Sheet, Prints]:
    """A triangle; sides AB, BC, CA carry another's lengths, with one decimal, so that its shape tells nothing."""
    corners = _triangle(rng)
    outline, names = _outline(corners)
    unit = 20 + 180 * rng.random()  # lengths per canvas side
    measured = _triangle(rng)
    spans = zip(measured, [*measured[1:], measured[0]], strict=True)
    lengths = [f"{unit * math.hypot(bx - ax, by - ay):.1f}" for (ax, ay), (bx, by) in spans]
    sides = _along_sides(corners, lengths)
    return make_sheet(canvas_px, font_px, [outline], names, sides), sides


def side(rng: random.Random, canvas_px: int, font_px: int, split: str) -> Figure:
    """A square ABCD whose sides claim lengths: a matter of reading alone."""
    corners = [(0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8)]
    outline, names = _outline(corners)
    sides = _along_sides(corners, [str(between(rng, (10, 99))) for _ in corners])
    sheet = make_sheet(canvas_px, font_px, [outline], names, sides)
    name, label = pick(rng, sides)
    text = wording(
        split, ("How long is side {name}?", "Read the length of side {name}.", "What length has side {name}?")
    )
    return Figure(
        text=text.format(name=name),
        answer=label.text,
        sheet=sheet,
        needed=needed(sheet, [(name, label)]),
        found=f"{name} {label.text}",
        code=None,
        guesses=tuple(str(number) for number in range(10, 100)),
    )


def area_of_sides(sides: Sequence[str]) -> float | None:
    """The area of a triangle of such sides; None where there is none worth the name."""
    a, b, c = sorted(float(side) for side in sides)
    return _heron(a, b, c) if a + b > 1.02 * c else None


def _heron(a: float, b: float, c: float) -> float:
    half = (a + b + c) / 2
    return math.sqrt(half * (half - a) * (half - b) * (half - c))


def triangle_area(rng: random.Random, canvas_px: int, font_px: int, split: str) -> Figure:
    wrong = None
    while wrong is None:
        sheet, sides = _measured_triangle(rng, canvas_px, font_px)
        a, b, c = (label.text for _, label in sides)
        wrong = misread(rng, (a, b, c), area_of_sides)
    text = wording(
        split,
        (
            "What is the area of triangle ABC (not drawn to scale)? Round to two decimals.",
            "Find the area that triangle ABC, drawn out of scale, encloses, to two decimals.",
            "How large is the area inside triangle ABC, whose drawing is not to scale? Give two decimals.",
        ),
    )
    return Figure(
        text=text,
        answer=f"{_heron(float(a), float(b), float(c)):.2f}",
        sheet=sheet,
        needed=needed(sheet, sides),
        found=read(sides),
        code=f"a, b, c = {a}, {b}, {c}\ns = (a + b + c) / 2\n"
        "print(f'{(s * (s - a) * (s - b) * (s - c)) ** 0.5:.2f}')",
        grader=grade_within(CENT),
        others=tuple(f"{area:.2f}" for area in wrong),
    )


def triangle_parts(rng: random.Random, canvas_px: int, font_px: int, split: str) -> Figure:
    sheet, sides = _measured_triangle(rng, canvas_px, font_px)
    a, b, c = sorted(float(label.text) for _, label in sides)
    angle = math.degrees(math.acos((a * a + b * b - c * c) / (2 * a * b)))
    text = wording(
        split,
        (
            "For triangle ABC (not drawn to scale), find (1) its perimeter, (2) its area, (3) its largest "
            "angle in degrees.",
            "Triangle ABC, drawn out of scale: (1) How long is its boundary? (2) What area has it? (3) How many "
            "degrees has its widest angle?",
            "Give for triangle ABC, whose drawing is not to scale, (1) the sum of its sides, (2) the area, (3) the "
            "greatest angle in degrees.",
        ),
    )
    return Figure(
        text=text + THREE_PARTS,
        answer=f"(1) {a + b + c:.2f}; (2) {_heron(a, b, c):.2f}; (3) {angle:.2f}",
        sheet=sheet,
        needed=needed(sheet, sides),
        found=read(sides),
        code=f"from math import acos, degrees\na, b, c = sorted([{', '.join(lab.text for _, lab in sides)}])\n"
        "s = (a + b + c) / 2\narea = (s * (s - a) * (s - b) * (s - c)) ** 0.5\n"
        "angle = degrees(acos((a * a + b * b - c * c) / (2 * a * b)))\n"
        "print(f'(1) {2 * s:.2f}; (2) {area:.2f}; (3) {angle:.2f}')",
        grader=grade_parts(CENT),
    )


def _corners_around(rng: random.Random) -> list[Point]:
    """Four corners around the middle, in order."""
    corners = []
    for start in (0.15, 0.4, 0.65, 0.9):
        turn, far = 2 * math.pi * (start + 0.15 * rng.random()), 0.22 + 0.14 * rng.random()
        corners.append((0.5 + far * math.cos(turn), 0.5 + far * math.sin(turn)))
    return corners


def _spots(rng: random.Random) -> list[str]:
    """Coordinates x, y, x, y, ... of a quadrilateral's corners."""
    unit = 40 + 160 * rng.random()
    shift = (between(rng, (-60, 10)), between(rng, (-60, 10)))
    spots = [(round(unit * x + shift[0]), round(unit * (1 - y) + shift[1])) for x, y in _corners_around(rng)]
    return [str(axis) for spot in spots for axis in spot]


def area_around(numbers: Sequence[str]) -> float | None:
    """The area of a quadrilateral by its corners' coordinates x, y, x, y, ...; None with a "-0" among them."""
    xs, ys = ([int(number) for number in numbers[axis::2]] for axis in (0, 1))
    twice = sum(xs[i] * ys[(i + 1) % 4] - xs[(i + 1) % 4] * ys[i] for i in range(4))
    return None if "-0" in numbers else abs(twice) / 2


def quad_area(rng: random.Random, canvas_px: int, font_px: int, split: str) -> Figure:
    """A quadrilateral around the middle; its corners carry another's coordinates, so that its shape tells nothing."""
    wrong = None
    while wrong is None:
        numbers = _spots(rng)
        wrong = misread(rng, numbers, area_around)
    area = area_around(numbers)
    outline, names = _outline(_corners_around(rng))
    spots = zip(numbers[::2], numbers[1::2], strict=True)
    marks = [
        (name, Label(text=f"({x}, {y})", at=(place[0], place[1] + (0.06 if place[1] > 0.5 else -0.06))))
        for name, place, (x, y) in zip(CORNERS, [label.at for label in names], spots, strict=True)
    ]
    sheet = make_sheet(canvas_px, font_px, [outline], names, marks)
    text = wording(
        split,
        (
            "What is the area of the quadrilateral ABCD (not drawn to scale), whose corners carry their "
            "coordinates?",
            "The corners of ABCD, drawn out of scale, carry coordinates. Find its area.",
            "How large is the area inside ABCD, given the coordinates at its corners? The drawing is no measure.",
        ),
    )
    return Figure(
        text=text,
        answer=f"{area:.1f}",
        sheet=sheet,
        needed=needed(sheet, marks),
        found=read(marks),
        code=f"p = [{', '.join(label.text for _, label in marks)}]\n"
        "s = sum(x * v - u * y for (x, y), (u, v) in zip(p, p[1:] + p[:1]))\nprint(f'{abs(s) / 2:.1f}')",
        others=tuple(f"{value:.1f}" for value in wrong),
    )
