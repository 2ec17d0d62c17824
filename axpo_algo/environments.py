"""Environments as the trainer uses them: made from a configuration, unwrapped, with tasks picked by index."""

import functools
import random
from typing import Any

import gymnasium as gym

import axpo_env  # noqa: F401 - registers the suite's ids
from axpo_algo.config import EnvConfig
from axpo_env.names import unknown_name

__all__ = ["ENDLESS", "make_env", "step_indices", "task_index"]

ENDLESS = 2**20
"""A source with more tasks than this is drawn from at random rather than in shuffled passes."""


def make_env(config: EnvConfig, *, split: str, max_turns: int, **overrides: Any) -> Any:
    """The unwrapped environment of `config` on `split`.

    Raises ValueError for an unknown id, TypeError where it cannot be forked: training branches episodes; and what
    the environment raises for its keywords.
    """
    keywords = {**config.kwargs, "max_turns": max_turns, **overrides}
    try:
        env = gym.make(config.id, split=split, disable_env_checker=True, **keywords).unwrapped
    except gym.error.Error as error:  # of Gymnasium itself: no such id, namespace or version
        raise ValueError(unknown_name("environment id", config.id, _own_ids())) from error
    missing = [name for name in ("num_tasks", "fork", "snapshot", "restore") if not hasattr(env, name)]
    if missing:
        raise TypeError(f"{config.id!r} cannot be trained on: its environment has no {', '.join(missing)}")
    return env


def _own_ids() -> list[str]:
    """The registered ids, without those that Gymnasium brings along."""

    def module(entry_point: Any) -> str:
        return str(getattr(entry_point, "__module__", entry_point))

    return [n for n, spec in gym.registry.items() if not module(spec.entry_point).startswith("gymnasium.")]


def task_index(num_tasks: int, rng: random.Random) -> int:
    """One task, at random."""
    return rng.randrange(num_tasks)


def step_indices(num_tasks: int, *, step: int, count: int, seed: int) -> list[int]:
    """The `count` tasks of training step `step` (from 0), a function of nothing but the arguments.

    A finite source is gone through in passes, each shuffled anew; an endless one is drawn from at random.
    """
    if num_tasks > ENDLESS:
        rng = random.Random(repr(("tasks", seed, step)))
        return [rng.randrange(num_tasks) for _ in range(count)]
    indices = []
    for position in range(step * count, (step + 1) * count):
        epoch, within = divmod(position, num_tasks)
        indices.append(_shuffled(num_tasks, seed, epoch)[within])
    return indices


@functools.lru_cache(maxsize=2)
def _shuffled(num_tasks: int, seed: int, epoch: int) -> list[int]:
    order = list(range(num_tasks))
    random.Random(repr(("tasks", seed, "pass", epoch))).shuffle(order)
    return order
