"""Visual search: a large board with hundreds of small signs, one of which holds the answer.

The twin of V*, VisualProbe and HR-Bench (4K and 8K). A board has columns A, B, ... and rows 1, 2, ... of
blocks, a block a few dozen coloured signs; words are too small to read before zooming, blocks and colours are
not. One sign's colour is found nowhere else on the board. Words of a block share two prefixes, so that the
first letters do not tell. Painting is left to `sign_drawing`, questions to `sign_questions`.

Knobs, from easy to hard: canvas and number of blocks, signs per block, how small a word is shown
(`SignLevel.seen_px`), kinds asked (one colour, a neighbour, a word within a block, two blocks).
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from axpo_env.tasks.synthetic.draws import between, pick, shuffled, split_of_data
from axpo_env.tasks.synthetic.items import Box, GeneratedSource, Item, Level

CAP_SHARE = 0.7  # a capital letter's height as a share of the font's size
COLORS: Mapping[str, tuple[int, int, int]] = {
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
    digits: bool = False  # signs hold numbers of two digits instead of words
    kinds: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.fill[1] > self.slots[0] * self.slots[1]:
            raise ValueError(f"{self.fill[1]} signs do not fit into a block of {self.slots} places")

    @property
    def seen_px(self) -> float:
        """How high a capital letter is on the board as the policy first sees it."""
        width, height = self.canvas_px
        return CAP_SHARE * self.font_px * min(1.0, math.sqrt(self.view_pixels / (width * height)))

    @property
    def zoomed_px(self) -> float:
        """How high it is in a zoom into one block, or into one place where there is a single block."""
        parts = self.slots if self.blocks == (1, 1) else self.blocks
        width, height = (side / count for side, count in zip(self.canvas_px, parts, strict=True))
        return CAP_SHARE * self.font_px * min(1.0, math.sqrt(self.view_pixels / (width * height)))


@dataclass(frozen=True, kw_only=True)
class Sign:
    """One sign. Places count from the board's upper left."""

    text: str
    color: str
    block: tuple[int, int]  # column, row
    slot: tuple[int, int]  # column, row of the whole board's places


@dataclass(frozen=True, kw_only=True)
class Board:
    """A board's signs, and where they hang."""

    level: SignLevel
    signs: tuple[Sign, ...]
    landmark: Sign  # the only one of its colour

    def in_block(self, block: tuple[int, int]) -> list[Sign]:
        return [sign for sign in self.signs if sign.block == block]

    def at(self, slot: tuple[int, int]) -> Sign | None:
        return next((sign for sign in self.signs if sign.slot == slot), None)

    def slot_box(self, slot: tuple[int, int]) -> Box:
        """A place in pixels."""
        width, height = self.level.canvas_px
        columns = self.level.blocks[0] * self.level.slots[0]
        rows = self.level.blocks[1] * self.level.slots[1]
        left, top = slot[0] * width / columns, slot[1] * height / rows
        return left, top, left + width / columns, top + height / rows

    def block_box(self, block: tuple[int, int]) -> Box:
        """A block in pixels."""
        width, height = (
            side / count for side, count in zip(self.level.canvas_px, self.level.blocks, strict=True)
        )
        return block[0] * width, block[1] * height, (block[0] + 1) * width, (block[1] + 1) * height


def block_name(block: tuple[int, int]) -> str:
    """(2, 0) is "C1"."""
    return f"{chr(ord('A') + block[0])}{block[1] + 1}"


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
        for place, name in zip(
            places[1:], [name for name in names if name not in (special, "grey")], strict=False
        ):
            signs[place] = replace(signs[place], color=name)
    return Board(level=level, signs=tuple(signs), landmark=signs[places[0]])


def _draw_block(
    rng: random.Random, level: SignLevel, block: tuple[int, int], colors: list[str], used: set[str]
) -> list[Sign]:
    columns, rows = level.slots
    count = between(rng, level.fill)
    slots = sorted(shuffled(rng, [(x, y) for y in range(rows) for x in range(columns)])[:count])
    texts = [str(between(rng, (10, 99))) for _ in slots] if level.digits else draw_words(rng, count, used)
    return [
        Sign(
            text=text,
            color=pick(rng, colors),
            block=block,
            slot=(block[0] * columns + x, block[1] * rows + y),
        )
        for text, (x, y) in zip(texts, slots, strict=True)
    ]


def draw_words(rng: random.Random, count: int, used: set[str]) -> list[str]:
    """Words like KORVAN, half of them with each of two prefixes; none on the board twice."""
    consonants, vowels = "BDFGKLMNPRSTVZ", "AEIOU"

    def syllable() -> str:
        return pick(rng, consonants) + pick(rng, vowels) + pick(rng, "LMNRST")

    prefixes = [syllable(), syllable()]
    words: list[str] = []
    while len(words) < count:
        word = prefixes[len(words) % 2] + syllable()
        if word not in used:
            used.add(word)
            words.append(word)
    return shuffled(rng, words)


_NANO = SignLevel(
    name="nano",
    view_pixels=48 * 48,
    canvas_px=(512, 512),
    blocks=(1, 1),
    slots=(8, 8),
    fill=(24, 32),
    font_px=27,
    digits=True,
    kinds=("odd_color",),
)
_EASY = SignLevel(
    name="easy",
    view_pixels=256 * 256,
    canvas_px=(1024, 1024),
    blocks=(4, 4),
    slots=(2, 6),
    fill=(10, 12),
    font_px=21,
    kinds=("odd_color", "beside_color"),
)
_MEDIUM = SignLevel(
    name="medium",
    view_pixels=512 * 512,
    canvas_px=(2048, 2048),
    blocks=(4, 4),
    slots=(4, 8),
    fill=(16, 24),
    font_px=21,
    kinds=("odd_color", "beside_color", "color_of", "beside_word"),
)
_HARD = SignLevel(
    name="hard",
    view_pixels=1024 * 1024,
    canvas_px=(4096, 4096),
    blocks=(4, 4),
    slots=(6, 10),
    fill=(24, 36),
    font_px=21,
    kinds=("color_of", "beside_word", "relation", "shared"),
)
_HARD_8K = SignLevel(
    name="hard-8k",
    view_pixels=1024 * 1024,
    canvas_px=(7680, 4320),
    blocks=(8, 4),
    slots=(4, 8),
    fill=(14, 20),
    font_px=28,
    kinds=("color_of", "beside_word", "relation", "shared"),
)


class SignSource(GeneratedSource[SignLevel]):
    """The boards of one level and split. Forms "vstar", "hrbench4k" and "hrbench8k" are multiple choice."""

    family = "signs"
    levels: ClassVar[Mapping[str, SignLevel]] = {
        level.name: level for level in (_NANO, _EASY, _MEDIUM, _HARD, _HARD_8K)
    }

    def draw(self, rng: random.Random, index: int) -> Item:
        from axpo_env.tasks.synthetic.sign_questions import ask

        board = draw_board(rng, self.level, self.split)
        chooses = self.form in ("vstar", "hrbench4k", "hrbench8k")
        return ask(rng, board, pick(rng, self.level.kinds), split=self.split, chooses=chooses)
