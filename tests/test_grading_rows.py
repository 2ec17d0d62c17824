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
from benchmarks.grader_agreement import (
    RIGHT,
    WRAPPINGS,
    WRONG,
    formula_cases,
    load_cases,
    main,
    summary,
    table,
    tally,
    wrong_verdicts,
)
from benchmarks.grader_cases import GRADERS, KNOWN, Known, disagreements

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


def test_every_reference_is_right_as_itself_and_in_its_wrappings(cases):
    rows = [case for case in cases if case.kind != "formula"]
    assert len(rows) == 300 + 304 + 501
    found = tally(rows, {name: RIGHT[name] for name in WRAPPINGS})
    assert wrong_verdicts(found, right=True) == []
    assert sum(len(verdicts) for verdicts in found["as it is"].values()) == len(rows)
    assert sum(len(verdicts) for verdicts in found["fbox"].values()) == len(rows)
    assert (
        wrong_verdicts(
            tally(rows, {"nothing": WRONG["nothing"], "not this one": WRONG["not this one"]}), right=False
        )
        == []
    )


def test_near_misses_of_chartqa_are_refused(cases):
    found = tally([case for case in cases if case.kind == "chart"], WRONG)
    assert wrong_verdicts(found, right=False) == []
    assert sum(len(verdicts) for by in found.values() for verdicts in by.values()) > 3_000


@pytest.mark.parametrize("case", KNOWN, ids=lambda case: f"{case.kind}-{case.reference}"[:40])
def test_known_answers(case):
    graded = {
        verdict: {answer: GRADERS[case.kind](answer, case.reference) for answer in answers}
        for verdict, answers in ((True, case.right), (False, case.wrong), (None, case.ungraded))
    }
    assert graded == {verdict: dict.fromkeys(answers, verdict) for verdict, answers in graded.items()}
    assert case.kind == "boxed" or GRADERS[case.kind](case.reference, case.reference) is True


def test_the_known_answers_are_many_and_a_disagreement_is_said(monkeypatch):
    assert len(KNOWN) > 140 and {case.kind for case in KNOWN} == set(GRADERS)
    monkeypatch.setattr("benchmarks.grader_cases.KNOWN", (Known("text", "Sep", ("Oct",), ("Sep",), ()),))
    assert list(disagreements()) == [
        "text: 'Oct' for 'Sep' is False, not True",
        "text: 'Sep' for 'Sep' is True, not False",
    ]


def test_formulas_of_our_own_in_many_forms():
    found = tally(formula_cases(), {**RIGHT, **WRONG})
    verdicts = {name: [verdict for _, verdict in by["formula"]] for name, by in found.items()}
    assert {name for name in RIGHT if name in verdicts and set(verdicts[name]) != {True}} == set()
    assert {name for name in WRONG if name in verdicts and set(verdicts[name]) != {False}} == set()


def test_the_tables_keep_refused_and_ungraded_apart():
    found = {"as it is": {"text": [("a", True), ("b", False), ("c", None), ("d", None)]}}
    assert table(found, "x").splitlines()[2] == "| as it is |  |  |  |  | 1 / 1 / 2 |  |"
    assert summary(found, "Right") == "Right, accepted / refused / ungraded: text 1 / 1 / 2"


def test_what_is_not_as_it_should_be_is_listed_and_charts_only_in_their_wrappings():
    found = {
        "bold": {"chart": [("**a**", False)]},
        "unit": {"chart": [("5 cm", False)], "maths": [("5 cm", None)]},
    }
    assert wrong_verdicts(found, right=True) == [
        "bold, chart: '**a**' is False",
        "unit, maths: '5 cm' is None",
    ]
    found = {"off by one": {"chart": [("8", True)], "maths": [("8", True), ("9", None)]}}
    assert wrong_verdicts(found, right=False) == ["off by one, maths: '8' is True"]


def test_the_agreement_benchmark_fails_on_a_disagreement(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("benchmarks.grader_agreement.load_cases", lambda folder: formula_cases()[:2])
    monkeypatch.setattr("benchmarks.grader_agreement.formula_cases", lambda: [])
    monkeypatch.setattr("benchmarks.grader_cases.KNOWN", ())
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "All as it should be."
    monkeypatch.setattr("benchmarks.grader_cases.KNOWN", (Known("text", "Sep", ("Oct",), (), ()),))
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "text: 'Oct' for 'Sep' is False, not True"


def test_the_agreement_benchmark_says_where_nothing_is(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == "no data set there\n"
