"""Evaluation: `python -m axpo_algo.evaluate policy.path=FOLDER`. Pass@1, unbiased Pass@k, tool use, all-wrong
rates, tool calls.

A checkpoint is measured as the run it came from measured it, another policy under the recipe or file that is named,
or else in the environment as it comes with the paper's sampling; overrides win. The scripted policies "oracle" (is
handed the task: the demonstration, or the reference answer) and "blank" measure the environment instead of a model.
"""

from axpo_algo.commands import command, require_extra

if __name__ == "__main__":
    require_extra("train")

import importlib.metadata
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from axpo_algo.config import EnvConfig, EvaluationConfig, RolloutConfig
from axpo_algo.config.evaluation import EvaluateConfig, load_settings, unused_keys
from axpo_algo.config.schema import plain
from axpo_algo.run.metrics import summarize_groups
from axpo_algo.run.progress import show_stages
from axpo_algo.run.tables import format_value, markdown_table, write_json
from axpo_algo.timings import Counts, OnProgress, RolloutCounts, ignore
from axpo_algo.ungraded import UngradedWatch, count_ungraded, ungraded_in_words

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
    "ungraded",
)
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
) -> list[list[Any]]:
    """Trajectories [questions][rollouts_per_question] of the first questions of the evaluation split.

    `on_progress` is told how many questions are done and how many there are, `say` of outages. Raises RunFailed where
    more than `rollout.max_ungraded_share` of them are ungraded.
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
    watch = UngradedWatch(
        say, num_planned=count * config.rollouts_per_question, max_share=rollout.max_ungraded_share
    )
    groups: list[list[Any]] = []
    counts = Counts(stage="evaluation", unit="questions", num_all=count, on_progress=on_progress)
    with closing(starter):
        for start in range(0, count, at_once):
            episodes = [
                starter.start(
                    index=index, num_episodes=config.rollouts_per_question, seed=(seed, _EVALUATION, index)
                )
                for index in range(start, min(start + at_once, count))
            ]
            flat = [episode for group in episodes for episode in group]
            run_episodes(flat, engine, policy.chat, sampling, rollout, _counting(counts, episodes))
            for group in episodes:
                groups.append([episode.trajectory for episode in group])
            for episode in flat:
                episode.close()
            watch.add([episode.trajectory for episode in flat])
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


def in_short(numbers: Mapping[str, Any]) -> str:
    """One line of `summarize`'s numbers, those of the Thinking-Acting Gap included."""
    names = ("pass@1", "tool_use_rate", "all_wrong_tool", "all_wrong_no_tool")
    shown = [f"{name} {format_value(numbers[name])}" for name in names]
    if numbers["num_ungraded"]:
        shown.append(f"ungraded {ungraded_in_words(numbers)} of {numbers['num_rollouts']}")
    return ", ".join(shown)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Evaluates, prints the settings and a table, and returns its numbers."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    console = Console(markup=False)

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    with command():
        config, origin = load_settings(arguments)
        _check(config)
        for line in _settings_in_words(config, origin, arguments):
            say(line)
        with show_stages(console) as on_progress:
            return _evaluate(config, origin, say, on_progress)


def _check(config: EvaluateConfig) -> None:
    """Raises ConfigError for what would stop the evaluation."""
    from axpo_algo.checks import check_engine, check_env, check_new_file, checking
    from axpo_algo.policies import check_policy

    check_engine(config.rollout.engine)
    with checking("policy"):
        check_policy(config.policy, names=("nano", *SCRIPTED))
    if config.json is not None:
        check_new_file(Path(config.json), "json")
    check_env(config.env, split_key="evaluation_split", max_turns=config.evaluation.max_turns)


def _evaluate(
    config: EvaluateConfig, origin: str, say: Callable[[str], None], on_progress: OnProgress
) -> dict[str, Any]:
    path, is_scripted = config.policy.path, config.policy.path in SCRIPTED
    if is_scripted:
        share = config.rollout.max_ungraded_share
        groups = evaluate_scripted(path, config.evaluation, config.env, max_ungraded_share=share, say=say)
    else:
        from axpo_algo.policies import load_policy

        groups = evaluate_policy(
            load_policy(config.policy, seed=config.seed),
            config.evaluation,
            config.env,
            config.rollout,
            seed=config.seed,
            on_progress=on_progress,
            say=say,
        )
    numbers = summarize(groups, k=1 if is_scripted else config.evaluation.rollouts_per_question)
    row = {"policy": path, **numbers, "ungraded": ungraded_in_words(numbers)}
    say(markdown_table([row], columns=_columns(numbers)))
    graded = numbers["num_rollouts"] - numbers["num_ungraded"]
    calls = ", ".join(f"{name[6:]} {count}" for name, count in numbers.items() if name.startswith("calls/"))
    say(
        f"{numbers['num_groups']} questions, {graded} graded answers, {ungraded_in_words(numbers)} ungraded; "
        f"tool calls: {calls or 'none'}"
    )
    constant = _best_constant(config, len(groups))
    if constant is not None:
        say(
            f"the best constant answer, {constant['answer']!r}, would score {format_value(constant['score'])}"
        )
    if config.json is not None:
        document = {**_described(config, origin), "best_constant_answer": constant, **_plain(numbers)}
        write_json(Path(config.json), {**document, "rollouts": [_rollout(t) for g in groups for t in g]})
    return numbers


def _best_constant(config: EvaluateConfig, num_questions: int) -> dict[str, Any] | None:
    """What always giving one answer would score on the questions at hand; None where no tasks are shown."""
    from axpo_algo.environments import make_env
    from axpo_env.tasks.constant import best_constant_answer

    split, max_turns = config.env.evaluation_split, config.evaluation.max_turns
    with closing(make_env(config.env, split=split, max_turns=max_turns)) as env:
        if not hasattr(env, "source"):
            return None
        answer, score = best_constant_answer(env, range(num_questions))
    return {"answer": answer, "score": score}


def _settings_in_words(config: EvaluateConfig, origin: str, arguments: Sequence[str]) -> list[str]:
    """What is measured and how, for the console; and which arguments evaluation has no use for."""
    env, how = config.env, config.evaluation
    kwargs = ", ".join(f"{name}={value}" for name, value in env.kwargs.items())
    limits = {"turn": how.max_new_tokens, "response": how.max_response_tokens}
    tokens = ", ".join(f"{limit} tokens a {name}" for name, limit in limits.items() if limit is not None)
    sampling = (
        f", {how.rollouts_per_question} rollouts each, temperature {how.temperature:g}, top-p {how.top_p:g}, "
        f"top-k {how.top_k}, presence penalty {how.presence_penalty:g}, {tokens}, seed {config.seed}"
    )
    lines = [
        f"settings from: {origin}",
        f"environment: {env.id}, split {env.evaluation_split}" + (f", {kwargs}" if kwargs else ""),
        f"policy: {config.policy.path}, at most {how.num_questions} questions, {how.max_turns} turns"
        + ("" if config.policy.path in SCRIPTED else sampling),
    ]
    unused = unused_keys(arguments)
    return lines + ([f"not used by evaluation: {', '.join(unused)}"] if unused else [])


def _described(config: EvaluateConfig, origin: str) -> dict[str, Any]:
    """What was measured, with what, for the JSON document."""
    env = config.env
    return {
        "policy": config.policy.path,
        "env": {
            "id": env.id,
            "kwargs": plain(env.kwargs),
            "split": env.evaluation_split,
            "source": plain(env.kwargs).get("source", "synthetic"),
        },
        "seed": config.seed,
        "settings_from": origin,
        "settings": plain(config),
        "versions": _versions(),
    }


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("axpo", "gymnasium", "numpy", "pillow", "torch", "transformers"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def _rollout(trajectory: Any) -> dict[str, Any]:
    return {
        "task": trajectory.info["task"]["id"],
        "reward": None if trajectory.reward != trajectory.reward else trajectory.reward,
        "status": trajectory.status,
        "used_tool": trajectory.used_tool,
        "outage": trajectory.info.get("outage"),
        "actions": [turn.text for turn in trajectory.turns],
    }


def _columns(numbers: Mapping[str, Any]) -> list[str]:
    passes = sorted((name for name in numbers if name.startswith("pass@") and name[5:].isdigit()), key=len)
    return [*TABLE_COLUMNS[:1], *passes, *(c for c in TABLE_COLUMNS[2:] if c not in passes and c != "pass@4")]


def _plain(numbers: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in numbers.items() if isinstance(value, int | float | str | None)}


if __name__ == "__main__":
    main()
