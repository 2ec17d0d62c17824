"""Rollout engines: what samples tokens after prompts. `make_engine` looks one up by name."""

import difflib
from typing import Any

from axpo_algo.engines.base import Engine, GenerationRequest, Sampling

__all__ = ["ENGINES", "Engine", "GenerationRequest", "Sampling", "make_engine"]

ENGINES = ("transformers",)


def make_engine(name: str, policy: Any, **options: Any) -> Engine:
    """The engine of that name over `policy`. Raises ValueError naming the known engines and the nearest one."""
    if name == "transformers":
        from axpo_algo.engines.transformers import TransformersEngine

        return TransformersEngine(policy, **options)
    near = difflib.get_close_matches(name, ENGINES, n=1, cutoff=0.0)
    raise ValueError(f"unknown engine {name!r}; known: {', '.join(ENGINES)}; nearest: {near[0]!r}")
