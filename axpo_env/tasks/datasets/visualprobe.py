r"""VisualProbe: hard visual search, answered freely (`Mini-o3/VisualProbe_Hard`, `_Medium`, `_Easy`, `_train`).

Read from val.json (train.json) with pictures beside it, or from parquet files that hold them. Fields: images (one
path or more), problem (with `<image>`), solution, doc_id; their names are those of Mini-o3's own example of its
format. Variants of the test split: hard (106 questions, inferred; what AXPO's paper reports), medium, easy. The
train split is `VisualProbe_train`, without variants.

Graded officially by a judge. Without one, answers that rules can tell are graded (equal after normalising, or
numbers that differ), the others are ungraded. Licence: unknown, none is stated. Lai et al., Mini-o3: Scaling Up
Reasoning Patterns and Interaction Turns for Visual Search, arXiv:2509.07969.
"""

import functools
from collections.abc import Mapping
from typing import Any

from axpo_env.grading.free import grade_free
from axpo_env.tasks.base import Task
from axpo_env.tasks.datasets.fields import BadRow, take, take_image, take_text
from axpo_env.tasks.datasets.source import Table, TableSource


class VisualProbeSource(TableSource):
    """VisualProbe's questions."""

    name, title = "visualprobe", "VisualProbe"
    splits = ("train", "test")
    variants = ("hard", "medium", "easy")
    columns = ("images", "problem", "solution")

    def choose_tables(self) -> tuple[Table, ...]:
        assert self.variant is not None
        if self.split == "train":
            return (Table(hub_name="Mini-o3/VisualProbe_train", file="train.json", names=("train",)),)
        name = f"Mini-o3/VisualProbe_{self.variant.capitalize()}"
        return (Table(hub_name=name, file="val.json", names=("val", "test", "validation")),)

    def make_task(self, row: Mapping[str, Any], where: str, index: int) -> Task:
        pictures = take(row, "images", list, where)
        if not pictures:
            raise BadRow(f"{where}, field 'images': none")
        question = take_text(row, "problem", where).replace("<image>", "").strip()
        if not question:
            raise BadRow(f"{where}, field 'problem': blank")
        return self.task(
            index,
            question=question,
            images=[take_image({"images": item}, "images", where, files=self.files) for item in pictures],
            references=(take_text(row, "solution", where),),
            grader=functools.partial(grade_free, question=question, judge=self.judge),
            details={"id": row.get("doc_id")},  # a note: without it, a row is whole
        )
