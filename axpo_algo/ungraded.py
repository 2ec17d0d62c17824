"""Trajectories that nobody could grade: why, how many, and when there are too many for the numbers to mean anything.

A rate over the graded ones alone is biased where those who used a tool are the ungraded ones.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from axpo_algo.commands import RunFailed
from axpo_algo.episodes import CUT
from axpo_algo.types import Trajectory

__all__ = ["UngradedWatch", "count_ungraded", "ungraded_in_words", "ungraded_reason"]

NEEDS_JUDGE = "needs a judge"


def ungraded_reason(trajectory: Trajectory) -> str | None:
    """Why a finished trajectory has no reward: its stop reason, or that only a judge could grade it; None if it has."""
    if trajectory.reward == trajectory.reward:
        return None
    grade = trajectory.info.get("grade")
    return NEEDS_JUDGE if grade is not None and grade["correct"] is None else trajectory.status


def count_ungraded(trajectories: Iterable[Trajectory]) -> Counter[str]:
    """Reason -> ungraded trajectories, most first."""
    reasons = Counter(filter(None, map(ungraded_reason, trajectories)))
    return Counter(dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))))


def ungraded_in_words(numbers: Mapping[str, Any]) -> str:
    """For example "3 (2 infrastructure, 1 needs a judge)", of numbers called `num_ungraded` and `ungraded/REASON`."""
    reasons = [
        f"{count} {name.removeprefix('ungraded/')}"
        for name, count in numbers.items()
        if name.startswith("ungraded/")
    ]
    return f"{numbers['num_ungraded']}" + (f" ({', '.join(reasons)})" if reasons else "")


class UngradedWatch:
    """Counts ungraded trajectories as they come, and says each outage once.

    say: told a line. num_planned: trajectories that will come in all; those cut by a limit of tokens and masked are the
    policy's doing and not counted as ungraded. Above `max_share` of them, 0-1, `add` raises
    RunFailed; the default never does.
    """

    def __init__(
        self, say: Callable[[str], None] = lambda text: None, *, num_planned: int = 0, max_share: float = 1.0
    ) -> None:
        self._say, self._num_planned, self._max_share = say, num_planned, max_share
        self._reasons: Counter[str] = Counter()
        self._outages: list[str] = []

    def add(self, trajectories: Iterable[Trajectory]) -> None:
        """Takes note of finished trajectories. Raises RunFailed, see the class."""
        for trajectory in trajectories:
            reason = ungraded_reason(trajectory)
            if reason is None or reason in CUT:
                continue
            self._reasons[reason] += 1
            outage = trajectory.info.get("outage")
            if outage is not None and outage not in self._outages:
                self._outages.append(outage)
                self._say(f"ungraded, {reason}: {' '.join(outage.split())}")
        count = sum(self._reasons.values())
        if self._num_planned and count > self._max_share * self._num_planned:
            raise RunFailed(self._in_words(count))

    def _in_words(self, count: int) -> str:
        reasons = ", ".join(f"{number} {reason}" for reason, number in self._reasons.most_common())
        first = f"; the first outage: {' '.join(self._outages[0].split())}" if self._outages else ""
        judge = "; env.kwargs.judge names a judge" if NEEDS_JUDGE in self._reasons else ""
        return (
            f"{count} of {self._num_planned} rollouts are ungraded ({reasons}), more than "
            f"rollout.max_ungraded_share = {self._max_share:g} allows{first}{judge}"
        )
