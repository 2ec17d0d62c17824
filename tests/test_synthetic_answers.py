"""How generated tasks grade what is written."""

import pytest

from axpo_env.tasks.synthetic.answers import grade_exact, grade_option, grade_parts, grade_within
from axpo_env.tasks.synthetic.families import make_generated


@pytest.mark.parametrize(
    ("answer", "correct"),
    [
        ("19974", True),
        ("19,974", True),
        ("19,974 inhabitants", True),
        ("19973", False),
        ("", False),
        (None, False),
    ],
)
def test_exact_numbers(answer, correct):
    assert grade_exact(answer, ("19974",)).correct is correct


@pytest.mark.parametrize(
    ("answer", "correct"),
    [
        ("Kat Mubol", True),
        ("kat mubol", True),
        ("The answer is Kat Mubol.", True),
        ("Kat", False),
        ("Kat Mubel", False),
    ],
)
def test_exact_names(answer, correct):
    assert grade_exact(answer, ("Kat Mubol",)).correct is correct


def test_a_cent_is_a_cent():
    assert grade_exact("1134.89", ("1134.89",)).correct
    assert not grade_exact("1134.90", ("1134.89",)).correct
    assert not grade_exact("1134.9", ("1134.89",)).correct


def test_rounded_results_may_be_off_by_their_last_digit():
    grade = grade_within(0.01)
    assert grade("12.34", ("12.34",)).strict
    assert grade("12.35", ("12.34",)).correct and not grade("12.35", ("12.34",)).strict
    assert not grade("12.36", ("12.34",)).correct


@pytest.mark.parametrize(
    ("answer", "correct", "strict"),
    [
        ("(1) 42.77; (2) 10.43; (3) -3.01", True, True),
        ("42.77; 10.43; -3.01", True, True),
        ("(1) 42.77\n(2) 10.43\n(3) -3.01", True, True),
        ("(1) 42.78; (2) 10.43; (3) -3.01", True, False),
        ("(1) 42.77; (2) 10.43", False, False),
        ("(1) 10.43; (2) 42.77; (3) -3.01", False, False),
        ("(1) 42.77; (2) 10.43; (3) 3.01", False, False),
        (None, False, False),
    ],
)
def test_all_parts_or_nothing(answer, correct, strict):
    verdict = grade_parts(0.01)(answer, ("(1) 42.77; (2) 10.43; (3) -3.01",))
    assert (verdict.correct, verdict.strict) == (correct, strict)


@pytest.mark.parametrize(
    ("answer", "correct"),
    [
        ("B", True),
        ("(b)", True),
        ("B. KORVAN", True),
        ("KORVAN", True),
        ("A", False),
        ("KORBEL", False),
        ("A or B", False),
    ],
)
def test_choices(answer, correct):
    assert grade_option(["KORBEL", "KORVAN", "KORMIN"])(answer, ("B",)).correct is correct


def test_known_items_stay_the_same():
    # A change here changes every recorded experiment: make it on purpose or not at all.
    known = {
        ("visualprobe", "synthetic"): ("Which word is on the orange sign?", "GUBFUK"),
        ("dynamath", "synthetic"): (
            "At which x does the curve cross the x axis? Round to three decimals.",
            "5.785",
        ),
        ("mmsearch", "synthetic"): (
            "Who is now mayor of the town that is the home port of the ship Lekatol today?",
            "Bot Tamit",
        ),
        ("chartqa", "ledgers"): (
            "Receipts are named by column (A to E from the left) and row (1 to 6 from the top); R marks a returned "
            "line; tax is rounded to the cent. On receipt C1, what do the tools lines come to, without returned ones "
            "and with the tax printed on the receipt? Answer to the cent.",
            "284.03",
        ),
    }
    for (benchmark, source), expected in known.items():
        item = make_generated(benchmark=benchmark, source=source, split="train", difficulty="easy").item(0)
        assert (item.question, item.answer) == expected
