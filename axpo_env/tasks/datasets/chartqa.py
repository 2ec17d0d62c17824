"""ChartQA: questions about real charts (`HuggingFaceM4/ChartQA`; image, query, label, human_or_machine).

Graded by its own relaxed accuracy. Which tools a question needs is not known.
"""

from pathlib import Path

from axpo_env.grading.judge import Judge
from axpo_env.tasks.base import Task, check_index, check_split
from axpo_env.tasks.datasets.rows import BadRow, HubRows, ParquetRows, Rows, find_parquet, take, take_image
from axpo_env.tasks.datasets.source import check_variant

HUB_NAME = "HuggingFaceM4/ChartQA"
HUB_SPLITS = {"train": "train", "validation": "val", "test": "test"}
ORIGINS = ("human", "machine")  # what human_or_machine 0 and 1 stand for


class ChartQASource:
    """One split of ChartQA, from the hub (`source="hub"`) or from a local folder of its parquet files."""

    def __init__(
        self, *, split: str, source: str, variant: str | None = None, judge: Judge | None = None
    ) -> None:
        check_variant(variant, (), "ChartQA")
        self.split, self.source = check_split(split), source  # its metric needs no judge
        hub_split = HUB_SPLITS[split]
        self.rows: Rows = (
            HubRows(HUB_NAME, hub_split, image_columns=("image",))
            if source == "hub"
            else ParquetRows(_files(Path(source), split, hub_split))
        )

    @property
    def num_tasks(self) -> int:
        return self.rows.num_rows

    def get(self, index: int) -> Task:
        """Task `index`. Raises BadRow for a row that does not fit, naming data set, row and field."""
        index = check_index(index, self.num_tasks, HUB_NAME)
        row, where = self.rows.get(index), f"{HUB_NAME} {self.split}, row {index}"
        labels = take(row, "label", list, where)
        if not labels or not all(isinstance(label, str) and label for label in labels):
            raise BadRow(f"{where}, field 'label': needs one or more non-empty strings, not {labels!r}")
        origin = take(row, "human_or_machine", int, where)
        if origin not in range(len(ORIGINS)):
            raise BadRow(f"{where}, field 'human_or_machine': {origin} where 0 or 1 belongs")
        question = take(row, "query", str, where)
        if not question.strip():
            raise BadRow(f"{where}, field 'query': blank")
        return Task(
            id=f"chartqa/{self.split}/{index}",
            index=index,
            split=self.split,
            source=self.source,
            question=question,
            images=(take_image(row, "image", where),),
            references=tuple(labels),
            details={"origin": ORIGINS[origin]},
        )


def _files(folder: Path, split: str, hub_split: str) -> list[Path]:
    """The split's files under the hub's name for it, or under ours."""
    try:
        return find_parquet(folder, hub_split)
    except FileNotFoundError:
        if split == hub_split:
            raise
        return find_parquet(folder, split)
