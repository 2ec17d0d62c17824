r"""MathVision (MATH-Vision): competition mathematics with figures (`MathLLMs/MathVision`).

Columns: id, question (with `<image1>`, ... where figures belong), options, answer, level 1-5, subject,
decoded_image (all of a question's figures on one picture). Variants: testmini, 304 questions, and test, 3,040;
which of them AXPO's paper reports is not known.

Graded by the option's letter, or by equality of mathematics (math-verify). The official script compares
mathematics rounded to two decimals, which takes 0.333 for 1/3 and 0.004 for 0; that leniency is left out.

Licence: MIT. Wang et al., Measuring Multimodal Mathematical Reasoning with the MATH-Vision Dataset,
arXiv:2402.14804.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from axpo_env.grading import Grade
from axpo_env.grading.choice import grade_choice
from axpo_env.grading.maths import check_installed, equal_maths, grade_maths
from axpo_env.grading.numeric import asks_percent
from axpo_env.grading.options import LETTERS, show_options
from axpo_env.tasks.base import Task
from axpo_env.tasks.datasets.fields import BadRow, take, take_id, take_image, take_text, take_whole
from axpo_env.tasks.datasets.source import Table, TableSource


class MathVisionSource(TableSource):
    """MathVision's questions."""

    name, title = "mathvision", "MathVision"
    variants = ("testmini", "test")
    columns = ("id", "question", "options", "answer", "level", "subject", "decoded_image")

    def choose_tables(self) -> tuple[Table, ...]:
        check_installed()
        assert self.variant is not None
        return (
            Table(hub_name="MathLLMs/MathVision", hub_split=self.variant, image_columns=("decoded_image",)),
        )

    def make_task(self, row: Mapping[str, Any], where: str, index: int) -> Task:
        answer = take_text(row, "answer", where)
        options = tuple(take(row, "options", list, where))
        if not all(isinstance(option, str) for option in options):
            raise BadRow(f"{where}, field 'options': needs strings, not {options!r}")
        options = tuple(option.strip() for option in options)
        if options and answer not in LETTERS[: len(options)]:
            raise BadRow(f"{where}, field 'answer': {answer!r} is no letter of {len(options)} options")
        level = take_whole(row, "level", where)
        if level not in range(1, 6):
            raise BadRow(f"{where}, field 'level': {level} where 1 to 5 belongs")
        question = take_text(row, "question", where)
        if "<image" not in question.replace("<image1>", "", 1) + "".join(options):
            question = question.replace("<image1>", "").strip()  # the only figure needs no number
        return self.task(
            index,
            question=show_options(question, options) if options else question,
            images=[take_image(row, "decoded_image", where)],
            references=(answer,),
            grader=functools.partial(_grade, options=options, percent=asks_percent(question)),
            details={
                "id": take_id(row, "id", where),
                "level": level,
                "subject": take(row, "subject", str, where),
            },
        )


def _grade(
    answer: str | None, references: Sequence[str], *, options: tuple[str, ...], percent: bool
) -> Grade:
    if options:
        return grade_choice(answer, references[0], options, same=_same)
    return grade_maths(answer, references[0], percent=percent)


def _same(option: str, text: str) -> bool:
    """Equality of mathematics, asked only where both are more than words and letters."""
    both = all(any(char.isdigit() or char == "\\" for char in side) for side in (option, text))
    return both and equal_maths(option, text)
