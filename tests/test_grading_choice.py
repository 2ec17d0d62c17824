"""Letters and options found in answers to multiple-choice questions."""

import pytest

from axpo_env.grading.choice import find_choice, grade_choice
from axpo_env.grading.maths import equal_maths
from axpo_env.grading.options import listed_options, show_options

OPTIONS = ("red", "dark green", "blue", "6", r"$\frac{1}{2}$")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        (" b ", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("[B]", "B"),
        ("**B**", "B"),
        (r"\textbf{(B)}", "B"),
        (r"$\text{B}$", "B"),
        ("Option B", "B"),
        ("the correct option is (b).", "B"),
        ("(B) dark green", "B"),
        ("B: dark green", "B"),
        ("B. something else", "B"),
        ("B is correct", "B"),
        ("(B) is the right answer.", "B"),
        ("B is not correct", None),
        ("B is wrong", None),
        ("The answer is B", "B"),
        ("Answer: (B) because it is lit", "B"),
        ("It looks red, no.\nSo it must be B", "B"),
        ("dark green", "B"),
        ("The dark green.", "B"),
        ("The glove is dark green, I think", "B"),
        ("6", "D"),
        (r"<answer>\boxed{B}</answer> or C", "B"),
        (r"first \boxed{A}, then \boxed{B}", "B"),
        (r"\boxed{\boxed{B}}", "B"),
        ("<answer>B</answer> <answer>C", "B"),
        ("A or B", None),
        ("A, B", None),
        ("A/B", None),
        ("(A) or (B)", None),
        ("The answer is A or B", None),
        ("I waver between A and B", None),
        ("(B) red", None),
        ("B (blue)", None),
        ("F", None),
        ("The answer is F", None),
        ("red and blue", None),
        ("not red", None),
        ("It isn't B", None),
        ("", None),
        ("-", None),
        ("I don't know", None),
        ("none of them", None),
        ("green", None),
    ],
)
def test_find_choice(text, letter):
    assert find_choice(text, OPTIONS) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A, because B is wrong", "A"),
        ("A since the line rises", "A"),
        ("A, because B is right", None),
        ("because A", None),
        ("It is not A, it is B", "B"),
        ("It's not A, it's D", "D"),
        ("It is not A, B or C", None),
        ("neither A nor B, C", None),
        ("not A, B", None),
        ("A, not B", "A"),
        ("A is wrong, B is wrong, so C", "C"),
        ("A is wrong, so B", "B"),
        ("B instead of A", None),
        ("It is A, it is B", None),
        ("It is A, or maybe B", None),
        ("I pick option A because it fits.", "A"),
        ("I don't pick option A because it fails.", None),
        ("I pick option A or B because they fit.", None),
        ("I pick option A or option B", None),
        ("I looked at option A because it is first.", None),
        ("Option B is wrong because it is too big", None),
        ("I don't think the answer is A", None),
        ("\N{FULLWIDTH LATIN CAPITAL LETTER A}", "A"),
        ("\N{FULLWIDTH LEFT PARENTHESIS}B\N{FULLWIDTH RIGHT PARENTHESIS}", "B"),
        ("A\N{IDEOGRAPHIC FULL STOP}", "A"),
        ("<A>", "A"),
        ("A=5", "A"),
        ("A=10", None),
        ("A=7", None),
        ("5 cm", "A"),
        ("five", "A"),
        ("50", None),
        ("5 or 10", None),
        ("I think a 5", None),
    ],
)
def test_letters_in_sentences_and_numbers_with_units(text, letter):
    assert find_choice(text, ("5", "10", "15", "20")) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("it is dark red", "B"),
        ("it is red or dark red", None),
        ("it is blue or green", "D"),
        ("red, not green", "A"),
        ("dark red, not red", "B"),
        ("not red but A", "A"),
        ("not red, green", None),
        ("not dark red", None),
        ("red not dark red", None),
        ("reddish", None),
    ],
)
def test_the_longest_option_wins_and_clauses_that_deny_are_left_out(text, letter):
    assert find_choice(text, ("red", "dark red", "green", "blue or green")) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("It is A because blue is wrong", "A"),
        ("I think it's (A) since blue was ruled out", "A"),
        ("blue? no, red", "A"),
        ("blue. Wait, red", "A"),
        ("red, blue? No, green", None),
        ("It looks blue, no.", None),
        ("anything but blue", None),
        ("all but blue", None),
        ("nothing but blue", "C"),
        ("I ruled out blue", None),
        ("I ruled out blue, so red", "A"),
        ("Blue is excluded", None),
        ("I reject blue", None),
        ("everything other than blue", None),
        ("It can't be blue", None),
        ("I ruled out C", None),
        ("anything but C", None),
        ("The blue one over there", "C"),
        ("It is false that it is blue", None),
    ],
)
def test_options_that_are_turned_down_are_not_chosen(text, letter):
    assert find_choice(text, ("red", "dark red", "blue", "green")) == letter
    assert find_choice("It is false", ("true", "false")) == "B"


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A B", None),
        ("A B C D", None),
        ("A\nB", None),
        ("A then B", None),
        ("A. B", None),
        ("A: B", None),
        ("A > B", None),
        ("A glove, I think, B", "B"),
        ("I looked twice and I see B", "B"),
        ("A is wrong, B is wrong, C", None),
        ("The lamp is nearer to A, so B", "B"),
        ("First A.\nOn second thought: B", "B"),
        ("x = 3, B", "B"),
        ("A: a dark lamp", "A"),
    ],
)
def test_several_letters_are_no_choice_unless_the_last_is_concluded(text, letter):
    assert find_choice(text, ("red", "dark red", "blue", "green")) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("(E) None of the numbers from (A) to (D)", "E"),
        ("E None of the numbers from (A) to (D)", "E"),
        ("None of the numbers from (A) to (D)", "E"),
        ("The answer is (E) None of the numbers from (A) to (D).", "E"),
        ("(D) None of the numbers from (A) to (D)", None),
        ("(B) or (D)", None),
        ("(A) and (B)", "D"),
        ("(D) (A) and (B)", "D"),
        ("(C) (A) and (B)", None),
    ],
)
def test_an_options_text_comes_before_the_letters_in_it(text, letter):
    assert find_choice(text, ("5", "7", "9", "(A) and (B)", "None of the numbers from (A) to (D)")) == letter


def test_units_of_options_are_kept_apart_and_options_may_deny():
    lengths = ("5 cm", "10 cm", "15 cm")
    assert find_choice("5", lengths) == find_choice("It is 5 cm", lengths) == "A"
    assert find_choice("5 km", lengths) is None
    assert find_choice("It is not 2, it is 3", ("Not enough data", "2", "3")) == "C"
    assert find_choice("There is not enough data", ("Not enough data", "2", "3")) == "A"
    assert find_choice("It is not a No", ("Yes please", "No way", "Nothing")) is None
    assert find_choice("It is not no way", ("Yes please", "No way", "Nothing")) is None
    assert find_choice("There is never not enough data", ("Not enough data", "2", "3")) is None
    assert find_choice("It is 3, not enough data", ("Not enough data", "2", "3")) is None
    assert find_choice("It is not B, it is A, B, C or D", ("only C", "none", "A, B, C or D")) is None


def test_a_letter_comes_before_a_text_that_is_a_letter_and_twins_are_never_guessed():
    assert find_choice("E", ("A", "B", "D", "F", "G")) == "E"
    assert find_choice("G", ("A", "B", "D", "F", "G")) == "E"
    assert find_choice("half", ("half", "half", "all")) is None
    assert find_choice("A ∪ B", ("A ∩ B", "A ∪ B")) == "B"
    assert find_choice("-g(x)-2", ("$-g(x)+2$", "$-g(x)-2$")) == "B"


def test_options_that_are_mathematics_are_found_by_their_value():
    assert find_choice("0.5", OPTIONS) is None
    assert find_choice("0.5", OPTIONS, same=equal_maths) == "E"
    assert find_choice("0.5", ("1/2", r"\frac{2}{4}"), same=equal_maths) is None
    assert grade_choice("0.5", "E", OPTIONS, same=equal_maths).as_dict() == {
        "correct": True,
        "strict": False,
        "answer": "0.5",
        "reference": ("E",),
        "score": 1.0,
    }
    assert grade_choice(None, "E", OPTIONS).correct is False


def test_options_are_read_from_a_question_and_shown_under_one():
    assert listed_options("Is f(A) odd? choice:(A) yes (B) no") == ["yes", "no"]
    assert listed_options("What?\n(A) red\n(B) blue (C) green\nAnswer with the letter.") == [
        "red",
        "blue",
        "green",
    ]
    assert listed_options("Which?\nA. Group 1\nB: [1, 2]") == ["Group 1", "[1, 2]"]
    assert listed_options("(B) no (A) yes") == [] and listed_options("Find (A) and (C)") == []
    shown = show_options("Which?", ("red", "blue"))
    assert shown == "Which?\n(A) red\n(B) blue\nAnswer with the letter of the right option."
    assert listed_options(shown) == ["red", "blue"]
