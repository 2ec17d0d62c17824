"""Answers found in replies, numbers, ChartQA's metric, and what is never graded."""

from pathlib import Path

import pytest

from axpo_env.grading import (
    extract_answer,
    grade_chartqa,
    make_grade,
    relaxed_match,
    strict_match,
    to_number,
)
from axpo_env.grading.extract import repair

ROWS = Path(__file__).parents[2] / "shared/data/HuggingFaceM4--ChartQA/test.parquet"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"<answer>\boxed{42}</answer>", "42"),
        (r"so <answer>\boxed{ 42 }</answer> done", "42"),
        (r"<answer>\boxed{\frac{1}{2}}</answer>", r"\frac{1}{2}"),
        (r"<answer>it is \boxed{1}, no, \boxed{2}</answer>", "2"),
        (r"<answer>\boxed{1}</answer> <answer>\boxed{2}</answer>", "2"),
        (r"<answer>\boxed{\boxed{3}}</answer>", r"\boxed{3}"),
        (r"<answer>\fbox{17}</answer>", "17"),
        (r"<answer>\framebox{17}</answer>", "17"),
        (r"<answer>\framebox[2cm][c]{17}</answer>", "17"),
        (r"<answer>\boxed {2.5}</answer>", "2.5"),
        (r"<answer>\boxed{1}, then \fbox{2}</answer>", "2"),
        (r"<answer>\boxed{x \}}</answer>", r"x \}"),
        (r"<answer>\boxed{\{1, 2\}}</answer>", r"\{1, 2\}"),
        ("<answer>\x08oxed{17}</answer>", "17"),
        ("<answer>\x0cbox{17}</answer>", "17"),
        ("<answer>\x0crac{36}{13}</answer>", r"\frac{36}{13}"),
        ("<answer>42</answer>", "42"),
        (r"<answer>\boxed{42</answer>", r"\boxed{42"),
        (r"<answer>\boxed{}</answer>", None),
        ("<answer>  </answer>", None),
        (r"\boxed{42}", None),
        (r"<answer>\boxed{42}", None),
        (r"</answer>\boxed{42}<answer>", None),
        (r"<answer>\boxed{1}</answer> then <answer>\boxed{2}", "1"),
        ("", None),
    ],
)
def test_extract_answer(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5", 5.0),
        (" -5.5 ", -5.5),
        ("\N{MINUS SIGN}3", -3.0),
        ("+2", 2.0),
        ("1,234", 1234.0),
        ("1,234,567.5", 1234567.5),
        ("5%", 0.05),
        ("5 %", 0.05),
        (".5", 0.5),
        ("5.", 5.0),
        ("1e3", 1000.0),
        ("1,2", None),
        ("12,34", None),
        ("e5", None),
        (".", None),
        ("", None),
        ("%", None),
        ("nan", None),
        ("inf", None),
        ("1_000", None),
        ("5 apples", None),
    ],
)
def test_to_number(text, number):
    assert to_number(text) == number


@pytest.mark.parametrize(
    ("prediction", "reference", "relaxed", "strict"),
    [
        ("40", "40", True, True),
        ("105", "100", True, False),
        ("95", "100", True, False),
        ("105.1", "100", False, False),
        ("-105", "-100", True, False),
        ("100", "-100", False, False),
        ("1234", "1,234", True, True),
        ("1,234.0", "1234", True, True),
        ("5%", "5", False, False),
        ("5", "5%", False, False),
        ("5%", "5%", True, True),
        ("0.05", "5%", True, True),
        ("0", "0", True, True),
        ("0.0", "0", False, True),
        ("0.001", "0", False, False),
        ("2012", "2019", True, False),
        ("yes", "Yes", True, True),
        ("No", "Yes", False, False),
        (" Italy ", "italy", True, True),
        ("Land  Rover", "Land Rover", False, True),
        ("40", "Yes", False, False),
        ("Yes", "40", False, False),
        ("[Australia, Italy]", "[Australia, Italy]", True, True),
        ("australia, italy", "[Australia, Italy]", True, True),
        ("Italy, Australia", "[Australia, Italy]", False, False),
        ("Australia", "[Australia, Italy]", False, False),
        ("[2011, 2013]", "[2011, 2012]", True, False),
        ("[5]", "[5]", True, True),
    ],
)
def test_metrics(prediction, reference, relaxed, strict):
    assert relaxed_match(prediction, reference) is relaxed
    assert strict_match(prediction, reference) is strict


def test_grade_takes_any_reference_and_no_answer_is_wrong():
    grade = grade_chartqa("Rome", ("Italy", "rome"))
    assert grade.as_dict() == {
        "correct": True,
        "strict": True,
        "answer": "Rome",
        "reference": ("Italy", "rome"),
        "score": 1.0,
    }
    assert grade_chartqa(None, ("Italy",)).correct is False
    with pytest.raises(AssertionError, match="at least one reference"):
        grade_chartqa("Rome", ())


@pytest.mark.skipif(not ROWS.exists(), reason="the real rows are not at hand")
def test_every_real_label_matches_itself():
    parquet = pytest.importorskip("pyarrow.parquet")
    labels = parquet.read_table(ROWS, columns=["label"])["label"].to_pylist()
    assert len(labels) == 300
    for label in labels:
        for spelling in label:
            assert relaxed_match(spelling, spelling) and strict_match(spelling, spelling)
            assert not relaxed_match("", spelling) and not strict_match("", spelling)


def test_an_ungraded_answer_is_neither_right_nor_strict_but_none_is_wrong():
    grade = make_grade("Rome", ("Roma",), correct=None, strict=True)
    assert (grade.correct, grade.strict, grade.score) == (None, False, None)
    grade = make_grade(None, ("Roma",), correct=None, strict=True, score=0.5)
    assert (grade.correct, grade.strict, grade.score) == (False, False, 0.0)


@pytest.mark.parametrize(
    ("answer", "right"),
    [("The answer is 5.", True), ("$5$", True), ("**5**", True), ("5 cm", False), ("5 or 6", False)],
)
def test_chartqa_takes_wrapping_off_and_leaves_the_metric_alone(answer, right):
    assert grade_chartqa(answer, ("5",)).correct is right


@pytest.mark.parametrize(
    ("reference", "answer", "right"),
    [
        ("U.S.", "**U.S.**", True),
        ("U.S.", "The answer is **U.S.**", True),
        ("U.S.", "**U.K.**", False),
        ("-5", "–5", True),
        ("25-34", "25–34", True),
        ("25-34", "25–35", False),
    ],
)
def test_chartqa_keeps_the_point_of_an_abbreviation_and_knows_dashes(reference, answer, right):
    assert grade_chartqa(answer, (reference,)).correct is right


@pytest.mark.parametrize(
    ("text", "repaired"),
    [
        ("\x0crac{1}{2}", r"\frac{1}{2}"),
        ("\times 3\theta", r"\times 3\theta"),
        ("\beta+\alpha", r"\beta+\alpha"),
        ("\vec{a}", r"\vec{a}"),
        ("x\neq 3", r"x\neq 3"),
        ("\rho", r"\rho"),
        ("rac{1}{2}", r"\frac{1}{2}"),
        ("one\ntwo\tan apple\tto", "one\ntwo\tan apple\tto"),
        ("race", "race"),
    ],
)
def test_backslashes_that_were_read_as_escapes_come_back(text, repaired):
    assert repair(text) == repaired
