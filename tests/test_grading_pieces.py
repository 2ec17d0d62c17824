"""Mathematics that was read in part, or put together wrong: what is said of it now, value by value."""

import pytest

from axpo_env.grading import maths_pool
from axpo_env.grading.items import read_items, read_matrix
from axpo_env.grading.latex import braced, peel_unit, typed
from axpo_env.grading.maths import TOLERANCE, equal_maths, grade_maths, maths_match
from axpo_env.grading.maths_worker import TOLERANCE as WORKER_TOLERANCE
from axpo_env.grading.maths_worker import read
from axpo_env.grading.shapes import read_clock
from axpo_env.grading.units import is_known_unit, read_compound, same_compound


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        (r"1-\frac1{\mathrm e}", r"1+\frac1{\mathrm e}"),
        (r"0.\overline3", r"0.\overline6"),
        ("1011_2", "1011_3"),
        (r"x\equiv2\pmod7", r"x\equiv2\pmod5"),
        ("30°15'", "30°20'"),
        ("12:00", "6:00"),
        ("0:15", "0:45"),
        ("3:20", "6:40"),
        ("4:00 pm", "4:00 am"),
        ("2:0", "3:0"),
        ("IV", "VI"),
        ("N 30° E", "N 30° W"),
        ("x", "X"),
        (r"\Delta", r"\delta"),
        ("4A", "A4"),
        (r"\frac1{2^{99}}", r"\frac1{2^{98}}"),
        ("0.0000001", r"2\cdot10^{-7}"),
        (r"$\frac{7^3}{2^{12} 13^2}$", r"\frac{343}{36864}"),
        ("2(3)", "5"),
        ("x=2, y=3", "3, 2"),
        ("1331 and 1728", "1331 and 1729"),
        ("\x0crac{36}{13}", r"\frac{13}{36}"),
        ("69{degrees}", "68"),
        (r"8\sqrt{3}{squareinches}", r"3\sqrt{8}"),
        (r"\begin{pmatrix} -7 \\ 16 \\ 5 \end{pmatrix}", r"\begin{pmatrix} 16 \\ -7 \\ 5 \end{pmatrix}"),
        (r"900\pi", "2827.4"),
        ("14 - i", "14 + i"),
        ("2 h 30 min", "2 h 30 s"),
        ("–5", "5"),
        ("1,1,2", "1,2,2"),
        ("{1,2}", "(2,1)"),
    ],
)
def test_what_differs_is_wrong(reference, answer):
    assert maths_match(answer, reference) is False
    assert maths_match(reference, reference) is True  # so it can be graded
    assert not equal_maths(reference, answer)


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        (r"0.\overline3", "1/3"),
        (r"0.1\overline6", r"\frac16"),
        ("0.(142857)", "1/7"),
        (r"\frac1{\mathrm e}", "e^{-1}"),
        (r"6.02\times10^{23}", "6.02e23"),
        (r"6.02\times10^{23}", "6.02E+23"),
        (r"$\frac{7^3}{2^{12} 13^2}$", r"\frac{343}{692224}"),
        ("x=2, y=3", "y=3, x=2"),
        ("x=2, y=3", "2, 3"),
        ("1331 and 1728", "1728, 1331"),
        ("\x0crac{36}{13}", r"\frac{36}{13}"),
        ("rac{36}{13}", "36/13"),  # a form feed is white space, which was taken off
        ("69{degrees}", "69"),
        (r"8\sqrt{3}{squareinches}", r"\sqrt{192}"),
        (r"\begin{pmatrix} -7 \\ 16 \\ 5 \end{pmatrix}", r"\begin{bmatrix}-7\\16\\10/2\end{bmatrix}"),
        (r"900\pi", "2827.433388"),
        (r"900\pi", "2827.43339"),
        ("14 - i", "14.0 + -1.0i"),
        ("2 h 30 min", "2 hours 30 minutes"),
        ("2 h 30 min", "150 min"),
        ("30°15'", "30.25°"),
        ("–5", "-5"),
        ("-5", "—5"),
        ("4:00 pm", "16:00"),
        ("5:0", "5 to 0"),
        ("(4, 3)", r"\left(4, 3\right)"),
        ("3x", "x+2x"),
    ],
)
def test_what_is_the_same_is_right(reference, answer):
    assert maths_match(answer, reference) is True


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("4:00 pm", "4:00"),  # of which half of the day?
        ("3:20", "3 h 20 min"),
        ("1:10", "1/10"),  # a ratio, or a time
        ("1011_2", "1011"),
        ("1011_2", "11"),
        ("2t", "2"),  # tonnes, or an unknown
        ("f'(x)", "f(x)"),
        (r"5\star3", "3"),
    ],
)
def test_what_cannot_be_told_is_ungraded(reference, answer):
    assert maths_match(answer, reference) is None
    grade = grade_maths(answer, reference)
    assert (grade.correct, grade.strict, grade.score) == (None, False, None)


@pytest.mark.parametrize(
    ("text", "formula"),
    [
        (r"\frac12", r"\frac{1}{2}"),
        (r"\frac1{x+1}", r"\frac{1}{x+1}"),
        (r"\frac{\sqrt3}2x", r"\frac{\sqrt{3}}{2}x"),
        (r"\sqrt[3]8", r"\sqrt[3]{8}"),
        (r"\frac\pi6", r"\frac{\pi}{6}"),
        (r"\frac{1", r"\frac{1"),
    ],
)
def test_braces_that_tex_does_without(text, formula):
    assert braced(text) == formula


def test_how_formulas_are_typed_and_what_is_refused():
    assert typed("6.02e23") == r"6.02\cdot 10^{23}" and typed("2e") == "2e"
    assert typed("IV") == r"\text{IV}" and typed("A4") == r"\text{A4}" and typed("ab") == "ab"
    assert typed(r"2\frac12") == r"(2+\frac{1}{2})" and typed("½x") == r"\frac{1}{2}x"
    assert typed(r"\log_28") == r"\log_{2} 8"
    for text in ("f'(x)", "1011_2", "1 3", "1.2.3", "12:00", r"1,\ldots", "1/2x", "x≈3", r"\sin(x+30°)"):
        assert typed(text) is None
    assert peel_unit("69{degrees}") == "69 degrees" and peel_unit(r"\frac{1}{min}") == r"\frac{1}{min}"


def test_the_worker_reads_all_of_a_text_or_nothing():
    assert str(read("x+1")) == "x + 1"
    for text in (r"x\equiv2\pmod7", "2 +", "30°15", "((", "", r"\frac{1}{0}"):
        assert read(text) is None
    assert maths_pool.pool.compare(r"x\equiv2\pmod7", "x") is None
    assert float(WORKER_TOLERANCE) == TOLERANCE == 1e-6


@pytest.mark.parametrize(
    ("reference", "answer", "same"),
    [
        ("x<3", "6>2x", True),
        ("-x<3", "x<-3", False),
        ("1<x<2", "2>x>1", True),
        ("1<x<2", r"1\cdot 1<x\le 2", False),
        ("y=2x+1", "2x-y+1=0", True),
        ("y=2x+1", "2x-y=0", False),
        (r"(1,2]\cup[3,4)", r"[3,4)\cup(1,2]", True),
        (r"(1,2]\cup[3,4)", r"[3,4]\cup(1,2]", False),
        (r"10^{-20}x", r"2\cdot10^{-20}x", False),
        (r"x<10^{-20}", r"x<2\cdot10^{-20}", False),
        (r"\sqrt{x^2}", "x", False),
        (r"\ln x+\ln y", r"\ln(xy)", True),
        ("f(x)+1", "1+f(x)", True),
        ("f(x)", "f(y)", False),
        ("10^{100}", "10^{100}+1", False),
        (r"\sqrt{2}+\sqrt{3}", r"\sqrt{5+2\sqrt{6}}", True),
        (r"\emptyset", r"\varnothing", True),
        (r"\infty", r"-\infty", False),
        (r"e^{i\pi}", "-1", True),
        ("1/3", "0.333333", True),
        ("1/3", "0.33333", False),
    ],
)
def test_the_worker_compares_by_value(reference, answer, same):
    assert maths_pool.pool.compare(reference, answer) is same


def test_times_and_quantities_of_several_units():
    assert read_clock("4:05 pm") == (16, 5, 0, "p") and read_clock("12 am") == (0, 0, 0, "a")
    assert read_clock("3:2") is read_clock("25:00") is read_clock("3:60") is read_clock("13:00 pm") is None
    assert read_compound("2 h 30 min") == (0, 9000) and read_compound("5 ft 10 in") == (2, 70)
    assert read_compound("30 min 2 h") is read_compound("2 h") is read_compound("2 h 3 pigs") is None
    assert same_compound("5", "5") is None and same_compound("150", "2 h 30 min") is False
    known = ("km", "cm^2", "square inches", "squareinches", "m/s", "miles per hour", "°C", "$", "degrees")
    assert all(map(is_known_unit, known))
    assert not any(map(is_known_unit, ("apples", "Angry Men", "G1", "ers", "October", "")))


def test_items_and_matrices():
    items = read_items("(x, y) = (2, 3)")
    assert items is not None and (items.names, items.values) == (["x", "y"], ["2", "3"])
    assert read_items("x = ±2").items == ("x = +2", "x = -2")
    assert read_items("1,234, 5").items == ("1,234", "5") and read_items("1,234") is None
    assert read_items("the lines meet, and cross") is read_items("5") is read_items("(1, 2") is None
    assert read_matrix(r"\begin{array}{cc}1&2\\3&4\end{array}") == [["1", "2"], ["3", "4"]]
    assert read_matrix("[[1, 2], [3, 4]]") == [["1", "2"], ["3", "4"]]
    assert read_matrix("[1, 2]") is None


HOSTILE = (
    "{" * 3000, r"\boxed{" * 1000, r"\fbox [" * 1000, "1," * 1000, "x=1," * 90, "1:" * 500, "9 h " * 90, r"\frac" * 90,
    "x =" + " " * 390 + "y", "mod 7" * 70, r"\begin{matrix}" * 28, "[" * 190 + "1" + "]" * 190, "A " * 190,
    "\x0c" * 900, "0." + r"\overline{" * 30, "$" * 999, "°" * 390, "\ud800", "x mod" + "(" * 390,
    "1 and " * 60, r"\pm" * 120,
)  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts_are_neither_right_nor_raise(text):
    references = (
        "6",
        "(1,2)",
        "x=2, y=3",
        "3:20",
        "1331 and 1728",
        r"x\equiv2\pmod7",
        "1011_2",
        "2 h 30 min",
    )
    assert [maths_match(text, reference) for reference in references].count(True) == 0
    assert maths_match("6", text) is not True
