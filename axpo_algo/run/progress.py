"""Shows how far a loop is: a bar with the time left and the latest metrics, or plain lines in a log file. Below it,
how far the stage at hand is.

Starts no thread, since processes may be forked meanwhile: bars move when `update` and `inside` are called.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from rich import progress as bars
from rich.console import Console

from axpo_algo.run.tables import format_value
from axpo_algo.timings import Counts, OnProgress, hours

__all__ = ["Progress", "show_stages"]

LINE_EVERY_S = 30.0
"""seconds between two lines in a log file on what goes on inside a step"""
REDRAW_EVERY_S = 0.25


class _Stages:
    """What goes on, stage after stage: one more bar in `bar`, or, without one, lines that are few and far between."""

    def __init__(self, console: Console, clock: Callable[[], float], bar: bars.Progress | None) -> None:
        self._console, self._clock, self._bar = console, clock, bar
        self._counts: Counts | None = None
        self._task: bars.TaskID | None = None
        self._begun_s = self._shown_s = clock()

    def show(self, counts: Counts, where: str = "") -> None:
        """Shows a stage where it is time to. where: what the line in a log file begins with."""
        now_s = self._clock()
        if counts is not self._counts:
            self._remove()
            self._counts, self._begun_s = counts, now_s
            if self._bar is not None:
                self._shown_s = now_s
        if now_s - self._shown_s < (LINE_EVERY_S if self._bar is None else REDRAW_EVERY_S):
            return
        self._shown_s = now_s
        if self._bar is None:
            text = f"{where}{counts.stage} {counts.num_done}/{counts.num_all} {self._status(counts, now_s)}"
            _say(self._console, text)
            return
        if self._task is None:
            self._task = self._bar.add_task(f"  {counts.stage}", status="")
        self._bar.update(
            self._task,
            completed=counts.num_done,
            total=counts.num_all,
            status=self._status(counts, now_s),
            refresh=True,
        )

    def end(self) -> None:
        """Something else was shown: the next line is as far off as the next stage's bar."""
        self._remove()
        self._counts, self._shown_s = None, self._clock()

    def _remove(self) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.remove_task(self._task)
        self._task = None

    def _status(self, counts: Counts, now_s: float) -> str:
        spent_s = now_s - self._begun_s
        parts = [counts.unit]
        if counts.num_sampled_tokens and spent_s > 0:
            parts.append(f"{counts.num_sampled_tokens / spent_s:.0f} tokens/s")
        parts.append(f"left {_time_left(spent_s, counts.num_done, counts.num_all)}")
        return ", ".join(parts)


@contextmanager
def show_stages(
    console: Console | None = None, clock: Callable[[], float] = time.monotonic
) -> Iterator[OnProgress]:
    """Shows stages outside of any loop, an evaluation for instance: yields what is to be told of them."""
    console = console or Console()
    bar = _bar(console, transient=True)
    try:
        yield _Stages(console, clock, bar).show
    finally:
        if bar is not None:
            bar.stop()


def _bar(console: Console, *, transient: bool = False) -> bars.Progress | None:
    """A bar that has begun, where there is a terminal to draw it on."""
    if not console.is_terminal:
        return None
    bar = bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[status]}", markup=False),
        console=console,
        auto_refresh=False,
        transient=transient,
    )
    bar.start()
    return bar


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _time_left(spent_s: float, num_done: int, num_all: int) -> str:
    return hours(spent_s / num_done * max(0, num_all - num_done)) if num_done > 0 else "?"


class Progress:
    """Use in a `with` block; call `update` after each step, `inside` during it. Steps count from 1 to `num_steps`."""

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
        self._step = start_step
        self._stages: _Stages | None = None
        self._bar: bars.Progress | None = None
        self._task = bars.TaskID(0)

    def __enter__(self) -> Self:
        self._started_s = self._clock()
        self._bar = _bar(self._console)
        if self._bar is not None:
            self._task = self._bar.add_task(
                self._title, total=self._num_steps, completed=self._start_step, status=""
            )
            self._bar.refresh()
        self._stages = _Stages(self._console, self._clock, self._bar)
        return self

    def inside(self, counts: Counts) -> None:
        """Says how far a stage of the step after the last `update` is. Cheap: mostly it shows nothing."""
        if self._stages is not None:
            self._stages.show(counts, f"{self._title} {self._step + 1}/{self._num_steps}  ")

    def update(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Says that `step` is done and what it measured."""
        names = self._show if self._show is not None else list(metrics)
        shown = [
            f"{name.rsplit('/', 1)[-1]} {format_value(metrics[name])}" for name in names if name in metrics
        ]
        spent_s, done = self._clock() - self._started_s, step - self._start_step
        left = _time_left(spent_s, done, self._num_steps - self._start_step)
        status = "  ".join([f"left {left}", *shown])
        self._step = step
        if self._stages is not None:
            self._stages.end()
        if self._bar is not None:
            self._bar.update(self._task, completed=step, status=status, refresh=True)
        else:
            self.say(f"{self._title} {step}/{self._num_steps}  {status}")

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        _say(self._console, text)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
