"""ChartQA: questions about real charts (`HuggingFaceM4/ChartQA`; train 28,299, validation 1,920, test 2,500).

Columns: image, query, label (a list of texts), human_or_machine (0 a person's question, 1 a generated one). The hub
calls the validation split val; in a folder it goes by either name.

Graded officially by relaxed accuracy: a number may be off by 5 %, text must be equal but for case. So it is here,
once what is only wrapping ("the answer is 5.") is taken off; `Grade.strict` has the exact metric. The paper of AXPO
does not use ChartQA. Which tools a question needs is not known.

Licence: GPL-3.0. Masry et al., ChartQA: A Benchmark for Question Answering about Charts with Visual and Logical
Reasoning, Findings of ACL 2022, arXiv:2203.10244.
"""

from collections.abc import Mapping
from typing import Any

from axpo_env.grading import grade_chartqa
from axpo_env.tasks.base import SPLITS, Task
from axpo_env.tasks.datasets.fields import BadRow, take, take_image, take_text, take_texts, take_whole
from axpo_env.tasks.datasets.source import Table, TableSource

HUB_NAME = "HuggingFaceM4/ChartQA"
HUB_SPLITS = {"train": "train", "validation": "val", "test": "test"}
ORIGINS = ("human", "machine")  # what human_or_machine 0 and 1 stand for


class ChartQASource(TableSource):
    """ChartQA's questions. Their metric needs no judge."""

    name, title = "chartqa", "ChartQA"
    splits = SPLITS
    columns = ("image", "query", "label", "human_or_machine")

    def choose_tables(self) -> tuple[Table, ...]:
        hub_split = HUB_SPLITS[self.split]
        return (
            Table(
                hub_name=HUB_NAME,
                hub_split=hub_split,
                image_columns=("image",),
                names=tuple(dict.fromkeys((hub_split, self.split))),
            ),
        )

    def make_task(self, row: Mapping[str, Any], where: str, index: int) -> Task:
        take(row, "label", list, where)  # never one text alone
        origin = take_whole(row, "human_or_machine", where)
        if origin not in range(len(ORIGINS)):
            raise BadRow(f"{where}, field 'human_or_machine': {origin} where 0 or 1 belongs")
        return self.task(
            index,
            question=take_text(row, "query", where),
            images=[take_image(row, "image", where)],
            references=take_texts(row, "label", where),
            grader=grade_chartqa,
            details={"origin": ORIGINS[origin]},
        )
