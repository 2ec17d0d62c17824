"""The learner: samples in, one or more optimizer steps out. Also the supervised step, on the same forward pass.

Samples are grouped by length into micro-batches whose gradients add up. Equations are in `loss`; which samples
there are, and with what advantage, is `algorithms`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from axpo_algo.config import LossConfig, OptimizerConfig
from axpo_algo.loss import clipped_surrogate, kl_to_reference, sequence_mean
from axpo_algo.models.qwen3_vl import Qwen3VLPolicy, SequenceBatch
from axpo_algo.types import Sample, Trajectory

__all__ = ["Learner", "make_optimizer", "micro_batches", "supervised_loss"]


@dataclass(frozen=True, kw_only=True, eq=False)
class MicroBatch:
    """Samples that share one forward pass, and the M tokens among theirs that carry loss."""

    samples: list[Sample]
    sequences: SequenceBatch
    rows: torch.Tensor
    """int64 [M]: which sample"""
    columns: torch.Tensor
    """int64 [M]: which token of it"""
    sampling_logprobs: torch.Tensor
    """float32 [M]"""


def make_optimizer(policy: Qwen3VLPolicy, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over all weights that take gradients."""
    parameters = [p for p in policy.model.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )


def micro_batches(policy: Qwen3VLPolicy, samples: Sequence[Sample], max_tokens: int) -> Iterator[MicroBatch]:
    """Samples with at least one trained token, shortest first, as many at a time as fit `max_tokens` with padding."""
    ordered = sorted((s for s in samples if s.trained_positions), key=lambda s: s.length)
    start = 0
    while start < len(ordered):
        end = start + 1
        while end < len(ordered) and ordered[end].length * (end + 1 - start) <= max_tokens:
            end += 1
        yield _micro_batch(policy, ordered[start:end])
        start = end


def _micro_batch(policy: Qwen3VLPolicy, samples: list[Sample]) -> MicroBatch:
    image_token_id = policy.chat.image_token_id
    sequences = []
    for sample in samples:
        trajectory = sample.trajectory
        images = trajectory.images
        if sample.length < len(trajectory.token_ids):
            images = images[: trajectory.num_images_before(sample.length, image_token_id)]
        sequences.append((trajectory.token_ids[: sample.length], images))
    positions = [(row, column) for row, sample in enumerate(samples) for column in sample.trained_positions]
    index = torch.tensor(positions, device=policy.device)
    logprobs = [samples[row].trajectory.sampling_logprobs[column] for row, column in positions]
    return MicroBatch(
        samples=samples,
        sequences=policy.batch(sequences),
        rows=index[:, 0],
        columns=index[:, 1],
        sampling_logprobs=torch.tensor(logprobs, device=policy.device),
    )


class Learner:
    """Updates a policy by the clipped loss against its sampling log-probs, with KL to a frozen reference.

    reference: None leaves the KL term out. temperature: that of the sampling, by which logits are divided here too.
    """

    def __init__(
        self,
        policy: Qwen3VLPolicy,
        reference: Qwen3VLPolicy | None,
        *,
        loss: LossConfig,
        optimizer: OptimizerConfig,
        temperature: float = 1.0,
    ) -> None:
        self.policy = policy
        self.reference = reference if loss.kl_coefficient > 0 else None
        self.loss = loss
        self.optimizer_config = optimizer
        self.optimizer = make_optimizer(policy, optimizer)
        self.temperature = temperature
        self.num_updates = 0

    def update(self, samples: Sequence[Sample], *, num_trajectories: int) -> dict[str, float]:
        """Trains on all samples once, in `updates_per_step` optimizer steps; returns their metrics.

        num_trajectories: what the summed loss is divided by, B * N of the step (assumed; the paper gives a
        question's loss).
        """
        self.policy.model.train()
        parts = self.loss.updates_per_step
        totals: dict[str, float] = {"num_tokens": 0.0, "clipped_tokens": 0.0, "kl_sum": 0.0, "loss": 0.0}
        logprob_gap, grad_norm = 0.0, 0.0
        for part in range(parts):
            self.optimizer.zero_grad(set_to_none=True)
            for batch in micro_batches(
                self.policy, samples[part::parts], self.loss.max_tokens_per_micro_batch
            ):
                gap = self._accumulate(batch, totals, num_trajectories)
                if part == 0:
                    logprob_gap = max(logprob_gap, gap)
            grad_norm = self._step()
        self.policy.model.eval()
        tokens = max(totals["num_tokens"], 1.0)
        return {
            "loss": totals["loss"],
            "kl": totals["kl_sum"] / tokens,
            "clip_fraction": totals["clipped_tokens"] / tokens,
            "logprob_gap": logprob_gap,
            "grad_norm": grad_norm,
            "num_trained_tokens": totals["num_tokens"],
        }

    def _accumulate(self, batch: MicroBatch, totals: dict[str, float], num_trajectories: float) -> float:
        """Adds a micro-batch's gradient and metrics; returns the largest |policy - sampling| log-prob difference."""
        logprobs = self.policy.token_logprobs(
            batch.sequences, batch.rows, batch.columns, temperature=self.temperature
        )
        advantages = torch.tensor(
            [s.advantage for s in batch.samples], dtype=torch.float32, device=logprobs.device
        )
        per_token = clipped_surrogate(
            logprobs,
            batch.sampling_logprobs,
            advantages[batch.rows],
            clip_low=self.loss.clip_low,
            clip_high=self.loss.clip_high,
        )
        if self.reference is not None:
            with torch.no_grad():
                reference = self.reference.token_logprobs(
                    batch.sequences, batch.rows, batch.columns, temperature=self.temperature
                )
            kl = kl_to_reference(logprobs, reference)
            per_token = per_token + self.loss.kl_coefficient * kl
            totals["kl_sum"] += float(kl.detach().sum())
        loss = sequence_mean(per_token, batch.rows, len(batch.samples)).sum() / num_trajectories
        loss.backward()
        difference = (logprobs - batch.sampling_logprobs).detach()
        ratio = difference.exp()
        clipped = (ratio < 1 - self.loss.clip_low) | (ratio > 1 + self.loss.clip_high)
        totals["loss"] += float(loss.detach())
        totals["num_tokens"] += len(logprobs)
        totals["clipped_tokens"] += float(clipped.sum())
        return float(difference.abs().max())

    def _step(self) -> float:
        """Clips the gradient's norm, warms the learning rate up, steps; returns the norm before clipping."""
        config = self.optimizer_config
        norm = torch.nn.utils.clip_grad_norm_(self.policy.model.parameters(), config.max_grad_norm)
        self.num_updates += 1
        warm = min(1.0, self.num_updates / config.warmup_steps) if config.warmup_steps else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * warm
        self.optimizer.step()
        return float(norm)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs besides the weights."""
        return {"optimizer": self.optimizer.state_dict(), "num_updates": self.num_updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.num_updates = state["num_updates"]


def supervised_loss(policy: Qwen3VLPolicy, trajectories: Sequence[Trajectory]) -> torch.Tensor:
    """Mean negative log-prob over all trained tokens of the demonstrations; observation tokens carry none."""
    samples = [Sample(trajectory=t, advantage=0.0, length=len(t.token_ids)) for t in trajectories]
    batch = _micro_batch(policy, samples)
    return -policy.token_logprobs(batch.sequences, batch.rows, batch.columns).mean()
