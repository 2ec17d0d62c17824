"""Where a run's numbers go besides its own files: TensorBoard and Weights & Biases, each only if installed.

`RunFolder.log` calls every sink once per step. metrics.jsonl stays the record; a sink is a view of it.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol


class Sink(Protocol):
    """Takes numbers step by step."""

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Shows `values` at `step`; what a sink cannot show (text, None) it leaves out."""

    def close(self) -> None:
        """Sends what is waiting. No write may follow."""


class TensorBoardSink:
    """Event files in `folder`. Events after `resume_step`, if given, disappear from the display.

    Raises ModuleNotFoundError naming the extra when tensorboard is not installed.
    """

    def __init__(self, folder: Path, *, resume_step: int | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"TensorBoard events need {error.name}: pip install 'axpo[log]', or logging.tensorboard=false"
            ) from error
        purge_step = None if resume_step is None else resume_step + 1
        self._writer = SummaryWriter(str(folder), purge_step=purge_step)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds one scalar per number."""
        for name, value in _numbers(values).items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Closes the event file."""
        self._writer.close()


class WandbSink:
    """Writes to a run of Weights & Biases, as `wandb.init` returns it."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Logs the numbers of one step."""
        self._run.log(_numbers(values), step=step)

    def close(self) -> None:
        """Ends the run there."""
        self._run.finish()


def open_wandb(
    folder: Path, *, project: str, name: str, config: Mapping[str, Any], resume: bool
) -> WandbSink:
    """Starts, or goes on with, the run `name` of `project`. Mode and login come from wandb's own settings.

    The id that the service gives the run is kept in `folder`/wandb_id, where a resumed run finds it. Raises
    ModuleNotFoundError naming the extra when wandb is not installed.
    """
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Weights & Biases needs wandb: pip install 'axpo[log]', or logging.wandb=null"
        ) from error
    id_path = folder / "wandb_id"
    old_id = id_path.read_text(encoding="utf-8") if resume and id_path.exists() else None
    run = wandb.init(
        project=project,
        name=name,
        id=old_id,
        dir=str(folder),
        config=dict(config),
        resume="allow" if old_id else None,
    )
    id_path.write_text(run.id, encoding="utf-8")
    return WandbSink(run)


def open_sinks(
    *,
    folder: Path,
    tensorboard: bool,
    wandb_project: str | None,
    name: str,
    config: Mapping[str, Any],
    resume_step: int | None = None,
    say: Callable[[str], None] = print,
) -> list[Sink]:
    """The sinks that a run asks for; `resume_step` is None for a new run.

    TensorBoard is a convenience: where it is not installed, `say` is told and the run goes on. Weights &
    Biases was asked for by name: without it, ModuleNotFoundError.
    """
    sinks: list[Sink] = []
    if wandb_project is not None:
        is_resumed = resume_step is not None
        sinks.append(open_wandb(folder, project=wandb_project, name=name, config=config, resume=is_resumed))
    if tensorboard:
        try:
            sinks.append(TensorBoardSink(folder / "tensorboard", resume_step=resume_step))
        except ModuleNotFoundError as error:
            say(f"no TensorBoard events: {error}")
    return sinks


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """What can be drawn: finite numbers, no booleans."""
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    }
