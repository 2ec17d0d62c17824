"""The folder a run leaves behind, and finding one.

    config.yaml           the whole configuration, every field written out
    metrics.jsonl         a line per step: what the seed decides, so equal runs give equal files
    timings.jsonl         a line per step: seconds and rates, which the machine decides
    trajectories/         step-000010.md with its images beside it
    curves.png            the metrics, drawn
    best/                 left to `axpo_algo.run.best`
    checkpoints/          left to `axpo_algo.run.checkpoint`
    tensorboard/          left to `axpo_algo.run.sinks`
    .lock                 held by the process that writes the folder, whose id is in it

One process writes a folder, from `create` or `resume` to `close` or its end. Resuming at a step removes what was
written after it, so that a run that was killed and resumed leaves the same metrics.jsonl as one that was never broken.
"""

import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from axpo_algo.run.curves import draw_curves
from axpo_algo.run.disk import RunFolderError, lock_folder, make_folder, write_whole
from axpo_algo.run.jsonl import JsonLines, Record, read_jsonl, read_steps, truncate_after
from axpo_algo.run.pages import Transcript, write_page
from axpo_algo.run.sinks import Sink
from axpo_sandbox.names import nearest_name

__all__ = [
    "FollowedRun",
    "NoRunError",
    "RunExistsError",
    "RunFolder",
    "RunFolderError",
    "latest_run_path",
    "next_run_path",
    "read_jsonl",
    "require_run",
]


class RunExistsError(RunFolderError, FileExistsError):
    """A new run was to be written where one lies."""


class NoRunError(RunFolderError, FileNotFoundError):
    """There is no run where one was to be found."""


class RunFolder:
    """An open run folder. Make one with `create` or `resume`; close it, or use it in a `with` block."""

    def __init__(self, path: Path, last_step: int | None, lock: IO[str]) -> None:
        self._set_paths(path)
        self.last_step = last_step
        self.sinks: list[Sink] = []
        self._lock = lock
        self._metrics = JsonLines(self.metrics_path)
        self._timings = JsonLines(self.timings_path)

    def _set_paths(self, path: Path) -> None:
        self.path = path
        self.config_path = path / "config.yaml"
        self.metrics_path = path / "metrics.jsonl"
        self.timings_path = path / "timings.jsonl"
        self.curves_path = path / "curves.png"
        self.trajectories_path = path / "trajectories"
        self.checkpoints_path = path / "checkpoints"
        self.tensorboard_path = path / "tensorboard"

    @classmethod
    def create(cls, path: Path | str, config_yaml: str) -> Self:
        """Opens a new folder and writes config.yaml. Of processes that try at once, one succeeds.

        Raises RunExistsError (a FileExistsError) if a run lies there already, RunFolderError if one is being written
        there or `path` is a file.
        """
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise RunFolderError(f"{path} is a file; a run needs a folder")
        if not (path / ".lock").exists():  # then nothing is written where the answer is no
            _require_no_run(path)
        make_folder(path)
        lock = lock_folder(path)
        try:
            _require_no_run(path)
            write_whole(path / "config.yaml", config_yaml)
            return cls(path, None, lock)
        except BaseException:
            lock.close()
            raise

    @classmethod
    def create_next(cls, parent: Path | str, name: str, config_yaml: str) -> Self:
        """`create` in the first free `parent/name-NNN`. Processes that do so at once get one each."""
        make_folder(Path(parent))
        while True:
            path = next_run_path(parent, name)
            try:
                path.mkdir()
            except FileExistsError:  # another process was faster
                continue
            return cls.create(path, config_yaml)

    @classmethod
    def resume(
        cls,
        path: Path | str,
        step: int | Callable[[int | None], int | None] | None,
        say: Callable[[str], None] = print,
    ) -> Self:
        """Opens an old folder to go on after `step`, removing what was written later; None removes all steps.

        step: also a function that is given the last step logged (None: no step was) and returns the step; no other
        process has the folder while it is called. `say` is told of a last line that was cut off.
        Log a step before writing its checkpoint, and nothing is lost. Raises NoRunError (a FileNotFoundError) if no
        run lies there, RunFolderError if another process has it, or where what is to be kept is missing or damaged;
        nothing is removed then.
        """
        path = Path(path)
        require_run(path)
        lock = lock_folder(path)
        try:
            files = [path / "metrics.jsonl", path / "timings.jsonl"]
            for file in files:
                if not file.exists() and any((path / "checkpoints").glob("step-*")):
                    raise RunFolderError(f"{file} is missing; remove {path / 'checkpoints'} to start over")
            steps = [read_steps(file, say) for file in files]
            logged = list(steps[0])
            if callable(step):
                step = step(logged[-1] if logged else None)
            if step is not None and step not in logged:
                raise RunFolderError(f"{files[0]} has no line of step {step}, after which to go on")
            for file, ends in zip(files, steps, strict=True):
                truncate_after(file, ends, step)
            _remove_later_pages(path / "trajectories", step)
            return cls(path, step, lock)
        except BaseException:
            lock.close()
            raise

    def log(self, step: int, metrics: Record, timings: Record | None = None) -> None:
        """Appends one line for `step` and hands both mappings to the sinks. On disk when it returns.

        Record must be decided by the seed; whatever a clock measures belongs to `timings`. Raises ValueError
        unless steps increase, OSError naming the file, which keeps no part of the line, if the disk is full.
        """
        if self.last_step is not None and step <= self.last_step:
            raise ValueError(f"step {step} comes after step {self.last_step}; steps must increase")
        self.last_step = step
        self._metrics.append(step, metrics)
        if timings:
            self._timings.append(step, timings)
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
        """Closes the files and the sinks, and gives the folder up. May be called twice."""
        self._metrics.close()
        self._timings.close()
        while self.sinks:
            self.sinks.pop().close()
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class FollowedRun(RunFolder):
    """A run folder that another process of the same run writes; writing to this one does nothing."""

    def __init__(self, path: Path) -> None:
        self._set_paths(path)
        self.last_step = None
        self.sinks = []

    def log(self, step: int, metrics: Record, timings: Record | None = None) -> None:
        """Nothing."""

    def write_trajectories(self, step: int, transcripts: Sequence[Transcript]) -> Path:
        """Nothing."""
        return self.trajectories_path

    def write_curves(self) -> Path:
        """Nothing."""
        return self.curves_path

    def close(self) -> None:
        """Nothing."""


def _holds_run(path: Path) -> bool:
    return (path / "config.yaml").exists() or (path / "metrics.jsonl").exists()


def _require_no_run(path: Path) -> None:
    if _holds_run(path):
        raise RunExistsError(f"{path} holds a run already: resume it, or name another folder")


def require_run(path: Path) -> None:
    """Raises NoRunError (a FileNotFoundError), naming the nearest run beside it, unless a run lies at `path`."""
    if not _holds_run(path):
        nearest = nearest_name(path, [str(entry.parent) for entry in path.parent.glob("*/config.yaml")])
        also = f"; nearest: {nearest}" if nearest else ""
        raise NoRunError(f"{str(path)!r} holds no run to resume{also}")


def next_run_path(parent: Path | str, name: str) -> Path:
    """The first free `parent/name-NNN`, counted up from the highest taken number; not created."""
    taken = _numbered(Path(parent), name)
    return Path(parent) / f"{name}-{max(taken, default=0) + 1:03d}"


def latest_run_path(parent: Path | str, name: str) -> Path:
    """The `parent/name-NNN` with the highest number. Raises NoRunError (a FileNotFoundError) if there is none."""
    taken = _numbered(Path(parent), name)
    if not taken:
        raise NoRunError(f"no run {name}-NNN in {parent}")
    return taken[max(taken)]


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
