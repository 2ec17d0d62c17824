"""Synthetic charts: what is drawn, what is asked, and that the tools are needed and enough."""

import math
import random
import re
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from axpo_env.messages import parse_action
from axpo_env.tasks.synthetic.chart_data import PALETTE, Chart, split_of
from axpo_env.tasks.synthetic.chart_drawing import label_boxes
from axpo_env.tasks.synthetic.chart_questions import _rounded, ask
from axpo_env.tasks.synthetic.charts import LEVELS, ChartSource
from axpo_env.tasks.synthetic.draws import pick_offset
from axpo_env.tools.zoom import crop_box

NANO = LEVELS["nano"]


def source(level="nano", split="train"):
    return ChartSource(split=split, difficulty=level)


def test_nano_chart_pixel_by_pixel():
    task = source().get(11)
    chart, image = task.details["chart"], task.images[0]
    assert image.shape == (384, 384, 3)
    assert sorted(chart.categories) == sorted(PALETTE)
    for slot, (color, value) in enumerate(zip(chart.colors, chart.values[0], strict=True)):
        column = image[:, 64 * slot : 64 * slot + 64]
        bar = (column[:320] == color).all(axis=2)
        rows, columns = np.flatnonzero(bar.any(axis=1)), np.flatnonzero(bar.any(axis=0))
        assert bar.sum() == len(rows) * len(columns)  # a rectangle
        assert (columns[0], columns[-1]) == (11, 52)  # two thirds of the slot
        assert rows[-1] == 319 and abs(len(rows) - 304 * value / chart.axis_top) <= 1
        label = (column[320:] < 128).all(axis=2)
        ink = np.flatnonzero(label.any(axis=1))
        assert 14 <= len(ink) <= 16  # a digit's height, in the middle of the slot's square
        assert abs((ink[0] + ink[-1]) / 2 - 32) <= 1.5


def test_nano_values_and_targets_cover_their_range():
    seen, targets, headroom = set(), set(), []
    for index in range(400):
        task = source().get(index)
        chart = task.details["chart"]
        seen.update(chart.values[0])
        assert len(set(chart.values[0])) == 6
        headroom.append(chart.axis_top / max(chart.values[0]))
        color = task.question.removeprefix("What is the value of the ").removesuffix(" bar?")
        slot = chart.categories.index(color)
        targets.add(slot)
        assert task.references == (str(chart.values[0][slot]),)
        assert task.gold_boxes == ((round(slot * 1000 / 6), 833, round((slot + 1) * 1000 / 6), 1000),)
    assert seen == set(range(10, 100, 10)) and targets == set(range(6))
    assert 1.0 <= min(headroom) < 1.05 and 1.45 < max(headroom) <= 1.5


def test_items_depend_on_split_and_index_only():
    first, again = source().get(5), source().get(5)
    assert first.question == again.question and np.array_equal(first.images[0], again.images[0])
    assert not np.array_equal(first.images[0], source().get(6).images[0])
    assert not np.array_equal(first.images[0], source(split="test").get(5).images[0])


def test_known_items_stay_the_same():
    # A change here changes every recorded experiment: make it on purpose or not at all.
    item = source().get(0)
    assert (item.question, item.references) == ("What is the value of the green bar?", ("50",))


@pytest.mark.parametrize("level", sorted(LEVELS))
def test_splits_share_no_chart(level):
    for split in ("train", "validation", "test"):
        for index in range(1 if level == "hard" else 10):
            assert split_of(source(level, split).get(index).details["chart"]) == split


def test_some_kinds_and_marks_are_for_the_test_split_only():
    for name in ("easy", "medium", "hard"):
        level = LEVELS[name]
        seen = {}
        for split in ("train", "test"):
            items = [source(name, split).item(index) for index in range(200)]
            seen[split] = (
                {item.kind for item in items},
                {item.details["chart"].marks for item in items},
            )
        assert seen["train"] == (set(level.questions), set(level.marks))
        assert seen["test"] == (
            set(level.questions + level.test_questions),
            set(level.marks + level.test_marks),
        )
        assert level.test_questions and level.test_marks


@pytest.mark.parametrize("level", LEVELS.values(), ids=lambda level: level.name)
def test_values_are_too_small_before_zooming_and_large_enough_after(level):
    glyph_px = 0.7 * level.label_px
    for canvas_px in level.canvas_px:
        assert glyph_px * math.sqrt(level.view_pixels) / canvas_px <= 4
    task = source(level.name).get(0)
    height, width = task.images[0].shape[:2]
    for box in task.gold_boxes:
        left, top, right, bottom = crop_box(box, width_px=width, height_px=height)
        scale = min(1.0, math.sqrt(level.view_pixels / ((right - left) * (bottom - top))))
        assert (glyph_px * scale >= 14) or level.name.startswith("nano")
        assert glyph_px * scale >= 12  # nano's 2304 pixels hold a digit 12 px high


@pytest.mark.parametrize("level", ["easy", "medium", "hard"])
def test_every_gold_box_holds_its_value_alone_in_its_middle(level):
    task = source(level).get(1)
    height, width = task.images[0].shape[:2]
    for box in task.gold_boxes:
        left, top, right, bottom = crop_box(box, width_px=width, height_px=height)
        middle = task.images[0][(top + bottom) // 2 - 8 : (top + bottom) // 2 + 8, left + 16 : right - 16]
        ink = (middle < 100).all(axis=2).mean()
        paper = (middle > 200).all(axis=2).mean()
        assert 0.1 < ink < 0.5 and paper > 0.4  # black digits on white


def test_demonstrations_word_for_word():
    task = source().get(0)
    box = list(task.gold_boxes[0])
    zoom, answer = task.demonstrate(random.Random(0))
    assert zoom == (
        "zoom green\n</think>\n\n<tool_call>\n"
        f'{{"name": "image_zoom_in", "arguments": {{"label": "green", "bbox_2d": {box}}}}}\n</tool_call>'
    )
    assert answer == "green 50\n</think>\n\n<answer>\\boxed{50}</answer>"
    assert task.demonstrate(random.Random(0), use_tools=False) == [
        "guess green\n</think>\n\n<answer>\\boxed{50}</answer>"
    ]


def test_a_guesser_says_the_typical_value_and_is_right_as_often_as_the_level_says():
    right = 0
    for index in range(1000):
        task = source().get(index)
        chart = task.details["chart"]
        assert chart.values[0].count(50) == 1
        (guess,) = task.demonstrate(random.Random(0), use_tools=False)
        assert parse_action(guess, max_calls=1).answer == "50"
        right += task.references[0] == "50"
    assert 300 <= right <= 400  # a share of 0.35; three standard deviations are 45


def test_places_are_told_without_a_tool():
    task = source("nano-places").get(0)
    chart = task.details["chart"]
    (action,) = task.demonstrate(random.Random(0))
    thinking, rest = action.split("\n", 1)
    words = thinking.split()
    assert len(words) == 8 and task.needs_tools == ()
    for color, left in zip(words[::2], words[1::2], strict=True):
        assert round(1000 * chart.categories.index(color) / 6) == int(left)
    leftmost = min(zip(words[1::2], words[::2], strict=True), key=lambda place: int(place[0]))[1]
    assert rest == f"</think>\n\n<answer>\\boxed{{{leftmost}}}</answer>" and task.references == (leftmost,)


def test_careless_demonstrator_reports_what_it_sees():
    rng = np.random.default_rng(0)  # any generator with .random() will do
    misses = 0
    for index in range(200):
        task = source().get(index)
        chart = task.details["chart"]
        zoom, answer = task.demonstrate(rng, aim_noise=[0.5, 0.3, 0.2])
        left = parse_action(zoom, max_calls=1).calls[0].arguments["bbox_2d"][0]
        slot = round(left * 6 / 1000)
        assert parse_action(answer, max_calls=1).answer == chart.shown(0, slot)
        misses += task.gold_boxes[0][0] != left
    assert 70 <= misses <= 130


def test_pick_offset_follows_its_probabilities():
    rng = random.Random(0)
    counts = [0] * 6
    for _ in range(20_000):
        counts[pick_offset(rng, [0.5, 0.3, 0.2], index=2, count=6)] += 1
    expected = [0.1, 0.15, 0.5, 0.15, 0.1, 0]
    assert all(abs(count / 20_000 - share) < 0.01 for count, share in zip(counts, expected, strict=True))
    edge = [0] * 6
    for _ in range(20_000):
        edge[pick_offset(rng, [0.5, 0.3, 0.2], index=0, count=6)] += 1
    expected = [0.5 / 0.75, 0.15 / 0.75, 0.1 / 0.75, 0, 0, 0]
    assert all(abs(count / 20_000 - share) < 0.01 for count, share in zip(edge, expected, strict=True))
    assert {pick_offset(rng, 0, index=3, count=6) for _ in range(50)} == {3}
    assert {pick_offset(rng, [0, 1], index=0, count=6) for _ in range(50)} == {1}
    for bad in ([], [0], [-1, 2]):
        with pytest.raises(ValueError, match="aim_noise"):
            pick_offset(rng, bad, index=0, count=6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"marks": ("bar",)}, "unknown mark 'bar'.*nearest: bars"),
        ({"layout": "slot"}, "unknown layout 'slot'.*nearest: slots"),
        ({"num_bars": (7, 7)}, "at most 6 colours"),
        ({"value_maxima": (50,)}, "6 bars cannot all differ among 5 values"),
        ({"distinct": False}, "needs distinct=True"),
    ],
)
def test_bad_levels_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(NANO, **changes)


def test_bad_questions_are_refused():
    with pytest.raises(ValueError, match=r"unknown question kind 'look'.*nearest: lookup"):
        source(replace(NANO, questions=("look",)))
    with pytest.raises(ValueError, match="num_series must be at least 2"):
        source(replace(LEVELS["easy"], questions=("largest_gap",)))


def ask_about(kind, values, *, split="train", decimals=1):
    """The item of one kind about a chart of two series, whose categories are a, b, c, d."""
    chart = Chart(
        layout="axes",
        marks="points",
        canvas_px=400,
        label_px=10,
        name_px=10,
        title="",
        categories=("a", "b", "c", "d"),
        series=("s", "t"),
        colors=((0, 0, 0), (255, 0, 0)),
        values=values,
        decimals=decimals,
    )
    return ask(random.Random(3), chart, kind, level=LEVELS["medium"], split=split)


# Values 50.0 and 20.0, in whatever order they are drawn.
TWO = ((500, 200, 500, 200), (500, 200, 500, 200))


@pytest.mark.parametrize(
    ("kind", "answers", "precision"),
    [
        ("sum", {"70.0"}, "one decimal"),
        ("difference", {"30.0", "-30.0"}, "one decimal"),
        ("ratio", {"2.5000", "0.4000"}, "4 decimals"),
        ("percent_change", {"150.00", "-60.00"}, "2 decimals"),
        ("slope", {"30.00", "-30.00", "10.00", "-10.00"}, "2 decimals"),
        ("lookup", {"50.0", "20.0"}, "one decimal"),
    ],
)
def test_answers_by_hand_and_graded_to_the_decimal_asked_for(kind, answers, precision):
    item = ask_about(kind, TWO)
    assert item.answer in answers and item.question.endswith(f" Round to {precision}.")
    step = 10.0 ** -len(item.answer.partition(".")[2])
    for said, right in ((0, True), (step, False), (-step, False)):
        assert item.grader(f"{float(item.answer) + said}", (item.answer,)).correct is right


def test_the_largest_gap_of_four_categories_by_hand():
    item = ask_about("largest_gap", ((100, 200, 300, 400), (160, 190, 421, 380)))
    assert item.answer == "12.1" and len(item.gold_boxes) == 8


def test_a_result_halfway_is_right_rounded_either_way():
    item = ask_about("weighted_mean", ((11, 12, 13, 14), (11, 12, 13, 14)), decimals=0)
    assert re.fullmatch(r"1[1-4]\.\d", item.answer) and item.aliases == ()
    assert _rounded(Fraction(5, 4), 1) == ("1.2", "1.3") and _rounded(Fraction(-1, 200), 2) == (
        "-0.01",
        "0.00",
    )
    assert _rounded(Fraction(1, 3), 4) == ("0.3333",) and _rounded(Fraction(-1, 300), 2) == ("0.00",)


def test_who_does_not_zoom_guesses_above_nano():
    for level in ("easy", "medium", "hard"):
        item = source(level).item(0)
        assert len(item.guesses) >= 10 and item.answer not in item.guesses
    task = source("easy").get(0)
    said = {task.demonstrate(random.Random(seed), use_tools=False)[0] for seed in range(40)}
    answers = {parse_action(action, max_calls=1).answer for action in said}
    assert len(answers) > 5 and answers <= set(source("easy").item(0).guesses)
    assert all(action.startswith("guess ") for action in said)


def test_the_rollouts_of_a_chart_share_its_pixels():
    task = source("medium").get(4)
    assert source("medium").get(4) is task


def test_labels_of_a_chart_do_not_overlap():
    for level in ("easy", "medium", "hard"):
        for index in range(20):
            chart = source(level).item(index).details["chart"]
            margin, boxes = chart.label_px, sorted(label_boxes(chart).values())
            for place, (left, top, right, bottom) in enumerate(boxes):
                assert left + margin >= 0 and top + margin >= 0 and right - margin <= chart.canvas_px
                for other in boxes[place + 1 :]:
                    beside = other[0] >= right - 2 * margin  # without the margins around both
                    assert beside or other[1] >= bottom - 3 * margin or other[3] - 3 * margin <= top


def test_own_knobs_make_other_items():
    own = replace(NANO, value_maxima=(80,))
    task = source(own).get(0)
    assert task.id != source().get(0).id and task.details["level"] == "nano"
    assert len({source(own).get(index).id for index in range(5)}) == 5
