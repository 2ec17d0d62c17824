"""What every rollout engine promises: requests in one by one, tokens and their exact log-probs out as each is done.

When requests are made, and what their tokens mean, is left to `rollout`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from axpo_algo.types import Generation, ProcessedImage

__all__ = ["Engine", "GenerationRequest", "Sampling", "Ticket", "generate"]

Ticket = int
"""names a request that was submitted"""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn. The defaults draw from the policy itself, as training needs."""

    max_new_tokens: int | None = 128
    """per request, the stop token included; None: each request names its own limit"""
    temperature: float = 1.0
    """logits are divided by it; 0 takes the likeliest token"""
    top_p: float = 1.0
    """smallest set of tokens with this much probability; 1 keeps all"""
    top_k: int = 0
    """likeliest tokens kept; 0 keeps all"""
    presence_penalty: float = 0.0
    """taken off the logit of every token already written in this turn"""

    def __post_init__(self) -> None:
        too_few = self.max_new_tokens is not None and self.max_new_tokens < 1
        if too_few or self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                "max_new_tokens must be >= 1, temperature and top_k >= 0 and top_p in (0, 1]; got "
                f"{self.max_new_tokens}, {self.temperature}, {self.top_k}, {self.top_p}"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class GenerationRequest:
    """One sequence to continue."""

    token_ids: Sequence[int]
    """everything so far, image placeholders expanded"""
    images: Sequence[ProcessedImage] = ()
    """in the order of their placeholders"""
    seed: tuple[int, ...] = field(default=(0,))
    """names this request's random numbers, so that they do not depend on who shares its batch"""
    max_new_tokens: int | None = None
    """a limit of its own below the sampling's, the stop token included"""

    def token_limit(self, sampling: Sampling) -> int:
        """Tokens to sample at most. Raises ValueError where neither names a limit, or it is below 1."""
        limits = [n for n in (self.max_new_tokens, sampling.max_new_tokens) if n is not None]
        if not limits or min(limits) < 1:
            raise ValueError(
                f"max_new_tokens of a request or of its sampling must be >= 1, got {limits or None}"
            )
        return min(limits)


class Engine(Protocol):
    """Samples continuations. Implementations never change a prompt's tokens. Used by one thread."""

    num_steps: int
    """decoding steps so far: each samples one token for every request of the batch it runs"""
    num_sampled_tokens: int
    """tokens sampled so far; by `num_steps`, the mean batch"""

    def submit(self, request: GenerationRequest, sampling: Sampling) -> Ticket:
        """Takes one request; its generation comes from a later `poll`. Returns at once.

        Raises ValueError where neither request nor sampling limits the new tokens.
        """
        ...

    def poll(self, timeout_s: float = 0.0) -> list[tuple[Ticket, Generation]]:
        """What is done since the last call, which may be nothing. Each generation ends with the end-of-turn token
        unless it ran into its limit.

        An engine in this process goes on by one decoding step; one that works elsewhere waits up to `timeout_s`.
        """
        ...

    def cancel(self, tickets: Collection[Ticket]) -> None:
        """Gives requests up: `poll` returns them no more. Those that it has returned are ignored."""
        ...

    def sync_weights(self) -> None:
        """Makes the engine sample from the policy's present weights. No request may be under way."""
        ...


def generate(engine: Engine, requests: Sequence[GenerationRequest], sampling: Sampling) -> list[Generation]:
    """One generation a request, in order: submits them all and polls until the last is done."""
    tickets = [engine.submit(request, sampling) for request in requests]
    done: dict[Ticket, Generation] = {}
    while len(done) < len(tickets):
        done.update(engine.poll(timeout_s=1.0))
    return [done[ticket] for ticket in tickets]
