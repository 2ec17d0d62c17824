"""What a figure is: a sheet, a question about it, and how Python finds the answer.

Every length, coordinate and coefficient stands in the figure alone. The answer is computed by us, the code is
the demonstration's; tests run one against the other.
"""

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from axpo_env.tasks.base import Grader
from axpo_env.tasks.synthetic.alike import number_like
from axpo_env.tasks.synthetic.answers import grade_exact
from axpo_env.tasks.synthetic.draws import shuffled
from axpo_env.tasks.synthetic.items import Box
from axpo_env.tasks.synthetic.sheets import Label, Sheet, Stroke

CENT = 0.01  # what a result rounded to two decimals may be off
CORNERS = "ABCD"  # names of points, in order
THREE_PARTS = ' Round to two decimals; answer as "(1) ...; (2) ...; (3) ...".'


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
    others: tuple[str, ...] = ()  # wrong answers of a multiple choice; empty: no such form
    guesses: tuple[str, ...] = ()  # for a reader who does not look; empty: numbers near the answer


Prints = Sequence[tuple[str, Label]]  # small print that a question needs, by what it belongs to
Draw = Callable[[random.Random, int, int, str], Figure]  # rng, canvas_px, font_px, split


def make_sheet(
    canvas_px: int, font_px: int, strokes: Sequence[Stroke], names: Sequence[Label], prints: Prints
) -> Sheet:
    """A sheet of strokes with large names, and small print over them."""
    labels = (*names, *(label for _, label in prints))
    return Sheet(canvas_px=canvas_px, font_px=font_px, strokes=tuple(strokes), labels=labels)


def needed(sheet: Sheet, prints: Prints) -> tuple[tuple[str, Box], ...]:
    """Where each print stands, in pixels."""
    return tuple((name, sheet.box(label)) for name, label in prints)


def read(prints: Prints) -> str:
    """What all prints say."""
    return ", ".join(f"{name} {label.text}" for name, label in prints)


def misread(
    rng: random.Random, numbers: Sequence[str], answer: Callable[[Sequence[str]], float | None]
) -> tuple[float, ...] | None:
    """What one or both of two numbers, taken for ones that look alike, make of the answer.

    To each of these answers the others and the right one are such answers. None where any of them is no figure's
    (`answer` is None) or two are nearly equal.
    """
    first, second = shuffled(rng, range(len(numbers)))[:2]
    answers = []
    for changed in ((), (first,), (second,), (first, second)):
        read = [number_like(number) if place in changed else number for place, number in enumerate(numbers)]
        answers.append(answer(read))
    found = [value for value in answers if value is not None]
    ordered = sorted(found)
    if len(found) < 4 or any(high - low < 0.5 for low, high in itertools.pairwise(ordered)):
        return None
    return tuple(found[1:])
