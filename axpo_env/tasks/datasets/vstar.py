"""V*Bench: small things in large pictures (`craigwu/vstar_bench`, 191 multiple-choice questions).

Read from test_questions.jsonl with its pictures beside it, or from parquet files that hold them. Columns:
image, text (the question, a line for each option, an instruction), category, label (a letter), question_id.
Variants: all, direct_attributes (115), relative_position (76).

Graded by the letter, as officially. Licence: none is stated for the questions; the pictures are of SA-1B, for
research only. Wu and Xie, V*: Guided Visual Search as a Core Mechanism in Multimodal LLMs, arXiv:2312.14135.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from axpo_env.grading.choice import grade_letter
from axpo_env.grading.options import LETTERS, listed_options
from axpo_env.tasks.base import Task
from axpo_env.tasks.datasets.fields import BadRow, take_id, take_image, take_one_of, take_text
from axpo_env.tasks.datasets.source import Table, TableSource

CATEGORIES = ("direct_attributes", "relative_position")


class VStarSource(TableSource):
    """V*Bench's questions."""

    name, title = "vstar", "V*Bench"
    variants = ("all", *CATEGORIES)
    columns = ("image", "text", "category", "label", "question_id")

    def choose_tables(self) -> tuple[Table, ...]:
        return (
            Table(
                hub_name="craigwu/vstar_bench",
                image_columns=("image",),
                names=("test_questions", "test"),
                file="test_questions.jsonl",
            ),
        )

    def choose_rows(self) -> Sequence[int] | None:
        if self.variant == "all":
            return None
        others = [name for name in CATEGORIES if name != self.variant]
        return [index for index, category in enumerate(self.column("category")) if category not in others]

    def make_task(self, row: Mapping[str, Any], where: str, index: int) -> Task:
        question, letter = take_text(row, "text", where), take_text(row, "label", where)
        options = tuple(listed_options(question))
        if not options:
            raise BadRow(f"{where}, field 'text': lists no options")
        if letter not in LETTERS[: len(options)]:
            raise BadRow(f"{where}, field 'label': {letter!r} is no letter of {len(options)} options")
        return self.task(
            index,
            question=question,
            images=[take_image(row, "image", where, files=self.files)],
            references=(letter,),
            grader=functools.partial(grade_letter, options=options),
            details={
                "id": take_id(row, "question_id", where),
                "category": take_one_of(row, "category", CATEGORIES, where),
            },
        )
