"""Texts: normalising, F1, phrases, free answers with and without a judge, answers in parts."""

import pytest

from axpo_env.grading.free import grade_f1, grade_free, grade_parts, split_parts
from axpo_env.grading.text import exact_match, holds_phrase, normalize, same_formula, token_f1


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Café's  top.", "cafe s top"),
        ("1,234.50 dollars", "1234.5 dollars"),
        ("(3,-4)", "3 -4"),
        ("(1.000, 0.000)", "1 0"),
        ("x-4", "x 4"),
        ("x+4", "x + 4"),
        ("C++", "c + +"),
        ("5 %", "5 %"),
        ("A", "a"),
        ("v1.20.3", "v1.20.3"),
        ("-", ""),
    ],
)
def test_normalize(text, normal):
    assert normalize(text) == normal


def test_token_f1_by_hand():
    assert token_f1("Barack Obama", "Obama") == pytest.approx(2 * 1 / (2 + 1))
    assert token_f1("the cat sat on the mat", "a cat on a mat") == pytest.approx(2 * 3 / (4 + 3))
    assert token_f1("x x", "x") == pytest.approx(2 / 3)
    assert token_f1("", "x") == token_f1("y", "x") == 0.0


@pytest.mark.parametrize(
    ("answer", "correct", "score"),
    [
        ("Barack Obama", True, 1.0),
        ("The answer is: barack obama.", True, 1.0),
        ("President Obama", True, 1.0),
        ("Obama", None, 2 / 3),
        ("Michelle Obama", None, 1 / 2),
        ("Obama, Biden, Trump or Bush", None, 2 / 7),
        ("-", False, 0.0),
        (None, False, 0.0),
    ],
)
def test_f1_is_a_score_and_never_a_verdict(answer, correct, score):
    grade = grade_f1(answer, ("Barack Obama", "President Obama"), question="Who?")
    assert (grade.correct, grade.strict, grade.score) == (correct, correct is True, pytest.approx(score))


@pytest.mark.parametrize(
    ("references", "answer", "correct", "score"),
    [
        (("US",), "U.S.", None, 1.0),
        (("U.S.",), "US", None, 1.0),
        (("Spider-Man",), "Spiderman", None, 1.0),
        (("Spider-Man",), "Spider Man", True, 0.0),
        (("8",), "eight", True, 0.0),
        (("8", "eight"), "eight", True, 1.0),
        (("Jordan", "Michael Jordan"), "Michael B. Jordan", None, 4 / 5),
        (("1,234",), "1234", True, 1.0),
        (("A",), "a", True, 0.0),
        (("yes",), "the answer is **Yes**.", True, 1.0),
    ],
)
def test_f1_is_the_published_one_and_the_best_of_the_aliases(references, answer, correct, score):
    grade = grade_f1(answer, references, question="?")
    assert (grade.correct, grade.score) == (correct, pytest.approx(score))


@pytest.mark.parametrize(
    ("reference", "answer", "correct"),
    [
        ("45G1", "45", None),
        ("2G1.", "two", None),
        ("12 Angry Men", "12", None),
        ("49ers", "49", None),
        ("13 October", "13", None),
        ("1990s", "1990", None),
        ("4K", "4", None),
        ("12", "12 Angry Men", None),
        ("12", "13 Angry Men", None),
        ("13", "13 october", None),
        ("5 km", "5", True),
        ("5 km", "6 km", False),
        ("5 km", "5 miles", None),
        ("5", "5 km", True),
        ("$5", "€5", None),
        ("$5", "5 dollars", True),
        ("29", "29 apples", True),
        ("29", "28 apples", False),
        ("2 h 30 min", "2 hours 30 minutes", True),
        ("2 h 30 min", "2 h 20 min", False),
        ("2 h 30 min", "150", None),
        ("–5", "-5", True),
    ],
)
def test_a_number_decides_only_with_nothing_or_a_known_unit_beside_it(reference, answer, correct):
    assert grade_free(answer, (reference,), question="?").correct is correct


@pytest.mark.parametrize(
    ("answer", "reference", "same"),
    [
        ("x", "X", False),
        ("X", "x", False),
        ("c", "C", True),
        ("EVEN", "even", True),
        ("no", "No", True),
        (r"\delta", r"\Delta", False),
        (r"\left( 1,2 \right)", "(1,2)", True),
        ("1 3", "13", False),
        ("", "", False),
    ],
)
def test_formulas_keep_their_case_and_words_do_not(answer, reference, same):
    assert same_formula(answer, reference) is same


@pytest.mark.parametrize(
    ("reference", "answer", "same"),
    [
        ("(4, 3)", r"\left(4, 3\right)", True),
        ("(4, 3)", r"\left(3, 4\right)", False),
        ("5:0", "5 to 0", True),
        ("5:0", "0 to 5", False),
        ("4:45", "4 to 45", False),
        ("(-5, 5)", "(–5, 5)", True),
    ],
)
def test_looks_and_spoken_ratios_are_the_same_text(reference, answer, same):
    assert exact_match(answer, (reference,)) is same
    assert holds_phrase(f"It is {answer}", reference) is same


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("University of Oxford", "University of Cambridge"),
        ("John F. Kennedy", "Robert F. Kennedy"),
        ("guilty", "not guilty"),
        ("not guilty", "guilty"),
        ("3-2", "2-3"),
        ("increase of 5", "decrease of 5"),
        ("United States of America", "USA"),
        ("12 July 2024", "12/07/2024"),
        ("12 July 2024", "13 July 2024"),
        ("5000 m", "5 km"),
        ("5 miles", "5 km"),
    ],
)
def test_what_shares_words_is_left_to_a_judge(reference, answer):
    assert grade_f1(answer, (reference,), question="?").correct is None


def test_numbers_need_no_judge():
    assert grade_f1("five", ("5",), question="?").correct is True
    assert grade_f1("6", ("5",), question="?").correct is False
    assert grade_f1("5", ("5 km",), question="?").correct is True


@pytest.mark.parametrize(
    ("answer", "holds"),
    [
        ("Sep", True),
        ("The hottest month is Sep.", True),
        ("In Cape Town, the hottest month is Sep", True),
        ("Sep or Oct", False),
        ("Aug, Sep", False),
        ("Sep, Oct, Nov", False),
        ("Septem", False),
        ("Sep is not it", False),
        ("not Sep", False),
        ("It isn't Sep", False),
        ("neither Aug nor Sep", False),
        ("It is not hot in May. The hottest month is Sep", True),
        ("", False),
    ],
)
def test_holds_phrase(answer, holds):
    assert holds_phrase(answer, "Sep") is holds


def test_phrases_that_are_lists_themselves():
    assert holds_phrase("The point is (0, 6)", "(0, 6)") and not holds_phrase("(0, 6), (6, 0)", "(0, 6)")
    assert not holds_phrase("(6, 0)", "(0, 6)") and not holds_phrase("7, 0, 6", "(0, 6)")
    assert exact_match("(0,6)", ("(0, 6)",)) and not exact_match("(0,-6)", ("(0, 6)",))


@pytest.mark.parametrize(
    ("answer", "correct"),
    [
        ("29", True),
        ("The answer is 29.", True),
        ("29 apples", True),
        ("28", False),
        ("-", False),
        (None, False),
        ("a lot", None),
        ("28 or 29", None),
    ],
)
def test_free_answers_without_a_judge(answer, correct):
    assert grade_free(answer, ("29",), question="How many?").correct is correct


def test_parts_are_all_or_nothing():
    parts = ("2x+1", r"\sqrt{12}")

    def correct(answer, parts=parts):
        return grade_parts(answer, ("; ".join(parts),), parts=parts, question="?").correct

    assert (
        correct(r"2x+1; 2\sqrt{3}")
        is correct(r"(1) 1+2x; (2) \sqrt{12}")
        is correct("2x+1\n\\sqrt{12}")
        is True
    )
    assert correct("2x+1; 3") is correct(r"\sqrt{12}; 2x+1") is correct("2x+1") is correct(None) is False
    assert correct("-") is correct("1; 2; 3") is False
    assert correct("2x+1; see above", ("2x+1", "the lines meet")) is None
    assert correct("2x; see above", ("2x+1", "the lines meet")) is False
    assert correct("2x+1; The lines meet", ("2x+1", "the lines meet")) is True
    assert split_parts("1. a; 2. b", 2) == ["a", "b"] and split_parts("1.5; 2.5", 2) == ["1.5", "2.5"]
    assert split_parts("a; b", 1) == ["a; b"]


@pytest.mark.parametrize(
    ("answer", "parts", "correct"),
    [
        ("(1) x+1; (2) 5", ("(1) x+1", "(2) 5"), True),
        ("1+x; 5", ("(1) x+1", "(2) 5"), True),
        ("x+2; 5", ("(1) x+1", "(2) 5"), False),
        ("(a) 5; 6", ("(a) 5", "6"), True),
        ("Part 1: 5; Part 2: 6", ("5", "6"), True),
        ("(2); (1)", ("(2)", "(1)"), True),
        ("(1); (2)", ("(2)", "(1)"), False),
        ("(1)\n5\n(2)\n6", ("5", "6"), True),
        ("(1) 5 (2) 6", ("5", "6"), True),
        ("(1) 5, (2) 7", ("5", "6"), False),
        ("5, 6", ("5", "6"), True),
        ("5 and 6", ("5", "6"), True),
        ("6, 5", ("5", "6"), False),
        ("5,6", ("5,6", "7"), False),
        ("1; (x) + 1", ("1", "(x)+1"), True),
        ("1; x+1", ("1", "(x)+1"), True),
        ("1; 1", ("1", "(x)+1"), False),
        ("f(1) = 2; 3", ("f(1) = 2", "3"), True),
        ("x=1; x=2; 5", ("x=1; x=2", "5"), True),
        ("x=1; x=3; 5", ("x=1; x=2", "5"), False),
        ("AB is longer\nthan CD; 5", ("AB is longer\nthan CD", "5"), True),
        ("(1) AB = CD (2) yes", ("(1) AB = CD (2) yes",), True),
        ("5; 6; 7", ("5", "6"), False),
    ],
)
def test_parts_with_labels_and_separators_of_their_own(answer, parts, correct):
    assert grade_parts(answer, ("; ".join(parts),), parts=parts, question="?").correct is correct
