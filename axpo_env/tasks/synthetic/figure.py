"""What a figure is: a sheet, a question about it, and how Python finds the answer.

Every length, coordinate and coefficient stands in the figure alone. The answer is computed by us, the code is
the demonstration's; tests run one against the other.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from axpo_env.tasks.base import Grader
from axpo_env.tasks.synthetic.answers import grade_exact
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
    spread: float | None = None  # factor between the options of a multiple choice; None: no such form
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
