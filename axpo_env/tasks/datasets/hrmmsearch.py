"""HR-MMSearch: questions about details of 4K pictures that need a search (`sensenova/HR-MMSearch`, 305).

Columns: sample_id, query, query_image (encoded, or a path), ground_truth (one text or a list), difficulty, category.
The hub calls its only split train; it is a benchmark, so here it is test. The authors' own files are a data.jsonl with
the pictures beside it.

Graded officially by equality after normalising, then by a judge; that is what a `judge` gets. Without one, what is
not equal to a ground truth is ungraded (numbers that differ are wrong). `Grade.score` is the token F1 with the best
ground truth, which AXPO's paper reports, of every answer, ungraded ones included. Licence: the authors' data beside it
(SenseNova-MARS-Data) is MIT; for this set unknown. Chng et al., SenseNova-MARS: Empowering Multimodal Agentic
Reasoning and Search via Reinforcement Learning, arXiv:2512.24330.
"""

import functools
from collections.abc import Mapping
from typing import Any

from axpo_env.grading.free import grade_f1
from axpo_env.tasks.base import Task
from axpo_env.tasks.datasets.fields import take_any, take_id, take_image, take_text, take_texts
from axpo_env.tasks.datasets.source import Table, TableSource


class HRMMSearchSource(TableSource):
    """HR-MMSearch's questions."""

    name, title = "hrmmsearch", "HR-MMSearch"
    columns = ("sample_id", "query", "query_image", "ground_truth", "difficulty", "category")

    def choose_tables(self) -> tuple[Table, ...]:
        table = Table(
            hub_name="sensenova/HR-MMSearch",
            hub_split="train",
            image_columns=("query_image",),
            names=("train", "test", "data"),
        )
        return (table,)

    def make_task(self, row: Mapping[str, Any], where: str, index: int) -> Task:
        question = take_text(row, "query", where)
        return self.task(
            index,
            question=question,
            images=[take_image(row, "query_image", where, files=self.files)],
            references=take_texts(row, "ground_truth", where),
            grader=functools.partial(grade_f1, question=question, judge=self.judge),
            details={
                "id": take_id(row, "sample_id", where),
                "difficulty": take_any(row, "difficulty", where),
                "category": take_any(row, "category", where),
            },
        )
