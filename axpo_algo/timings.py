"""How far a stage of a step is, and where a run's time goes. All of it is the clock's doing: none decides anything.

Whoever works counts in a `Counts` that it was handed; whoever handed it over is called at every `tick`, and reads the
seconds in the end. Showing the counts is left to `run.progress`, keeping the seconds to `run.folder`.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TypeVar

__all__ = [
    "Clock",
    "Counts",
    "OnProgress",
    "RolloutCounts",
    "StepClock",
    "UpdateCounts",
    "hours",
    "ignore",
    "shares",
]

T = TypeVar("T")


def ignore(counts: "Counts") -> None:
    """Shows nothing."""


@dataclass(kw_only=True, eq=False)
class Counts:
    """How far one stage is."""

    stage: str
    """rollout, resampling, update or evaluation"""
    unit: str
    """what is counted: episodes, ..."""
    num_all: int = 0
    num_done: int = 0
    num_sampled_tokens: int = 0
    """0 in a stage that samples none"""
    on_progress: "OnProgress" = ignore
    """called with this object at every tick, several times a second"""

    def tick(self) -> None:
        """Says that something may have changed."""
        self.on_progress(self)


OnProgress = Callable[[Counts], None]


@dataclass(kw_only=True, eq=False)
class RolloutCounts(Counts):
    """Of `rollout.run_episodes`."""

    stage: str = "rollout"
    unit: str = "episodes"
    engine_s: float = 0.0
    """seconds in which the engine worked, or was waited for"""
    tool_wait_s: float = 0.0
    """seconds in which the engine had nothing to do but wait for environments"""
    env_step_s: list[float] = field(default_factory=list)
    """seconds of each environment step, tools included; of an abandoned one, those it was waited for"""
    tail_s: float = 0.0
    """seconds in which one episode was left"""


@dataclass(kw_only=True, eq=False)
class UpdateCounts(Counts):
    """Of `learner.Learner.update`. A micro-batch is passed over twice where its log-probs are recorded first."""

    stage: str = "update"
    unit: str = "micro-batch passes"
    reference_s: float = 0.0
    """seconds of packing, and of log-probs from before the update: the reference's, and the policy's own"""
    backward_s: float = 0.0
    """seconds of forward and backward passes"""
    optimizer_s: float = 0.0

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """The items, each counted as done once the next is asked for."""
        for item in items:
            yield item
            self.num_done += 1
            self.tick()


class Clock:
    """Seconds between laps, added up by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str | None = None) -> float:
        """The seconds since the last lap, which are added to `name`'s; None: to no one's."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        if name is not None:
            self.laps[name] = self.laps.get(name, 0.0) + seconds
        return seconds

    def take(self) -> dict[str, float]:
        """The laps since it was last called."""
        laps, self.laps = self.laps, {}
        return laps


class StepClock(Clock):
    """The seconds of one step, and of what its rollouts and its update counted."""

    def __init__(self, on_progress: OnProgress) -> None:
        super().__init__()
        self.update = UpdateCounts(on_progress=on_progress)
        self._rollouts: list[RolloutCounts] = []

    def rollout(self, stage: str) -> RolloutCounts:
        """Counts for one more rollout."""
        self._rollouts.append(RolloutCounts(stage=stage, on_progress=self.update.on_progress))
        return self._rollouts[-1]

    def timings(self) -> dict[str, float]:
        """Seconds by name, and the number of environment steps."""
        env_step_s = sorted(seconds for counts in self._rollouts for seconds in counts.env_step_s)
        return {
            **self.laps,
            "engine_s": sum(counts.engine_s for counts in self._rollouts),
            "tool_wait_s": sum(counts.tool_wait_s for counts in self._rollouts),
            "tail_s": sum(counts.tail_s for counts in self._rollouts),
            "num_env_steps": len(env_step_s),
            **_spread(env_step_s),
            "update_reference_s": self.update.reference_s,
            "update_backward_s": self.update.backward_s,
            "update_optimizer_s": self.update.optimizer_s,
        }


def _spread(ordered: Sequence[float]) -> dict[str, float]:
    """Of seconds in ascending order; nothing of none."""
    if not ordered:
        return {}
    p95 = ordered[math.ceil(0.95 * len(ordered)) - 1]
    return {"env_step_mean_s": fmean(ordered), "env_step_p95_s": p95, "env_step_max_s": ordered[-1]}


# What `shares` says -> the timings that it adds up.
_SHARES = {
    "rollout": ("start_s", "rollout_s"),
    "resampling": ("resample_s",),
    "update": ("update_s",),
    "evaluation": ("evaluation_s",),
    "checkpoints": ("checkpoint_s",),
    "pages and curves": ("views_s",),
}


def shares(records: Iterable[Mapping[str, float]]) -> str:
    """Where the time of these timings went, the most first: "0:02:05, of which rollout 61 %, update 30 %, ...".

    Shares below half a percent are left out. Empty where no time was measured.
    """
    records = list(records)
    seconds = {
        part: sum(record.get(name, 0.0) for record in records for name in names)
        for part, names in _SHARES.items()
    }
    total = sum(seconds.values())
    if not total > 0:
        return ""
    ranked = sorted(seconds.items(), key=lambda item: -item[1])
    shown = [f"{part} {100 * spent / total:.0f} %" for part, spent in ranked if spent / total >= 0.005]
    return f"{hours(total)}, of which {', '.join(shown)}"


def hours(seconds: float) -> str:
    """For example "1:02:05"."""
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{left:02d}"
