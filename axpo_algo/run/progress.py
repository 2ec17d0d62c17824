"""Shows how far a loop is: a bar with the time left and the latest metrics, or plain lines in a log file.

Starts no thread, since processes may be forked meanwhile: the bar moves when `update` is called.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich import progress as bars
from rich.console import Console

from axpo_algo.run.tables import format_value


class Progress:
    """Use in a `with` block; call `update` after each step. Steps are counted from 1 to `num_steps`."""

    def __init__(
        self,
        num_steps: int,
        *,
        start_step: int = 0,
        title: str = "training",
        show: Sequence[str] | None = None,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`start_step` steps are done already; `show` are the metrics shown, in order (None: all)."""
        self._num_steps = num_steps
        self._start_step = start_step
        self._title = title
        self._show = show
        self._console = console or Console()
        self._clock = clock
        self._started_s = clock()
        self._bar: bars.Progress | None = None
        self._task = bars.TaskID(0)

    def __enter__(self) -> Self:
        self._started_s = self._clock()
        if self._console.is_terminal:
            self._bar = bars.Progress(
                bars.TextColumn("{task.description}"),
                bars.BarColumn(),
                bars.MofNCompleteColumn(),
                bars.TextColumn("{task.fields[status]}", markup=False),
                console=self._console,
                auto_refresh=False,
            )
            self._task = self._bar.add_task(
                self._title, total=self._num_steps, completed=self._start_step, status=""
            )
            self._bar.start()
        return self

    def update(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Says that `step` is done and what it measured."""
        names = self._show if self._show is not None else list(metrics)
        shown = [
            f"{name.rsplit('/', 1)[-1]} {format_value(metrics[name])}" for name in names if name in metrics
        ]
        status = "  ".join([f"left {self._time_left(step)}", *shown])
        if self._bar is not None:
            self._bar.update(self._task, completed=step, status=status, refresh=True)
        else:
            self.say(f"{self._title} {step}/{self._num_steps}  {status}")

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _time_left(self, step: int) -> str:
        done = step - self._start_step
        if done <= 0:
            return "?"
        left_s = (self._clock() - self._started_s) / done * max(0, self._num_steps - step)
        minutes, seconds = divmod(round(left_s), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02d}:{seconds:02d}"
