"""MMSearch: questions on news and rare knowledge that need a search (`CaraJ/MMSearch`, end2end, 300 questions).

Columns: sample_id, query, query_image (null for 129 questions), image_search_result (a picture of what an image search
found for it), gt_answer, alternative_gt_answers, timestamp, area, subfield. Variants: all, and with_image, the 171
that have one. The official pipeline shows image_search_result with the question; here a policy that has the tool
`image-search` gets it by asking for what looks like the question's image.

Right is what equals the answer or one of its alternatives after normalising; what does not is the `judge`'s, and
ungraded without one (numbers that differ are wrong). `Grade.score` is the token F1 with the best of them, of every
answer, ungraded ones included: the official number of a final answer.

Licence: unknown, none is stated on the hub. Jiang et al., MMSearch: Benchmarking the Potential of Large Models as
Multi-modal Search Engines, arXiv:2409.12959.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from axpo_env.grading.free import grade_f1
from axpo_env.tasks.base import Task
from axpo_env.tasks.datasets.fields import take_any, take_id, take_image, take_text, take_texts
from axpo_env.tasks.datasets.source import Table, TableSource

FOUND = "image_search_result"


class MMSearchSource(TableSource):
    """MMSearch's questions."""

    name, title = "mmsearch", "MMSearch"
    variants = ("all", "with_image")
    columns = (
        "sample_id",
        "query",
        "query_image",
        "gt_answer",
        "alternative_gt_answers",
        "timestamp",
        "area",
    )

    def choose_tables(self) -> tuple[Table, ...]:
        table = Table(
            hub_name="CaraJ/MMSearch",
            config="end2end",
            hub_split="end2end",
            image_columns=("query_image", FOUND),
        )
        return (table,)

    def choose_rows(self) -> Sequence[int] | None:
        if self.variant == "all":
            return None
        return [index for index, image in enumerate(self.column("query_image")) if image is not None]

    def make_task(self, row: Mapping[str, Any], where: str, index: int) -> Task:
        question = take_text(row, "query", where)
        references = [
            take_text(row, "gt_answer", where),
            *take_texts(row, "alternative_gt_answers", where, least=0),
        ]
        pictureless = take_any(row, "query_image", where) is None
        found = row.get(FOUND)  # without it, a row is whole
        return self.task(
            index,
            question=question,
            images=[] if pictureless else [take_image(row, "query_image", where, files=self.files)],
            image_search_result=None if found is None else take_image(row, FOUND, where, files=self.files),
            references=dict.fromkeys(references),
            grader=functools.partial(grade_f1, question=question, judge=self.judge),
            details={
                "id": take_id(row, "sample_id", where),
                "timestamp": take_any(row, "timestamp", where),
                "area": take_any(row, "area", where),
                "subfield": row.get("subfield"),  # a note: without it, a row is whole
            },
        )
