"""verifiers: a `MultiTurnEnv` (verifiers 0.3; 0.4 has none) around an environment.

    env = load_environment("AXPO/ChartQA-Tools-v0", indices=range(1000), difficulty="nano")

The policy's reply is played as an action, whether the server left its calls in the text or parsed them.
Images reach the model as PNG data URLs. Importing this imports verifiers.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium as gym
import verifiers.legacy as vf
from datasets import Dataset

import axpo_env  # noqa: F401 - registers the environments
from axpo_env.adapters.content import action_text, chat_answers, with_urls


def load_environment(
    env_id: str = "AXPO/ChartQA-Tools-v0", *, indices: Iterable[int] = range(1000), **keywords: Any
) -> "EpisodeEnv":
    """verifiers' entry point: an environment over the tasks `indices`. `keywords` are `gym.make`'s."""
    return EpisodeEnv(env_id, indices, keywords)


class EpisodeEnv(vf.MultiTurnEnv):
    """One episode per rollout, each with an environment of its own."""

    def __init__(self, env_id: str, indices: Iterable[int], keywords: Mapping[str, Any]) -> None:
        self._make = lambda: gym.make(env_id, **keywords).unwrapped
        self._running: dict[str, Any] = {}  # environments by trajectory id
        # A row's prompt is a placeholder: `setup_state` puts the environment's messages in its place.
        prompt = [{"role": "user", "content": "the environment's first messages"}]
        rows = [{"prompt": prompt, "answer": "", "info": {"index": index}} for index in indices]
        super().__init__(dataset=Dataset.from_list(rows), rubric=vf.Rubric(funcs=[environment_reward]))

    async def setup_state(self, state: Any) -> Any:
        """Reset an environment to the row's task; its messages become the prompt, its tools are declared."""
        env = self._running[state["trajectory_id"]] = self._make()
        _, info = await asyncio.to_thread(env.reset, options={"index": state["info"]["index"]})
        kinds = {"system": vf.SystemMessage, "user": vf.UserMessage}
        state["prompt"] = [
            kinds[message["role"]](content=with_urls(message["content"])) for message in info["messages"]
        ]
        state["tool_defs"] = [vf.Tool(**tool["function"]) for tool in info["tools"]]
        return state

    async def env_response(self, messages: Any, state: Any, **_: Any) -> list[Any]:
        """Play the last reply; the messages it led to, or none at the episode's end.

        Raises vf.InfraError for an episode that cannot be graded (outage, time-out, no judge).
        """
        env, reply = self._running[state["trajectory_id"]], messages[-1]
        calls = [(call.name, call.arguments) for call in reply.get("tool_calls") or ()]
        action = action_text(reply.get("content"), calls)
        *_, terminated, truncated, info = await asyncio.to_thread(env.step, action)
        if terminated or truncated:
            if env.state.ungraded:
                raise vf.InfraError(f"not graded: {info['stop_reason']}; {info['outage'] or 'no outage'}")
            state["environment_reward"] = env.state.reward
            state["stop_reason"] = str(info["stop_reason"])
            state["final_env_response"] = []
            return []
        kinds = {"user": vf.UserMessage, "tool": vf.ToolMessage}
        answers = chat_answers(info["new_messages"], [call.id for call in reply.get("tool_calls") or ()])
        return [kinds[answer["role"]](**answer) for answer in answers]

    @vf.cleanup
    async def close_episode(self, state: Any) -> None:
        """End the rollout's environment."""
        env = self._running.pop(state["trajectory_id"], None)
        if env is not None:
            await asyncio.to_thread(env.close)


def environment_reward(state: Any, **_: Any) -> float:
    """What the environment gave; 0.0 for a rollout that was cut short."""
    return float(state.get("environment_reward", 0.0))
