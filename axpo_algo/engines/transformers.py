"""The embedded rollout engine: the training model itself, batched decoding with a key-value cache.

Equal prompts are prefilled once and their cache rows repeated, images included: the N trajectories of a question
share their prompt, the K branches of a prefix share that prefix. Rows that have stopped leave the batch; others may
join it. Random numbers belong to the request, not to the batch, so that a seeded run repeats itself.
"""

import hashlib
import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional
from transformers import DynamicCache

from axpo_algo.engines.base import GenerationRequest, Sampling, Ticket
from axpo_algo.models.qwen3_vl import Qwen3VLPolicy
from axpo_algo.types import Generation

__all__ = ["JOIN_EVERY", "TransformersEngine", "filter_logits", "sample_tokens"]

JOIN_EVERY = 8
"""decoding steps between two admissions to a running batch: whoever comes meanwhile shares one prefill"""


@dataclass(kw_only=True, eq=False)
class _Row:
    """One request, and what was sampled for it so far."""

    ticket: Ticket
    request: GenerationRequest
    sampling: Sampling
    limit: int
    """tokens"""
    random: np.random.Generator
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


@dataclass(kw_only=True, eq=False)
class _Batch:
    """B rows that are decoded together, padded on the left to the T tokens in the cache."""

    rows: list[_Row]
    cache: DynamicCache
    logits: torch.Tensor
    """float32 [B, V], of the token to sample next"""
    mask: torch.Tensor
    """int64 [B, T], 0 on padding"""
    positions: torch.Tensor
    """int64 [2, B]: where the next token stands, as text and as M-RoPE"""
    written: torch.Tensor | None
    """bool [B, V]: tokens that each row has written; None without a presence penalty"""
    num_steps: int = 0
    """decoding steps since rows joined last"""

    def select(self, keep: Sequence[int]) -> None:
        """Only the rows `keep` stay; `logits` are left to the caller."""
        index = torch.tensor(keep, device=self.mask.device)
        self.cache.batch_select_indices(index)
        self.rows = [self.rows[row] for row in keep]
        self.mask, self.positions = self.mask[index], self.positions[:, index]
        self.written = None if self.written is None else self.written[index]

    def join(self, other: "_Batch") -> None:
        """Adds the rows of `other`. Columns that only rows which have left attended to are dropped first."""
        unused = int(self.mask.amax(dim=0).argmax())
        width = max(self.mask.shape[1] - unused, other.mask.shape[1])
        for mine, theirs in zip(self.cache.layers, other.cache.layers, strict=True):
            for name in ("keys", "values"):
                states = getattr(mine, name)[..., unused:, :], getattr(theirs, name)
                padded = [functional.pad(s, (0, 0, width - s.shape[-2], 0)) for s in states]
                setattr(mine, name, torch.cat(padded))
        masks = self.mask[:, unused:], other.mask
        self.mask = torch.cat([functional.pad(mask, (width - mask.shape[1], 0)) for mask in masks])
        self.rows += other.rows
        self.logits = torch.cat([self.logits, other.logits])
        self.positions = torch.cat([self.positions, other.positions], dim=1)
        if self.written is not None and other.written is not None:
            self.written = torch.cat([self.written, other.written])
        self.num_steps = 0


class TransformersEngine:
    """Engine over a `Qwen3VLPolicy`, whose weights it shares: syncing them is nothing to do.

    max_batch_size: requests decoded together. lockstep: a batch is formed only when no other runs, of what was
    submitted by then and in that order, so that batches depend on the requests alone; otherwise requests join the
    running batch every `JOIN_EVERY` tokens.
    """

    def __init__(self, policy: Qwen3VLPolicy, *, max_batch_size: int = 256, lockstep: bool = True) -> None:
        if max_batch_size < 1:
            raise ValueError(f"max_batch_size must be >= 1, got {max_batch_size}")
        self.policy = policy
        self.max_batch_size = max_batch_size
        self.lockstep = lockstep
        self.num_steps = 0
        self.num_sampled_tokens = 0
        self.num_prefills = 0
        """forward passes over prompts so far"""
        self.num_prefilled_tokens = 0
        """tokens prefilled so far; equal prompts of one batch count once"""
        self._tickets = itertools.count()
        self._waiting: list[_Row] = []
        self._batch: _Batch | None = None

    def submit(self, request: GenerationRequest, sampling: Sampling) -> Ticket:
        """See `Engine.submit`."""
        row = _Row(
            ticket=next(self._tickets),
            request=request,
            sampling=sampling,
            limit=request.token_limit(sampling),
            random=_generator(request.seed),
        )
        self._waiting.append(row)
        return row.ticket

    @torch.no_grad()
    def poll(self, timeout_s: float = 0.0) -> list[tuple[Ticket, Generation]]:
        """See `Engine.poll`: one decoding step."""
        self._admit()
        return [] if self._batch is None else self._step(self._batch)

    def cancel(self, tickets: Collection[Ticket]) -> None:
        """See `Engine.cancel`."""
        self._waiting = [row for row in self._waiting if row.ticket not in tickets]
        batch = self._batch
        if batch is None:
            return
        keep = [number for number, row in enumerate(batch.rows) if row.ticket not in tickets]
        if not keep:
            self._batch = None
        elif len(keep) < len(batch.rows):
            batch.logits = batch.logits[keep]
            batch.select(keep)

    def sync_weights(self) -> None:
        """Nothing to do: the weights are the trainer's own."""

    def _admit(self) -> None:
        """Makes a batch of waiting requests, or lets them join the one that runs."""
        running = self._batch
        if not self._waiting or (running is not None and (self.lockstep or running.num_steps < JOIN_EVERY)):
            return
        room = self.max_batch_size - (0 if running is None else len(running.rows))
        sampling = self._waiting[0].sampling if running is None else running.rows[0].sampling
        rows = list(itertools.takewhile(lambda row: row.sampling == sampling, self._waiting[:room]))
        if not rows:
            return
        self._waiting = self._waiting[len(rows) :]
        batch = self._prefill(rows)
        if running is None:
            self._batch = batch
        else:
            running.join(batch)

    def _prefill(self, rows: list[_Row]) -> _Batch:
        prompts: dict[tuple[object, ...], int] = {}
        prompt_of: list[int] = []
        distinct: list[GenerationRequest] = []
        for row in rows:
            request = row.request
            key = (tuple(request.token_ids), tuple(image.digest for image in request.images))
            if key not in prompts:
                prompts[key] = len(distinct)
                distinct.append(request)
            prompt_of.append(prompts[key])
        batch = self.policy.batch([(r.token_ids, r.images) for r in distinct], pad_left=True)
        self.num_prefills += 1
        self.num_prefilled_tokens += int(batch.attention_mask.sum())
        cache = DynamicCache(config=self.policy.model.config.text_config)
        index = torch.tensor(prompt_of, device=self.policy.device)
        logits = self.policy.logits(self.policy.hidden_states(batch, cache=cache)[:, -1])[index]
        cache.batch_select_indices(index)
        penalised = bool(rows[0].sampling.presence_penalty)
        return _Batch(
            rows=rows,
            cache=cache,
            logits=logits,
            mask=batch.attention_mask[index],
            positions=batch.next_positions[:, index],
            written=torch.zeros_like(logits, dtype=torch.bool) if penalised else None,
        )

    def _step(self, batch: _Batch) -> list[tuple[Ticket, Generation]]:
        """Samples one token a row; returns the rows that are done and computes the logits of the others."""
        sampling = batch.rows[0].sampling
        drawn, drawn_logprobs = sample_tokens(
            filter_logits(batch.logits, sampling, batch.written),
            np.array([row.random.random() for row in batch.rows]),
            greedy=sampling.temperature == 0,
        )
        self.num_steps += 1
        self.num_sampled_tokens += len(batch.rows)
        done, keep = [], []
        for number, (row, token, logprob) in enumerate(
            zip(batch.rows, drawn.tolist(), drawn_logprobs.tolist(), strict=True)
        ):
            row.token_ids.append(token)
            row.logprobs.append(logprob)
            finished = token == self.policy.chat.end_of_turn_id
            if finished or len(row.token_ids) == row.limit:
                generation = Generation(token_ids=row.token_ids, logprobs=row.logprobs, finished=finished)
                done.append((row.ticket, generation))
            else:
                keep.append(number)
        if not keep:
            self._batch = None
            return done
        if batch.written is not None:
            batch.written[torch.arange(len(drawn), device=drawn.device), drawn] = True
        if done:
            batch.select(keep)
            drawn = drawn[keep]
        self._extend(batch, drawn)
        return done

    def _extend(self, batch: _Batch, drawn: torch.Tensor) -> None:
        """Appends a token to each row: int64 [B]."""
        batch.mask = torch.cat([batch.mask, batch.mask.new_ones(len(drawn), 1)], dim=1)
        position_ids = batch.positions[[0, 1, 1, 1]].unsqueeze(-1)
        hidden = self.policy.extend(drawn.unsqueeze(1), position_ids, batch.mask, batch.cache)
        batch.logits = self.policy.logits(hidden[:, -1])
        batch.positions = batch.positions + 1
        batch.num_steps += 1


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


def _generator(seed: tuple[int, ...]) -> np.random.Generator:
    """Random numbers that depend on nothing but `seed`."""
    key = hashlib.sha256(repr(seed).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little")))
