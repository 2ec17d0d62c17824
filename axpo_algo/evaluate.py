"""Evaluation: `python -m axpo_algo.evaluate policy.path=FOLDER`. Pass@1, unbiased Pass@k, tool use, all-wrong
rates, tool calls.

The scripted policies "oracle" (is handed the task: the demonstration, or the reference answer) and "blank" measure the
environment instead of a model.
"""

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from axpo_algo.config import EnvConfig, EvaluationConfig, PolicyConfig, RolloutConfig, load_config_or_exit
from axpo_algo.config.loading import with_default_recipe
from axpo_algo.run.metrics import GroupOutcome, summarize_groups
from axpo_algo.run.tables import format_value, markdown_table, write_json

__all__ = [
    "SCRIPTED",
    "TABLE_COLUMNS",
    "EvaluateConfig",
    "evaluate_policy",
    "evaluate_scripted",
    "main",
    "summarize",
]

SCRIPTED = ("oracle", "blank")
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
)
_EVALUATION = 3  # names this purpose's random numbers, see `trainer`


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """One evaluation."""

    seed: int = 0
    """of sampling"""
    json: str | None = None
    """file to write the numbers to, and one line per question"""
    env: EnvConfig = field(default_factory=EnvConfig)
    """the environment; evaluation_split is used"""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """the policy, or "oracle" or "blank" as its path"""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """how it is measured"""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """engine and workers; lengths, turns and temperature are the evaluation's"""


def evaluate_policy(
    policy: Any,
    config: EvaluationConfig,
    env_config: EnvConfig,
    rollout: RolloutConfig,
    *,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[Any]]:
    """Trajectories [questions][rollouts_per_question] of the first questions of the evaluation split.

    `progress` is told how many questions are done and how many there are.
    """
    from axpo_algo.engines import Sampling, make_engine
    from axpo_algo.environments import make_env
    from axpo_algo.rollout import GroupStarter, run_episodes

    engine = make_engine(
        rollout.engine, policy, max_batch_size=rollout.max_batch_size, lockstep=rollout.lockstep
    )
    rollout = replace(
        rollout,
        max_new_tokens=config.max_new_tokens,
        max_response_tokens=config.max_response_tokens,
        max_turns=config.max_turns,
        cut_response="wrong",
    )
    sampling = Sampling(
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        presence_penalty=config.presence_penalty,
    )
    starter = GroupStarter(
        lambda: make_env(env_config, split=env_config.evaluation_split, max_turns=config.max_turns),
        policy.chat,
        time_limit_s=rollout.call_time_limit_s,
    )
    count = min(config.num_questions, starter.env.num_tasks)
    at_once = max(1, rollout.max_batch_size // config.rollouts_per_question)
    groups: list[list[Any]] = []
    for start in range(0, count, at_once):
        episodes = [
            starter.start(
                index=index, num_episodes=config.rollouts_per_question, seed=(seed, _EVALUATION, index)
            )
            for index in range(start, min(start + at_once, count))
        ]
        flat = [episode for group in episodes for episode in group]
        run_episodes(flat, engine, policy.chat, sampling, rollout)
        for group in episodes:
            groups.append([episode.trajectory for episode in group])
        for episode in flat:
            episode.close()
        progress(len(groups), count)
    starter.close()
    return groups


def evaluate_scripted(name: str, config: EvaluationConfig, env_config: EnvConfig) -> list[GroupOutcome]:
    """One episode per question of a scripted policy, by the name it has in SCRIPTED."""
    from axpo_algo.environments import make_env
    from axpo_algo.rollout import is_graded
    from axpo_env.scripted import BlankPolicy, OraclePolicy

    env = make_env(env_config, split=env_config.evaluation_split, max_turns=config.max_turns)
    outcomes = []
    for index in range(min(config.num_questions, env.num_tasks)):
        _, info = env.reset(seed=index, options={"index": index})
        policy = OraclePolicy(env.task) if name == "oracle" else BlankPolicy()
        calls: Counter[str] = Counter()
        terminated = truncated = False
        while not (terminated or truncated):
            _, reward, terminated, truncated, info = env.step(policy.act(info))
            calls.update(call["name"] for call in info["tool_calls"])
        rewards = [reward if is_graded(info) else None]
        outcomes.append(GroupOutcome(rewards=rewards, used_tool=[bool(calls)], tool_calls=calls))
    env.close()
    return outcomes


def summarize(groups: Sequence[Sequence[Any]], *, k: int) -> dict[str, Any]:
    """The numbers of an evaluation: trajectories [questions][k] -> names and values, Pass@1 and Pass@k among them."""
    from axpo_algo.trainer import group_outcome
    from axpo_algo.types import Group

    outcomes = [group_outcome(Group(trajectories=list(group))) for group in groups]
    numbers = summarize_groups(outcomes, ks=sorted({1, k})).as_dict()
    needing = [
        outcome
        for outcome, group in zip(outcomes, groups, strict=True)
        if group[0].info["task"].get("needs_tools")
    ]
    numbers["tool_use_rate_needed"] = summarize_groups(needing).tool_use_rate if needing else None
    return dict(numbers)


def in_short(numbers: Mapping[str, Any]) -> str:
    """One line of `summarize`'s numbers, those of the Thinking-Acting Gap included."""
    names = ("pass@1", "tool_use_rate", "all_wrong_tool", "all_wrong_no_tool")
    return ", ".join(f"{name} {format_value(numbers[name])}" for name in names)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Evaluates, prints a table, and returns its numbers."""
    arguments = with_default_recipe(sys.argv[1:] if argv is None else argv, "nano-evaluation")
    config = load_config_or_exit(arguments, EvaluateConfig)
    console = Console()
    rows: list[dict[str, Any]] = []
    if config.policy.path in SCRIPTED:
        outcomes = evaluate_scripted(config.policy.path, config.evaluation, config.env)
        numbers: dict[str, Any] = dict(summarize_groups(outcomes, ks=(1,)).as_dict())
    else:
        from axpo_algo.policies import load_policy

        policy = load_policy(config.policy, seed=config.seed)
        groups = evaluate_policy(
            policy,
            config.evaluation,
            config.env,
            config.rollout,
            seed=config.seed,
            progress=lambda done, total: console.print(f"{done}/{total} questions", highlight=False),
        )
        numbers = summarize(groups, k=config.evaluation.rollouts_per_question)
        rows = [
            {
                "task": trajectory.info["task"]["id"],
                "reward": None if trajectory.reward != trajectory.reward else trajectory.reward,
                "status": trajectory.status,
                "used_tool": trajectory.used_tool,
                "actions": [turn.text for turn in trajectory.turns],
            }
            for group in groups
            for trajectory in group
        ]
    graded = numbers["num_rollouts"] - numbers["num_ungraded"]
    table = markdown_table([{"policy": config.policy.path, **numbers}], columns=_columns(numbers))
    console.print(table, markup=False, highlight=False, soft_wrap=True)
    calls = ", ".join(f"{name[6:]} {count}" for name, count in numbers.items() if name.startswith("calls/"))
    console.print(
        f"{numbers['num_groups']} questions, {graded} graded answers, {numbers['num_ungraded']} ungraded; "
        f"tool calls: {calls or 'none'}",
        highlight=False,
    )
    if config.json is not None:
        write_json(Path(config.json), {"policy": config.policy.path, **_plain(numbers), "rollouts": rows})
    return numbers


def _columns(numbers: Mapping[str, Any]) -> list[str]:
    passes = sorted((name for name in numbers if name.startswith("pass@") and name[5:].isdigit()), key=len)
    return [*TABLE_COLUMNS[:1], *passes, *(c for c in TABLE_COLUMNS[2:] if c not in passes and c != "pass@4")]


def _plain(numbers: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in numbers.items() if isinstance(value, int | float | str | None)}


if __name__ == "__main__":
    main()
