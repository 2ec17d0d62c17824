"""HR-Bench: questions about details of 4K and 8K pictures (`DreamMr/HR-Bench`, hrbench_4k and hrbench_8k).

Columns: index, question, answer (a letter), A to D (the options), category (single, cross: one instance or
several), cycle_category, image (base64). Each of 200 questions comes four times, its options cycled. Variants:
one_cycle, 200 questions, what AXPO's paper reports (inferred: the rows whose cycle_category is the first row's),
and four_cycles, all 800, whose mean accuracy is the official number.

Graded by the letter. Licence: "other" on the hub, its file empty. Wang et al., Divide, Conquer and Combine: A
Training-Free Framework for High-Resolution Image Perception in Multimodal Large Language Models,
arXiv:2408.15556.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from axpo_env.grading.choice import grade_letter
from axpo_env.grading.options import show_options
from axpo_env.tasks.base import Task
from axpo_env.tasks.datasets.fields import decode_base64, take_id, take_one_of, take_text
from axpo_env.tasks.datasets.source import Table, TableSource

LETTERS = ("A", "B", "C", "D")
CATEGORIES = ("single", "cross")


class _HRBenchSource(TableSource):
    variants = ("one_cycle", "four_cycles")
    columns = ("index", "question", "answer", *LETTERS, "category", "cycle_category", "image")
    size: str  # 4k or 8k

    def choose_tables(self) -> tuple[Table, ...]:
        return (
            Table(
                hub_name="DreamMr/HR-Bench",
                config="hrbench_version_split",
                hub_split=f"hrbench_{self.size}",
                names=(f"hr_bench_{self.size}", f"hrbench_{self.size}"),
            ),
        )

    def choose_rows(self) -> Sequence[int] | None:
        if self.variant == "four_cycles":
            return None
        cycles = self.column("cycle_category")
        return [index for index, cycle in enumerate(cycles) if cycle == cycles[0]]

    def make_task(self, row: Mapping[str, Any], where: str, index: int) -> Task:
        options = tuple(take_text(row, letter, where) for letter in LETTERS)
        return self.task(
            index,
            question=show_options(take_text(row, "question", where), options),
            images=[decode_base64(row, "image", where)],
            references=(take_one_of(row, "answer", LETTERS, where),),
            grader=functools.partial(grade_letter, options=options),
            details={
                "id": take_id(row, "index", where),
                "category": take_one_of(row, "category", CATEGORIES, where),
                "cycle": take_id(row, "cycle_category", where),
            },
        )


class HRBench4KSource(_HRBenchSource):
    """HR-Bench's questions about 4K pictures."""

    name, title, size = "hrbench4k", "HR-Bench 4K", "4k"


class HRBench8KSource(_HRBenchSource):
    """HR-Bench's questions about 8K pictures."""

    name, title, size = "hrbench8k", "HR-Bench 8K", "8k"
