"""The learner: samples in, one or more optimizer steps out. Also the supervised step, on the same forward pass.

Samples are packed into micro-batches whose gradients add up (`packing`). An update whose loss or gradient is not
finite is left out. Equations are in `loss`; which samples there are, and with what advantage, is `algorithms`.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from axpo_algo.commands import RunFailed
from axpo_algo.config import LossConfig, OptimizerConfig
from axpo_algo.loss import clipped_surrogate, importance_weights, kl_to_reference, sequence_mean
from axpo_algo.models.qwen3_vl import Qwen3VLPolicy
from axpo_algo.packing import PackedBatch, make_trees, pack, token_logprobs
from axpo_algo.timings import Clock, UpdateCounts
from axpo_algo.types import Sample, Trajectory

__all__ = ["DivergedError", "FiniteUpdates", "Learner", "make_optimizer"]


class DivergedError(RunFailed, FloatingPointError):
    """Training cannot go on: too many updates in a row were skipped, or weights are no longer finite."""

    can_go_on = False  # a resumed run repeats its steps to the byte


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


class Learner:
    """Updates a policy by the clipped loss, with KL to a frozen reference; and on demonstrations.

    The ratio that is clipped is to the log-probs the policy had in training before the step. That those are not quite
    what the engine sampled with is corrected by truncated importance weights (see `loss`).

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

    def update(
        self, samples: Sequence[Sample], *, num_trajectories: int, counts: UpdateCounts | None = None
    ) -> dict[str, float]:
        """Trains on all samples once, in `updates_per_step` optimizer steps; returns their metrics.

        num_trajectories: what the summed loss is divided by, B * N of the step (assumed; the paper gives a
        question's loss); an update on a part of the samples by its share. counts: told, and ticked, micro-batch by
        micro-batch. Raises DivergedError, see `FiniteUpdates`.
        """
        counts, clock = counts or UpdateCounts(), Clock()
        self.policy.model.train()
        parts = [part for part in _split(samples, self.loss.updates_per_step) if part]
        packed = [self._pack(part) for part in parts]
        num_passes = 1 if self.reference is None and len(parts) == 1 else 2
        counts.num_all = num_passes * sum(len(batches) for batches in packed)
        counts.tick()
        counted = counts.each if num_passes == 2 else iter
        # Before the first update: it changes what the others start from.
        updates = [
            [self._recorded(batch, len(parts) > 1) for batch in counted(batches)] for batches in packed
        ]
        if self.policy.device.type == "cuda":
            torch.cuda.synchronize()  # the laps below end with a number that is waited for
        counts.reference_s += clock.lap()
        totals: defaultdict[str, float] = defaultdict(float)
        grad_norm, num_skipped = 0.0, 0
        for part, records in zip(parts, updates, strict=True):
            self.optimizer.zero_grad(set_to_none=True)
            share = num_trajectories * len(part) / len(samples)
            loss = sum(self._accumulate(record, totals, share) for record in counts.each(records))
            counts.backward_s += clock.lap()
            totals["loss"] += loss * share / num_trajectories
            grad_norm, taken = self._step(loss)
            num_skipped += not taken
            counts.optimizer_s += clock.lap()
        self.policy.model.eval()
        tokens = max(totals["tokens"], 1.0)
        return {
            "loss": totals["loss"],
            "kl": totals["kl"] / tokens,
            "clip_fraction": totals["clipped"] / tokens,
            "logprob_gap": totals["largest_gap"],
            "importance_weight": totals["weight"] / tokens,
            "capped_weights": totals["capped"] / tokens,
            "grad_norm": grad_norm,
            "num_trained_tokens": totals["tokens"],
            "num_forward_tokens": totals["forward_tokens"],
            "skipped_updates": num_skipped,
        }

    def update_supervised(
        self, trajectories: Sequence[Trajectory], *, learning_rate: float
    ) -> dict[str, float]:
        """One step on the mean negative log-prob of all trained tokens; observation tokens carry none.

        Raises DivergedError, see `FiniteUpdates`.
        """
        self.policy.model.train()
        samples = [Sample(trajectory=t, advantage=0.0, length=len(t.token_ids)) for t in trajectories]
        batches = self._pack(samples)
        num_tokens = sum(len(batch.targets) for batch in batches)
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for batch in batches:
            loss = -token_logprobs(self.policy, batch).sum() / num_tokens
            loss.backward()
            total += loss.item()
        norm, taken = self.updates.step(total, learning_rate)
        self.policy.model.eval()
        return {"loss": total, "grad_norm": norm, "skipped_updates": not taken}

    def _pack(self, samples: Sequence[Sample]) -> list[PackedBatch]:
        trees = make_trees(self.policy, samples, share=self.loss.share_prefixes)
        return pack(self.policy, trees, self.loss.max_tokens_per_micro_batch)

    @torch.no_grad()
    def _recorded(self, batch: PackedBatch, needs_old: bool) -> "_Recorded":
        """A batch with the log-probs that its loss compares to; `needs_old` unless its update is the first."""

        def logprobs(policy: Qwen3VLPolicy | None) -> torch.Tensor | None:
            return None if policy is None else token_logprobs(policy, batch, temperature=self.temperature)

        return _Recorded(
            batch=batch,
            old_logprobs=logprobs(self.policy if needs_old else None),
            reference_logprobs=logprobs(self.reference),
        )

    def _accumulate(
        self, recorded: "_Recorded", totals: defaultdict[str, float], num_trajectories: float
    ) -> float:
        """Adds a micro-batch's gradient and metrics; returns its loss."""
        batch = recorded.batch
        logprobs = token_logprobs(self.policy, batch, temperature=self.temperature)
        old = logprobs.detach() if recorded.old_logprobs is None else recorded.old_logprobs
        advantages = torch.tensor(
            [sample.advantage for sample in batch.samples], dtype=torch.float32, device=logprobs.device
        )
        weights = importance_weights(old, batch.sampling_logprobs, maximum=self.loss.max_importance_weight)
        per_token = weights * clipped_surrogate(
            logprobs,
            old,
            advantages[batch.owners],
            clip_low=self.loss.clip_low,
            clip_high=self.loss.clip_high,
        )
        if recorded.reference_logprobs is not None:
            kl = kl_to_reference(logprobs, recorded.reference_logprobs)
            per_token = per_token + self.loss.kl_coefficient * kl
            totals["kl"] += float(kl.detach().sum())
        loss = sequence_mean(per_token, batch.owners, len(batch.samples)).sum() / num_trajectories
        loss.backward()
        ratio = (logprobs.detach() - old).exp()
        clipped = (ratio < 1 - self.loss.clip_low) | (ratio > 1 + self.loss.clip_high)
        gap = float((old - batch.sampling_logprobs).abs().max())
        totals["largest_gap"] = gap if math.isnan(gap) else max(gap, totals["largest_gap"])
        totals["tokens"] += len(logprobs)
        totals["forward_tokens"] += batch.token_ids.numel()
        totals["clipped"] += float(clipped.sum())
        totals["weight"] += float(weights.sum())
        totals["capped"] += float((weights >= self.loss.max_importance_weight).sum())
        return float(loss.detach())

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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Recorded:
    """A micro-batch, and log-probs float32 [M] of its trained tokens from before the step."""

    batch: PackedBatch
    old_logprobs: torch.Tensor | None
    """None: those of its one update"""
    reference_logprobs: torch.Tensor | None
    """None without a KL term"""


def _split(samples: Sequence[Sample], num_parts: int) -> list[Sequence[Sample]]:
    """Parts of nearly equal length, neighbours together: they share their question's prompt."""
    ends = [len(samples) * part // num_parts for part in range(num_parts + 1)]
    return [samples[start:end] for start, end in itertools.pairwise(ends)]
