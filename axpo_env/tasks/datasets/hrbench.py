"""HR-Bench: questions about details of 4K and 8K pictures (`DreamMr/HR-Bench`, hrbench_4k and hrbench_8k).

Columns: index, question, answer (a letter), A to D (the options), category (single, cross: one instance or
several), cycle_category, image (base64). Each of 200 questions comes four times, its options cycled; within a cycle
the right letter is the same for all questions. Variants: one_cycle, each question once, in its own of the four cycles
in turn, so that no letter is right more often than another (200 questions, as many as AXPO's paper reports), and
four_cycles, all 800, whose mean accuracy is the official number.

Graded by the letter. Licence: "other" on the hub, its file empty. Wang et al., Divide, Conquer and Combine: A
Training-Free Framework for High-Resolution Image Perception in Multimodal Large Language Models,
arXiv:2408.15556.
"""

import functools
from collections import Counter
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
        columns = (self.column(name) for name in ("question", *LETTERS, "cycle_category"))
        return _one_cycle_each(list(zip(*columns, strict=True)))

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


def _one_cycle_each(rows: Sequence[tuple[Any, ...]]) -> list[int]:
    """Of rows (question, its options, cycle), one for each question: of cycle 0 for question 0, 1 for question 1, ...

    Questions are equal in text and options, whatever the order of these. As many as that within one cycle are as many
    questions, about other images; they stand in the same order in each cycle. A row without a cycle is chosen.
    """
    cycles = list(dict.fromkeys(cycle for *_, cycle in rows))
    seen: Counter[tuple[Any, ...]] = Counter()
    questions: dict[tuple[Any, ...], dict[int, int]] = {}  # question -> {cycle's number: row}
    for index, (text, *options, cycle) in enumerate(rows):
        same = (str(text).strip(), *sorted(str(option).strip() for option in options))
        questions.setdefault((same, seen[same, cycle]), {})[cycles.index(cycle)] = index
        seen[same, cycle] += 1
    chosen = []
    for number, by_cycle in enumerate(questions.values()):
        there = sorted(by_cycle)  # not all of them, where the table is a part of the whole
        chosen.append(by_cycle[there[number % len(there)]])
    unknown = [index for index, (*_, cycle) in enumerate(rows) if cycle is None]
    return list(dict.fromkeys([*chosen, *unknown]))


class HRBench4KSource(_HRBenchSource):
    """HR-Bench's questions about 4K pictures."""

    name, title, size = "hrbench4k", "HR-Bench 4K", "4k"


class HRBench8KSource(_HRBenchSource):
    """HR-Bench's questions about 8K pictures."""

    name, title, size = "hrbench8k", "HR-Bench 8K", "8k"
