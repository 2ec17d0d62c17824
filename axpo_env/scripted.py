"""Scripted policies: they need no model, so loops can be tested and environments measured with them.

A policy here is called with the info of the latest reset or step and returns the next action. Sampling from a
model is left to others.
"""

import random
from typing import Any, Protocol

from axpo_env.env import ToolEnv
from axpo_env.messages import format_action, format_answer
from axpo_env.tasks.base import Task


class ScriptedPolicy(Protocol):
    """Answers infos with actions; made anew for every episode."""

    def act(self, info: dict[str, Any]) -> str: ...


class ScriptPolicy:
    """Writes the given actions, one a turn, whatever comes back."""

    def __init__(self, actions: list[str]) -> None:
        self._actions = list(actions)

    def act(self, info: dict[str, Any]) -> str:
        """The next action. Raises IndexError when none is left."""
        return self._actions[info["num_turns"]]


class OraclePolicy(ScriptPolicy):
    """Is handed the task: demonstrates it with tools if its source can, else answers the first reference."""

    def __init__(self, task: Task, *, use_tools: bool = True) -> None:
        if task.demonstrator is None:
            super().__init__([format_action("known", format_answer(task.references[0]))])
        else:
            super().__init__(task.demonstrate(random.Random(0), use_tools=use_tools))


class BlankPolicy:
    """Answers with a dash: always in good form, right only if the answer is a dash."""

    def act(self, info: dict[str, Any]) -> str:
        return format_action("", format_answer("-"))


def run_episode(env: ToolEnv, policy: ScriptedPolicy, info: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """Play a just reset (or restored) episode to its end. Returns the reward and the last info."""
    while True:
        _, reward, terminated, truncated, info = env.step(policy.act(info))
        if terminated or truncated:
            return reward, info
