"""The learner: samples in, one or more optimizer steps out. Also the supervised step, on the same forward pass.

Samples are grouped by length into micro-batches whose gradients add up. An update whose loss or gradient is not
finite is left out. Equations are in `loss`; which samples there are, and with what advantage, is `algorithms`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from axpo_algo.commands import RunFailed
from axpo_algo.config import LossConfig, OptimizerConfig
from axpo_algo.loss import clipped_surrogate, kl_to_reference, sequence_mean
from axpo_algo.models.qwen3_vl import Qwen3VLPolicy, SequenceBatch
from axpo_algo.types import Sample, Trajectory

__all__ = ["DivergedError", "FiniteUpdates", "Learner", "make_optimizer", "micro_batches", "supervised_loss"]


class DivergedError(RunFailed, FloatingPointError):
    """Training cannot go on: too many updates in a row were skipped, or weights are no longer finite."""

    can_go_on = False  # a resumed run repeats its steps to the byte


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


class FiniteUpdates:
    """Takes optimizer steps, except with a loss or a gradient that is not finite: then nothing changes.

    max_grad_norm: gradients with a larger L2 norm are scaled down to it. max_skipped: updates skipped in a row that
    end training.
    """

    def __init__(
        self,
        policy: Qwen3VLPolicy,
        optimizer: torch.optim.Optimizer,
        *,
        max_grad_norm: float,
        max_skipped: int,
    ) -> None:
        self.parameters = [p for p in policy.model.parameters() if p.requires_grad]
        self.optimizer = optimizer
        self.max_grad_norm = max_grad_norm
        self.max_skipped = max_skipped
        self.num_skipped_in_a_row = 0

    def step(self, loss: float, learning_rate: float) -> tuple[float, bool]:
        """One update with the accumulated gradient of `loss`; returns its norm before clipping, whether it was taken.

        Raises DivergedError at the last skipped update that is allowed in a row, and if a weight is not finite after
        the update.
        """
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.optimizer.zero_grad(set_to_none=True)
            self.num_skipped_in_a_row += 1
            if self.num_skipped_in_a_row >= self.max_skipped:
                raise DivergedError(
                    f"{self.num_skipped_in_a_row} updates in a row had a loss or a gradient that is not finite "
                    f"(the last: loss {loss}, gradient norm {norm}) and were skipped; "
                    f"training.max_skipped_updates allows no more. Try a lower learning rate"
                )
            return norm, False
        self.num_skipped_in_a_row = 0
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        if not torch.stack([p.isfinite().all() for p in self.parameters]).all():
            raise DivergedError(
                f"weights are no longer finite after an update with learning rate {learning_rate} and gradient norm "
                f"{norm}. Try a lower learning rate or a larger optimizer.eps"
            )
        return norm, True


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
    max_skipped_updates: updates in a row, skipped because loss or gradient were not finite, that end training.
    """

    def __init__(
        self,
        policy: Qwen3VLPolicy,
        reference: Qwen3VLPolicy | None,
        *,
        loss: LossConfig,
        optimizer: OptimizerConfig,
        temperature: float = 1.0,
        max_skipped_updates: int = 3,
    ) -> None:
        self.policy = policy
        self.reference = reference if loss.kl_coefficient > 0 else None
        self.loss = loss
        self.optimizer_config = optimizer
        self.optimizer = make_optimizer(policy, optimizer)
        self.updates = FiniteUpdates(
            policy,
            self.optimizer,
            max_grad_norm=optimizer.max_grad_norm,
            max_skipped=max_skipped_updates,
        )
        self.temperature = temperature
        self.num_updates = 0

    def update(self, samples: Sequence[Sample], *, num_trajectories: int) -> dict[str, float]:
        """Trains on all samples once, in `updates_per_step` optimizer steps; returns their metrics.

        num_trajectories: what the summed loss is divided by, B * N of the step (assumed; the paper gives a
        question's loss). Raises DivergedError, see `FiniteUpdates`.
        """
        self.policy.model.train()
        parts = self.loss.updates_per_step
        totals: dict[str, float] = {"num_tokens": 0.0, "clipped_tokens": 0.0, "kl_sum": 0.0, "loss": 0.0}
        logprob_gap, grad_norm, num_skipped = 0.0, 0.0, 0
        for part in range(parts):
            loss_before = totals["loss"]
            self.optimizer.zero_grad(set_to_none=True)
            for batch in micro_batches(
                self.policy, samples[part::parts], self.loss.max_tokens_per_micro_batch
            ):
                gap = self._accumulate(batch, totals, num_trajectories)
                if part == 0:
                    logprob_gap = max(logprob_gap, gap)
            grad_norm, taken = self._step(totals["loss"] - loss_before)
            num_skipped += not taken
        self.policy.model.eval()
        tokens = max(totals["num_tokens"], 1.0)
        return {
            "loss": totals["loss"],
            "kl": totals["kl_sum"] / tokens,
            "clip_fraction": totals["clipped_tokens"] / tokens,
            "logprob_gap": logprob_gap,
            "grad_norm": grad_norm,
            "num_trained_tokens": totals["num_tokens"],
            "skipped_updates": num_skipped,
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

    def _step(self, loss: float) -> tuple[float, bool]:
        """One of `FiniteUpdates`, with the learning rate warmed up by those that were taken."""
        config = self.optimizer_config
        number = self.num_updates + 1
        warm = min(1.0, number / config.warmup_steps) if config.warmup_steps else 1.0
        norm, taken = self.updates.step(loss, config.learning_rate * warm)
        self.num_updates += taken
        return norm, taken

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs besides the weights."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "num_updates": self.num_updates,
            "num_skipped_in_a_row": self.updates.num_skipped_in_a_row,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.num_updates = state["num_updates"]
        self.updates.num_skipped_in_a_row = state["num_skipped_in_a_row"]


def supervised_loss(policy: Qwen3VLPolicy, trajectories: Sequence[Trajectory]) -> torch.Tensor:
    """Mean negative log-prob over all trained tokens of the demonstrations; observation tokens carry none."""
    samples = [Sample(trajectory=t, advantage=0.0, length=len(t.token_ids)) for t in trajectories]
    batch = _micro_batch(policy, samples)
    return -policy.token_logprobs(batch.sequences, batch.rows, batch.columns).mean()
