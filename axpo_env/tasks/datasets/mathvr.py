r"""Math-VR: mathematics that needs a drawing, often in several parts (`gogoduan/Math-VR-bench`, English, 2,500).

Columns: id, question (with `<image1>`, ... where figures belong), image1 to image8, answers, number_of_answers,
scoring_points, category (multimodal, text). Variants: multimodal, the questions with figures, text, those
without, and all. AXPO's paper uses about 500 of them (inferred); which is not known, so no variant is theirs.

The official answer correctness is all or nothing over the parts, told by a judge. Here rules compare part by
part as mathematics; what they cannot tell goes to the `judge`, and without one is ungraded. The official partial
score over `scoring_points` judges the reasoning and is left out. Inferred: that `answers` is a list of texts
with a part each, or one text; a list of another length than number_of_answers is taken as one answer.

Licence: Apache-2.0. Duan et al., CodePlot-CoT: Mathematical Visual Reasoning by Thinking with Code-Driven Images,
arXiv:2510.11718.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from axpo_env.grading.free import grade_parts
from axpo_env.grading.maths import check_installed
from axpo_env.tasks.base import Task
from axpo_env.tasks.datasets.fields import (
    BadRow,
    take_any,
    take_id,
    take_image,
    take_text,
    take_texts,
    take_whole,
)
from axpo_env.tasks.datasets.source import Table, TableSource

NUM_IMAGES = 8
CATEGORIES = ("multimodal", "text")
_PLACE = re.compile(r"<image(\d)>")


class MathVRSource(TableSource):
    """Math-VR's questions."""

    name, title = "mathvr", "Math-VR"
    variants = (*CATEGORIES, "all")
    columns = ("id", "question", "answers", "number_of_answers", "scoring_points")

    def choose_tables(self) -> tuple[Table, ...]:
        check_installed()
        images = tuple(f"image{number}" for number in range(1, NUM_IMAGES + 1))
        return (Table(hub_name="gogoduan/Math-VR-bench", image_columns=images),)

    def choose_rows(self) -> Sequence[int] | None:
        if self.variant == "all":
            return None
        drawn = self.variant == "multimodal"
        return [
            index
            for index, text in enumerate(self.column("question"))
            if not isinstance(text, str) or bool(_PLACE.search(text)) is drawn
        ]

    def make_task(self, row: Mapping[str, Any], where: str, index: int) -> Task:
        question = take_text(row, "question", where)
        numbers = sorted({int(number) for number in _PLACE.findall(question)})
        if numbers and (numbers[0] < 1 or numbers[-1] > NUM_IMAGES):
            raise BadRow(f"{where}, field 'question': figures are <image1> to <image{NUM_IMAGES}>")
        images = [take_image(row, f"image{number}", where, files=self.files) for number in numbers]
        # The environment counts a question's images from 0.
        places = {str(number): f"(image {place})" for place, number in enumerate(numbers)}
        question = _PLACE.sub(lambda match: places[match.group(1)], question)
        parts = take_texts(row, "answers", where)
        count = take_whole(row, "number_of_answers", where)
        if count < 1:
            raise BadRow(f"{where}, field 'number_of_answers': {count} where at least 1 belongs")
        if len(parts) != count:
            parts = ["; ".join(parts)]
        if len(parts) > 1:
            question += f"\nGive all {count} answers in order, separated by semicolons."
        return self.task(
            index,
            question=question,
            images=images,
            references=("; ".join(parts),),
            grader=functools.partial(grade_parts, parts=tuple(parts), question=question, judge=self.judge),
            details={
                "id": take_id(row, "id", where),
                "num_parts": len(parts),
                "scoring_points": take_any(row, "scoring_points", where),
            },
        )
