"""The folder a run leaves behind, and finding one.

    config.yaml           the whole configuration, every field written out
    metrics.jsonl         a line per step: what the seed decides, so equal runs give equal files
    timings.jsonl         a line per step: seconds and rates, which the machine decides
    trajectories/         step-000010.md with its images beside it
    curves.png            the metrics, drawn
    checkpoints/          left to `axpo_algo.run.checkpoint`
    tensorboard/          left to `axpo_algo.run.sinks`

One process writes a folder. Resuming at a step removes what was written after it, so that a run that was
killed and resumed leaves the same metrics.jsonl as one that was never broken.
"""

import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from axpo_algo.run.curves import draw_curves
from axpo_algo.run.pages import Transcript, write_page
from axpo_algo.run.sinks import Sink

Metrics = Mapping[str, float | int | str | None]


class RunFolder:
    """An open run folder. Make one with `create` or `resume`; close it, or use it in a `with` block."""

    def __init__(self, path: Path, last_step: int | None) -> None:
        self.path = path
        self.config_path = path / "config.yaml"
        self.metrics_path = path / "metrics.jsonl"
        self.timings_path = path / "timings.jsonl"
        self.curves_path = path / "curves.png"
        self.trajectories_path = path / "trajectories"
        self.checkpoints_path = path / "checkpoints"
        self.tensorboard_path = path / "tensorboard"
        self.last_step = last_step
        self.sinks: list[Sink] = []
        self._metrics_file = self.metrics_path.open("a", encoding="utf-8")
        self._timings_file = self.timings_path.open("a", encoding="utf-8")

    @classmethod
    def create(cls, path: Path | str, config_yaml: str) -> Self:
        """Opens a new folder and writes config.yaml. Raises FileExistsError if a run lies there already."""
        path = Path(path)
        if (path / "metrics.jsonl").exists():
            raise FileExistsError(f"{path} holds a run already: resume it, or name another folder")
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.yaml").write_text(config_yaml, encoding="utf-8")
        return cls(path, None)

    @classmethod
    def resume(cls, path: Path | str, step: int | None) -> Self:
        """Opens an old folder to go on after `step`, removing what was written later; None removes all steps.

        Log a step before writing its checkpoint, and nothing is lost. Raises FileNotFoundError if no run lies
        there.
        """
        path = Path(path)
        if not (path / "metrics.jsonl").exists():
            raise FileNotFoundError(f"{path} holds no run to resume")
        kept = [_truncate(path / name, step) for name in ("metrics.jsonl", "timings.jsonl")]
        _remove_later_pages(path / "trajectories", step)
        return cls(path, kept[0])

    def log(self, step: int, metrics: Metrics, timings: Metrics | None = None) -> None:
        """Appends one line for `step` and hands both mappings to the sinks. On disk when it returns.

        Metrics must be decided by the seed; whatever a clock measures belongs to `timings`. Raises ValueError
        unless steps increase.
        """
        if self.last_step is not None and step <= self.last_step:
            raise ValueError(f"step {step} comes after step {self.last_step}; steps must increase")
        self.last_step = step
        _append(self._metrics_file, step, metrics)
        if timings:
            _append(self._timings_file, step, timings)
        for sink in self.sinks:
            sink.write(step, {**metrics, **(timings or {})})

    def read_metrics(self) -> list[dict[str, Any]]:
        """All lines of metrics.jsonl so far, `step` included."""
        return read_jsonl(self.metrics_path)

    def write_trajectories(self, step: int, transcripts: Sequence[Transcript]) -> Path:
        """Writes trajectories/step-NNNNNN.md and its images; returns its path."""
        return write_page(self.trajectories_path, f"step-{step:06d}", transcripts)

    def write_curves(self) -> Path:
        """Draws curves.png from metrics.jsonl; returns its path."""
        return draw_curves({self.path.name: self.read_metrics()}, self.curves_path)

    def close(self) -> None:
        """Closes the files and the sinks. May be called twice."""
        self._metrics_file.close()
        self._timings_file.close()
        while self.sinks:
            self.sinks.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def next_run_path(parent: Path | str, name: str) -> Path:
    """The first free `parent/name-NNN`, counted up from the highest taken number; not created."""
    taken = _numbered(Path(parent), name)
    return Path(parent) / f"{name}-{max(taken, default=0) + 1:03d}"


def latest_run_path(parent: Path | str, name: str) -> Path:
    """The `parent/name-NNN` with the highest number. Raises FileNotFoundError if there is none."""
    taken = _numbered(Path(parent), name)
    if not taken:
        raise FileNotFoundError(f"no run {name}-NNN in {parent}")
    return taken[max(taken)]


def read_jsonl(path: Path | str) -> list[dict[str, Any]]:
    """The lines of a file that `RunFolder.log` wrote; a last line cut off in the writing is left out.

    Raises ValueError naming file and line for any other line that is not JSON.
    """
    records = []
    text = Path(path).read_text(encoding="utf-8")
    complete, _, _ = text.rpartition("\n")
    for number, line in enumerate(complete.split("\n") if complete else (), start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        records.append({key: _from_json(value) for key, value in record.items()})
    return records


def _append(file: IO[str], step: int, values: Metrics) -> None:
    record = {"step": step, **{key: _to_json(value) for key, value in values.items()}}
    file.write(json.dumps(record, allow_nan=False) + "\n")
    file.flush()


_NOT_FINITE = ("nan", "inf", "-inf")


def _to_json(value: Any) -> Any:
    """JSON knows no NaN and no infinity: they are written as text, so that a run that diverged says so."""
    return str(float(value)) if isinstance(value, float) and not math.isfinite(value) else value


def _from_json(value: Any) -> Any:
    return float(value) if isinstance(value, str) and value in _NOT_FINITE else value


def _truncate(path: Path, step: int | None) -> int | None:
    """Keeps the lines up to `step`, in place; returns the last step kept. A missing file stays missing."""
    if not path.exists():
        return None
    lines = path.read_text(encoding="utf-8").split("\n")
    steps = [record["step"] for record in read_jsonl(path)]
    kept = [index for index, at in enumerate(steps) if step is not None and at <= step]
    rest = path.with_suffix(".tmp")
    rest.write_text("".join(f"{lines[index]}\n" for index in kept), encoding="utf-8")
    os.replace(rest, path)
    return steps[kept[-1]] if kept else None


def _remove_later_pages(folder: Path, step: int | None) -> None:
    for entry in folder.glob("step-*"):
        found = re.fullmatch(r"step-(\d+)(\.md)?", entry.name)
        if found is None or (step is not None and int(found[1]) <= step):
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _numbered(parent: Path, name: str) -> dict[int, Path]:
    entries: Iterable[Path] = parent.iterdir() if parent.is_dir() else ()
    found = ((re.fullmatch(re.escape(name) + r"-(\d{3,})", entry.name), entry) for entry in entries)
    return {int(match[1]): entry for match, entry in found if match}
