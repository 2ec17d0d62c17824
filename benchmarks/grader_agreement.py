r"""How graders take what people write: right answers in many forms, and near misses.

    python -m benchmarks.grader_agreement FOLDER

FOLDER holds data sets' folders named owner--name, with real rows (MathLLMs--MathVision, DynaMath--DynaMath_Sample,
HuggingFaceM4--ChartQA). Prints, per kind of form and per kind of question, accepted / refused / ungraded, and what is
not as it should be: each right form should be accepted always, each near miss never. ChartQA's published metric is
stricter about form and kinder about numbers, so of its rows only the reference in its wrappings (`WRAPPINGS`) must be
accepted, and numbers may be off by one. Hardly any of the rows has a formula for its answer, so a few formulas and
other answers of our own (`grader_cases`) stand beside them. The exit status is 1 where anything is not as it should be.
"""

import argparse
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

from axpo_env.grading.maths import grade_maths
from axpo_env.grading.numeric import asks_percent, read_number
from axpo_env.tasks.base import Task
from axpo_env.tasks.datasets.chartqa import ChartQASource
from axpo_env.tasks.datasets.dynamath import DynaMathSource
from axpo_env.tasks.datasets.mathvision import MathVisionSource
from benchmarks.grader_cases import FORMULAS, disagreements

QUESTION_KINDS = ("chart", "letter", "maths", "float", "text", "formula")
_SMALL = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)
_FULLWIDTH = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One question to be answered in many ways."""

    kind: str  # one of QUESTION_KINDS
    gold: str  # the right answer
    options: tuple[str, ...]  # texts of a multiple-choice question's options, else ()
    task: Task

    @functools.cached_property
    def asks_percent(self) -> bool:
        """Whether a percent sign is the answer's unit."""
        return asks_percent(self.task.question)

    @property
    def is_formula(self) -> bool:
        return self.kind == "formula"

    @functools.cached_property
    def number(self) -> float | None:
        """The right answer as a number, if it is a plain one."""
        values = [] if self.options or self.is_formula else read_number(self.gold)
        return values[0] if len(values) == 1 else None

    @property
    def option(self) -> str:
        """The right option's text, "" if it is blank, a letter, or not the only one of its kind."""
        text = self.options["ABCDEFGH".index(self.gold)] if self.options else ""
        return text if len(text.strip("() .")) > 1 and self.options.count(text) == 1 else ""


# The answer with nothing but wrapping around it.
WRAPPINGS = (
    "as it is", "boxed", "fbox", "framebox", "box with a space", "in answer tags", "the answer is",
    "a line, then Answer:", "trailing period", "spaces", "dollar signs", "bold", "quotes", r"\text{}",
)  # fmt: skip
Form = Callable[[Case], str | None]  # None where the form does not apply


def _number(make: Callable[[float], str | None]) -> Form:
    return lambda case: None if case.number is None else make(case.number)


def _whole(make: Callable[[int], str | None]) -> Form:
    return _number(lambda value: make(int(value)) if value == int(value) and abs(value) < 10**9 else None)


def _letter(pattern: str) -> Form:
    return lambda case: pattern.format(case.gold) if case.options else None


def _fraction(pattern: str) -> Form:
    def make(value: float) -> str | None:
        exact = Fraction(str(value))
        if exact.denominator == 1 or exact.denominator > 1000:
            return None
        sign = "-" if exact < 0 else ""
        return sign + pattern.format(abs(exact.numerator), exact.denominator)

    return _number(make)


RIGHT: dict[str, Form] = {
    "as it is": lambda case: case.gold,
    "boxed": lambda case: rf"\boxed{{{case.gold}}}",
    "fbox": lambda case: rf"\fbox{{{case.gold}}}",
    "framebox": lambda case: rf"\framebox{{{case.gold}}}",
    "box with a space": lambda case: rf"\boxed {{{case.gold}}}",
    "in answer tags": lambda case: rf"I think so. <answer>\boxed{{{case.gold}}}</answer>",
    "the answer is": lambda case: f"The answer is {case.gold}",
    "a line, then Answer:": lambda case: f"I look at the figure.\nAnswer: {case.gold}",
    "trailing period": lambda case: f"{case.gold}.",
    "spaces": lambda case: f"  {case.gold} \n",
    "dollar signs": lambda case: f"${case.gold}$",
    "bold": lambda case: f"**{case.gold}**",
    "quotes": lambda case: f'"{case.gold}"',
    r"\text{}": lambda case: None if "{" in case.gold else rf"\text{{{case.gold}}}",
    "other case": lambda case: (
        case.gold.swapcase() if case.gold.swapcase() != case.gold and not case.is_formula else None
    ),
    "unit": _number(lambda value: f"{value:.15g} cm"),
    "unit in LaTeX": _number(lambda value: rf"{value:.15g}\mathrm{{~cm}}^2"),
    "degrees": _number(lambda value: rf"{value:.15g}^\circ"),
    "noun": _whole(lambda value: f"{value} apples"),
    "percent sign, percents asked for": lambda case: (
        f"{case.number:.15g}%" if case.number is not None and case.asks_percent else None
    ),
    "currency": _number(lambda value: f"${value:.15g}" if value >= 0 else None),
    "thousands commas": _whole(lambda value: f"{value:,}" if abs(value) >= 1000 else None),
    "words": _whole(lambda value: _SMALL[value] if 0 <= value < len(_SMALL) else None),
    "digits and words": _whole(lambda value: f"{value} ({_SMALL[value]})" if 0 <= value < len(_SMALL) else None),
    "the 5": _number(lambda value: f"the {value:.15g}"),
    "thousands spaces": _whole(lambda value: f"{value:,}".replace(",", " ") if abs(value) >= 1000 else None),
    "fullwidth": lambda case: None if case.is_formula or case.kind == "chart" else case.gold.translate(_FULLWIDTH),
    "f(2) =": lambda case: f"f(2) = {case.number:.15g}" if case.number is not None and "=" not in case.gold else None,
    "trailing zeros": _whole(lambda value: f"{value}.00"),
    "leading zeros": _whole(lambda value: f"00{value}" if value >= 0 else None),
    "plus sign": _number(lambda value: f"+{value:.15g}" if value > 0 else None),
    "minus in Unicode": _number(lambda value: f"\N{MINUS SIGN}{-value:.15g}" if value < 0 else None),
    "exponent": _number(lambda value: f"{value:.12e}"),
    "power of ten": _number(lambda value: rf"{value / 10:.12g} \times 10^{{1}}"),
    "fraction": _fraction("{}/{}"),
    "fraction in LaTeX": _fraction(r"\frac{{{}}}{{{}}}"),
    "name =": lambda case: f"x = {case.number:.15g}" if case.number is not None and "=" not in case.gold else None,
    "about": _number(lambda value: f"approximately {value:.15g}"),
    "(A)": _letter("({})"),
    "A)": _letter("{})"),
    "option A": _letter("Option {}"),
    "bold (A)": _letter(r"\textbf{{({})}}"),
    "letter at the end": _letter("Looking closely, it must be {}"),
    "A, because": lambda case: f"{case.gold}, because {_other_letter(case)} is wrong" if case.options else None,
    "option A in a sentence": _letter("I pick option {} because it fits."),
    "A and an ideographic stop": _letter("{}。"),
    "not B, it is A": lambda case: (
        f"It is not {_other_letter(case)}, it is {case.gold}" if case.options else None
    ),
    "letter = text": lambda case: f"{case.gold}={case.option}" if case.option else None,
    "letter and text": lambda case: f"({case.gold}) {case.option}" if case.option else None,
    "text alone": lambda case: case.option or None,
    "another spelling": lambda case: FORMULAS[case.gold][0][0] if case.is_formula else None,
    "a second one": lambda case: FORMULAS[case.gold][0][1] if case.is_formula else None,
    "a third one": lambda case: (FORMULAS[case.gold][0][2:3] or (None,))[0] if case.is_formula else None,
    "a fourth one": lambda case: (FORMULAS[case.gold][0][3:4] or (None,))[0] if case.is_formula else None,
}  # fmt: skip


def _other_letter(case: Case) -> str:
    return "ABCDEFGH"[("ABCDEFGH".index(case.gold) + 1) % len(case.options)]


def _other_option(case: Case) -> str | None:
    other = case.options["ABCDEFGH".index(_other_letter(case))] if case.option else ""
    return other if len(other) > 1 and case.options.count(other) == 1 and other != case.option else None


def _beside(value: float, by: float) -> str:
    return f"{value + by:.15g}"


WRONG: dict[str, Form] = {
    "nothing": lambda case: "-",
    "I don't know": lambda case: "I don't know",
    "off by one": _number(lambda value: _beside(value, 1)),
    "off by 0.002": lambda case: (
        _beside(case.number, 0.002) if case.kind != "chart" and case.number is not None else None
    ),
    "other sign": _number(lambda value: f"{-value:.15g}" if value else None),
    "a digit more": _number(lambda value: f"{'-' if value < 0 else ''}7{abs(value):.15g}"),
    "ten times": _number(lambda value: f"{value * 10:.15g}" if value else None),
    "half": _number(lambda value: f"{value / 2:.15g}" if value else None),
    "a scale word": _number(lambda value: f"{value:.15g} million" if value else None),
    "squared": _number(lambda value: f"{value:.15g} squared" if value else None),
    "or": lambda case: f"{case.gold} or {_alternative(case)}",
    "a list": lambda case: f"{case.gold}, {_alternative(case)}",
    "other letter": lambda case: _other_letter(case) if case.options else None,
    "letters or": lambda case: f"({case.gold}) or ({_other_letter(case)})" if case.options else None,
    "two letters side by side": lambda case: f"{_other_letter(case)} {case.gold}" if case.options else None,
    "letter with another's text": lambda case: (
        f"({case.gold}) {_other_option(case)}" if case.options and _other_option(case) else None
    ),
    "another's text": lambda case: _other_option(case) if case.options else None,
    "not this text": lambda case: f"It is not {case.option}" if case.option else None,
    "anything but this text": lambda case: f"anything but {case.option}" if case.option else None,
    "this text, ruled out": lambda case: f"I ruled out {case.option}" if case.option else None,
    "not this one": lambda case: f"not {case.gold}",
    "I don't think so": lambda case: f"I don't think the answer is {case.gold}",
    "option A, looked at": _letter("I looked at option {} because it is first."),
    "B, not A": lambda case: f"{_other_letter(case)}, not {case.gold}" if case.options else None,
    "ordinal": _whole(lambda value: f"{value}th" if value >= 0 else None),
    "digits apart": _whole(lambda value: " ".join(str(value)) if value > 9 else None),
    "percent sign, none asked for": lambda case: (
        f"{case.number:.15g}%" if case.number and case.kind != "chart" and not case.asks_percent else None
    ),
    "a near miss": lambda case: FORMULAS[case.gold][1][0] if case.is_formula else None,
    "a second near miss": lambda case: FORMULAS[case.gold][1][1] if case.is_formula else None,
    "a third near miss": lambda case: (FORMULAS[case.gold][1][2:3] or (None,))[0] if case.is_formula else None,
    "coordinates swapped": lambda case: _swapped(case.gold),
}  # fmt: skip


def _alternative(case: Case) -> str:
    """Another answer of the same sort."""
    if case.options:
        return _other_letter(case)
    return "Zebra" if case.number is None else _beside(case.number, 3)


def _swapped(gold: str) -> str | None:
    items = [item.strip() for item in gold.strip("()").split(",")]
    return (
        f"({items[1]}, {items[0]})"
        if gold.startswith("(") and gold.endswith(")") and len(items) == 2 and items[0] != items[1]
        else None
    )


def load_cases(folder: Path) -> list[Case]:
    """The cases of every data set that is there; images are read and dropped. Sources check each row."""
    cases: list[Case] = []
    for name, make in (
        ("HuggingFaceM4--ChartQA", ChartQASource),
        ("MathLLMs--MathVision", MathVisionSource),
        ("DynaMath--DynaMath_Sample", DynaMathSource),
    ):
        if (folder / name).is_dir():
            source = make(split="test", source=str(folder / name))
            cases += [make_case(source.get(index)) for index in range(source.num_tasks)]
    return cases


def formula_cases() -> list[Case]:
    """`FORMULAS` as cases."""
    tasks = [
        Task(
            id=f"formula/{index}",
            index=index,
            split="test",
            source="here",
            question="What is it?",
            images=(),
            references=(gold,),
            grader=lambda answer, references: grade_maths(answer, references[0]),
        )
        for index, gold in enumerate(FORMULAS)
    ]
    return [Case(kind="formula", gold=task.references[0], options=(), task=task) for task in tasks]


def make_case(task: Task) -> Case:
    """What a task asks for; its images are dropped."""
    options = getattr(task.grader, "keywords", {}).get("options", ())
    kinds = {"chartqa": "chart", "mathvision": "maths", "dynamath": task.details.get("answer_type", "")}
    kind = "letter" if options else kinds[task.id.split("/")[0]]
    return Case(
        kind=kind, gold=task.references[0], options=options, task=dataclasses.replace(task, images=())
    )


def tally(
    cases: Iterable[Case], forms: Mapping[str, Form]
) -> dict[str, dict[str, list[tuple[str, bool | None]]]]:
    """Per form and kind of question, every (answer, verdict)."""
    found: dict[str, dict[str, list[tuple[str, bool | None]]]] = {}
    cases = list(cases)
    for name, form in forms.items():
        for case in cases:
            answer = form(case)
            if answer is not None:
                verdict = case.task.grade(answer).correct
                found.setdefault(name, {}).setdefault(case.kind, []).append((answer, verdict))
    return found


Tally = Mapping[str, Mapping[str, Sequence[tuple[str, bool | None]]]]


def table(found: Tally, title: str) -> str:
    """Accepted / refused / ungraded, as Markdown."""
    lines = [f"| {title} | " + " | ".join(QUESTION_KINDS) + " |", "|---" * (len(QUESTION_KINDS) + 1) + "|"]
    for name, by_kind in found.items():
        cells = []
        for kind in QUESTION_KINDS:
            verdicts = [verdict for _, verdict in by_kind.get(kind, ())]
            counts = [str(verdicts.count(verdict)) for verdict in (True, False, None)]
            cells.append(" / ".join(counts) if verdicts else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(found: Tally, title: str) -> str:
    """One line: how many of each kind of question were tried, refused and left ungraded."""
    parts = []
    for kind in QUESTION_KINDS:
        verdicts = [verdict for by_kind in found.values() for _, verdict in by_kind.get(kind, ())]
        if verdicts:
            counts = tuple(verdicts.count(verdict) for verdict in (True, False, None))
            parts.append(f"{kind} {counts[0]} / {counts[1]} / {counts[2]}")
    return f"{title}, accepted / refused / ungraded: " + ", ".join(parts)


def wrong_verdicts(found: Tally, *, right: bool) -> list[str]:
    """The right forms that were not accepted, or the near misses that were, a line each."""
    lines = []
    for name, by_kind in found.items():
        for kind, verdicts in by_kind.items():
            if kind == "chart" and (name not in WRAPPINGS if right else name == "off by one"):
                continue
            lines += [
                f"{name}, {kind}: {answer!r} is {one}"
                for answer, one in verdicts
                if (one is True) is not right
            ]
    return lines


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="folder of data sets' folders")
    cases = load_cases(parser.parse_args(arguments).folder)
    if not cases:
        print("no data set there", file=sys.stderr)
        return 2
    cases += formula_cases()
    right, wrong = tally(cases, RIGHT), tally(cases, WRONG)
    print(table(right, "right, accepted / refused / ungraded"), end="\n\n")
    print(table(wrong, "near miss, accepted / refused / ungraded"), end="\n\n")
    print(summary(right, "Right forms"))
    print(summary(wrong, "Near misses"))
    lines = [*wrong_verdicts(right, right=True), *wrong_verdicts(wrong, right=False), *disagreements()]
    print("\n".join(lines or ["All as it should be."]))
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
