"""Figures of grids: the best way through numbers, the number of ways around walls."""

import random

from axpo_env.tasks.synthetic.draws import between
from axpo_env.tasks.synthetic.figure import Figure
from axpo_env.tasks.synthetic.items import Box, wording
from axpo_env.tasks.synthetic.sheets import GREY, Label, Point, Sheet, Stroke

_GRID = 5  # cells a side of a grid of numbers


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


def _best_sum(numbers: list[list[int]]) -> int:
    """The largest sum on a way right and down from corner to corner."""
    best = [[0] * len(row) for row in numbers]
    for row, line in enumerate(numbers):
        for column, number in enumerate(line):
            before = [best[row - 1][column]] * (row > 0) + [best[row][column - 1]] * (column > 0)
            best[row][column] = number + max(before, default=0)
    return best[-1][-1]


def best_path(rng: random.Random, canvas_px: int, font_px: int, split: str) -> Figure:
    """The largest sum of numbers on a way right and down."""
    numbers = [[between(rng, (10, 99)) for _ in range(_GRID)] for _ in range(_GRID)]
    centres, lines, box = _cells(canvas_px, 2.0 * font_px, _GRID, rng)
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
    return Figure(
        text=text,
        answer=str(_best_sum(numbers)),
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
        code=f"g = {numbers}\nn = len(g)\nbest = {{}}\nfor i in range(n):\n    for j in range(n):\n"
        "        before = [best[p] for p in ((i - 1, j), (i, j - 1)) if p in best]\n"
        "        best[i, j] = g[i][j] + max(before, default=0)\nprint(best[n - 1, n - 1])",
    )


def _count_ways(walls: list[list[bool]]) -> int:
    """How many ways right and down lead around the walls from corner to corner."""
    ways = [[0] * len(row) for row in walls]
    for row, line in enumerate(walls):
        for column, wall in enumerate(line):
            before = (ways[row - 1][column] if row else 0) + (ways[row][column - 1] if column else 0)
            ways[row][column] = 0 if wall else before or int(row == column == 0)
    return ways[-1][-1]


def count_paths(rng: random.Random, canvas_px: int, font_px: int, split: str) -> Figure:
    """Ways through a grid with walls: seen without zooming, but many to count."""
    size, num_ways = between(rng, (8, 10)), 0
    while num_ways < 200:
        walls = [[rng.random() < 0.12 for _ in range(size)] for _ in range(size)]
        walls[0][0] = walls[-1][-1] = False
        num_ways = _count_ways(walls)
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
    shown = ["".join("#" if wall else "." for wall in row) for row in walls]
    return Figure(
        text=text,
        answer=str(num_ways),
        sheet=Sheet(canvas_px=canvas_px, font_px=font_px, strokes=(*lines, *blocks), labels=()),
        needed=(),
        found=" ".join(shown),
        code=f"g = {shown}\nn = len(g)\nw = {{(0, 0): 1}}\nfor i in range(n):\n    for j in range(n):\n"
        "        if (i, j) != (0, 0):\n"
        "            w[i, j] = 0 if g[i][j] == '#' else w.get((i - 1, j), 0) + w.get((i, j - 1), 0)\n"
        "print(w[n - 1, n - 1])",
    )
