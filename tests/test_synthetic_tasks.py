"""Generated tasks: solvable with real tools, not by guessing, the same in every process, disjoint by split."""

import json
import random
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from axpo_env.contract import CHECKS, make_env
from axpo_env.env import ToolEnv
from axpo_env.grading import extract_answer
from axpo_env.grading.options import listed_options
from axpo_env.scripted import OraclePolicy
from axpo_env.tasks.base import SPLITS
from axpo_env.tasks.cache import TaskCache
from axpo_env.tasks.synthetic import items
from axpo_env.tasks.synthetic.draws import split_of_data
from axpo_env.tasks.synthetic.families import TWINS, make_generated
from axpo_env.tasks.synthetic.sign_data import draw_board
from axpo_env.tasks.synthetic.sign_drawing import paint_board
from axpo_env.tasks.synthetic.signs import SignSource
from axpo_env.tools import tool_names
from axpo_env.tools.zoom import crop_box

NEW = [name for name in TWINS if name != "chartqa"]


def made(benchmark, *, source="synthetic", split="train", difficulty="easy"):
    return make_generated(benchmark=benchmark, source=source, split=split, difficulty=difficulty)


# Benchmark, source, level, split, tools.
ZOOM, COMPUTE = ("image_zoom_in",), ("image_zoom_in", "python")
SEARCH = ("image_zoom_in", "tavily-search", "image-search")
PLAYED = [
    ("vstar", "synthetic", "nano", "train", ZOOM),
    ("vstar", "synthetic", "easy", "test", ZOOM),
    ("visualprobe", "synthetic", "medium", "validation", ZOOM),
    ("mathvision", "synthetic", "nano", "test", ZOOM),
    ("mathvision", "synthetic", "easy", "train", COMPUTE),
    ("dynamath", "synthetic", "easy", "test", COMPUTE),
    ("mathvr", "synthetic", "medium", "validation", COMPUTE),
    ("chartqa", "synthetic", "easy", "train", ZOOM),
    ("chartqa", "synthetic", "medium", "test", COMPUTE),
    ("chartqa", "ledgers", "nano", "train", COMPUTE),
    ("hrmmsearch", "synthetic", "nano", "test", SEARCH),
    ("mmsearch", "synthetic", "easy", "train", SEARCH),
]
LARGE = [
    ("chartqa", "synthetic", "hard", "validation", COMPUTE),
    ("hrbench4k", "synthetic", "hard", "test", ZOOM),
    ("hrbench8k", "synthetic", "hard", "train", ZOOM),
    ("mathvr", "synthetic", "hard", "test", COMPUTE),
    ("vstar", "ledgers", "hard", "validation", COMPUTE),
    ("mmsearch", "synthetic", "hard", "validation", SEARCH),
]


def play(case, num_items):
    """Plays demonstrations and checks that calls succeed and tell what the answer then says.

    Returns the rewards. Skips where a tool is not there.
    """
    benchmark, source, difficulty, split, tools = case
    if not set(tools) <= set(tool_names()):
        pytest.skip(f"no {', '.join(sorted(set(tools) - set(tool_names())))}")
    env = ToolEnv(
        benchmark=benchmark, source=source, difficulty=difficulty, split=split, tools=tools, max_turns=5
    )
    rewards = []
    for index in range(num_items):
        _, info = env.reset(options={"index": index})
        task, policy, called, texts = env.task, OraclePolicy(env.task), [], []
        while info["stop_reason"] is None:
            observation, reward, _, _, info = env.step(policy.act(info))
            assert all(call["error"] is None for call in info["tool_calls"])
            called += [call["name"] for call in info["tool_calls"]]
            texts.append(observation["text"])
        assert set(called) == set(task.needs_tools)
        if "python" in called:
            assert task.grade(texts[-2]).strict or task.details["figure"].answer == texts[-2]
        if "tavily-search" in called:
            plain = [text.replace(",", "") for text in texts]
            assert task.references[0] in plain[-2] and not any(
                task.references[0] in text for text in plain[:-2]
            )
        rewards.append(reward)
    env.close()
    return rewards


def name(case):
    return "-".join(case[:4])


@pytest.mark.parametrize("case", PLAYED, ids=name)
def test_demonstrations_solve_their_tasks_with_real_tools(case):
    num_items = 4 if {"medium"} & set(case) or "python" in case[4] else 12
    assert play(case, num_items) == [1.0] * num_items


@pytest.mark.slow
@pytest.mark.parametrize("case", PLAYED + LARGE, ids=name)
def test_demonstrations_solve_dozens_of_tasks_with_real_tools(case):
    num_items = 8 if case in LARGE else 48
    assert play(case, num_items) == [1.0] * num_items


# All kinds of questions about signs, on boards that are quickly drawn.
FOUR_BLOCKS = replace(
    SignSource.levels["easy"],
    canvas_px=(512, 512),
    blocks=(2, 2),
    kinds=("odd_color", "beside_color", "color_of", "beside_word", "relation", "shared"),
)
UNSEEN = [
    *((benchmark, "synthetic", "easy", 300) for benchmark in ("mathvision", "dynamath", "mathvr")),
    ("visualprobe", "synthetic", FOUR_BLOCKS, 600),
    # Among four options, chance itself wavers by one point at 1,500 questions.
    ("vstar", "synthetic", FOUR_BLOCKS, 1500),
    ("visualprobe", "synthetic", "nano", 300),
    ("mathvr", "synthetic", "nano", 300),
    ("mmsearch", "synthetic", "easy", 200),
    ("chartqa", "ledgers", "easy", 300),
    *(("chartqa", "synthetic", level, 300) for level in ("easy", "medium", "hard")),
]


@pytest.mark.parametrize(("benchmark", "source", "difficulty", "num_items"), UNSEEN)
def test_who_does_not_look_is_right_by_chance_only(benchmark, source, difficulty, num_items):
    source = made(benchmark, source=source, difficulty=difficulty)
    known = [source.item(index) for index in range(200)]
    asked = [source.item(index) for index in range(1000, 1000 + num_items)]
    chance = np.mean([1 / len(item.guesses) if item.answer in item.guesses else 0 for item in asked])
    for guess in (typical_answer, typical_rank, longest_option):
        right = np.mean([guess(known, item) == item.answer for item in asked])
        print(f"{source.key[:30]}: {guess.__name__} {right:.3f}, chance {chance:.3f}")
        assert right <= chance + 0.03
    rng = random.Random(0)
    said = [item.guesses[int(rng.random() * len(item.guesses))] for item in asked]
    right = np.mean(
        [
            item.grader(text, (item.answer, *item.aliases)).correct
            for item, text in zip(asked, said, strict=True)
        ]
    )
    assert abs(right - chance) <= 0.05


def options_of(item):
    return listed_options(item.question)


def typical_answer(known, item):
    """The answer that questions of this kind, with as many options, have most often."""
    alike = [
        other.answer
        for other in known
        if other.kind == item.kind and len(options_of(other)) == len(options_of(item))
    ]
    return Counter(alike).most_common(1)[0][0] if alike else item.guesses[0]


def rank(item, answer):
    """Which place an answer's option has when the options are sorted."""
    options = sorted(options_of(item), key=lambda text: (len(text), text))
    return options.index(options_of(item)["ABCDEF".index(answer)])


def typical_rank(known, item):
    """The option at the place that right options of this kind have most often, smallest number first."""
    options = options_of(item)
    if not options:
        return None
    places = Counter(
        rank(other, other.answer) for other in known if other.kind == item.kind and options_of(other)
    )
    place = places.most_common(1)[0][0] if places else 0
    return next(letter for letter in "ABCDEF"[: len(options)] if rank(item, letter) == place)


def longest_option(known, item):
    """The letter of the longest option, the first of equals."""
    options = options_of(item)
    return "ABCDEF"[options.index(max(options, key=len))] if options else None


FINGERPRINT = """
import hashlib, json
from axpo_env.tasks.synthetic.families import FAMILIES, TWINS, make_generated
prints = {}
for benchmark, source in [(name, "synthetic") for name in TWINS] + [("chartqa", name) for name in FAMILIES]:
    made = make_generated(benchmark=benchmark, source=source, split="test", difficulty="easy")
    for index in (0, 7):
        task = made.get(index)
        parts = [task.id, task.question, repr(task.references), repr(task.gold_boxes)]
        data = "|".join(parts).encode() + b"".join(image.tobytes() for image in task.images)
        prints[task.id] = hashlib.sha256(data).hexdigest()
print(json.dumps(prints))
"""


def test_the_same_item_has_the_same_bytes_in_every_process(repository):
    def prints(hash_seed):
        done = subprocess.run(
            [sys.executable, "-c", FINGERPRINT],
            cwd=repository,
            env={"PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1", "PATH": ""},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    first, second = prints("1"), prints("2")
    assert first == second and len(first) == len(set(first.values())) >= 20


VARIABLE = re.compile(
    r"\b([A-Z]{6}|[A-J]\d+|[A-D]{2,4}|\d+(\.\d+)?|[A-Z][a-z]+|red|orange|yellow|green|blue|purple|grey|food|tools)\b"
)


def of_family(name, split, difficulty):
    """The source of a benchmark's twin, or the ledgers, which are no benchmark's."""
    benchmark, source = ("chartqa", "ledgers") if name == "ledgers" else (name, "synthetic")
    return made(benchmark, source=source, split=split, difficulty=difficulty)


@pytest.mark.parametrize(
    "benchmark", ["chartqa", "visualprobe", "mathvision", "dynamath", "mathvr", "mmsearch", "ledgers"]
)
def test_no_two_splits_share_a_sentence_or_data(benchmark):
    sentences, data = {}, {}
    for split in SPLITS:
        source = of_family(benchmark, split, "medium")
        drawn = [source.item(index) for index in range(50)]
        sentences[split], data[split] = set(), set()
        for item in drawn:
            asked = [text for text in re.split(r"(?<=[.?]) ", item.question.splitlines()[0]) if text]
            asked = [
                text for text in asked if not text.startswith(("Blocks are named", "Receipts are named"))
            ]
            asked = [text for text in asked if not text.startswith(("Round to", "Answer to"))]
            sentences[split] |= {VARIABLE.sub("_", text) for text in asked}
            data[split].add(repr(what_it_is_about(item)))
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert sentences[one] & sentences[other] == set()
        assert data[one] & data[other] == set()


def what_it_is_about(item):
    """The data that an item's split is told by."""
    details = item.details
    if "chart" in details:
        return repr(details["chart"].values)
    if "board" in details:
        return [sign.text for sign in details["board"].in_block((0, 0))]
    if "figure" in details:
        return details["figure"].answer, details["figure"].found
    if "page" in details:
        return [line.item for line in details["page"].receipts[0].lines]
    return details["encyclopaedia_seed"]


@pytest.mark.parametrize("benchmark", ["visualprobe", "mathvr", "ledgers"])
@pytest.mark.parametrize("split", SPLITS)
def test_data_are_in_the_split_that_their_hash_says(benchmark, split):
    drawn = of_family(benchmark, split, "easy")
    for index in range(5):
        assert split_of_data(what_it_is_about(drawn.item(index))) == split


LEVELS = [
    (benchmark, source, level)
    for benchmark, source in (
        ("visualprobe", "signs"),
        ("mathvr", "figures"),
        ("chartqa", "ledgers"),
        ("hrmmsearch", "lookups"),
    )
    for level in ("nano", "easy", "medium", "hard")
]


@pytest.mark.parametrize(
    ("benchmark", "source", "difficulty"), [*LEVELS, ("visualprobe", "signs", "hard-8k")]
)
def test_print_is_too_small_before_zooming_and_large_enough_after(benchmark, source, difficulty):
    made_source = made(benchmark, source=source, difficulty=difficulty)
    level = made_source.level
    zooms = getattr(level, "zooms", True)
    assert level.seen_px <= 5 if zooms else level.seen_px >= 14
    for index in range(10):
        item = made_source.item(index)
        width, height = level.canvas_px if isinstance(level.canvas_px, tuple) else (level.canvas_px,) * 2
        for box in item.gold_boxes:
            left, top, right, bottom = crop_box(box, width_px=width, height_px=height)
            pixels = (right - left) * (bottom - top)
            assert 0.7 * level.font_px * min(1.0, (level.view_pixels / pixels) ** 0.5) >= 14
        assert bool(item.gold_boxes) == ("image_zoom_in" in item.needs_tools)


def test_the_cache_keeps_what_was_used_last_within_its_bytes(monkeypatch):
    cache = TaskCache(3_000_000)
    monkeypatch.setattr(items, "task_cache", cache)
    source = made("vstar", difficulty="nano")  # 786,432 bytes an image
    tasks = [source.get(index) for index in (0, 1, 2)]
    assert source.get(0) is tasks[0]
    source.get(3)  # makes item 1, used longest ago, go
    assert cache.num_bytes <= cache.max_bytes
    assert source.get(0) is tasks[0] and source.get(2) is tasks[2]
    assert source.get(1) is not tasks[1] and np.array_equal(source.get(1).images[0], tasks[1].images[0])
    large = made("visualprobe", difficulty="medium").get(0)
    assert large.images[0].nbytes > cache.max_bytes and cache.num_bytes == 0


def test_a_careless_demonstrator_reads_the_sign_beside():
    source, misses = made("visualprobe", difficulty="nano"), 0
    for index in range(60):
        task = source.get(index)
        zoom, answer = task.demonstrate(random.Random(index), aim_noise=0.5)
        assert "image_zoom_in" in zoom
        misses += not task.grade(extract_answer(answer)).correct
    assert 15 <= misses <= 45


def test_an_item_is_of_the_kind_that_it_asks():
    source, kinds = made("visualprobe"), Counter()
    for index in range(300):
        item = source.item(index)
        beside = "directly" in item.question
        assert item.kind == ("beside_color" if beside else "odd_color")
        kinds[item.kind] += 1
    assert min(kinds.values()) >= 100


@pytest.mark.parametrize("difficulty", ["nano", "easy", FOUR_BLOCKS])
def test_options_that_are_alike_do_not_tell_which_they_were_made_for(difficulty):
    """Of four, each differs from two in one character, at one of two places, and from the third in both."""
    source, asked = made("vstar", difficulty=difficulty), 0
    for index in range(60):
        item = source.item(index)
        if item.kind not in ("odd_color", "beside_color", "beside_word"):
            continue
        options = options_of(item)
        for option in options:
            differing = [
                sum(a != b for a, b in zip(option, other, strict=True))
                for other in options
                if other != option
            ]
            assert sorted(differing) == [1, 1, 2]
        asked += 1
    assert asked >= 20


def test_own_depth_of_stains_changes_pixels_and_nothing_else():
    level = made("visualprobe", difficulty="nano").level
    plain, stained = (
        paint_board(draw_board(random.Random(0), replace(level, stain_depth=depth), "train"))
        for depth in (0, 0.6)
    )
    dark, light = (np.asarray(picture, dtype=int) for picture in (stained, plain))
    assert (dark < light).mean() > 0.05
    assert (dark <= light).all() and (dark >= 0.35 * light - 1).all()


def test_unknown_names_and_foreign_levels_are_refused():
    with pytest.raises(ValueError, match=r"unknown difficulty of signs 'esy'.*nearest: easy"):
        made("vstar", difficulty="esy")
    with pytest.raises(ValueError, match=r"unknown benchmark 'vster'.*nearest: vstar"):
        made("vster")
    with pytest.raises(ValueError, match=r"unknown family 'ledger'.*nearest: ledgers"):
        made("vstar", source="ledger")
    with pytest.raises(TypeError, match="signs take a level's name or a SignLevel, not a LedgerLevel"):
        made("vstar", difficulty=made("chartqa", source="ledgers").level)


@pytest.mark.parametrize("source", ["signs", "ledgers", "figures"])
def test_kinds_that_there_are_not_are_refused(source):
    level = made("chartqa", source=source).level
    with pytest.raises(ValueError, match="unknown question kind 'shred'; known: "):
        made("chartqa", source=source, difficulty=replace(level, kinds=("shred",)))


@pytest.mark.parametrize(
    ("source", "changes", "error", "message"),
    [
        (
            "charts",
            {"num_series": 0},
            TypeError,
            r"num_series of a ChartLevel must be tuple\[int, int\], not 0",
        ),
        ("charts", {"num_bars": (4, "6")}, TypeError, r"num_bars .* tuple\[int, int\], not \(4, '6'\)"),
        ("charts", {"num_bars": (4, 5, 6)}, TypeError, r"num_bars .* tuple\[int, int\], not \(4, 5, 6\)"),
        ("charts", {"num_series": (0, 2)}, ValueError, r"num_series .* at least 1, not \(0, 2\)"),
        ("charts", {"num_series": (2, 1)}, ValueError, r"num_series .* fewest to most, not \(2, 1\)"),
        ("charts", {"decimals": 1.5}, TypeError, "decimals of a ChartLevel must be int, not 1.5"),
        ("charts", {"questions": ()}, ValueError, "questions of a ChartLevel must hold one or more"),
        ("charts", {"marks": "bars"}, TypeError, r"marks .* tuple\[str, ...\], not 'bars'"),
        ("charts", {"name_share": float("nan")}, ValueError, "name_share .* at least 0, not nan"),
        ("charts", {"view_pixels": 0}, ValueError, "view_pixels of a ChartLevel must be at least 1, not 0"),
        ("charts", {"name": None}, TypeError, "name of a ChartLevel must be str, not None"),
        ("signs", {"fill": (9, 8)}, ValueError, r"fill of a SignLevel .* fewest to most, not \(9, 8\)"),
        ("signs", {"digits": 1}, TypeError, "digits of a SignLevel must be bool, not 1"),
        (
            "figures",
            {"canvas_px": (9, 9)},
            TypeError,
            r"canvas_px of a FigureLevel must be int, not \(9, 9\)",
        ),
        ("ledgers", {"lines": (7, 4)}, ValueError, r"lines of a LedgerLevel .* fewest to most, not \(7, 4\)"),
        ("lookups", {"num_grey": -1}, ValueError, "num_grey of a LookupLevel must be at least 0, not -1"),
        ("lookups", {"starts": {"": ("plague",)}}, ValueError, "unknown start 'plague'; .*nearest: plaque"),
        (
            "lookups",
            {"starts": {"": "plaque"}},
            TypeError,
            "starts of a LookupLevel must be .*, not {'': 'plaque'}",
        ),
    ],
)
def test_a_level_says_which_knob_will_not_do(source, changes, error, message):
    level = made("chartqa", source=source).level
    with pytest.raises(error, match=message):
        replace(level, **changes)


@pytest.mark.parametrize("kind", ["beside_word", "relation"])
def test_a_board_too_empty_for_its_question_is_refused(kind):
    level = replace(made("visualprobe").level, fill=(1, 1), kinds=(kind,))
    with pytest.raises(ValueError, match="nothing to pick from"):
        made("visualprobe", difficulty=level).item(0)


def test_own_knobs_make_other_items():
    level = made("visualprobe").level
    own = made("visualprobe", difficulty=replace(level, fill=(6, 8)))
    assert own.get(0).id != made("visualprobe").get(0).id
    assert len(own.item(0).details["board"].signs) <= 8 * 16


@pytest.mark.parametrize("source", ["signs", "lookups"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_contract_holds_for_every_family(source, check):
    settings = {"source": source, "difficulty": "nano", "split": "test", "tools": ("image_zoom_in",)}
    check(make_env("AXPO/ChartQA-Tools-v0", settings))
