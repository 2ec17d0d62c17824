r"""How graders take what people write: right answers in many forms, and near misses.

    python -m benchmarks.grader_agreement FOLDER

FOLDER holds data sets' folders named owner--name, with real rows (MathLLMs--MathVision, DynaMath--DynaMath_Sample,
HuggingFaceM4--ChartQA). Prints, per kind of form and per kind of question, accepted / tried. Each right form should be
accepted always, each near miss never; ChartQA's published metric is stricter about form and kinder about numbers.
"""

import argparse
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

from axpo_env.grading.numeric import read_number
from axpo_env.tasks.base import Task
from axpo_env.tasks.datasets.chartqa import ChartQASource
from axpo_env.tasks.datasets.dynamath import DynaMathSource
from axpo_env.tasks.datasets.mathvision import MathVisionSource

QUESTION_KINDS = ("chart", "letter", "maths", "float", "text")
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One question to be answered in many ways."""

    kind: str  # one of QUESTION_KINDS
    gold: str  # the right answer
    options: tuple[str, ...]  # texts of a multiple-choice question's options, else ()
    task: Task

    @functools.cached_property
    def number(self) -> float | None:
        """The right answer as a number, if it is a plain one."""
        values = [] if self.options else read_number(self.gold)
        return values[0] if len(values) == 1 else None

    @property
    def option(self) -> str:
        """The right option's text, "" if it is blank, a letter, or not the only one of its kind."""
        text = self.options["ABCDEFGH".index(self.gold)] if self.options else ""
        return text if len(text.strip("() .")) > 1 and self.options.count(text) == 1 else ""


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
    "in answer tags": lambda case: rf"I think so. <answer>\boxed{{{case.gold}}}</answer>",
    "the answer is": lambda case: f"The answer is {case.gold}",
    "a line, then Answer:": lambda case: f"I look at the figure.\nAnswer: {case.gold}",
    "trailing period": lambda case: f"{case.gold}.",
    "spaces": lambda case: f"  {case.gold} \n",
    "dollar signs": lambda case: f"${case.gold}$",
    "bold": lambda case: f"**{case.gold}**",
    "quotes": lambda case: f'"{case.gold}"',
    r"\text{}": lambda case: rf"\text{{{case.gold}}}",
    "other case": lambda case: case.gold.swapcase() if case.gold.swapcase() != case.gold else None,
    "unit": _number(lambda value: f"{value:.15g} cm"),
    "unit in LaTeX": _number(lambda value: rf"{value:.15g}\mathrm{{~cm}}^2"),
    "degrees": _number(lambda value: rf"{value:.15g}^\circ"),
    "noun": _whole(lambda value: f"{value} apples"),
    "percent sign": _number(lambda value: f"{value:.15g}%"),
    "currency": _number(lambda value: f"${value:.15g}" if value >= 0 else None),
    "thousands commas": _whole(lambda value: f"{value:,}" if abs(value) >= 1000 else None),
    "words": _whole(lambda value: _SMALL[value] if 0 <= value < len(_SMALL) else None),
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
    "letter and text": lambda case: f"({case.gold}) {case.option}" if case.option else None,
    "text alone": lambda case: case.option or None,
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
    "letter with another's text": lambda case: (
        f"({case.gold}) {_other_option(case)}" if case.options and _other_option(case) else None
    ),
    "another's text": lambda case: _other_option(case) if case.options else None,
    "not this text": lambda case: f"It is not {case.option}" if case.option else None,
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
        if gold.startswith("(") and len(items) == 2 and items[0] != items[1]
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


def table(found: Mapping[str, Mapping[str, Sequence[tuple[str, bool | None]]]], title: str) -> str:
    """Accepted / tried, as Markdown."""
    lines = [f"| {title} | " + " | ".join(QUESTION_KINDS) + " |", "|---" * (len(QUESTION_KINDS) + 1) + "|"]
    for name, by_kind in found.items():
        cells = []
        for kind in QUESTION_KINDS:
            verdicts = [verdict for _, verdict in by_kind.get(kind, ())]
            cells.append(f"{verdicts.count(True)} / {len(verdicts)}" if verdicts else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="folder of data sets' folders")
    cases = load_cases(parser.parse_args(arguments).folder)
    if not cases:
        print("no data set there", file=sys.stderr)
        return 2
    print(table(tally(cases, RIGHT), "right, accepted / tried"), end="\n\n")
    print(table(tally(cases, WRONG), "near miss, accepted / tried"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
