"""verifiers: a taskset, a harness and an environment for its v1 interface (verifiers 0.4) around ours.

verifiers imports plugins by the name of a top-level module, so name one that holds, say `axpo_episodes.py`:

    from axpo_env.adapters.verifiers import EpisodeEnv, EpisodeHarness, EpisodeTaskset
    __all__ = ["EpisodeEnv", "EpisodeHarness", "EpisodeTaskset"]

    vf-eval axpo_episodes --env.taskset.env-id AXPO/VStar-Tools-v0 --env.taskset.keywords '{"max_turns": 4}'

The harness plays in this process: the policy is reached through verifiers' interception, which records the turns;
tools run where the environment's `sandbox` says, not in verifiers' runtime. The policy's reply is an action, whether
the server left its calls in the text or parsed them. Images reach the model as PNG data URLs. Importing this imports
verifiers.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import verifiers.v1 as vf
from openai import AsyncOpenAI, omit
from pydantic import Field

import axpo_env
from axpo_env.adapters.content import action_text, chat_answers, with_urls
from axpo_env.names import unknown_name

__all__ = ["EpisodeEnv", "EpisodeHarness", "EpisodeTaskset"]


class EpisodeData(vf.TaskData):
    """Which task of which environment. The prompt is a placeholder: the environment's messages take its place."""

    env_id: str
    index: int
    keywords: dict[str, Any]
    prompt: str = "the environment's first messages"


class EpisodeState(vf.State):
    """What the environment gave."""

    reward: float = 0.0


class EpisodeTask(vf.Task[EpisodeData, EpisodeState, vf.TaskConfig]):
    """One task; its reward is the environment's, 0.0 for a rollout that was cut short."""

    @vf.reward
    async def environment_reward(self, trace: vf.Trace) -> float:
        return trace.state.reward


class EpisodeTasksetConfig(vf.TasksetConfig):
    """Tasks 0 to `num_tasks` - 1 of an environment."""

    env_id: str = "AXPO/ChartQA-Tools-v0"
    num_tasks: int = 1000
    keywords: dict[str, Any] = Field(default_factory=dict)
    """`gym.make`'s"""


class EpisodeTaskset(vf.Taskset[EpisodeTask, EpisodeTasksetConfig]):
    """The tasks of one environment, in its order."""

    def load(self) -> Iterator[EpisodeTask]:
        """Raises ValueError for an unknown id."""
        env_id, keywords = self.config.env_id, self.config.keywords
        if env_id not in gym.registry:
            raise ValueError(unknown_name("environment", env_id, axpo_env.IDS))
        for index in range(self.config.num_tasks):
            data = EpisodeData(name=f"{env_id}#{index}", env_id=env_id, index=index, keywords=keywords)
            yield EpisodeTask(data, self.config.task)


class EpisodeHarness(vf.Harness[vf.HarnessConfig]):
    """Plays an episode, each with an environment of its own."""

    APPENDS_SYSTEM_PROMPT = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: vf.ModelContext,
        trace: vf.Trace,
        runtime: vf.Runtime,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: Any,
    ) -> vf.ProgramResult:
        """Raises RuntimeError, an error on the trace, for an ungraded episode (outage, time-out, no judge)."""
        env: Any = gym.make(data.env_id, **data.keywords).unwrapped
        try:
            async with AsyncOpenAI(base_url=endpoint, api_key=secret, timeout=None) as client:
                info = await self._play(env, data, client, ctx.model)
        finally:
            await asyncio.to_thread(env.close)
        if env.state.ungraded:
            raise RuntimeError(f"not graded: {info['stop_reason']}; {info['outage'] or 'no outage'}")
        trace.state.reward = env.state.reward
        trace.stop(str(info["stop_reason"]))
        return vf.ProgramResult(exit_code=0, stdout="", stderr="")

    async def _play(self, env: Any, data: Any, client: AsyncOpenAI, model: str) -> dict[str, Any]:
        """The `info` of the last step."""
        _, info = await asyncio.to_thread(env.reset, options={"index": data.index})
        tools = [dict(tool) for tool in info["tools"]] or omit
        messages: list[Any] = [
            {"role": message["role"], "content": with_urls(message["content"])}
            for message in info["messages"]
        ]
        if data.system_prompt is not None:
            others = [message for message in messages if message["role"] != "system"]
            messages = [{"role": "system", "content": data.system_prompt}, *others]
        while True:
            completion = await client.chat.completions.create(model=model, messages=messages, tools=tools)
            reply = completion.choices[0].message.model_dump(exclude_none=True)
            calls = [call["function"] for call in reply.get("tool_calls", ())]
            action = action_text(reply.get("content"), [(call["name"], call["arguments"]) for call in calls])
            *_, terminated, truncated, info = await asyncio.to_thread(env.step, action)
            if terminated or truncated:
                return info
            call_ids = [call["id"] for call in reply.get("tool_calls", ())]
            messages += [reply, *chat_answers(info["new_messages"], call_ids)]


class EpisodeEnvConfig(vf.EnvConfig):
    """One policy. Nothing of an episode runs in verifiers' runtime, so that needs no container."""

    agent: vf.AgentConfig = vf.AgentConfig(runtime=vf.SubprocessConfig())


class EpisodeEnv(vf.Env[EpisodeEnvConfig]):
    """One policy plays one episode."""

    async def run(self, task: Any, agents: vf.Agents) -> None:
        await agents.agent.run(task)
