"""Files of JSON lines, one a step, that a kill leaves readable: appending, reading, cutting back to a step."""

import json
import math
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from axpo_algo.run.disk import RunFolderError, sync

Record = Mapping[str, float | int | str | None]


class JsonLines:
    """A file of JSON lines, open for appending. A line is on disk, whole, when `append` returns."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        sync(path.parent)

    def append(self, step: int, values: Record) -> None:
        record = {"step": step, **{key: _to_json(value) for key, value in values.items()}}
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        before = os.fstat(self._file.fileno()).st_size
        try:
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            os.ftruncate(self._file.fileno(), before)
            raise OSError(error.errno, error.strerror, self._file.name) from error

    def close(self) -> None:
        self._file.close()


def read_jsonl(path: Path | str) -> list[dict[str, Any]]:
    """The lines of a file that `RunFolder.log` wrote; a last line cut off in the writing is left out with a warning.

    Raises RunFolderError naming file and line for any other line that is not a JSON object.
    """
    records, _, cut = _read_lines(Path(path))
    if cut:
        warnings.warn(f"{path}: the last line is cut off and left out", stacklevel=2)
    return records


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], list[int], bool]:
    """The records of the whole lines, the offset in bytes at which each ends, whether something cut off follows."""
    *complete, rest = path.read_bytes().split(b"\n")
    records: list[dict[str, Any]] = []
    ends: list[int] = []
    for number, line in enumerate(complete, start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RunFolderError(f"{path}, line {number}, is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise RunFolderError(f"{path}, line {number}, is not a JSON object")
        records.append({key: _from_json(value) for key, value in record.items()})
        ends.append((ends[-1] if ends else 0) + len(line) + 1)
    return records, ends, bool(rest)


def read_steps(path: Path, say: Callable[[str], None]) -> dict[int, int]:
    """{step: offset in bytes at which its line ends}, in order; of a missing file, none. `say` is told of a cut line.

    Raises RunFolderError where `read_jsonl` does, and for steps that do not increase.
    """
    if not path.exists():
        return {}
    records, ends, cut = _read_lines(path)
    found: dict[int, int] = {}
    last: int | None = None
    for number, (record, end) in enumerate(zip(records, ends, strict=True), start=1):
        step = record.get("step")
        if type(step) is not int or (last is not None and step <= last):
            raise RunFolderError(f"{path}, line {number}: steps must be integers that increase, got {step!r}")
        found[step], last = end, step
    if cut:
        say(f"{path}: the last line is cut off and left out")
    return found


_NOT_FINITE = ("nan", "inf", "-inf")


def _to_json(value: Any) -> Any:
    """JSON knows no NaN and no infinity: they are written as text, so that a run that diverged says so."""
    return str(float(value)) if isinstance(value, float) and not math.isfinite(value) else value


def _from_json(value: Any) -> Any:
    return float(value) if isinstance(value, str) and value in _NOT_FINITE else value


def truncate_after(path: Path, ends: Mapping[int, int], step: int | None) -> None:
    """Keeps the lines up to `step`. A missing file stays missing."""
    if path.exists():
        os.truncate(
            path, max((end for at, end in ends.items() if step is not None and at <= step), default=0)
        )
        sync(path)
