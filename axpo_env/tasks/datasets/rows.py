"""Rows of a published data set, one at a time: from parquet files in a folder, or from the hub.

Images stay encoded until a row is asked for, so a large data set does not sit in memory. What the columns
mean is left to each benchmark's module.
"""

import base64
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from axpo_env.names import unknown_name
from axpo_env.tasks.datasets.files import Files
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

    def column(self, name: str) -> list[Any]:
        """One column of every row, without the others being read. Raises KeyError if there is none."""
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

    def column(self, name: str) -> list[Any]:
        values = []
        with self._lock:
            for file in self._files:
                if name not in file.schema_arrow.names:
                    raise KeyError(name)
                values += file.read(columns=[name])[name].to_pylist()
        return values


class HubRows:
    """The rows of one split of a hub data set, through `datasets` (memory-mapped from its cache)."""

    def __init__(
        self, name: str, split: str, *, image_columns: Sequence[str], config: str | None = None
    ) -> None:
        try:
            import datasets
        except ImportError as error:
            raise ImportError("reading from the hub needs datasets: pip install 'axpo[data]'") from error
        named = () if config is None else (config,)
        table = datasets.load_dataset(name, *named, split=split)
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

    def column(self, name: str) -> list[Any]:
        if name not in self._table.column_names:
            raise KeyError(name)
        with self._lock:
            return list(self._table[name])


class JoinedRows:
    """Several tables, one after the other."""

    def __init__(self, tables: Sequence[Rows]) -> None:
        self.tables = tables
        self.num_rows = sum(table.num_rows for table in tables)

    def get(self, index: int) -> Mapping[str, Any]:
        if not 0 <= index < self.num_rows:
            raise IndexError(f"rows are 0 to {self.num_rows - 1}, not {index}")
        number = 0
        while index >= self.tables[number].num_rows:
            index -= self.tables[number].num_rows
            number += 1
        return self.tables[number].get(index)

    def column(self, name: str) -> list[Any]:
        return [value for table in self.tables for value in table.column(name)]


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


def table_stamps(folder: str) -> tuple[tuple[str, int, int], ...]:
    """Name, time and size of each file of rows in `folder`: when they change, the rows may have; () if it is none."""
    files = [path for place in (Path(folder), Path(folder) / "data") for path in place.glob("*.*")]
    tables = [path for path in files if path.suffix in (".parquet", ".json", ".jsonl")]
    return tuple(sorted((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in tables))


def take(row: Mapping[str, Any], name: str, kind: type, where: str) -> Any:
    """Field `name` of `row` if it is a `kind`. Raises BadRow otherwise; `where` names data set and row."""
    if name not in row:
        raise BadRow(f"{where}, field {name!r}: missing; there are {', '.join(sorted(row))}")
    value = row[name]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BadRow(f"{where}, field {name!r}: {type(value).__name__} where {kind.__name__} belongs")
    return value


def take_text(row: Mapping[str, Any], name: str, where: str) -> str:
    """The text in field `name`, without space around it. Raises BadRow if it is missing or blank."""
    text: str = take(row, name, str, where).strip()
    if not text:
        raise BadRow(f"{where}, field {name!r}: blank")
    return text


def take_texts(row: Mapping[str, Any], name: str, where: str) -> list[str]:
    """One or more texts in field `name`, a list or one alone. Raises BadRow for none, blank ones or others."""
    value = [row[name]] if isinstance(row.get(name), str) else take(row, name, list, where)
    if not value or not all(isinstance(text, str) and text.strip() for text in value):
        raise BadRow(f"{where}, field {name!r}: needs one or more non-empty strings, not {value!r}")
    return [text.strip() for text in value]


def take_one_of(row: Mapping[str, Any], name: str, known: Sequence[str], where: str) -> str:
    """Field `name` if it is one of `known`. Raises BadRow otherwise."""
    value: str = take(row, name, str, where)
    if value not in known:
        raise BadRow(f"{where}, field {name!r}: {unknown_name('value', value, known)}")
    return value


def take_image(row: Mapping[str, Any], name: str, where: str, *, files: Files | None = None) -> Any:
    """The decoded image [H, W, 3] in field `name`, from its bytes or, with `files`, its path.

    Raises BadRow if there is none or it is unreadable.
    """
    value = row.get(name)
    if files is not None and isinstance(value, str):
        return decode_file(files, value, name, where)
    image = take(row, name, dict, where)
    data, path = image.get("bytes"), image.get("path")
    if data is None and files is not None and isinstance(path, str):
        return decode_file(files, path, name, where)
    if not isinstance(data, bytes):
        raise BadRow(f"{where}, field {name!r}: no image bytes")
    return decode(data, name, where)


def decode_file(files: Files, path: str, name: str, where: str) -> Any:
    """The decoded image in a file. Raises BadRow if there is none or it is unreadable."""
    try:
        data = files.read(path)
    except (FileNotFoundError, ValueError) as error:
        raise BadRow(f"{where}, field {name!r}: {error}") from error
    return decode(data, name, where)


def decode_base64(row: Mapping[str, Any], name: str, where: str) -> Any:
    """The decoded image in field `name`, a text in base64. Raises BadRow if it is none."""
    try:
        data = base64.b64decode(take(row, name, str, where), validate=True)
    except ValueError as error:
        raise BadRow(f"{where}, field {name!r}: not base64: {error}") from error
    return decode(data, name, where)


def decode(data: bytes, name: str, where: str) -> Any:
    """The image [H, W, 3] in `data`. Raises BadRow, naming field and row, if it is unreadable or too large."""
    try:
        return decode_image(data, max_pixels=MAX_IMAGE_PIXELS)
    except ValueError as error:
        raise BadRow(f"{where}, field {name!r}: {error}") from error
