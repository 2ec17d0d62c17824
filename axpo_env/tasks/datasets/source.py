"""What the benchmarks' sources share: which table is read from where, which rows of it, and a task per row.

A benchmark's module says what its tables are called, what its columns mean and how answers are graded.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from axpo_env.grading.judge import Judge
from axpo_env.names import unknown_name
from axpo_env.tasks.base import Grader, Task, check_index, check_split
from axpo_env.tasks.cache import task_cache
from axpo_env.tasks.datasets.fields import BadRow, take_any
from axpo_env.tasks.datasets.files import Files, FolderFiles, HubFiles
from axpo_env.tasks.datasets.rows import (
    HubRows,
    JoinedRows,
    JsonRows,
    ParquetRows,
    Rows,
    check_folder,
    no_table,
    parquet_files,
)


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table of a hub data set, and what it is called in a folder."""

    hub_name: str  # owner/name
    hub_split: str = "test"
    config: str | None = None  # the hub's configuration, where there is more than one
    image_columns: tuple[str, ...] = ()  # columns of encoded images; paths and base64 are text
    # Files in a folder, without number and ending, the first that is there; the hub's split if none are named.
    names: tuple[str, ...] = ()
    file: str | None = None  # the table's file on the hub, where it is JSON with images beside it


def open_table(table: Table, source: str) -> tuple[Rows, Files]:
    """The table's rows and the files beside them, from the hub (`source="hub"`) or from a folder.

    Raises FileNotFoundError naming the folder or what is in it, ImportError for a missing reader.
    """
    if source == "hub":
        files = HubFiles(table.hub_name)
        if table.file is not None:
            return JsonRows(files.fetch(table.file)), files
        images = table.image_columns
        return HubRows(table.hub_name, table.hub_split, image_columns=images, config=table.config), files
    folder = Path(source)
    check_folder(folder)
    names = table.names or (table.hub_split,)
    for name in names:
        for path in (folder / f"{name}.jsonl", folder / f"{name}.json"):
            if path.is_file():
                return JsonRows(path), FolderFiles(folder)
        parquet = parquet_files(folder, name)
        if parquet:
            return ParquetRows(parquet), FolderFiles(folder)
    raise no_table(folder, names)


class TableSource(ABC):
    """One split and variant of a benchmark. Subclasses say which tables, which rows, and what a row means."""

    name: ClassVar[str]  # of the benchmark, begins the tasks' ids
    title: ClassVar[str]  # the benchmark's name, for messages
    splits: ClassVar[tuple[str, ...]] = ("test",)
    variants: ClassVar[tuple[str, ...]] = ()  # first the default; () if it has none
    columns: ClassVar[tuple[str, ...]]  # that every row has

    def __init__(
        self, *, split: str, source: str, variant: str | None = None, judge: Judge | None = None
    ) -> None:
        if check_split(split) not in self.splits:
            raise ValueError(f"{self.title} has no {split} split; it has: {', '.join(self.splits)}")
        self.split, self.source, self.judge = split, source, judge
        self.variant = check_variant(variant, self.variants, self.title)
        self.tables = self.choose_tables()
        opened = [open_table(table, source) for table in self.tables]
        for rows, _ in opened:
            self._check_table(rows)
        self.rows = JoinedRows([rows for rows, _ in opened])
        self.files = opened[0][1]  # a benchmark of several tables has its images in them
        chosen = self.choose_rows()
        self.chosen: Sequence[int] = range(self.rows.num_rows) if chosen is None else chosen
        if not self.chosen:
            given = f"{self.rows.num_rows} rows in {self.rows.place}"
            raise ValueError(f"{self._part}: none of the {given} belongs to it")
        self._cache_key = object()  # another source, opened later, may read other rows

    def _check_table(self, rows: Rows) -> None:
        """Raises ValueError for a table without rows, BadRow for one of another data set."""
        if not rows.num_rows:
            raise ValueError(f"{self._part}: no row in {rows.place}")
        for name in self.columns:
            take_any(dict.fromkeys(rows.columns), name, f"{self.title}, {rows.where(0)}")

    @property
    def _part(self) -> str:
        """What of the benchmark this is, for messages."""
        variant = "" if self.variant is None else f", variant {self.variant}"
        return f"{self.title}, {self.split}{variant}"

    @property
    def num_tasks(self) -> int:
        return len(self.chosen)

    def get(self, index: int) -> Task:
        """Task `index`. Raises BadRow for a row that does not fit, naming file, row and field."""
        index = check_index(index, self.num_tasks, self.title)
        return task_cache.get((self._cache_key, index), lambda: self._read(index))

    def _read(self, index: int) -> Task:
        number = self.chosen[index]
        return self.make_task(self.rows.get(number), self._where(number), index)

    def _where(self, number: int) -> str:
        """Benchmark, file and row within it."""
        return f"{self.title}, {self.rows.where(number)}"

    def column(self, name: str) -> list[Any]:
        """One column of every row. Raises BadRow, naming files and field, if one of several lacks it."""
        try:
            return self.rows.column(name)
        except KeyError as error:
            raise BadRow(f"{self.title}, {self.rows.place}, field {name!r}: missing") from error

    @abstractmethod
    def choose_tables(self) -> tuple[Table, ...]:
        """The tables of this split and variant, read one after the other."""

    def choose_rows(self) -> Sequence[int] | None:
        """Which rows belong to this variant; None for all. A row that cannot be told is chosen, so `get` names it."""
        return None

    @abstractmethod
    def make_task(self, row: Mapping[str, Any], where: str, index: int) -> Task:
        """The task of a row. Raises BadRow; `where` names benchmark, file and row."""

    def task(
        self,
        index: int,
        *,
        question: str,
        images: Sequence[Any],
        references: Iterable[str],
        grader: Grader,
        details: dict[str, Any],
        image_search_result: Any = None,
    ) -> Task:
        """A task of this source; its id names benchmark, variant, split and index."""
        parts = (self.name, *([self.variant] if self.variant else []), self.split, str(index))
        return Task(
            id="/".join(parts),
            index=index,
            split=self.split,
            source=self.source,
            question=question,
            images=tuple(images),
            references=tuple(references),
            grader=grader,
            details=details,
            image_search_result=image_search_result,
        )


def check_variant(variant: str | None, variants: Sequence[str], title: str) -> str | None:
    """The variant, the first if none is given. Raises ValueError naming those there are."""
    if variant is None:
        return variants[0] if variants else None
    if not variants:
        raise ValueError(f"{title} has no variants, so none called {variant!r}")
    if variant not in variants:
        raise ValueError(unknown_name(f"variant of {title}", variant, variants))
    return variant
