"""Questions about a board of signs: text, answer, where to look, and how to find out.

Each kind says in three wordings, one a split, what is asked; a demonstration zooms into the places that
matter and answers what stands there.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from axpo_env.messages import format_action, format_answer
from axpo_env.tasks.base import Grader, Random
from axpo_env.tasks.synthetic.answers import grade_exact
from axpo_env.tasks.synthetic.draws import pick, pick_offset, shuffled
from axpo_env.tasks.synthetic.items import Box, Item, find_kind, make_choice, to_1000, wording, zoom_call
from axpo_env.tasks.synthetic.places import Place, place_name, tell_places
from axpo_env.tasks.synthetic.sign_data import COLORS, Board, Sign, draw_words, texts_alike
from axpo_env.tasks.synthetic.sign_drawing import paint_board

_STEPS = {"directly to the right of": (1, 0), "directly below": (0, 1)}
_DIAGONALS = (
    "above and to the left",
    "above and to the right",
    "below and to the left",
    "below and to the right",
)
_NUM_OPTIONS = 4


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a kind of question asks of a board."""

    text: str
    answer: str
    others: tuple[str, ...] = ()  # wrong answers that one who does not look holds for as likely
    options: tuple[str, ...] = ()  # wrong answers of a multiple choice, where they are not `others`
    places: tuple[tuple[str, Box], ...]  # where to look, and what for
    found: str  # what is said after looking
    listed: bool = True  # whether one who does not look knows `others`
    target: Sign | None = None  # the sign whose text is the answer, if its colour shows where it is


def ask(rng: random.Random, board: Board, kind: str, *, split: str, chooses: bool) -> Item:
    """A question of `kind` about `board`; with `chooses`, among four options.

    Raises ValueError for an unknown kind, and for a board that holds no answer to it: the named levels' boards do.
    """
    if kind == "beside_color" and not _neighbours(board, [board.landmark]):
        kind = "odd_color"
    plan = find_kind(KINDS, kind)(rng, board, split)
    width, height = board.level.canvas_px
    boxes = tuple(to_1000(box, width, height) for _, box in plan.places)
    question, answer = plan.text, plan.answer
    grader: Grader = grade_exact
    guesses = (answer, *plan.others) if plan.listed else tuple(draw_words(rng, 8, {answer}))
    if chooses:
        options = plan.options or shuffled(rng, plan.others)[: _NUM_OPTIONS - 1]
        choice = make_choice(rng, plan.text, plan.answer, options)
        question, answer, guesses, grader = choice.question, choice.letter, choice.letters, choice.grader

    def solve(rng: Random, aim_noise: Sequence[float] | float) -> list[str]:
        if plan.target is not None and not chooses:
            return _solve_with_aim(rng, board, plan, aim_noise)
        zooms = [zoom_call(label, box) for (label, _), box in zip(plan.places, boxes, strict=True)]
        looking = "zoom " + " ".join(label for label, _ in plan.places)
        return [format_action(looking, *zooms), format_action(plan.found, format_answer(answer))]

    return Item(
        kind=kind,
        question=question,
        answer=answer,
        guesses=guesses,
        needs_tools=("image_zoom_in",),
        gold_boxes=boxes,
        paint=lambda: (paint_board(board),),
        solve=solve,
        grader=grader,
        details={"board": board},
    )


def _solve_with_aim(rng: Random, board: Board, plan: Plan, aim_noise: Sequence[float] | float) -> list[str]:
    """Zoom to the target, or by a slip to the next sign in reading order; answer what stands there."""
    order = sorted(board.signs, key=lambda sign: (sign.slot[1], sign.slot[0]))
    assert plan.target is not None
    place = pick_offset(rng, aim_noise, index=order.index(plan.target), count=len(order))
    sign, (label, box) = order[place], plan.places[0]
    if sign is not plan.target:
        box = board.slot_box(sign.slot)
    width, height = board.level.canvas_px
    return [
        format_action(f"zoom {label}", zoom_call(label, to_1000(box, width, height))),
        format_action(f"{label} {sign.text}", format_answer(sign.text)),
    ]


def _what(board: Board) -> str:
    return "number" if board.level.digits else "word"


def _odd_color(rng: random.Random, board: Board, split: str) -> Plan:
    coloured = [sign for sign in board.signs if sign.color != "grey"]
    sign = pick(rng, coloured) if board.level.digits else board.landmark
    text = wording(
        split,
        (
            "Which {what} is on the {color} sign?",
            "Read the {what} on the {color} sign.",
            "What does the {color} sign say (a {what})?",
        ),
    )
    return Plan(
        text=text.format(what=_what(board), color=sign.color),
        answer=sign.text,
        others=tuple(str(number) for number in range(20, 100) if str(number) != sign.text),
        options=texts_alike(rng, sign.text),
        places=((sign.color, board.slot_box(sign.slot)),),
        found=f"{sign.color} {sign.text}",
        listed=board.level.digits,
        target=sign,
    )


def _neighbours(board: Board, signs: Sequence[Sign]) -> list[tuple[Sign, str, Sign]]:
    """Pairs next to each other within a block: one of `signs`, the relation's name, the other."""
    by_slot = {sign.slot: sign for sign in board.signs}
    found = []
    for sign in signs:
        for name, (right, down) in _STEPS.items():
            other = by_slot.get((sign.slot[0] + right, sign.slot[1] + down))
            if other is not None and other.block == sign.block:
                found.append((sign, name, other))
    return found


def _beside_color(rng: random.Random, board: Board, split: str) -> Plan:
    pairs = _neighbours(board, [board.landmark])
    if not pairs:
        return _odd_color(rng, board, split)
    sign, relation, other = pick(rng, pairs)
    text = wording(
        split,
        (
            "Which word is on the sign {relation} the {color} sign?",
            "Read the word on the sign that hangs {relation} the {color} sign.",
            "There is one {color} sign. What does the sign {relation} it say?",
        ),
    )
    return Plan(
        text=text.format(relation=relation, color=sign.color),
        answer=other.text,
        options=texts_alike(rng, other.text),
        places=((f"{relation} {sign.color}", board.slot_box(other.slot)),),
        found=f"{relation} {sign.color}: {other.text}",
        listed=False,
    )


def _pick_block(rng: random.Random, board: Board) -> Place:
    columns, rows = board.level.blocks
    return pick(rng, range(columns)), pick(rng, range(rows))


def _place(board: Board, block: Place) -> tuple[str, Box]:
    return f"block {place_name(block)}", board.block_box(block)


def _color_of(rng: random.Random, board: Board, split: str) -> Plan:
    block = _pick_block(rng, board)
    sign = pick(rng, [sign for sign in board.in_block(block) if sign is not board.landmark])
    text = wording(
        split,
        (
            "Which colour is the sign {word} in block {block}?",
            "In block {block} a sign reads {word}. Name its colour.",
            "Find the word {word} in block {block}. On which colour does it stand?",
        ),
    )
    others = tuple(name for name in COLORS if name not in (sign.color, board.landmark.color))
    return Plan(
        text=_with_grid(board, text.format(word=sign.text, block=place_name(block))),
        answer=sign.color,
        others=others,
        places=(_place(board, block),),
        found=f"{sign.text} {sign.color}",
    )


def _beside_word(rng: random.Random, board: Board, split: str) -> Plan:
    blocks = shuffled(rng, sorted({sign.block for sign in board.signs}))
    found = (_neighbours(board, board.in_block(block)) for block in blocks)
    pairs = next(filter(None, found), [])
    while True:
        sign, relation, other = pick(rng, pairs)
        options = texts_alike(rng, other.text)
        if sign.text not in options:  # a word is no answer to a question that names it
            break
    text = wording(
        split,
        (
            "In block {block}, which word is {relation} {word}?",
            "Which word hangs {relation} {word} in block {block}?",
            "Find {word} in block {block}. What does the sign {relation} it say?",
        ),
    )
    return Plan(
        text=_with_grid(board, text.format(word=sign.text, relation=relation, block=place_name(sign.block))),
        answer=other.text,
        options=options,
        places=(_place(board, sign.block),),
        found=f"{sign.text}, {relation} it {other.text}",
        listed=False,
    )


def _relation(rng: random.Random, board: Board, split: str) -> Plan:
    block = _pick_block(rng, board)
    signs = board.in_block(block)
    pairs = [(a, b) for a in signs for b in signs if a.slot[0] != b.slot[0] and a.slot[1] != b.slot[1]]
    # The answer is drawn first: each as likely, however the signs lie.
    answer = pick(rng, _DIAGONALS)
    first, second = pick(rng, [pair for pair in pairs if _diagonal(*pair) == answer])
    text = wording(
        split,
        (
            "In block {block}, where is {a} as seen from {b}: {options}?",
            "Block {block} holds {b} and {a}. Does {a} lie {options} of {b}?",
            "Find {a} and {b} in block {block}. How does {a} lie to {b}: {options}?",
        ),
    )
    options = ", ".join(_DIAGONALS[:-1]) + f" or {_DIAGONALS[-1]}"
    return Plan(
        text=_with_grid(
            board, text.format(block=place_name(block), a=first.text, b=second.text, options=options)
        ),
        answer=answer,
        others=tuple(name for name in _DIAGONALS if name != answer),
        places=(_place(board, block),),
        found=f"{first.text} {answer} {second.text}",
    )


def _diagonal(sign: Sign, other: Sign) -> str:
    below, right = sign.slot[1] > other.slot[1], sign.slot[0] > other.slot[0]
    return _DIAGONALS[2 * below + right]


def _shared(rng: random.Random, board: Board, split: str) -> Plan:
    """Two blocks: of four signs of the second, the one that has the colour a word has in the first."""
    first, second = shuffled(rng, sorted({sign.block for sign in board.signs}))[:2]
    here = {sign.color: sign for sign in shuffled(rng, board.in_block(first))}
    there = {sign.color: sign for sign in shuffled(rng, board.in_block(second))}
    color = pick(rng, sorted(set(here) & set(there) - {board.landmark.color}))
    others = shuffled(rng, sorted(set(there) - {color, board.landmark.color}))[: _NUM_OPTIONS - 1]
    words = shuffled(rng, [there[name].text for name in (color, *others)])
    text = wording(
        split,
        (
            "Which of {words} in block {second} has the colour of {word} in block {first}?",
            "Take the colour of {word} in block {first}. Which of these has it in block {second}: {words}?",
            "Block {first} holds {word}. Of {words} in block {second}, which shares its colour?",
        ),
    )
    names = {"first": place_name(first), "second": place_name(second), "word": here[color].text}
    return Plan(
        text=_with_grid(board, text.format(words=", ".join(words), **names)),
        answer=there[color].text,
        others=tuple(word for word in words if word != there[color].text),
        places=(_place(board, first), _place(board, second)),
        found=f"{here[color].text} {color} {there[color].text}",
    )


def _with_grid(board: Board, text: str) -> str:
    return f"{tell_places('Blocks', board.level.blocks)}. {text}"


KINDS: Mapping[str, Callable[[random.Random, Board, str], Plan]] = {
    "odd_color": _odd_color,
    "beside_color": _beside_color,
    "color_of": _color_of,
    "beside_word": _beside_word,
    "relation": _relation,
    "shared": _shared,
}
