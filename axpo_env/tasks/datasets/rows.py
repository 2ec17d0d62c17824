"""Rows of a published data set, one at a time: from parquet files in a folder, or from the hub.

Images stay encoded until a row is asked for, so a large data set does not sit in memory. What the columns
mean is left to each benchmark's module.
"""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from axpo_env.views import decode_image

MAX_IMAGE_PIXELS = 200_000_000


class BadRow(ValueError):
    """A row that does not fit its data set's schema; the text names data set, row and field."""


class Rows(Protocol):
    """A table of rows. `get` may be called from several threads."""

    @property
    def num_rows(self) -> int: ...

    def get(self, index: int) -> Mapping[str, Any]:
        """Row `index`; an image column is {"bytes": ..., "path": ...}, not decoded."""
        ...


class ParquetRows:
    """The rows of parquet files, in the given order. Reads row groups on demand and keeps the latest one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        try:
            from pyarrow import parquet
        except ImportError as error:
            raise ImportError("reading parquet files needs pyarrow: pip install 'axpo[data]'") from error
        self._files = [parquet.ParquetFile(path) for path in paths]
        self._groups = [
            (file, group, file.metadata.row_group(group).num_rows)
            for file in self._files
            for group in range(file.num_row_groups)
        ]
        self.num_rows = sum(count for _, _, count in self._groups)
        self._lock = threading.Lock()
        self._cached: tuple[int, Any] | None = None  # position in _groups, its table

    def get(self, index: int) -> Mapping[str, Any]:
        if not 0 <= index < self.num_rows:
            raise IndexError(f"rows are 0 to {self.num_rows - 1}, not {index}")
        position, offset = 0, index
        while offset >= self._groups[position][2]:
            offset -= self._groups[position][2]
            position += 1
        with self._lock:
            if self._cached is None or self._cached[0] != position:
                file, group, _ = self._groups[position]
                self._cached = (position, file.read_row_group(group))
            table = self._cached[1]
        row: Mapping[str, Any] = table.slice(offset, 1).to_pylist()[0]
        return row


class HubRows:
    """The rows of one split of a hub data set, through `datasets` (memory-mapped from its cache)."""

    def __init__(self, name: str, split: str, *, image_columns: Sequence[str]) -> None:
        try:
            import datasets
        except ImportError as error:
            raise ImportError("reading from the hub needs datasets: pip install 'axpo[data]'") from error
        table = datasets.load_dataset(name, split=split)
        for column in image_columns:
            table = table.cast_column(column, datasets.Image(decode=False))
        self._table = table
        self._lock = threading.Lock()
        self.num_rows = len(table)

    def get(self, index: int) -> Mapping[str, Any]:
        if not 0 <= index < self.num_rows:
            raise IndexError(f"rows are 0 to {self.num_rows - 1}, not {index}")
        with self._lock:
            row: Mapping[str, Any] = self._table[index]
        return row


def find_parquet(folder: Path, split: str) -> list[Path]:
    """The split's parquet files in `folder` or its `data` folder, by the hub's naming, sorted.

    They are named `SPLIT.parquet` or `SPLIT-00000-of-00001....parquet`. Raises FileNotFoundError naming what
    is there.
    """
    for place in (folder, folder / "data"):
        found = sorted([*place.glob(f"{split}.parquet"), *place.glob(f"{split}-*.parquet")])
        if found:
            return found
    there = sorted(str(path.relative_to(folder)) for path in folder.glob("**/*.parquet"))
    names = ", ".join(there) or "none"
    raise FileNotFoundError(f"no {split}.parquet or {split}-*.parquet in {folder}; there: {names}")


def take(row: Mapping[str, Any], name: str, kind: type, where: str) -> Any:
    """Field `name` of `row` if it is a `kind`. Raises BadRow otherwise; `where` names data set and row."""
    if name not in row:
        raise BadRow(f"{where}, field {name!r}: missing; there are {', '.join(sorted(row))}")
    value = row[name]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BadRow(f"{where}, field {name!r}: {type(value).__name__} where {kind.__name__} belongs")
    return value


def take_image(row: Mapping[str, Any], name: str, where: str) -> Any:
    """The decoded image [H, W, 3] in field `name`. Raises BadRow if there is none or it is unreadable."""
    data = take(row, name, dict, where).get("bytes")
    if not isinstance(data, bytes):
        raise BadRow(f"{where}, field {name!r}: no image bytes")
    try:
        return decode_image(data, max_pixels=MAX_IMAGE_PIXELS)
    except ValueError as error:
        raise BadRow(f"{where}, field {name!r}: {error}") from error
