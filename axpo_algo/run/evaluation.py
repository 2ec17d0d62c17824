"""An evaluation in words, as rows of a table and as JSON. Measuring is left to `axpo_algo.evaluate`."""

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from axpo_algo.config import EnvConfig
from axpo_algo.config.evaluation import EvaluateConfig, envs_by_name
from axpo_algo.config.schema import plain
from axpo_algo.run.metrics import numbers_of
from axpo_algo.run.tables import format_value
from axpo_algo.ungraded import ungraded_in_words

__all__ = [
    "TABLE_COLUMNS",
    "described",
    "in_short",
    "rollout_record",
    "settings_in_words",
    "table_columns",
    "table_rows",
]

TABLE_COLUMNS = (
    "policy",
    "pass@1",
    "pass@1_stderr",
    "pass@4",
    "tool_use_rate",
    "pass@1_tool",
    "pass@1_no_tool",
    "all_wrong_tool",
    "all_wrong_no_tool",
    "ungraded",
)


def in_short(numbers: Mapping[str, Any], names: Sequence[str] = ("env",)) -> str:
    """One line of the numbers, those of the Thinking-Acting Gap included; one more for each environment, by its name,
    where there are several."""
    keys = ("pass@1", "tool_use_rate", "all_wrong_tool", "all_wrong_no_tool")
    shown = [f"{key} {format_value(numbers[key])}" for key in keys]
    if numbers["num_ungraded"]:
        shown.append(f"ungraded {ungraded_in_words(numbers)} of {numbers['num_rollouts']}")
    lines = [", ".join(shown)]
    if len(names) > 1:
        lines += [f"  {name}: {in_short(numbers_of(name, numbers))}" for name in names]
    return "\n".join(lines)


def table_rows(policy: str, numbers: Mapping[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
    """The row of a policy and, where there are several environments, one for each, by its name."""
    rows = [{"policy": policy, **numbers, "ungraded": ungraded_in_words(numbers)}]
    if len(names) > 1:
        for name in names:
            rows += table_rows(f"{policy}, {name}", numbers_of(name, numbers), ())
    return rows


def table_columns(numbers: Mapping[str, Any]) -> list[str]:
    """TABLE_COLUMNS with the k of Pass@k that were measured."""
    passes = sorted((name for name in numbers if name.startswith("pass@") and name[5:].isdigit()), key=len)
    return [*TABLE_COLUMNS[:1], *passes, *(c for c in TABLE_COLUMNS[2:] if c not in passes and c != "pass@4")]


def settings_in_words(config: EvaluateConfig, origin: str, unused: Sequence[str]) -> list[str]:
    """What is measured and how, for the console; and which arguments evaluation has no use for."""
    how, envs = config.evaluation, envs_by_name(config)
    limits = {"turn": how.max_new_tokens, "response": how.max_response_tokens}
    tokens = ", ".join(f"{limit} tokens a {name}" for name, limit in limits.items() if limit is not None)
    sampling = (
        f", {how.rollouts_per_question} rollouts each, temperature {how.temperature:g}, top-p {how.top_p:g}, "
        f"top-k {how.top_k}, presence penalty {how.presence_penalty:g}, {tokens}, seed {config.seed}"
    )
    lines = [f"settings from: {origin}"]
    for name, env in envs.items():
        kwargs = "".join(f", {key}={value}" for key, value in env.kwargs.items())
        label = f"environment {name}" if len(envs) > 1 else "environment"
        lines.append(f"{label}: {env.id}, split {env.evaluation_split}{kwargs}")
    questions = f"at most {how.num_questions} questions" + (" of each" if len(envs) > 1 else "")
    lines.append(
        f"policy: {config.policy.path}, {questions}, {how.max_turns} turns"
        + ("" if config.policy.path in ("oracle", "blank") else sampling)
    )
    return lines + ([f"not used by evaluation: {', '.join(unused)}"] if unused else [])


def described(config: EvaluateConfig, origin: str) -> dict[str, Any]:
    """What was measured, with what, for the JSON document."""
    envs = {name: _env_record(env) for name, env in envs_by_name(config).items()}
    return {
        "policy": config.policy.path,
        **({"envs": envs} if len(envs) > 1 else {"env": next(iter(envs.values()))}),
        "seed": config.seed,
        "settings_from": origin,
        "settings": plain(config),
        "versions": _versions(),
    }


def _env_record(env: EnvConfig) -> dict[str, Any]:
    kwargs = plain(env.kwargs)
    source = kwargs.get("source", "synthetic")
    return {"id": env.id, "kwargs": kwargs, "split": env.evaluation_split, "source": source}


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("axpo", "gymnasium", "numpy", "pillow", "torch", "transformers"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def rollout_record(trajectory: Any) -> dict[str, Any]:
    """One rollout in the JSON document."""
    return {
        "task": trajectory.info["task"]["id"],
        "reward": None if trajectory.reward != trajectory.reward else trajectory.reward,
        "status": trajectory.status,
        "used_tool": trajectory.used_tool,
        "outage": trajectory.info.get("outage"),
        "actions": [turn.text for turn in trajectory.turns],
    }
