"""Advantages: how rewards of one question's trajectories become credit. Pure maths; who is resampled is `selection`.

The two equations are those of the AXPO paper (arXiv 2605.28774): GRPO's normalised reward within a group, and AXPO's
separate credit for a resampled prefix (its recovery) and for the continuations sampled after it. The paper does not say
which standard deviation it divides by, nor whether an epsilon is added: population and none are assumed here.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch

__all__ = ["Std", "axpo_advantages", "group_advantages"]

Std = Literal["population", "sample"]


def _as_rewards(rewards: Sequence[float] | torch.Tensor, what: str) -> torch.Tensor:
    tensor = torch.as_tensor(rewards, dtype=torch.float64)
    if tensor.ndim != 1:
        raise ValueError(f"{what} must have shape [N], got {list(tensor.shape)}")
    return tensor


def group_advantages(rewards: Sequence[float] | torch.Tensor, *, std: Std = "population") -> torch.Tensor:
    """A_i = (r_i - mean(r)) / std(r): rewards [N] -> advantages [N], float64.

    A group whose rewards are all equal gets advantage 0. A reward that is NaN was not graded (an outage, say): it
    is left out of mean and standard deviation, and its own advantage is 0. Raises ValueError for an unknown `std`
    or a shape other than [N].
    """
    values = _as_rewards(rewards, "rewards")
    if std not in ("population", "sample"):
        raise ValueError(f"std must be 'population' or 'sample', got {std!r}")
    graded = ~values.isnan()
    advantages = torch.zeros_like(values)
    if int(graded.sum()) < 2:
        return advantages
    known = values[graded]
    deviation = known.std(correction=0 if std == "population" else 1)
    if deviation > 0 and not torch.all(known == known[0]):
        advantages[graded] = (known - known.mean()) / deviation
    return advantages


def axpo_advantages(
    rewards: Sequence[float] | torch.Tensor,
    continuation_rewards: Mapping[int, Sequence[float] | torch.Tensor],
    *,
    std: Std = "population",
) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
    """Credit of one group of N trajectories of which some sources were resampled.

    rewards [N]; continuation_rewards {source: [K]} with each source an index into the group.
    Returns advantages [N] and {source: [K]}, float64:

    - a source's own entry is its PREFIX's advantage: its reward is replaced by the recovery reward (1 if any
      continuation is right, else 0) in the original rewards, and the group normalised with that one replacement;
    - every other entry is the group's ordinary advantage, from the original rewards;
    - the continuations of one prefix are normalised among themselves.

    A prefix whose continuations were all left ungraded (NaN) gets advantage 0. Raises IndexError for a source
    outside the group.
    """
    values = _as_rewards(rewards, "rewards")
    advantages = group_advantages(values, std=std)
    continuations: dict[int, torch.Tensor] = {}
    for source, sampled in continuation_rewards.items():
        if not 0 <= source < len(values):
            raise IndexError(f"source {source} is not in a group of {len(values)} trajectories")
        sampled = _as_rewards(sampled, f"continuation_rewards[{source}]")
        continuations[source] = group_advantages(sampled, std=std)
        if bool(sampled.isnan().all()):
            advantages[source] = 0.0
            continue
        replaced = values.clone()
        replaced[source] = float(bool((sampled > 0).any()))
        advantages[source] = group_advantages(replaced, std=std)[source]
    return advantages, continuations
