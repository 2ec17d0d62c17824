"""The embedded rollout engine: the training model itself, batched decoding with a key-value cache.

Equal prompts are prefilled once and their cache rows repeated, images included: the N trajectories of a question
share their prompt, the K branches of a prefix share that prefix. Rows that have stopped leave the batch. Random
numbers belong to the request, not to the batch, so that a seeded run repeats itself.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from transformers import DynamicCache

from axpo_algo.engines.base import GenerationRequest, Sampling
from axpo_algo.models.qwen3_vl import Qwen3VLPolicy
from axpo_algo.types import Generation

__all__ = ["TransformersEngine", "filter_logits", "sample_tokens"]


class TransformersEngine:
    """Engine over a `Qwen3VLPolicy`, whose weights it shares: syncing them is nothing to do.

    max_batch_size: requests decoded together; more are split in order.
    """

    def __init__(self, policy: Qwen3VLPolicy, *, max_batch_size: int = 256) -> None:
        if max_batch_size < 1:
            raise ValueError(f"max_batch_size must be >= 1, got {max_batch_size}")
        self.policy = policy
        self.max_batch_size = max_batch_size
        self.num_prefilled_tokens = 0
        """tokens prefilled so far; equal prompts of one call count once"""

    def sync_weights(self) -> None:
        """Nothing to do: the weights are the trainer's own."""

    @torch.no_grad()
    def generate(self, requests: Sequence[GenerationRequest], sampling: Sampling) -> list[Generation]:
        """See `Engine.generate`."""
        generations: list[Generation] = []
        for start in range(0, len(requests), self.max_batch_size):
            generations += self._generate_batch(requests[start : start + self.max_batch_size], sampling)
        return generations

    def _generate_batch(self, requests: Sequence[GenerationRequest], sampling: Sampling) -> list[Generation]:
        prompts: dict[tuple[object, ...], int] = {}
        row_of: list[int] = []
        distinct: list[GenerationRequest] = []
        for request in requests:
            key = (tuple(request.token_ids), tuple(image.digest for image in request.images))
            if key not in prompts:
                prompts[key] = len(distinct)
                distinct.append(request)
            row_of.append(prompts[key])

        batch = self.policy.batch([(r.token_ids, r.images) for r in distinct], pad_left=True)
        self.num_prefilled_tokens += int(batch.attention_mask.sum())
        cache = DynamicCache(config=self.policy.model.config.text_config)
        rows = torch.tensor(row_of, device=self.policy.device)
        logits = self.policy.logits(self.policy.hidden_states(batch, cache=cache)[:, -1])[rows]
        cache.batch_select_indices(rows)
        return self._decode(
            requests, sampling, cache, logits, batch.attention_mask[rows], batch.next_positions[:, rows]
        )

    def _decode(
        self,
        requests: Sequence[GenerationRequest],
        sampling: Sampling,
        cache: DynamicCache,
        logits: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
    ) -> list[Generation]:
        end = self.policy.chat.end_of_turn_id
        uniforms = np.stack([_uniforms(request.seed, sampling.max_new_tokens) for request in requests])
        tokens: list[list[int]] = [[] for _ in requests]
        logprobs: list[list[float]] = [[] for _ in requests]
        finished = [False] * len(requests)
        written = torch.zeros_like(logits, dtype=torch.bool) if sampling.presence_penalty else None
        alive = np.arange(len(requests))
        for step in range(sampling.max_new_tokens):
            filtered = filter_logits(logits, sampling, written)
            drawn, drawn_logprobs = sample_tokens(
                filtered, uniforms[alive, step], greedy=sampling.temperature == 0
            )
            for row, token, logprob in zip(alive, drawn.tolist(), drawn_logprobs.tolist(), strict=True):
                tokens[row].append(token)
                logprobs[row].append(logprob)
                finished[row] = token == end
            keep = torch.nonzero(drawn != end).squeeze(1)
            if len(keep) == 0 or step == sampling.max_new_tokens - 1:
                break
            if written is not None:
                written[torch.arange(len(drawn), device=drawn.device), drawn] = True
            if len(keep) < len(drawn):
                cache.batch_select_indices(keep)
                mask, positions, drawn = mask[keep], positions[:, keep], drawn[keep]
                written = written[keep] if written is not None else None
                alive = alive[keep.cpu().numpy()]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            position_ids = positions[[0, 1, 1, 1]].unsqueeze(-1)
            logits = self.policy.logits(
                self.policy.extend(drawn.unsqueeze(1), position_ids, mask, cache)[:, -1]
            )
            positions = positions + 1
        return [
            Generation(token_ids=t, logprobs=p, finished=f)
            for t, p, f in zip(tokens, logprobs, finished, strict=True)
        ]


def filter_logits(
    logits: torch.Tensor, sampling: Sampling, written: torch.Tensor | None = None
) -> torch.Tensor:
    """Logits [B, V] after presence penalty, temperature, top-k and top-p, in the order serving engines apply them.

    written: bool [B, V], tokens that each row has written; needed for a presence penalty.
    """
    if written is not None:
        logits = logits - sampling.presence_penalty * written
    if sampling.temperature not in (0, 1):
        logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    if sampling.top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        probabilities = ordered.softmax(dim=-1)
        beyond = probabilities.cumsum(dim=-1) - probabilities >= sampling.top_p
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), float("-inf"))
    return logits


def sample_tokens(
    logits: torch.Tensor, uniforms: np.ndarray, *, greedy: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws one token a row by inversion: logits [B, V], uniforms [B] in [0, 1) -> tokens int64 [B], log-probs [B].

    The log-prob is that of the token under softmax(logits), also where `greedy` takes the likeliest one.
    """
    logprobs = torch.log_softmax(logits, dim=-1)
    if greedy:
        tokens = logprobs.argmax(dim=-1)
    else:
        cumulative = logprobs.double().exp().cumsum(dim=-1)
        target = torch.from_numpy(uniforms).to(logits.device).unsqueeze(1) * cumulative[:, -1:]
        tokens = torch.searchsorted(cumulative, target, right=True).squeeze(1)
        last = cumulative.shape[1] - 1 - (logprobs > float("-inf")).flip(-1).int().argmax(dim=-1)
        tokens = torch.minimum(tokens, last)
    return tokens, logprobs.gather(-1, tokens.unsqueeze(1)).squeeze(1)


def _uniforms(seed: tuple[int, ...], count: int) -> np.ndarray:
    """`count` numbers in [0, 1) that depend on nothing but `seed`."""
    key = hashlib.sha256(repr(seed).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little"))).random(count)
