"""Visual search: a large board with hundreds of small signs, one of which holds the answer.

The twin of V*, VisualProbe and HR-Bench (4K and 8K). A board has columns A, B, ... and rows 1, 2, ... of
blocks, a block a few dozen coloured signs; words are too small to read before zooming, blocks and colours are
not. Options of a multiple choice differ in letters that look alike. What a board holds is in `sign_data`.

Knobs, from easy to hard: canvas and number of blocks, signs per block, how small a word is shown
(`SignLevel.seen_px`), how dark stains are (`stain_depth`), kinds asked (one colour, a neighbour, a word
within a block, two blocks).
"""

import random
from collections.abc import Mapping
from typing import ClassVar

from axpo_env.tasks.synthetic.draws import pick
from axpo_env.tasks.synthetic.items import GeneratedSource, Item
from axpo_env.tasks.synthetic.sign_data import SignLevel, draw_board
from axpo_env.tasks.synthetic.sign_questions import KINDS, ask

_LEVELS = (
    SignLevel(
        name="nano",
        view_pixels=48 * 48,
        canvas_px=(512, 512),
        blocks=(1, 1),
        slots=(10, 10),
        fill=(24, 32),
        font_px=22,
        digits=True,
        kinds=("odd_color",),
    ),
    SignLevel(
        name="easy",
        view_pixels=104 * 104,
        canvas_px=(1024, 1024),
        blocks=(4, 4),
        slots=(2, 6),
        fill=(10, 12),
        font_px=21,
        kinds=("odd_color", "beside_color"),
    ),
    SignLevel(
        name="medium",
        view_pixels=256 * 256,
        canvas_px=(2560, 2560),
        blocks=(10, 10),
        slots=(2, 6),
        fill=(8, 12),
        font_px=21,
        kinds=("odd_color", "beside_color", "color_of", "beside_word"),
    ),
    SignLevel(
        name="hard",
        view_pixels=416 * 416,
        canvas_px=(4096, 4096),
        blocks=(10, 10),
        slots=(3, 10),
        fill=(18, 26),
        font_px=21,
        kinds=("color_of", "beside_word", "relation", "shared"),
    ),
    SignLevel(
        name="hard-8k",
        view_pixels=768 * 432,
        canvas_px=(7680, 4320),
        blocks=(10, 10),
        slots=(5, 8),
        fill=(18, 26),
        font_px=21,
        kinds=("color_of", "beside_word", "relation", "shared"),
    ),
)


class SignSource(GeneratedSource[SignLevel]):
    """The boards of one level and split. Forms "vstar", "hrbench4k" and "hrbench8k" are multiple choice."""

    family = "signs"
    levels: ClassVar[Mapping[str, SignLevel]] = {level.name: level for level in _LEVELS}
    asks = KINDS

    def draw(self, rng: random.Random, index: int) -> Item:
        board = draw_board(rng, self.level, self.split)
        chooses = self.form in ("vstar", "hrbench4k", "hrbench8k")
        return ask(rng, board, pick(rng, self.level.kinds), split=self.split, chooses=chooses)
