"""Which trajectories are resampled: AXPO's trigger, ranking, budget and breadth-first order. Pure, no tensors.

What happens to a chosen one (the fork, the sampling) is `rollout`; what it is worth afterwards is `advantage`.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Candidate", "Ranking", "all_wrong", "choose_prefixes"]

Ranking = Literal["uncertainty", "random"]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What selection needs to know of one trajectory."""

    reward: float
    """0 or 1; NaN where it could not be graded"""
    used_tool: bool
    """it made at least one tool call, well-formed or not"""
    confidence: float | None = None
    """mean probability of the first call's tokens, tags included, under the rollout policy; None: it has no
    prefix to keep"""


def all_wrong(group: Sequence[Candidate], *, used_tool: bool = True) -> bool:
    """Whether the group's tool-using (or no-tool) subgroup has graded members and none of them is right."""
    rewards = [c.reward for c in group if c.used_tool == used_tool and c.reward == c.reward]
    return bool(rewards) and not any(reward > 0 for reward in rewards)


def choose_prefixes(
    groups: Sequence[Sequence[Candidate]],
    *,
    extra_budget: float = 0.25,
    continuations: int = 4,
    ranking: Ranking = "uncertainty",
    rng: random.Random | None = None,
) -> list[tuple[int, int]]:
    """The prefixes to resample, as (group, member) pairs in the order they are chosen.

    A group is triggered when its tool-using subgroup is all-wrong. Within it, sources stand by confidence, lowest
    first (ties by position), or in random order under `ranking="random"`, which needs `rng`. At most
    `extra_budget` * (number of trajectories in all groups) continuations are spent, whole prefixes of
    `continuations` only; every triggered group gets its first prefix before any gets a second, and where the
    budget ends within a round, the groups whose next source is least confident come first (assumed: the paper
    does not order the groups).
    """
    if extra_budget < 0 or continuations < 1:
        raise ValueError(
            f"extra_budget must be >= 0 and continuations >= 1, got {extra_budget} and {continuations}"
        )
    if ranking not in ("uncertainty", "random"):
        raise ValueError(f"ranking must be 'uncertainty' or 'random', got {ranking!r}")
    if ranking == "random" and rng is None:
        raise ValueError("ranking 'random' needs rng")
    num_trajectories = sum(len(group) for group in groups)
    budget = int(extra_budget * num_trajectories + 1e-9) // continuations

    queues: list[list[tuple[float, int, int]]] = []
    for index, group in enumerate(groups):
        if not all_wrong(group):
            continue
        queue = []
        for member, candidate in enumerate(group):
            if (
                candidate.used_tool
                and candidate.confidence is not None
                and candidate.reward == candidate.reward
            ):
                key = candidate.confidence if ranking == "uncertainty" else rng.random()  # type: ignore[union-attr]
                queue.append((key, index, member))
        queues.append(sorted(queue))

    chosen: list[tuple[int, int]] = []
    depth = 0
    while len(chosen) < budget and any(len(queue) > depth for queue in queues):
        this_round = sorted(queue[depth] for queue in queues if len(queue) > depth)
        chosen += [(index, member) for _, index, member in this_round[: budget - len(chosen)]]
        depth += 1
    return chosen
