"""Evaluation: `python -m axpo_algo.evaluate policy.path=FOLDER`. Pass@1, unbiased Pass@k, tool use, all-wrong
rates, tool calls.

A checkpoint is measured as the run it came from measured it, another policy under the recipe or file that is named,
or else in the environment as it comes with the paper's sampling; overrides win. The scripted policies "oracle" (is
handed the task: the demonstration, or the reference answer) and "blank" measure the environment instead of a model.
"""

from axpo_algo.commands import RunFailed, command, require_extra

if __name__ == "__main__":
    require_extra("train")

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from axpo_algo.config import EnvConfig, EvaluationConfig, RolloutConfig, TrainConfig
from axpo_algo.config.evaluation import EvaluateConfig, envs_by_name, load_settings, unused_keys
from axpo_algo.run.evaluation import (
    described,
    rollout_record,
    settings_in_words,
    table_columns,
    table_rows,
)
from axpo_algo.run.metrics import combine_numbers, numbers_of, summarize_groups
from axpo_algo.run.progress import show_stages
from axpo_algo.run.tables import format_value, markdown_table, write_json
from axpo_algo.timings import Counts, OnProgress, RolloutCounts, ignore
from axpo_algo.ungraded import UngradedWatch, count_ungraded, ungraded_in_words

__all__ = [
    "SCRIPTED",
    "EvaluateConfig",
    "evaluate_envs",
    "evaluate_policy",
    "evaluate_scripted",
    "main",
    "summarize",
    "summarize_envs",
]

SCRIPTED = ("oracle", "blank")
_EVALUATION = 3  # names this purpose's random numbers, see `trainer`


def evaluate_policy(
    policy: Any,
    config: EvaluationConfig,
    env_config: EnvConfig,
    rollout: RolloutConfig,
    *,
    seed: int,
    on_progress: OnProgress = ignore,
    say: Callable[[str], None] = lambda text: None,
    ranks: Any = None,
) -> list[list[Any]]:
    """Trajectories [questions][rollouts_per_question] of the first questions of the evaluation split.

    ranks: a `Ranks`, None for one process; each plays its part of the questions, and all get what came of all, without
    tokens where there are several.

    `on_progress` is told how many questions are done and how many there are, `say` of outages. Raises RunFailed where
    more than `rollout.max_ungraded_share` of them are ungraded.
    """
    from axpo_algo.distributed import SINGLE
    from axpo_algo.engines import Sampling, make_engine
    from axpo_algo.environments import make_env
    from axpo_algo.rollout import GroupStarter, run_episodes

    ranks = ranks or SINGLE
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
    num_planned, max_share = count * config.rollouts_per_question, rollout.max_ungraded_share
    watch = UngradedWatch(say, num_planned=num_planned, max_share=max_share)
    groups: list[list[Any]] = []
    mine = ranks.slice(count)
    counts = Counts(stage="evaluation", unit="questions", num_all=len(mine), on_progress=on_progress)
    with closing(starter):
        for start in range(mine.start, mine.stop, at_once):
            episodes = [
                starter.start(
                    index=index, num_episodes=config.rollouts_per_question, seed=(seed, _EVALUATION, index)
                )
                for index in range(start, min(start + at_once, mine.stop))
            ]
            flat = [episode for group in episodes for episode in group]
            run_episodes(flat, engine, policy.chat, sampling, rollout, _counting(counts, episodes))
            for group in episodes:
                groups.append([episode.trajectory for episode in group])
            for episode in flat:
                episode.close()
            watch.add([episode.trajectory for episode in flat])
    if ranks.size > 1:
        parts = ranks.gather([[trajectory.without_tokens() for trajectory in group] for group in groups])
        groups = [group for part in parts for group in part]
        watch = UngradedWatch(num_planned=num_planned, max_share=max_share)
        watch.add(trajectory for group in groups for trajectory in group)
    return groups


def _counting(counts: Counts, episodes: Sequence[Sequence[Any]]) -> RolloutCounts:
    """Counts of one rollout of an evaluation, [questions][rollouts], that move the evaluation's on."""
    num_questions, num_tokens = counts.num_done, counts.num_sampled_tokens

    def tick(rollout: Counts) -> None:
        counts.num_done = num_questions + sum(all(e.done for e in group) for group in episodes)
        counts.num_sampled_tokens = num_tokens + rollout.num_sampled_tokens
        counts.tick()

    return RolloutCounts(on_progress=tick)


def evaluate_scripted(
    name: str,
    config: EvaluationConfig,
    env_config: EnvConfig,
    *,
    max_ungraded_share: float = 1.0,
    say: Callable[[str], None] = lambda text: None,
) -> list[list[Any]]:
    """One trajectory [questions][1] per question of a scripted policy, by the name it has in SCRIPTED; without tokens.

    Raises RunFailed as `evaluate_policy` does.
    """
    from axpo_algo.environments import make_env

    env = make_env(env_config, split=env_config.evaluation_split, max_turns=config.max_turns)
    count = min(config.num_questions, env.num_tasks)
    watch = UngradedWatch(say, num_planned=count, max_share=max_ungraded_share)
    groups = []
    with closing(env):
        for index in range(count):
            trajectory = _play(env, name, index)
            watch.add([trajectory])
            groups.append([trajectory])
    return groups


def evaluate_envs(
    config: TrainConfig | EvaluateConfig,
    policy: Any,
    *,
    say: Callable[[str], None] = lambda text: None,
    on_progress: OnProgress = ignore,
    ranks: Any = None,
) -> dict[str, list[list[Any]]]:
    """`evaluate_policy` on each environment of `config`, by name; each is measured as if it were the only one.

    policy: also a name in SCRIPTED, for `evaluate_scripted`. say, on_progress, ranks: see
    `evaluate_policy`. Raises RunFailed, naming the environment where there are several.
    """
    envs = envs_by_name(config)
    groups = {}
    for name, env in envs.items():
        label = f"{name}: " if len(envs) > 1 else ""

        def tell(text: str, label: str = label) -> None:
            say(f"{label}{text}")

        try:
            if isinstance(policy, str):
                share = config.rollout.max_ungraded_share
                groups[name] = evaluate_scripted(
                    policy, config.evaluation, env, max_ungraded_share=share, say=tell
                )
            else:
                groups[name] = evaluate_policy(
                    policy,
                    config.evaluation,
                    env,
                    config.rollout,
                    seed=config.seed,
                    on_progress=on_progress,
                    say=tell,
                    ranks=ranks,
                )
        except RunFailed as error:
            if label:
                raise RunFailed(f"{label}{error}") from error
            raise
    return groups


def _play(env: Any, name: str, index: int) -> Any:
    """One episode of a scripted policy."""
    from axpo_algo.rollout import is_graded
    from axpo_algo.types import Trajectory, Turn
    from axpo_env.scripted import BlankPolicy, OraclePolicy

    _, info = env.reset(seed=index, options={"index": index})
    policy = OraclePolicy(env.task) if name == "oracle" else BlankPolicy()
    trajectory = Trajectory(info={"task": info["task"]})
    while True:
        action = policy.act(info)
        trajectory.turns.append(Turn(start=0, end=0, text=action))
        _, reward, terminated, truncated, info = env.step(action)
        for call in info["tool_calls"]:
            called = call["name"] or "malformed"
            trajectory.tool_counts[called] = trajectory.tool_counts.get(called, 0) + 1
        if terminated or truncated:
            break
    trajectory.used_tool = bool(trajectory.tool_counts)
    trajectory.status = str(info["stop_reason"])
    trajectory.reward = float(reward) if is_graded(info) else float("nan")
    trajectory.info |= {"grade": info["grade"], "outage": info["outage"]}
    return trajectory


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
    reasons = count_ungraded(trajectory for group in groups for trajectory in group)
    return {**numbers, **{f"ungraded/{reason}": count for reason, count in reasons.items()}}


def summarize_envs(groups: Mapping[str, Sequence[Sequence[Any]]], *, k: int) -> dict[str, Any]:
    """`summarize` of each environment, by name; of several also their mean, see `combine_numbers`."""
    numbers = {name: summarize(of_env, k=k) for name, of_env in groups.items()}
    return combine_numbers(numbers) if len(numbers) > 1 else next(iter(numbers.values()))


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Evaluates, prints the settings and a table, and returns its numbers."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    console = Console(markup=False, quiet=not _is_main_rank())

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    with command():
        config, origin = load_settings(arguments)
        _check(config)
        for line in settings_in_words(config, origin, unused_keys(arguments)):
            say(line)
        with show_stages(console) as on_progress:
            return _evaluate(config, origin, say, on_progress)


def _is_main_rank() -> bool:
    """Whether this process writes and prints, as torchrun numbers them."""
    return os.environ.get("RANK", "0") == "0"


def _check(config: EvaluateConfig) -> None:
    """Raises ConfigError for what would stop the evaluation."""
    from axpo_algo.checks import check_engine, check_envs, check_new_file, checking
    from axpo_algo.policies import check_policy

    check_engine(config.rollout.engine)
    with checking("policy"):
        check_policy(config.policy, names=("nano", *SCRIPTED))
    if config.json is not None:
        check_new_file(Path(config.json), "json")
    check_envs(config, "eval_envs", max_turns=config.evaluation.max_turns)


def _evaluate(
    config: EvaluateConfig, origin: str, say: Callable[[str], None], on_progress: OnProgress
) -> dict[str, Any]:
    path, is_scripted = config.policy.path, config.policy.path in SCRIPTED
    if is_scripted:
        groups = evaluate_envs(config, path, say=say)
    else:
        from axpo_algo.distributed import ranks_of_torchrun
        from axpo_algo.policies import load_policy

        with ranks_of_torchrun() as ranks:
            policy = load_policy(config.policy, seed=config.seed)
            groups = evaluate_envs(config, policy, say=say, on_progress=on_progress, ranks=ranks)
    numbers = summarize_envs(groups, k=1 if is_scripted else config.evaluation.rollouts_per_question)
    say(markdown_table(table_rows(path, numbers, list(groups)), columns=table_columns(numbers)))
    constants = {}
    for name, env in envs_by_name(config).items():
        own, label = (numbers_of(name, numbers), f"{name}: ") if len(groups) > 1 else (numbers, "")
        say(f"{label}{_counts_in_words(own)}")
        constant = constants[name] = _best_constant(env, config.evaluation.max_turns, len(groups[name]))
        if constant is not None:
            answer, score = constant["answer"], format_value(constant["score"])
            say(f"{label}the best constant answer, {answer!r}, would score {score}")
    if config.json is not None and _is_main_rank():
        document = {
            **described(config, origin),
            "best_constant_answer": constants if len(groups) > 1 else next(iter(constants.values())),
            **_plain(numbers),
            "rollouts": [
                {**({"env": name} if len(groups) > 1 else {}), **rollout_record(trajectory)}
                for name, of_env in groups.items()
                for group in of_env
                for trajectory in group
            ],
        }
        write_json(Path(config.json), document)
    return numbers


def _counts_in_words(numbers: Mapping[str, Any]) -> str:
    graded = numbers["num_rollouts"] - numbers["num_ungraded"]
    calls = ", ".join(f"{name[6:]} {count}" for name, count in numbers.items() if name.startswith("calls/"))
    return (
        f"{numbers['num_groups']} questions, {graded} graded answers, {ungraded_in_words(numbers)} ungraded; "
        f"tool calls: {calls or 'none'}"
    )


def _best_constant(env_config: EnvConfig, max_turns: int, num_questions: int) -> dict[str, Any] | None:
    """What always giving one answer would score on the questions at hand; None where no tasks are shown."""
    from axpo_algo.environments import make_env
    from axpo_env.tasks.constant import best_constant_answer

    with closing(make_env(env_config, split=env_config.evaluation_split, max_turns=max_turns)) as env:
        if not hasattr(env, "source"):
            return None
        answer, score = best_constant_answer(env, range(num_questions))
    return {"answer": answer, "score": score}


def _plain(numbers: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in numbers.items() if isinstance(value, int | float | str | None)}


if __name__ == "__main__":
    main()
