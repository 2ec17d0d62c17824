r"""Right forms and near misses of answers that graders are told apart by, one kind of answer after the other.

`KNOWN` has the graders' own cases, each with what is right, what is wrong and what only a judge could tell (ungraded);
`FORMULAS` what is tried in every form that `grader_agreement` has. A "\f", "\t", ... stands where a backslash of LaTeX
was read as an escape.
"""

import dataclasses
from collections.abc import Callable, Iterator

from axpo_env.grading import extract_answer, grade_chartqa
from axpo_env.grading.choice import grade_choice
from axpo_env.grading.free import grade_free
from axpo_env.grading.maths import maths_match
from axpo_env.grading.text import exact_match, holds_phrase

# The answer, other ways to write it, near misses.
FORMULAS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    r"2\sqrt{3}": ((r"\sqrt{12}", "2√3", "2sqrt(3)", r"2\cdot\sqrt{3}"), (r"3\sqrt{2}", "2√2", "√6", "2*3")),
    r"\frac{\sqrt{2}}{2}": (("√2/2", r"\frac{1}{\sqrt{2}}", r"\dfrac{\sqrt2}{2}"), (r"\sqrt{2}", r"\sqrt{2}/3")),
    r"4\pi": (("4pi", "4π", r"4 \cdot \pi", r"\pi\cdot4"), (r"\pi", r"4\pi^2", "4p", "12.5")),
    r"\frac{\pi}{6}": (("π/6", "pi/6", r"\dfrac{\pi}{6}", r"\frac{1}{6}\pi"), (r"\frac{\pi}{3}", "30", r"6\pi")),
    "2x+1": (("1+2x", "2x + 1", "y = 2x+1", "2*x+1"), ("2x-1", "x+1", "2x", "y = 2x-1")),
    "x^2-1": (("(x-1)(x+1)", "x²-1", r"-1+x^{2}", "-(1-x^2)"), ("x^2+1", "(x-1)^2", "x-1")),
    r"\frac{a+b}{2}": (("(a+b)/2", r"\frac{1}{2}(a+b)", r"\frac{a}{2}+\frac{b}{2}"), ("a+b", r"\frac{a-b}{2}", "ab/2")),
    "(3,-4)": (("(3, -4)", r"\left(3,-4\right)", "(3.0, -4.0)"), ("(-4,3)", "(3,4)", "3", "(3,-4,0)")),
    r"\{1,2\}": ((r"\{2,1\}", r"\left\{1, 2\right\}"), (r"\{1,3\}", r"\{1\}", r"\{1,2,3\}")),
    "x<3": (("x < 3", "3>x"), ("x>3", r"x \le 3", "x<4")),
    "3:2": (("3 : 2", "6:4", "3 to 2", "3/2"), ("2:3", "3:4", "1.5")),
    "n!": (("n !", r"n\cdot(n-1)!"), ("n", "(n+1)!", "n^2")),
    r"3+4i": (("4i+3", "3 + 4 i"), ("3-4i", "7", "4+3i")),
    r"2^{10}x": (("1024x", r"2^{10}\cdot x"), ("20x", "1000x", "1024")),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Known:
    """One reference and what is said of answers to it."""

    kind: str  # one of GRADERS
    reference: str
    right: tuple[str, ...]  # besides the reference itself
    wrong: tuple[str, ...]
    ungraded: tuple[str, ...] = ()


_SWEETS = ("5", "7", "9", "11", "None of the numbers from (A) to (D)")
_PAIRS = ("only A", "A and B", "both (A) and (B)", "A or C", "neither")
GRADERS: dict[str, Callable[[str, str], bool | None]] = {  # answer, reference
    "maths": maths_match,
    "free": lambda answer, reference: grade_free(answer, (reference,), question="?").correct,
    "text": lambda answer, reference: exact_match(answer, (reference,)) or holds_phrase(answer, reference),
    "chart": lambda answer, reference: grade_chartqa(answer, (reference,)).correct,
    "option of five": lambda answer, letter: grade_choice(answer, letter, _SWEETS).correct,
    "option of pairs": lambda answer, letter: grade_choice(answer, letter, _PAIRS).correct,
    "boxed": lambda answer, reference: extract_answer(f"<answer>so {answer} it is</answer>") == reference,
}
KNOWN = (
    Known("maths", r"1-\frac1{\mathrm e}", (r"1-\frac{1}{e}",), (r"1+\frac1{\mathrm e}",)),
    Known("maths", r"0.\overline3", ("1/3",), (r"0.\overline6",)),
    Known("maths", "1/3", (r"0.\overline{3}",), ()),
    Known("maths", "1011_2", ("1011_{2}",), ("1011_3", "1101_2"), ("11",)),
    Known("maths", r"x\equiv2\pmod7",
          (r"x \equiv 9 \pmod{7}", "x ≡ 2 (mod 7)"),
          (r"x\equiv2\pmod5", r"x\equiv3\pmod7")),
    Known("maths", "30°15'", ("30.25°", r"30^\circ 15^{\prime}"), ("30°20'",)),
    Known("maths", "f'(x)", (), (), ("f(x)",)),
    Known("maths", "x'", (), (), ("x",)),
    Known("maths", r"1,2,\ldots", (), ("1,2",)),
    Known("maths", r"\det(A)", (), (), (r"\det(B)",)),
    Known("maths", r"5 \bmod 3", (), (r"5 \bmod 4",)),
    Known("maths", r"\sum_{i=1}^n i", (), (r"\sum_{i=1}^n i^2",)),
    Known("maths", "3 apples and 4 pears", (), ("3 apples and 5 pears",)),
    Known("maths", r"\overrightarrow{AB}", (), (r"\overrightarrow{BA}",)),
    Known("maths", "12:00", (), ("6:00",)),
    Known("maths", "0:15", (), ("0:45",)),
    Known("maths", "3:20", (), ("6:40",)),
    Known("maths", "4:00 pm", ("4:00 p.m.", "16:00"), ("4:00 am",), ("4:00",)),
    Known("maths", "4 pm", ("4:00 PM",), ()),
    Known("maths", "1:2:3", ("2:4:6",), ()),
    Known("maths", "0:2", (), ("0:5",)),
    Known("maths", "5:0", ("5 to 0",), ()),
    Known("maths", "2:0", (), ("3:0",)),
    Known("maths", "3:2", ("6:4",), ()),
    Known("maths", "10:30", (), ("21:00",)),
    Known("maths", "1:50", (), (), (r"\frac{1}{50}",)),
    Known("maths", "1:10:20", (), ("2:20:40",)),
    Known("maths", r"\sqrt{3}:2", (r"3:2\sqrt{3}",), (r"2:\sqrt{3}",)),
    Known("maths", "0:x", (), ("0:y",)),
    Known("maths", "IV", (), ("VI",)),
    Known("maths", "N 30° E", ("N30°E",), ("N 30° W", "E 30° N")),
    Known("maths", "x", (), ("X",)),
    Known("maths", "X", (), ("x",)),
    Known("maths", r"\Delta", (), (r"\delta",)),
    Known("maths", "AB", (), ("BA",)),
    Known("maths", "2ab", ("2ba",), ()),
    Known("maths", "2AB", (), ("2BA",)),
    Known("maths", "A4", (), ("4A",)),
    Known("maths", "4A", (), ("A4",)),
    Known("maths", "B2", (), ("2B",)),
    Known("maths", "ab", (), ("AB",)),
    Known("maths", "No", ("no",), ()),
    Known("maths", "Even", ("even",), ()),
    Known("maths", "40°N", (), ("40°S",)),
    Known("maths", "40° N, 70° W", (), ("40° N, 70° E",)),
    Known("maths", r"\alpha\beta", (r"\beta\alpha",), ()),
    Known("maths", r"\Omega", (), (r"\omega",)),
    Known("maths", r"\frac1{2^{99}}", (), (r"\frac1{2^{98}}",)),
    Known("maths", "0.0000001", ("10^{-7}",), (r"2\cdot10^{-7}",)),
    Known("maths", r"6.02\times10^{23}", ("6.02e23", "6.02E+23", "602000000000000000000000"), ("6.03e23",)),
    Known("maths", "1.5e-3", ("0.0015",), ()),
    Known("maths", "10^{-20}x", (), (r"2\cdot10^{-20}x",)),
    Known("maths", r"$\frac{7^3}{2^{12} 13^2}$", (r"\frac{343}{692224}",), (r"\frac{343}{36864}",)),
    Known("maths", "2(3)", ("6",), ("5",)),
    Known("maths", "(2)(3)", ("6",), ()),
    Known("maths", "2^3 5", ("40",), ()),
    Known("maths", "2^35", (), ("40",)),
    Known("maths", r"\frac{1}{2}\frac{1}{3}", (r"\frac16",), ()),
    Known("maths", r"2\sqrt{2} \sqrt{3}", (r"2\sqrt6",), ()),
    Known("maths", "3!2", ("12",), ()),
    Known("maths", "x=2, y=3", ("y=3, x=2", "2, 3", "(2,3)"), ("3, 2", "x=3, y=2")),
    Known("maths", "x=2 and y=3", ("y=3 and x=2",), ()),
    Known("maths", "(x,y)=(2,3)", ("y=3, x=2", "(2,3)"), ("(3,2)",)),
    Known("maths", "x=1, x=2", ("2, 1", "x=2 or x=1"), ()),
    Known("maths", r"x=\pm 2", ("2, -2",), ()),
    Known("maths", r"x=\pm2", (), ("2",)),
    Known("maths", r"\pm2", ("-2, 2",), ()),
    Known("maths", "a=1; b=2; c=3", ("c=3, a=1, b=2",), ("3, 1, 2",)),
    Known("maths", "1331 and 1728",
          ("1728, 1331", r"1331 \text{ and } 1728"),
          ("1331", "1331 and 1729", "1331 or 1728")),
    Known("maths", r"\begin{pmatrix} -7 \\ 16 \\ 5 \end{pmatrix}",
          (r"\begin{bmatrix}-7\\16\\5.0\end{bmatrix}",),
          (r"\begin{pmatrix}-7\\16\\6\end{pmatrix}",)),
    Known("maths", r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
          ("[[1,2],[3,4]]",),
          (r"\begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}",)),
    Known("maths", r"\begin{pmatrix} 1/2 & 2 \\ 3 & 4 \end{pmatrix}",
          (r"\left(\begin{array}{cc} 0.5 & 2 \\ 3 & \sqrt{16} \end{array}\right)",),
          ()),
    Known("maths", "\frac{36}{13}", (r"\frac{36}{13}", "36/13"), ("36/14",)),
    Known("maths", "2\\cdot\frac{1}{3}", ("2/3",), ()),
    Known("maths", "3\times4", ("12",), ()),
    Known("maths", "\theta", (r"\theta",), ()),
    Known("maths", "\beta", (r"\beta",), ()),
    Known("maths", "\alpha", (r"\alpha",), ()),
    Known("maths", "\vec{a}", (r"\vec{a}",), ()),
    Known("maths", "x\neq 3", (r"x\ne3",), ()),
    Known("maths", "\rho", (r"\rho",), ()),
    Known("maths", "69{degrees}", ("69", "69°"), ("70",)),
    Known("maths", r"8\sqrt{3}{squareinches}",
          (r"8\sqrt{3}", r"\sqrt{192}", r"8\sqrt{3} \text{ square inches}"),
          (r"8\sqrt{2}",),
          (r"8\sqrt{3} cm^2",)),
    Known("maths", r"900\pi", ("2827.433388", "2827.43339"), ("2827.4",)),
    Known("maths", "–5", ("-5",), ()),
    Known("maths", "-5", ("–5", "—5"), ()),
    Known("maths", "14 - i", ("14.0 + -1.0i",), ("14+i",)),
    Known("maths", "3+4i", ("4i + 3",), ()),
    Known("maths", "2 h 30 min", ("2 hours 30 minutes", "2.5 hours"), ("2 h 20 min",)),
    Known("maths", "5 ft 10 in", ("70 inches",), ("5 ft 11 in",)),
    Known("maths", "[1,2)", (), ("[1,2]",)),
    Known("maths", "(1,2)", (), ("[1,2]", "1<x<2")),
    Known("maths", "x<3", (r"(-\infty,3)",), ()),
    Known("maths", "[3, 2, 3, 3, 6]", ("3,2,3,3,6",), ("[3,2,3,6,3]",)),
    Known("maths", "{1,2}", (r"\{2,1\}",), ()),
    Known("maths", "(1,2), (3,4)", ("(3,4), (1,2)",), ("(2,1), (3,4)",)),
    Known("maths", "1,1,2", (), ("1,2,2",)),
    Known("maths", r"\frac{x}{2}", (), ("1/2x",)),
    Known("maths", r"\frac{1}{2x}", (), ("1/2x",)),
    Known("maths", r"5\%", ("0.05",), ()),
    Known("maths", "1,234", ("1234",), ()),
    Known("maths", r"(-\infty, 2)", (), (r"(-\infty, 3)",)),
    Known("maths", r"\left(4, 3\right)", ("(4,3)",), ()),
    Known("maths", "2½", ("2.5",), ()),
    Known("maths", "½x", ("x/2",), ()),
    Known("maths", "y=x^2", ("x^2",), ()),
    Known("maths", r"A \cup B", (), (), (r"A\cap B",)),
    Known("maths", "12 r", ("12r",), ()),
    Known("maths", r"17\frac{1}{2}", ("17.5",), ()),
    Known("maths", r"\$180", ("180",), ()),
    Known("maths", "2.", ("2",), ()),
    Known("maths", r"\text{odd}", ("odd",), (), ("even",)),
    Known("maths", "A,B,D", ("A, B, D", "D,B,A"), ("A, B, C",)),
    Known("maths", "CAB", (), (), ("CBA",)),
    Known("maths", r"10\%", ("10",), ()),
    Known("maths", "2^{100}", (), ("2^{101}",)),
    Known("maths", "100!", (), ("101!",)),
    Known("maths", r"\log_2 3", (r"\frac{\ln 3}{\ln 2}",), (r"\log_3 2",)),
    Known("maths", "f(x)=x^2+1", ("f(x) = 1 + x^2", "x^2+1"), ("f(x)=x^2-1", "g(x)=x^2+1")),
    Known("maths", "-3x^2 y", ("-3yx^2",), ("3x^2y",)),
    Known("maths", r"\frac{1}{4}m^2", ("m^2/4",), ("m^2",)),
    Known("maths", r"30^{\circ} < \alpha < 60^{\circ}", ("30° < α < 60°",), ("30° < α < 90°",)),
    Known("maths", r"\begin{cases} x=1 \\ y=2 \end{cases}", ("y=2, x=1",), ("x=2, y=1",)),
    Known("maths", r"x = -1 \text{ or } x = 3", ("x=3 or x=-1", "-1, 3"), ("x=3", "-1, 2")),
    Known("maths", r"-2\le x<3", (r"[-2,3)", r"3 > x \ge -2"), ("(-2,3)", "-2<x<3")),
    Known("maths", "2t", ("t+t",), ("3t",), ("2",)),
    Known("free", "45G1", ("45g1",), (), ("45", "45 g")),
    Known("free", "2G1.", ("2G1",), (), ("two", "2")),
    Known("free", "12 Angry Men", ("12 angry men",), (), ("12", "twelve")),
    Known("free", "49ers", ("The 49ers",), (), ("49",)),
    Known("free", "13 October", ("13 october",), (), ("13", "13 November")),
    Known("free", "1990s", ("1990s.",), (), ("1990",)),
    Known("free", "4K", ("4k",), (), ("4",)),
    Known("free", "12", ("twelve", "12 kg", "There are 12"), ("13", "13 kg"), ("12 Angry Men", "12G1", "12th")),
    Known("free", "13", ("13.0",), ("14",), ("13 October", "13 october")),
    Known("free", "5 km", ("5", "5 kilometres"), ("6 km",), ("5 miles", "5 km/h")),
    Known("free", "$5", ("5 dollars", "5"), ("$6",), ("€5",)),
    Known("free", "2 h 30 min", ("2 hours 30 minutes", "150 minutes"), ("2 h 20 min",), ("150",)),
    Known("free", "–5", ("-5",), ("5",)),
    Known("text", "(4, 3)",
          (r"\left(4, 3\right)", r"The point is \left(4, 3\right)"),
          (r"\left(3, 4\right)", "(4, 2)")),
    Known("text", "5:0", ("5 to 0", "The ratio is 5 to 0"), ("0 to 5", "5:1")),
    Known("text", "4:45", ("It is 4:45",), ("4 to 45", "4:45 pm", "5:45")),
    Known("text", "(-5, 5)", ("(–5, 5)",), ("(5, 5)",)),
    Known("chart", "U.S.", ("**U.S.**", "The answer is **U.S.**", '"U.S."'), ("**U.K.**", "U", "U.S. or U.K.")),
    Known("chart", "25-34", ("25–34", "**25-34**"), ("25-35", "34-25")),
    Known("chart", "-5", ("–5", "$-5$"), ("5",)),
    Known(
        "option of five",
        "E",
        ("(E) None of the numbers from (A) to (D)", "None of the numbers from (A) to (D)",
         "The answer is (E) None of the numbers from (A) to (D).", "E: **None of the numbers from (A) to (D)**"),
        ("(D) None of the numbers from (A) to (D)", "(A) or (E)", "11"),
    ),
    Known("option of pairs", "C",
          ("both (A) and (B)", "(C) both (A) and (B)"),
          ("(B) both (A) and (B)", "A and B", "A")),
    Known("boxed", "17", (r"\boxed{17}", r"\boxed {17}", r"\fbox{17}", r"\framebox{17}", r"\framebox[2cm][c]{17}",
                          "\boxed{17}", "\fbox{17}", r"\boxed{1} or \fbox{17}"), (r"\fbox{1}7", r"\boxed17", "17")),
    Known("boxed", "2.5", (r"\boxed {2.5}", "\\boxed\n{2.5}"), (r"\boxed {2,5}",)),
    Known("boxed", r"x \}", (r"\boxed{x \}}",), (r"\boxed{x }}",)),
    Known("boxed", r"\{1, 2\}", (r"\fbox{\{1, 2\}}",), (r"\fbox{1, 2}",)),
)  # fmt: skip


def disagreements() -> Iterator[str]:
    """What is not graded as `KNOWN` says, a line each."""
    for case in KNOWN:
        grade = GRADERS[case.kind]
        itself = () if case.kind == "boxed" else (case.reference,)
        for expected, answers in (
            (True, (*itself, *case.right)),
            (False, case.wrong),
            (None, case.ungraded),
        ):
            for answer in answers:
                verdict = grade(answer, case.reference)
                if verdict is not expected:
                    yield f"{case.kind}: {answer!r} for {case.reference!r} is {verdict}, not {expected}"
