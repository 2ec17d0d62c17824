"""A board of signs: its level, its hidden data, drawn from an item's own random generator, and where signs hang.

One sign's colour is found nowhere else on the board. Words of a block differ in letters that look alike.
Painting is left to `sign_drawing`, questions to `sign_questions`.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

from axpo_env.tasks.synthetic.alike import DIGITS, DIGITS_FROM_2, INNER, OUTER, VOWELS, with_like
from axpo_env.tasks.synthetic.draws import between, pick, shuffled, split_of_data
from axpo_env.tasks.synthetic.items import Box, Level
from axpo_env.tasks.synthetic.painting import RGB
from axpo_env.tasks.synthetic.places import Place, place_box, place_size

COLORS: Mapping[str, RGB] = {
    "red": (240, 95, 85),
    "orange": (250, 170, 60),
    "yellow": (250, 235, 100),
    "green": (125, 210, 120),
    "blue": (120, 175, 250),
    "purple": (205, 150, 240),
    "grey": (190, 190, 190),
}


@dataclass(frozen=True, kw_only=True)
class SignLevel(Level):
    """How large and how crowded the boards of a level are, and what is asked."""

    canvas_px: tuple[int, int]  # width and height
    blocks: tuple[int, int]  # columns and rows of blocks
    slots: tuple[int, int]  # columns and rows of places for signs in a block
    fill: tuple[int, int]  # fewest and most signs in a block
    font_px: int
    digits: bool = False  # signs hold numbers of two digits, from 20 on, instead of words
    kinds: tuple[str, ...]
    ranges = ("fill",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fill[1] > self.slots[0] * self.slots[1]:
            raise ValueError(f"{self.fill[1]} signs do not fit into a block of {self.slots} places")

    @property
    def seen_px(self) -> float:
        """How high a capital letter is on the board as the policy first sees it."""
        return self.print_px(self.font_px, *self.canvas_px)

    @property
    def zoomed_px(self) -> float:
        """How high it is in a zoom into one block, or into one place where there is a single block."""
        parts = self.slots if self.blocks == (1, 1) else self.blocks
        return self.print_px(self.font_px, *place_size(self.canvas_px, parts))


@dataclass(frozen=True, kw_only=True)
class Sign:
    """One sign. Places count from the board's upper left."""

    text: str
    color: str
    block: Place
    slot: Place  # among the whole board's slots


@dataclass(frozen=True, kw_only=True)
class Board:
    """A board's signs, and where they hang."""

    level: SignLevel
    signs: tuple[Sign, ...]
    landmark: Sign  # the only one of its colour

    def in_block(self, block: Place) -> list[Sign]:
        return [sign for sign in self.signs if sign.block == block]

    def slot_box(self, slot: Place) -> Box:
        """A slot in pixels."""
        width, height = self.level.canvas_px
        columns = self.level.blocks[0] * self.level.slots[0]
        rows = self.level.blocks[1] * self.level.slots[1]
        left, top = slot[0] * width / columns, slot[1] * height / rows
        return left, top, left + width / columns, top + height / rows

    def block_box(self, block: Place) -> Box:
        """A block in pixels."""
        return place_box(block, place_size(self.level.canvas_px, self.level.blocks))


def draw_board(rng: random.Random, level: SignLevel, split: str) -> Board:
    """A board whose first block's texts belong to `split`, by drawing that block until they do."""
    names = shuffled(rng, list(COLORS))
    special = next(name for name in names if name != "grey")
    # With numbers, all colours but grey stand once, as in a chart; with words, just one does.
    common = ["grey"] if level.digits else [name for name in names if name != special]
    while True:
        used: set[str] = set()
        signs = _draw_block(rng, level, (0, 0), common, used)
        if split_of_data([sign.text for sign in signs]) == split:
            break
    for row in range(level.blocks[1]):
        for column in range(level.blocks[0]):
            if (column, row) != (0, 0):
                signs += _draw_block(rng, level, (column, row), common, used)
    places = shuffled(rng, range(len(signs)))
    signs[places[0]] = replace(signs[places[0]], color=special)
    if level.digits:
        others = [name for name in names if name not in (special, "grey")]
        for place, name in zip(places[1:], others, strict=False):
            signs[place] = replace(signs[place], color=name)
    return Board(level=level, signs=tuple(signs), landmark=signs[places[0]])


def _draw_block(
    rng: random.Random, level: SignLevel, block: Place, colors: list[str], used: set[str]
) -> list[Sign]:
    columns, rows = level.slots
    count = between(rng, level.fill)
    slots = sorted(shuffled(rng, [(x, y) for y in range(rows) for x in range(columns)])[:count])
    texts = draw_numbers(rng, count) if level.digits else draw_words(rng, count, used)
    return [
        Sign(
            text=text,
            color=pick(rng, colors),
            block=block,
            slot=(block[0] * columns + x, block[1] * rows + y),
        )
        for text, (x, y) in zip(texts, slots, strict=True)
    ]


# What may stand at each place of a text, with its like.
WORD = (OUTER, VOWELS, INNER) * 2
NUMBER = (DIGITS_FROM_2, DIGITS)
_TOLD_APART = {6: (0, 2, 3, 5), 2: (0, 1)}  # places of options' differences, by length: no vowels


def draw_numbers(rng: random.Random, count: int) -> list[str]:
    """Numbers of two digits from 20 on, some of them equal."""
    return ["".join(pick(rng, list(place)) for place in NUMBER) for _ in range(count)]


def draw_words(rng: random.Random, count: int, used: set[str]) -> list[str]:
    """At most 64 words like KORVAX, each letter one of two that look alike; none on the board twice."""
    while True:
        base = "".join(pick(rng, list(place)) for place in WORD)
        words = [""]
        for letter, place in zip(base, WORD, strict=True):
            words = [word + other for word in words for other in (letter, place[letter])]
        words = shuffled(rng, words)[:count]
        if not used & set(words):
            used |= set(words)
            return words


def texts_alike(rng: random.Random, text: str) -> tuple[str, ...]:
    """The three texts that differ from `text` in one or both of two places.

    To each of the four the other three are such texts, so that they do not tell which one they were made for.
    """
    places = WORD if len(text) == len(WORD) else NUMBER
    first, second = sorted(shuffled(rng, _TOLD_APART[len(text)])[:2])
    one, other = (with_like(text, place, places[place]) for place in (first, second))
    return one, other, with_like(one, second, places[second])
