"""Algorithms: how a group of trajectories becomes samples to train on. One table, one function each.

The credit itself is computed in `advantage`; sampling, branching and the loss are elsewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass

from axpo_algo.advantage import axpo_advantages, group_advantages
from axpo_algo.config import AxpoConfig
from axpo_algo.types import Group, Sample
from axpo_sandbox.names import unknown_name

__all__ = ["ALGORITHMS", "Algorithm", "get_algorithm"]


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """One way to train on groups."""

    name: str
    resamples: bool
    """whether all-wrong tool-using subgroups are resampled before credit is given"""
    make_samples: Callable[[Group, AxpoConfig], list[Sample]]


def grpo_samples(group: Group, config: AxpoConfig) -> list[Sample]:
    """Every graded trajectory whole, with its advantage within the group."""
    advantages = group_advantages(group.rewards, std=config.std).tolist()
    return [
        Sample(trajectory=trajectory, advantage=advantage, length=len(trajectory.token_ids))
        for trajectory, advantage in zip(group.trajectories, advantages, strict=True)
        if trajectory.reward == trajectory.reward
    ]


def axpo_samples(group: Group, config: AxpoConfig) -> list[Sample]:
    """AXPO's credit: a resampled source's prefix, its continuations behind the prefix, and all other trajectories
    whole.

    A source's own continuation is left out, but for a malformed call under `config.train_malformed_calls`: the call
    then carries the advantage that its trajectory has in the group. Ungraded trajectories and continuations are left
    out as well.
    """
    rewards = {
        source: [c.reward for c in continuations] for source, continuations in group.continuations.items()
    }
    advantages, continuation_advantages = axpo_advantages(group.rewards, rewards, std=config.std)
    ordinary = group_advantages(group.rewards, std=config.std).tolist()
    samples = []
    for index, (trajectory, advantage) in enumerate(
        zip(group.trajectories, advantages.tolist(), strict=True)
    ):
        if trajectory.reward != trajectory.reward:
            continue
        length = len(trajectory.token_ids)
        if index in group.continuations:
            assert trajectory.branch_point is not None, "a source has a tool call"
            length = trajectory.branch_point
            if config.train_malformed_calls and trajectory.is_first_call_malformed:
                assert trajectory.call_end is not None, "a source has a tool call"
                call = Sample(
                    trajectory=trajectory, advantage=ordinary[index], start=length, length=trajectory.call_end
                )
                samples.append(call)
        samples.append(Sample(trajectory=trajectory, advantage=advantage, length=length))
    for source, continuations in group.continuations.items():
        for trajectory, advantage in zip(
            continuations, continuation_advantages[source].tolist(), strict=True
        ):
            if trajectory.reward == trajectory.reward:
                samples.append(
                    Sample(
                        trajectory=trajectory,
                        advantage=advantage,
                        start=trajectory.prefix_length,
                        length=len(trajectory.token_ids),
                    )
                )
    return samples


ALGORITHMS = {
    algorithm.name: algorithm
    for algorithm in (
        Algorithm(name="grpo", resamples=False, make_samples=grpo_samples),
        Algorithm(name="axpo", resamples=True, make_samples=axpo_samples),
    )
}


def get_algorithm(name: str) -> Algorithm:
    """The algorithm of that name. Raises ValueError naming the known ones and the nearest."""
    if name not in ALGORITHMS:
        raise ValueError(unknown_name("algorithm", name, ALGORITHMS))
    return ALGORITHMS[name]
