"""The learner: samples in, one or more optimizer steps out. Also the supervised step, on the same forward pass.

Samples are packed into micro-batches whose gradients add up (`packing`). An update whose loss or gradient is not
finite is left out. Equations are in `loss`; which samples there are, and with what advantage, is `algorithms`.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from axpo_algo.commands import RunFailed
from axpo_algo.config import LoraConfig, LossConfig, OptimizerConfig
from axpo_algo.distributed import SINGLE, Ranks, local_part, whole
from axpo_algo.lora import without_adapters
from axpo_algo.loss import clipped_surrogate, importance_weights, kl_to_reference, sequence_mean
from axpo_algo.models.network import Network
from axpo_algo.models.qwen3_vl import Qwen3VLPolicy
from axpo_algo.packing import PackedBatch, blank_batch, make_trees, pack, token_logprobs
from axpo_algo.sharding import copy_weights, frozen_network, network_to_train
from axpo_algo.timings import Clock, UpdateCounts
from axpo_algo.types import Sample, Trajectory

__all__ = ["DivergedError", "FiniteUpdates", "Learner", "make_optimizer"]


class DivergedError(RunFailed, FloatingPointError):
    """Training cannot go on: too many updates in a row were skipped, or weights are no longer finite."""

    can_go_on = False  # a resumed run repeats its steps to the byte


def make_optimizer(network: Network, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over all weights that take gradients, its moments at zero."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )
    for parameter in parameters:  # as AdamW's first step does: a checkpoint is read into them
        moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.tensor(0.0), **moments}
    return optimizer


class FiniteUpdates:
    """Takes optimizer steps, except with a loss or a gradient that is not finite: then nothing changes.

    max_grad_norm: gradients with a larger L2 norm are scaled down to it. max_skipped: updates skipped in a row that
    end training.
    """

    def __init__(
        self,
        network: Network,
        optimizer: torch.optim.Optimizer,
        *,
        max_grad_norm: float,
        max_skipped: int,
    ) -> None:
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.optimizer = optimizer
        self.max_grad_norm = max_grad_norm
        self.max_skipped = max_skipped
        self.num_skipped_in_a_row = 0

    def step(self, loss: float, learning_rate: float) -> tuple[float, bool]:
        """One update with the accumulated gradient of `loss`; returns its norm before clipping, whether it was taken.

        Raises DivergedError at the last skipped update that is allowed in a row, and if a weight is not finite after
        the update.
        """
        norm = float(whole(torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)))
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
        if not torch.stack([local_part(p).isfinite().all() for p in self.parameters]).all():
            raise DivergedError(
                f"weights are no longer finite after an update with learning rate {learning_rate} and gradient norm "
                f"{norm}. Try a lower learning rate or a larger optimizer.eps"
            )
        return norm, True


class Learner:
    """Updates a policy by the clipped loss, with KL to a frozen reference; and on demonstrations.

    The ratio that is clipped is to the log-probs the policy had in training before the step. That those are not quite
    what the engine sampled with is corrected by truncated importance weights (see `loss`).

    reference: None leaves the KL term out; with several ranks its network is sharded for good. temperature: that of the
    sampling, by which logits are divided here too. max_skipped_updates: updates in a row, skipped because loss or
    gradient were not finite, that end training. lora: with adapters the reference is the policy as it was before them,
    and none has to be given; seed: of their first values. ranks: each brings samples of its own to an update, or none,
    and all end up with the same weights.
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
        lora: LoraConfig | None = None,
        seed: int = 0,
        ranks: Ranks = SINGLE,
    ) -> None:
        self.policy = policy
        self.ranks = ranks
        self.network = network_to_train(policy, ranks, lora, seed=seed, offload=optimizer.offload)
        """what is trained: the policy's own network, or one behind it (see `sharding`)"""
        self.reference: Network | None = None
        if loss.kl_coefficient > 0 and lora is not None and lora.rank:
            self.reference = self.network  # without its adapters
        elif loss.kl_coefficient > 0 and reference is not None:
            self.reference = frozen_network(reference, ranks)
        self.loss = loss
        self.optimizer_config = optimizer
        self.optimizer = make_optimizer(self.network, optimizer)
        self.updates = FiniteUpdates(
            self.network,
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

        num_trajectories: what the summed loss is divided by, B * N of the step on all ranks (assumed; the paper gives
        a question's loss); an update on a part of the samples by its share. counts: told, and ticked, micro-batch by
        micro-batch. Raises DivergedError, see `FiniteUpdates`.
        """
        counts, clock = counts or UpdateCounts(), Clock()
        self.network.train()
        parts = _split(samples, self.loss.updates_per_step)
        sizes = self.ranks.sum(*map(len, parts))
        parts = [part for part, size in zip(parts, sizes, strict=True) if size]
        shares = [num_trajectories * size / sum(sizes) for size in sizes if size]
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
        for records, share in zip(updates, shares, strict=True):
            self.optimizer.zero_grad(set_to_none=True)
            (loss,) = self.ranks.sum(
                sum(self._accumulate(record, totals, share) for record in counts.each(records))
            )
            counts.backward_s += clock.lap()
            totals["loss"] += loss * share / num_trajectories / self.ranks.size  # summed over ranks below
            grad_norm, taken = self._step(loss)
            num_skipped += not taken
            counts.optimizer_s += clock.lap()
        self._finish()
        largest_gap = totals.pop("largest_gap", 0.0)
        names = ("loss", "kl", "clipped", "weight", "capped", "tokens", "forward_tokens")
        totals |= zip(names, self.ranks.sum(*(totals[name] for name in names)), strict=True)
        totals["largest_gap"] = max(self.ranks.gather(largest_gap), key=lambda gap: (math.isnan(gap), gap))
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
        self.network.train()
        samples = [Sample(trajectory=t, advantage=0.0, length=len(t.token_ids)) for t in trajectories]
        batches = self._pack(samples)
        (num_tokens,) = self.ranks.sum(sum(len(batch.targets) for batch in batches if batch.samples))
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for batch in batches:
            logprobs = token_logprobs(self.policy, batch, network=self.network)
            loss = -logprobs.sum() / num_tokens if batch.samples else 0 * logprobs.sum()
            self._backward(loss)
            total += loss.item()
        (total,) = self.ranks.sum(total)
        norm, taken = self.updates.step(total, learning_rate)
        self._finish()
        return {"loss": total, "grad_norm": norm, "skipped_updates": not taken}

    def _pack(self, samples: Sequence[Sample]) -> list[PackedBatch]:
        """Micro-batches, on every rank as many as on the one that has most: all take part in each forward pass."""
        trees = make_trees(self.policy, samples, share=self.loss.share_prefixes)
        batches = pack(self.policy, trees, self.loss.max_tokens_per_micro_batch)
        missing = max(self.ranks.gather(len(batches))) - len(batches)
        return batches + [blank_batch(self.policy)] * missing

    def _backward(self, loss: torch.Tensor) -> None:
        (loss * self.ranks.size).backward()  # FSDP2 takes the mean over ranks

    def _finish(self) -> None:
        """Brings trained weights to the policy that samples."""
        self.network.eval()
        if self.network is not self.policy.network:
            copy_weights(self.network, self.policy.network)

    @torch.no_grad()
    def _recorded(self, batch: PackedBatch, needs_old: bool) -> "_Recorded":
        """A batch with the log-probs that its loss compares to; `needs_old` unless its update is the first."""

        def logprobs(network: Network | None) -> torch.Tensor | None:
            if network is None:
                return None
            return token_logprobs(self.policy, batch, network=network, temperature=self.temperature)

        old = logprobs(self.network if needs_old else None)
        with without_adapters(self.network):
            reference = logprobs(self.reference)
        return _Recorded(batch=batch, old_logprobs=old, reference_logprobs=reference)

    def _accumulate(
        self, recorded: "_Recorded", totals: defaultdict[str, float], num_trajectories: float
    ) -> float:
        """Adds a micro-batch's gradient and metrics; returns its loss."""
        batch = recorded.batch
        logprobs = token_logprobs(self.policy, batch, network=self.network, temperature=self.temperature)
        if not batch.samples:
            self._backward(0 * logprobs.sum())
            return 0.0
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
        self._backward(loss)
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

    def tensors(self) -> dict[str, torch.Tensor]:
        """The trained weights and AdamW's moments, for a checkpoint.

        They are the tensors themselves, sharded or not: reading into them restores the learner.
        """
        found: dict[str, torch.Tensor] = {}
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:
                moments = self.optimizer.state[parameter]
                found[f"weights.{name}"] = parameter.detach()
                found |= {f"optimizer.{name}.{key}": tensor for key, tensor in moments.items()}
        return found

    def counters(self) -> dict[str, int]:
        """What it has counted, as `set_counters` takes it."""
        return {
            "num_updates": self.num_updates,
            "num_skipped_in_a_row": self.updates.num_skipped_in_a_row,
        }

    def set_counters(self, counters: Mapping[str, int]) -> None:
        """Goes on from `counters`."""
        self.num_updates = counters["num_updates"]
        self.updates.num_skipped_in_a_row = counters["num_skipped_in_a_row"]


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
