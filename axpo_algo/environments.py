"""Environments as the trainer uses them: made from a configuration, unwrapped, with tasks picked by index."""

import functools
import math
import random
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import gymnasium as gym

import axpo_env  # noqa: F401 - registers the suite's ids
from axpo_algo.config import EnvConfig
from axpo_env.names import unknown_name

__all__ = ["ENDLESS", "make_env", "step_indices", "step_tasks", "task_index"]

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
    return _indices(num_tasks, range(step * count, (step + 1) * count), step=step, seed=seed)


def step_tasks(
    num_tasks: Sequence[int], weights: Sequence[float], *, step: int, count: int, seed: int
) -> list[tuple[int, int]]:
    """(environment, task) of each of the `count` questions of training step `step` (from 0).

    num_tasks, weights: [E], of the environments; of any first n questions, environment e has n * weights[e] /
    sum(weights), give or take less than E. A function of nothing but the arguments: each environment's tasks come as
    from `step_indices`, and for one environment alone they are the same.
    """
    positions = range(step * count, (step + 1) * count)
    before = _questions_before(positions.start, weights, seed)
    first = before
    chosen: list[int] = []
    for position in positions:
        after = _questions_before(position + 1, weights, seed)
        chosen.append(next(e for e, number in enumerate(after) if number > before[e]))
        before = after
    tasks = [
        iter(_indices(size, range(first[e], before[e]), step=step, seed=seed if e == 0 else (seed, e)))
        for e, size in enumerate(num_tasks)
    ]
    return [(e, next(tasks[e])) for e in chosen]


def _questions_before(position: int, weights: Sequence[float], seed: int) -> list[int]:
    """How many of the first `position` questions each environment has, [E]. One question more adds one to one of them.

    The first environment takes its share of all questions, the next its share of what is left, and so on, each rounded
    by an offset of its own: counts in closed form, exact, so that a resumed run need not go through earlier steps.
    """
    rng = random.Random(repr(("mixture", seed)))
    left, weight_left = position, sum(map(Fraction, weights))
    counts = []
    for weight in map(Fraction, weights):
        share = weight / weight_left if weight_left else 0
        counts.append(math.floor(left * share + Fraction(rng.random())))
        left, weight_left = left - counts[-1], weight_left - weight
    return counts


def _indices(num_tasks: int, positions: range, *, step: int, seed: int | tuple[int, int]) -> list[int]:
    """The tasks at `positions` of a source's questions, which are those of step `step`."""
    if num_tasks > ENDLESS:
        rng = random.Random(repr(("tasks", seed, step)))
        return [rng.randrange(num_tasks) for _ in positions]
    places = (divmod(position, num_tasks) for position in positions)
    return [_shuffled(num_tasks, seed, epoch)[within] for epoch, within in places]


@functools.lru_cache(maxsize=8)
def _shuffled(num_tasks: int, seed: int | tuple[int, int], epoch: int) -> list[int]:
    order = list(range(num_tasks))
    random.Random(repr(("tasks", seed, "pass", epoch))).shuffle(order)
    return order
