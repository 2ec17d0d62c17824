"""Every grader on arbitrary text, and on the real rows in many forms."""

import random

import numpy as np
import pytest

from axpo_env.grading import (
    grade_chartqa,
)
from axpo_env.grading.choice import find_choice
from axpo_env.grading.free import grade_f1, grade_free, split_parts
from axpo_env.grading.numeric import grade_number
from axpo_env.grading.text import holds_phrase
from benchmarks.grader_agreement import RIGHT, WRONG, formula_cases, load_cases, main, summary, table, tally

LINE = r"\boxed{ } \text{ $ ( ) (A) B or not answer is : <answer> </answer> \frac 12 1,2 % . , = x ** ^ ² π ½ ٣ - / ;"


OPTIONS = ("red", "dark green", "blue", "6", r"$\frac{1}{2}$")
TOKENS = [*LINE.split(), "\n", "\x00", "\ud800", "the answer is", "\t"]


def test_whatever_is_written_is_graded_without_raising():
    rng = random.Random(0)
    for _ in range(500):
        text = "".join(rng.choice(TOKENS) + rng.choice(("", " ")) for _ in range(rng.randrange(25)))
        assert find_choice(text, OPTIONS) in (None, *"ABCDE")
        assert grade_number(text, "12", tolerance=0.001).correct in (True, False)
        assert grade_f1(text, ("Barack Obama",), question="?").correct in (False, None)
        assert grade_free(text, ("Barack Obama",), question="?").correct in (False, None)
        assert grade_chartqa(text, ("Barack Obama",)).correct is False
        assert len(split_parts(text, 3)) <= len(text) and holds_phrase(text, "Sep") is False


@pytest.fixture(scope="module")
def cases(shared_data):
    pytest.importorskip("pyarrow")
    with pytest.MonkeyPatch.context() as patch:  # grading needs no pictures
        patch.setattr("axpo_env.tasks.datasets.fields.decode", lambda *_: np.zeros((1, 1, 3), np.uint8))
        return [*load_cases(shared_data), *formula_cases()]


def test_right_answers_of_the_real_rows_in_many_forms(cases):
    found = tally([case for case in cases if case.kind != "chart"], RIGHT)
    print(table(found, "right, accepted / refused / ungraded"))
    refused = [
        (name, kind, answer)
        for name, by_kind in found.items()
        for kind, verdicts in by_kind.items()
        for answer, correct in verdicts
        if correct is not True
    ]
    assert len(found) >= 30 and sum(len(v) for by in found.values() for v in by.values()) > 10_000
    assert refused == []


def test_near_misses_on_the_real_rows_are_refused(cases):
    found = tally([case for case in cases if case.kind != "chart"], WRONG)
    print(table(found, "near miss, accepted / refused / ungraded"))
    accepted = [
        (name, kind, answer)
        for name, by_kind in found.items()
        for kind, verdicts in by_kind.items()
        for answer, correct in verdicts
        if correct is not False
    ]
    assert len(found) >= 15 and sum(len(v) for by in found.values() for v in by.values()) > 5_000
    assert accepted == []


def test_formulas_of_our_own_in_many_forms():
    found = tally(formula_cases(), {**RIGHT, **WRONG})
    verdicts = {name: [verdict for _, verdict in by["formula"]] for name, by in found.items()}
    assert {name for name in RIGHT if name in verdicts and set(verdicts[name]) != {True}} == set()
    assert {name for name in WRONG if name in verdicts and set(verdicts[name]) != {False}} == set()


def test_the_tables_keep_refused_and_ungraded_apart():
    found = {"as it is": {"text": [("a", True), ("b", False), ("c", None), ("d", None)]}}
    assert table(found, "x").splitlines()[2] == "| as it is |  |  |  |  | 1 / 1 / 2 |  |"
    assert summary(found, "Right") == "Right, accepted / refused / ungraded: text 1 / 1 / 2"


def test_the_agreement_benchmark_says_where_nothing_is(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == "no data set there\n"
