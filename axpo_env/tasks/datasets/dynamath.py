r"""DynaMath: 501 seed questions, each in ten variants (`DynaMath/DynaMath_Sample`, sample_variant1 to 10).

Columns: id of the seed question, question (multiple choice lists its options in it), decoded_image,
ground_truth, answer_type (float, multiple choice, text; the authors' own programs also write int, graded as a float,
and single answer, graded as a float if it is written as one, else as a text), subject, knowledge_level. Variants:
variant1 to variant10, 501 questions each (the paper of AXPO uses one), and all, 5,010 questions, for the official
pair of numbers, see `average_and_worst`.

Graded by type: a float within 0.001, a letter, a text with the right one in it. The official script has a model
write the float down before it compares; here a closed form ("\sqrt{2}", "\frac{\pi}{2}") is worked out, which needs
math-verify. The official script takes any substring for a text; here the answer must end in it, as whole words and
not denied, so that "E" is not found in "none", nor in a list, nor "even" in "not even".

Licence: MIT. Zou et al., DynaMath: A Dynamic Visual Benchmark for Evaluating Mathematical Reasoning Robustness
of Vision Language Models, arXiv:2411.00836.
"""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from axpo_env.grading import Grade, make_grade
from axpo_env.grading.choice import grade_choice
from axpo_env.grading.maths import grade_value
from axpo_env.grading.numeric import asks_percent, number_match, read_number
from axpo_env.grading.options import listed_options
from axpo_env.grading.text import exact_match, holds_phrase
from axpo_env.tasks.base import Task
from axpo_env.tasks.datasets.fields import BadRow, take, take_id, take_image, take_one_of, take_text
from axpo_env.tasks.datasets.source import Table, TableSource

TOLERANCE = 0.001  # absolute, of a float
ANSWER_TYPES = ("float", "multiple choice", "text", "int", "single answer")
NUM_VARIANTS = 10
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)")


class DynaMathSource(TableSource):
    """DynaMath's questions; with variant all, those of variant1 come first."""

    name, title = "dynamath", "DynaMath"
    variants = (*(f"variant{number}" for number in range(1, NUM_VARIANTS + 1)), "all")
    columns = ("id", "question", "decoded_image", "ground_truth", "answer_type", "subject", "knowledge_level")

    def choose_tables(self) -> tuple[Table, ...]:
        assert self.variant is not None
        names = self.variants[:-1] if self.variant == "all" else (self.variant,)
        return tuple(
            Table(
                hub_name="DynaMath/DynaMath_Sample",
                hub_split=f"sample_{name}",
                image_columns=("decoded_image",),
                names=(f"sample_{name}", name.replace("variant", "sample")),
            )
            for name in names
        )

    def make_task(self, row: Mapping[str, Any], where: str, index: int) -> Task:
        question, truth = take_text(row, "question", where), take_text(row, "ground_truth", where)
        kind = answer_type = take_one_of(row, "answer_type", ANSWER_TYPES, where)
        if kind == "int" or (kind == "single answer" and _NUMBER.fullmatch(truth)):
            kind = "float"
        options = tuple(listed_options(question)) if kind == "multiple choice" else ()
        if kind == "multiple choice" and not _is_letter(truth, len(options)):
            raise BadRow(
                f"{where}, field 'ground_truth': {truth!r} is no letter of the question's {len(options)} options"
            )
        if kind == "float" and not read_number(truth):
            raise BadRow(f"{where}, field 'ground_truth': {truth!r} is no number")
        return self.task(
            index,
            question=question,
            images=[take_image(row, "decoded_image", where)],
            references=(truth,),
            grader=functools.partial(_grade, kind=kind, options=options, percent=asks_percent(question)),
            details={
                "seed_question": take_id(row, "id", where),
                "answer_type": answer_type,
                "subject": take(row, "subject", str, where),
                "knowledge_level": take(row, "knowledge_level", str, where),
            },
        )


def _is_letter(truth: str, num_options: int) -> bool:
    return len(truth) == 1 and "A" <= truth < chr(ord("A") + num_options)


def _grade(
    answer: str | None,
    references: Sequence[str],
    *,
    kind: str,
    options: tuple[str, ...],
    percent: bool | None = None,
) -> Grade:
    (truth,) = references
    if kind == "float":
        return grade_value(answer, truth, tolerance=TOLERANCE, percent=percent)
    if kind == "multiple choice":
        return grade_choice(answer, truth, options)
    if answer is None:
        return make_grade(None, references, correct=False)
    exact = exact_match(answer, references)
    # A code such as 275 is no longer the same with words after it.
    number = number_match(answer, truth, tolerance=0.0, percent=percent)
    said = holds_phrase(answer, truth) if number is None else number
    return make_grade(answer, references, correct=exact or said, strict=exact)


def average_and_worst(results: Iterable[tuple[str, bool | None]]) -> tuple[float, float]:
    """The official numbers, each 0-1: mean accuracy, and the share of seed questions right in every variant.

    `results` are (details["seed_question"], correct), one a task; ungraded ones (None) are left out. Raises
    ValueError where nothing was graded.
    """
    by_seed: dict[str, list[bool]] = {}
    for seed, correct in results:
        if correct is not None:
            by_seed.setdefault(seed, []).append(correct)
    if not by_seed:
        raise ValueError("no graded results")
    everything = [correct for verdicts in by_seed.values() for correct in verdicts]
    return sum(everything) / len(everything), sum(map(all, by_seed.values())) / len(by_seed)
