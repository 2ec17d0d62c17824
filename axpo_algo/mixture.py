"""The environments that a run trains in: one, or several by weight. Each is opened once and starts groups.

Which environment and task a question comes from is left to `axpo_algo.environments.step_tasks`.
"""

import contextlib
import functools

from axpo_algo.config import TrainConfig
from axpo_algo.environments import make_env, step_tasks
from axpo_algo.models.chat import Chat
from axpo_algo.rollout import GroupStarter

__all__ = ["Mixture"]


class Mixture:
    """A starter of groups for each of `config.train_envs`, or for `config.env` alone. Close it when done."""

    def __init__(self, config: TrainConfig, chat: Chat) -> None:
        entries = config.train_envs
        self.names: list[str | None] = [entry.name for entry in entries] or [None]
        """[E]; None: one environment, without a name"""
        self.starters: list[GroupStarter] = []
        """[E]"""
        self._weights = [entry.weight for entry in entries] or [1.0]
        self._count, self._seed = config.rollout.questions_per_step, config.seed
        with contextlib.ExitStack() as opened:  # closes those before one that cannot be made
            for env in [entry.env for entry in entries] or [config.env]:
                make = functools.partial(make_env, env, split=env.split, max_turns=config.rollout.max_turns)
                starter = GroupStarter(make, chat, time_limit_s=config.rollout.call_time_limit_s)
                opened.callback(starter.close)
                self.starters.append(starter)
            self._opened = opened.pop_all()

    def tasks(self, step: int) -> list[tuple[int, int]]:
        """(environment, task) of each question of a step; environments as numbered in `starters`."""
        num_tasks = [starter.env.num_tasks for starter in self.starters]
        return step_tasks(num_tasks, self._weights, step=step, count=self._count, seed=self._seed)

    def close(self) -> None:
        """Closes the environments."""
        self._opened.close()
