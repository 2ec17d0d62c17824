"""TRL: an environment class for `GRPOTrainer(environment_factory=...)` (TRL 1.x), and the reward that goes with it.

    trainer = GRPOTrainer(
        model,
        reward_funcs=answer_reward,
        train_dataset=Dataset.from_list(prompt_rows(range(1000))),
        environment_factory=environment_class("AXPO/ChartQA-Tools-v0", difficulty="nano"),
        ...
    )

TRL parses the calls, and each costs one of the episode's turns; the last reply, which TRL shows to reward
functions alone, is then played as the answer. The model's chat template shows the tools. Of a tool's JSON
schema TRL reads names, types and descriptions; bounds are checked when a call is run. Importing this needs no
TRL.
"""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium as gym

import axpo_env
from axpo_env.adapters.content import Part, with_pil
from axpo_env.escape import escape_tags
from axpo_env.messages import SYSTEM_PROMPT, format_answer, format_call, parse_action
from axpo_env.names import unknown_name

_TYPES: dict[str, Any] = {"string": str, "integer": int, "number": float, "boolean": bool, "object": dict}


def environment_class(env_id: str, **keywords: Any) -> type:
    """A class whose instances each hold one environment, with a method per tool. `keywords` are `gym.make`'s.

    `reset` needs the task's `index`, a column of the data set: all rollouts of a group get the same question.
    Raises ValueError for an unknown id or keyword.
    """
    if env_id not in gym.registry:
        raise ValueError(unknown_name("environment", env_id, axpo_env.IDS))
    probe = gym.make(env_id, **keywords).unwrapped
    tools = [dict(tool.schema) for tool in probe.rules.tools.values()]  # type: ignore[attr-defined]
    probe.close()

    def start(self: Any) -> None:
        self._env = gym.make(env_id, **keywords).unwrapped

    methods = {schema["function"]["name"]: _method(schema["function"]) for schema in tools}
    for name in methods:
        if name in ("reset", "get_reward") or name.startswith("_"):
            raise ValueError(f"TRL would not see a tool named {name!r}")
    return type("ToolEpisode", (_Episode,), {"__init__": start, "__doc__": _Episode.__doc__, **methods})


class _Episode:
    """One episode at a time. TRL takes every public method but `reset` for a tool."""

    _env: Any

    def reset(self, *, index: int, **row: Any) -> list[Part]:
        """Start task `index`; other columns are ignored. Returns what TRL appends to the user's message."""
        _, info = self._env.reset(options={"index": index})
        return with_pil(info["messages"][-1]["content"])

    def _call(self, name: str, arguments: dict[str, Any]) -> list[Part]:
        """Play one call as an action. Returns the tool's message: text and PIL images."""
        if self._env.state.stop_reason is not None:
            return [{"type": "text", "text": "Error: not run: the episode is over."}]
        *_, info = self._env.step(format_call(name, arguments))
        if info["new_messages"]:
            return with_pil(info["new_messages"][-1]["content"])
        # In no message, so not escaped yet.
        return [{"type": "text", "text": escape_tags(f"Error: {info['tool_calls'][0]['error']}")}]

    def _finish(self, reply: Mapping[str, Any]) -> float | None:
        """The reward, with `reply` played as the last action. None for an episode that cannot be graded."""
        if self._env.state.stop_reason is None and not reply.get("tool_calls"):
            content = reply.get("content") or ""
            text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
            answer = parse_action(text, max_calls=1).answer
            if answer is not None:
                self._env.step(format_answer(answer))
        state = self._env.state
        return None if state.ungraded else state.reward


def answer_reward(
    completions: list[list[dict[str, Any]]], environments: list[Any], **_: Any
) -> list[float | None]:
    """TRL's reward function: 1.0 or 0.0, and None, which TRL leaves out, for outages and time-outs.

    A rollout that TRL ended before it answered gets 0.0.
    """
    return [
        environment._finish(completion[-1])
        for completion, environment in zip(completions, environments, strict=True)
    ]


def prompt_rows(indices: Iterable[int], *, system_prompt: str = SYSTEM_PROMPT) -> list[dict[str, Any]]:
    """Rows for `train_dataset`: a prompt that `reset` completes by the task's images and question."""
    prompt = [{"role": "system", "content": system_prompt}, {"role": "user", "content": ""}]
    return [{"prompt": prompt, "index": index} for index in indices]


def _method(function: Mapping[str, Any]) -> Any:
    """A method that TRL (through transformers' `get_json_schema`) reads the tool's schema off."""
    name, parameters = function["name"], function["parameters"]
    required = parameters.get("required", ())
    ordered = sorted(parameters["properties"].items(), key=lambda item: item[0] not in required)
    signature = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    annotations: dict[str, Any] = {}
    lines = [function["description"], "", "Args:"]
    for key, schema in ordered:
        annotations[key] = _python_type(schema)
        default = inspect.Parameter.empty if key in required else schema.get("default")
        signature.append(
            inspect.Parameter(
                key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotations[key]
            )
        )
        lines.append(f"    {key}: {schema.get('description', key)}")

    def method(self: Any, **arguments: Any) -> list[Part]:
        return self._call(name, arguments)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = "\n".join(lines)
    method.__annotations__ = annotations
    method.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
    return method


def _python_type(schema: Mapping[str, Any]) -> Any:
    return list[_python_type(schema["items"])] if schema["type"] == "array" else _TYPES[schema["type"]]  # type: ignore[misc]
