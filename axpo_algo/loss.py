"""The clipped policy loss and its KL term, per token and per sequence. Pure maths: tensors in, tensors out."""

import torch

__all__ = ["clipped_surrogate", "importance_weights", "kl_to_reference", "sequence_mean"]


def clipped_surrogate(
    policy_logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.4,
) -> torch.Tensor:
    """PPO's loss per token, to be minimised, with separate bounds below and above: all shapes equal, [T] or [B, T].

    -min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A), where ratio = exp(policy - old log-prob)
    (arXiv 1707.06347, eq. 7).
    """
    if not policy_logprobs.shape == old_logprobs.shape == advantages.shape:
        raise ValueError(
            f"shapes differ: policy_logprobs {list(policy_logprobs.shape)}, old_logprobs "
            f"{list(old_logprobs.shape)}, advantages {list(advantages.shape)}"
        )
    ratio = torch.exp(policy_logprobs - old_logprobs)
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def importance_weights(
    old_logprobs: torch.Tensor, sampling_logprobs: torch.Tensor, *, maximum: float = 2.0
) -> torch.Tensor:
    """min(exp(old - sampling log-prob), maximum), without a gradient: same shapes in and out.

    Corrects for an engine whose arithmetic is not the training forward's (truncated importance sampling, Ionides 2008).
    """
    return torch.exp(old_logprobs - sampling_logprobs).clamp(max=maximum).detach()


def kl_to_reference(policy_logprobs: torch.Tensor, reference_logprobs: torch.Tensor) -> torch.Tensor:
    """GRPO's estimate of KL(policy || reference) per token: r - log r - 1 with r = reference / policy.

    arXiv 2402.03300, eq. 4. Never negative, unbiased on the policy's own samples. Same shapes in and out.
    """
    difference = reference_logprobs - policy_logprobs
    return torch.exp(difference) - difference - 1.0


def sequence_mean(values: torch.Tensor, sequence: torch.Tensor, num_sequences: int) -> torch.Tensor:
    """Mean over each sequence's own trained tokens: values [T], sequence [T] -> [num_sequences].

    sequence: which one a token is of. A sequence without tokens gets 0.
    """
    if values.shape != sequence.shape or values.ndim != 1:
        raise ValueError(f"values {list(values.shape)} and sequence {list(sequence.shape)} must both be [T]")
    sums = values.new_zeros(num_sequences).index_add(0, sequence, values)
    counts = values.new_zeros(num_sequences).index_add(0, sequence, torch.ones_like(values))
    return sums / counts.clamp(min=1.0)
