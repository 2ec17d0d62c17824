"""Rollout engines: what samples tokens after prompts. `make_engine` looks one up by name."""

from typing import Any

from axpo_algo.engines.base import Engine, GenerationRequest, Sampling, Ticket, generate
from axpo_sandbox.names import unknown_name

__all__ = ["ENGINES", "Engine", "GenerationRequest", "Sampling", "Ticket", "generate", "make_engine"]

ENGINES = ("transformers",)


def make_engine(name: str, policy: Any, **options: Any) -> Engine:
    """The engine of that name over `policy`. Raises ValueError naming the known engines and the nearest one."""
    if name == "transformers":
        from axpo_algo.engines.transformers import TransformersEngine

        return TransformersEngine(policy, **options)
    raise ValueError(unknown_name("engine", name, ENGINES))
