"""Rows of a published data set, one at a time: from parquet or JSON files, or from the hub.

Images stay encoded until a row is asked for, so a large data set does not sit in memory. Checking a row's fields
is left to `fields`, what the columns mean to each benchmark's module.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from axpo_env.names import listed

_SUFFIXES = (".parquet", ".json", ".jsonl")


class Rows(Protocol):
    """A table of rows. `get` may be called from several threads."""

    @property
    def num_rows(self) -> int: ...

    @property
    def columns(self) -> Sequence[str]:
        """What the first row has; none if there is no row to tell."""
        ...

    @property
    def place(self) -> str:
        """The files that were read, or the data set, for messages."""
        ...

    def where(self, index: int) -> str:
        """The file or data set that holds row `index`, and the row's number in it, for messages."""
        ...

    def get(self, index: int) -> Mapping[str, Any]:
        """Row `index`; an image column is {"bytes": ..., "path": ...}, not decoded."""
        ...

    def column(self, name: str) -> list[Any]:
        """One column of every row, without the others being read.

        Raises KeyError if there is none; in JSON, a row without the field has None.
        """
        ...


def check_row(index: int, num_rows: int) -> None:
    """Raises IndexError unless there is a row `index`."""
    if not 0 <= index < num_rows:
        raise IndexError(f"rows are 0 to {num_rows - 1}, not {index}")


def locate(index: int, sizes: Sequence[int]) -> tuple[int, int]:
    """Of parts with `sizes` rows each: the part that holds row `index` of them all, and the row's number in it."""
    check_row(index, sum(sizes))
    part = 0
    while index >= sizes[part]:
        index -= sizes[part]
        part += 1
    return part, index


class ParquetRows:
    """The rows of parquet files, in the given order. Reads row groups on demand and keeps the latest one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        try:
            from pyarrow import parquet
        except ImportError as error:
            raise ImportError("reading parquet files needs pyarrow: pip install 'axpo[data]'") from error
        self._paths = [str(path) for path in paths]
        self._files = [_open_parquet(parquet, path) for path in paths]
        self._groups = [
            (file, group, file.metadata.row_group(group).num_rows)
            for file in self._files
            for group in range(file.num_row_groups)
        ]
        self.num_rows = sum(count for _, _, count in self._groups)
        self._lock = threading.Lock()
        self._cached: tuple[int, Any] | None = None  # position in _groups, its table
        self.columns: Sequence[str] = self._files[0].schema_arrow.names
        self.place = listed(self._paths)

    def where(self, index: int) -> str:
        number, row = locate(index, [file.metadata.num_rows for file in self._files])
        return f"{self._paths[number]}, row {row}"

    def get(self, index: int) -> Mapping[str, Any]:
        position, offset = locate(index, [count for _, _, count in self._groups])
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
        for column in [name for name in image_columns if name in table.column_names]:
            table = table.cast_column(column, datasets.Image(decode=False))
        self._table = table
        self._lock = threading.Lock()
        self.num_rows = len(table)
        self.columns: Sequence[str] = table.column_names
        self.place = f"{name} {split}"

    def where(self, index: int) -> str:
        return f"{self.place}, row {index}"

    def get(self, index: int) -> Mapping[str, Any]:
        check_row(index, self.num_rows)
        with self._lock:
            row: Mapping[str, Any] = self._table[index]
        return row

    def column(self, name: str) -> list[Any]:
        if name not in self._table.column_names:
            raise KeyError(name)
        with self._lock:
            return list(self._table[name])


class JsonRows:
    """The rows of a JSON file: a list of objects, or an object a line. Held in memory; images are paths."""

    def __init__(self, path: Path) -> None:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8: {error}") from error
        # Not splitlines(): a text may hold other line ends, such as U+2028, as they are.
        lines = [line for line in text.split("\n") if line.strip()]
        try:
            rows = json.loads(text) if text.lstrip().startswith("[") else list(map(json.loads, lines))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is neither a JSON list nor a JSON object a line: {error}") from error
        if not all(isinstance(row, dict) for row in rows):
            raise ValueError(f"{path} holds rows that are no JSON objects")
        self._rows: Sequence[Mapping[str, Any]] = rows
        self.num_rows = len(rows)
        self.columns: Sequence[str] = tuple(rows[0]) if rows else ()
        self.place = str(path)

    def where(self, index: int) -> str:
        return f"{self.place}, row {index}"

    def get(self, index: int) -> Mapping[str, Any]:
        check_row(index, self.num_rows)
        return self._rows[index]

    def column(self, name: str) -> list[Any]:
        return [row.get(name) for row in self._rows]


class JoinedRows:
    """Several tables, one after the other."""

    def __init__(self, tables: Sequence[Rows]) -> None:
        self.tables = tables
        self.num_rows = sum(table.num_rows for table in tables)
        self.columns = tables[0].columns
        self.place = listed([table.place for table in tables])

    def where(self, index: int) -> str:
        table, number = locate(index, [table.num_rows for table in self.tables])
        return self.tables[table].where(number)

    def get(self, index: int) -> Mapping[str, Any]:
        table, number = locate(index, [table.num_rows for table in self.tables])
        return self.tables[table].get(number)

    def column(self, name: str) -> list[Any]:
        return [value for table in self.tables for value in table.column(name)]


def _open_parquet(parquet: Any, path: Path) -> Any:
    try:
        return parquet.ParquetFile(path)
    except (ValueError, OSError) as error:  # pyarrow's own name no file
        raise ValueError(f"{path} cannot be read as parquet: {error}") from error


def check_folder(folder: Path) -> None:
    """Raises FileNotFoundError or NotADirectoryError unless there is such a folder."""
    if not folder.exists():
        raise FileNotFoundError(f"no folder {folder} (in {Path.cwd()})")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; the source is the folder of the data set's files")


def parquet_files(folder: Path, name: str) -> list[Path]:
    """The parquet files of table `name` in `folder`, or else in its `data` folder, sorted; [] if there are none.

    By the hub's naming: `NAME.parquet` or `NAME-00000-of-00001....parquet`.
    """
    for place in (folder, folder / "data"):
        found = sorted([*place.glob(f"{name}.parquet"), *place.glob(f"{name}-*.parquet")])
        if found:
            return found
    return []


def no_table(folder: Path, names: Sequence[str]) -> FileNotFoundError:
    """The error where `folder` has no table of one of `names`; it names the tables that are there."""
    sought = ", ".join(f"{name}.parquet, {name}-*.parquet, {name}.json, {name}.jsonl" for name in names)
    paths = (*folder.glob("*"), *folder.glob("*/*"))  # no deeper: it may be anybody's home
    there = sorted(str(path.relative_to(folder)) for path in paths if path.suffix in _SUFFIXES)
    return FileNotFoundError(f"no {sought} in {folder}; there: {listed(there)}")


def table_stamps(folder: str) -> tuple[tuple[str, int, int], ...]:
    """Name, time and size of each file of rows in `folder`: when they change, the rows may have; () if it is none."""
    files = [path for place in (Path(folder), Path(folder) / "data") for path in place.glob("*.*")]
    tables = [path for path in files if path.suffix in _SUFFIXES]
    return tuple(sorted((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in tables))
