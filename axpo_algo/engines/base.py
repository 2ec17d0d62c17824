"""What every rollout engine promises: tokens in, tokens and their exact log-probs out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from axpo_algo.types import Generation, ProcessedImage

__all__ = ["Engine", "GenerationRequest", "Sampling"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn. The defaults draw from the policy itself, as training needs."""

    max_new_tokens: int = 128
    """per request, the stop token included"""
    temperature: float = 1.0
    """logits are divided by it; 0 takes the likeliest token"""
    top_p: float = 1.0
    """smallest set of tokens with this much probability; 1 keeps all"""
    top_k: int = 0
    """likeliest tokens kept; 0 keeps all"""
    presence_penalty: float = 0.0
    """taken off the logit of every token already written in this turn"""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
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


class Engine(Protocol):
    """Samples continuations. Implementations keep the order of the requests and never change a prompt's tokens."""

    def generate(self, requests: Sequence[GenerationRequest], sampling: Sampling) -> list[Generation]:
        """One generation a request, in order; each ends with the end-of-turn token unless it ran into
        max_new_tokens."""
        ...

    def sync_weights(self) -> None:
        """Makes the engine sample from the policy's present weights."""
        ...
