"""Supervised fine-tuning on demonstrations: `python -m axpo_algo.sft`. The cold start before reinforcement learning.

Demonstrations are episodes: a scripted demonstrator acts in the real environment, so that observations are the
real ones; only its own tokens carry loss. Phases run in order and may differ in environment, share of tool use
and carelessness of aim.
"""

from axpo_algo.commands import command, require_extra

if __name__ == "__main__":
    require_extra("train")

import dataclasses
import random
import shutil
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from axpo_algo.checks import check_new_folder, check_training, checking
from axpo_algo.config import (
    EnvConfig,
    LoraConfig,
    LossConfig,
    OptimizerConfig,
    SFTConfig,
    SFTPhase,
    SFTSource,
    TrainConfig,
    TrainEnvConfig,
    load_config,
)
from axpo_algo.config.loading import with_default_recipe
from axpo_algo.distributed import SINGLE, Ranks, ranks_of_torchrun
from axpo_algo.dry_run import check_fits
from axpo_algo.environments import make_env, task_index
from axpo_algo.learner import Learner
from axpo_algo.models.chat import Chat
from axpo_algo.models.qwen3_vl import Qwen3VLPolicy
from axpo_algo.policies import load_policy
from axpo_algo.run.checkpoint import (
    CheckpointError,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    save_policy,
    usable_checkpoint,
)
from axpo_algo.run.folder import FollowedRun, RunFolder
from axpo_algo.run.jsonl import JsonLines, read_steps, truncate_after
from axpo_algo.run.progress import Progress, show_stages
from axpo_algo.run.resume import open_run
from axpo_algo.types import Trajectory

SFT_CHECKPOINTS = "sft-checkpoints"
_TARGET_WINDOW = 20  # steps whose mean loss is held against a phase's target

__all__ = ["cold_start", "demonstrate", "main", "run_sft"]


def demonstrate(
    env: Any, chat: Chat, *, index: int, rng: random.Random, use_tools: bool, aim_noise: Any = 0.0
) -> Trajectory:
    """One demonstrated episode of task `index` as a trajectory, its actions trained.

    env: the unwrapped environment, whose tasks have `demonstrate` (see `axpo_env.tasks.base.Task`).
    """
    _, info = env.reset(seed=index, options={"index": index})
    trajectory = Trajectory(info={"task": info["task"]})
    trajectory.append_observation(*chat.prompt(info["new_messages"], info["tools"]))
    for action in env.task.demonstrate(rng, use_tools=use_tools, aim_noise=aim_noise):
        token_ids = chat.action(action)
        trajectory.append_action(token_ids, [0.0] * len(token_ids), action)
        _, reward, terminated, truncated, info = env.step(action)
        for call in info["tool_calls"]:
            trajectory.tool_counts[call["name"]] = trajectory.tool_counts.get(call["name"], 0) + 1
        if terminated or truncated:
            trajectory.status, trajectory.reward = str(info["stop_reason"]), float(reward)
            return trajectory
        trajectory.append_observation(*chat.observation(info["new_messages"]))
    return trajectory


def run_sft(
    policy: Qwen3VLPolicy,
    config: SFTConfig,
    env_config: EnvConfig,
    *,
    train_envs: Sequence[TrainEnvConfig] = (),
    max_turns: int,
    seed: int,
    log: Callable[[int, Mapping[str, float]], None],
    max_skipped_updates: int = 3,
    loss: LossConfig | None = None,
    lora: LoraConfig | None = None,
    checkpoints: Path | None = None,
    checkpoint_every: int = 0,
    ranks: Ranks = SINGLE,
) -> None:
    """Trains `policy` in place through all phases; `log` is called with each step, counted from 1, and its metrics.

    While a step trains, the next step's demonstrations are made on another thread. Raises DivergedError after
    `max_skipped_updates` steps in a row whose loss or gradient was not finite; each changes nothing.

    A phase that reaches its `target_loss` ends, and the steps it had left are passed over in the count. `loss` says how
    demonstrations are packed, `lora` whether adapters are trained, which end up in the policy's weights.

    train_envs: the environments that sources name; `env_config` is that of the others.

    checkpoints: folder of checkpoints, one every `checkpoint_every` steps; where there is one it goes on from there.
    ranks: each trains on its part of a step's demonstrations.
    """
    schedule = [(phase, number) for phase in config.phases for number in range(phase.num_steps)]
    if not schedule:
        return
    envs: dict[str, Any] = {}
    for phase in config.phases:
        for source in phase.sources:
            if _env_key(source) not in envs:
                named = next((entry.env for entry in train_envs if entry.name == source.env), env_config)
                envs[_env_key(source)] = make_env(
                    named, split=named.split, max_turns=max_turns, **source.env_kwargs
                )
    learner = Learner(
        policy,
        None,
        loss=loss or LossConfig(),
        optimizer=OptimizerConfig(
            betas=config.betas, weight_decay=config.weight_decay, max_grad_norm=config.max_grad_norm
        ),
        max_skipped_updates=max_skipped_updates,
        lora=lora,
        seed=seed,
        ranks=ranks,
    )

    def batch(step: int) -> list[Trajectory]:
        return _batch(policy.chat, envs, schedule[step][0], seed=(seed, step))

    with ThreadPoolExecutor(1) as maker:
        step, losses = 0, deque[float](maxlen=_TARGET_WINDOW)
        latest = latest_checkpoint(checkpoints) if checkpoints is not None else None
        if latest is not None:
            _, state = load_checkpoint(latest, policy, learner.tensors(), ranks=ranks)
            learner.set_counters(state)
            step = state["next_step"]
            losses.extend(state["losses"])
        if step == len(schedule):
            return
        coming = maker.submit(batch, step)
        while step < len(schedule):
            phase, number = schedule[step]
            trajectories = coming.result()
            if step + 1 < len(schedule):
                coming = maker.submit(batch, step + 1)
            rate = _learning_rate(phase, number) * min(1.0, (step + 1) / max(1, config.warmup_steps))
            mine = ranks.slice(len(trajectories))
            learned = learner.update_supervised(trajectories[mine.start : mine.stop], learning_rate=rate)
            used = sum(bool(t.tool_counts) for t in trajectories) / len(trajectories)
            metrics = {
                "loss": learned["loss"],
                "grad_norm": learned["grad_norm"],
                "tool_use_rate": used,
                "skipped_updates": learned["skipped_updates"],
            }
            step += 1
            logged = step
            log(logged, {f"sft/{name}": float(value) for name, value in metrics.items()})
            losses.append(learned["loss"])
            if number == phase.num_steps - 1:
                losses.clear()
            elif _has_reached(phase, losses):
                losses.clear()
                step += phase.num_steps - 1 - number
                if step < len(schedule):
                    coming = maker.submit(batch, step)
            if checkpoints is not None and checkpoint_every and logged % checkpoint_every == 0:
                state = {"next_step": step, "losses": list(losses), **learner.counters()}
                save_checkpoint(checkpoints, logged, policy, state, learner.tensors(), keep=1, ranks=ranks)
    for env in envs.values():
        env.close()


def _has_reached(phase: SFTPhase, losses: deque[float]) -> bool:
    """Whether the phase's last losses, as many as count, are at its target."""
    if phase.target_loss is None or len(losses) < _TARGET_WINDOW:
        return False
    return sum(losses) / _TARGET_WINDOW <= phase.target_loss


def _batch(
    chat: Chat, envs: Mapping[str, Any], phase: SFTPhase, *, seed: tuple[int, ...]
) -> list[Trajectory]:
    """A step's demonstrations; everything random comes from `seed`."""
    rng = random.Random(repr(seed))
    shares = [source.share for source in phase.sources]
    trajectories = []
    for source in rng.choices(phase.sources, shares, k=phase.batch_size):
        env = envs[_env_key(source)]
        trajectories.append(
            demonstrate(
                env,
                chat,
                index=task_index(env.num_tasks, rng),
                rng=rng,
                use_tools=rng.random() < source.tool_fraction,
                aim_noise=source.aim_noise,
            )
        )
    return trajectories


def _env_key(source: SFTSource) -> str:
    return repr((source.env, sorted(source.env_kwargs.items())))


def _learning_rate(phase: SFTPhase, number: int) -> float:
    """On the straight line from the phase's first to its final learning rate."""
    if phase.final_learning_rate is None:
        return phase.learning_rate
    done = number / max(1, phase.num_steps - 1)
    return phase.learning_rate + done * (phase.final_learning_rate - phase.learning_rate)


def cold_start(config: TrainConfig, folder: Path, console: Console, ranks: Ranks = SINGLE) -> Qwen3VLPolicy:
    """The policy that reinforcement learning starts from: `config.policy`, fine-tuned where there are phases.

    It is kept as `folder/start`, the frozen reference, and read back from there, so that a run, its resumption and its
    baseline start from the very same bytes. Metrics go to `folder/sft.jsonl`. A run killed in here goes on from the
    newest checkpoint in `folder/sft-checkpoints`, which are gone in the end. Raises CheckpointError if what is kept is
    damaged.
    """
    kept = folder / "start"
    if not ranks.share(kept.exists()):
        policy = load_policy(config.policy, seed=config.seed)
        if any(phase.num_steps for phase in config.sft.phases):
            _fine_tune(config, policy, folder, console, ranks)
        if ranks.is_main:
            save_policy(kept, policy)
    ranks.barrier()
    if ranks.is_main:
        shutil.rmtree(folder / SFT_CHECKPOINTS, ignore_errors=True)
    try:
        return load_policy(dataclasses.replace(config.policy, path=str(kept)), seed=config.seed)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}. It is where the run started from: restore it, or start another run"
        ) from error


def _fine_tune(
    config: TrainConfig, policy: Qwen3VLPolicy, folder: Path, console: Console, ranks: Ranks
) -> None:
    """`run_sft` in a run's folder, from where it was, with a progress bar and a line of metrics a step."""
    path, checkpoints = folder / "sft.jsonl", folder / SFT_CHECKPOINTS
    num_steps = sum(phase.num_steps for phase in config.sft.phases)
    start = ranks.share(_last_checkpoint(path, checkpoints, console) if ranks.is_main else 0)
    lines = JsonLines(path) if ranks.is_main else None
    with Progress(
        num_steps,
        start_step=start,
        title="sft",
        show=("sft/loss", "sft/tool_use_rate"),
        console=console,
    ) as progress:

        def log(step: int, metrics: Mapping[str, float]) -> None:
            if lines is not None:
                lines.append(step, metrics)
            if step % 10 == 0 or step == num_steps:
                progress.update(step, metrics)

        try:
            run_sft(
                policy,
                config.sft,
                config.env,
                train_envs=config.train_envs,
                max_turns=config.rollout.max_turns,
                seed=config.seed,
                log=log,
                max_skipped_updates=config.training.max_skipped_updates,
                loss=config.loss,
                lora=config.lora,
                checkpoints=checkpoints,
                checkpoint_every=config.checkpoint.every_num_steps,
                ranks=ranks,
            )
        finally:
            if lines is not None:
                lines.close()


def _last_checkpoint(path: Path, checkpoints: Path, console: Console) -> int:
    """Step of the checkpoint to go on from, 0 without one; later lines of metrics are cut off `path`."""

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    ends = read_steps(path, say)
    try:
        step = usable_checkpoint(checkpoints, max(ends, default=None), say)
    except CheckpointError as error:
        say(f"{error}; the cold start begins anew")
        shutil.rmtree(checkpoints)
        step = None
    truncate_after(path, ends, step)
    if step:
        say(f"cold start: going on after step {step}")
    return step or 0


def main(argv: Sequence[str] | None = None) -> Path:
    """The cold start alone, measured on held-out questions; returns the run's folder, `start/` in it the checkpoint.

    `resume=true` makes a cold start that was killed again; the run keeps its own configuration.
    """
    arguments = with_default_recipe(sys.argv[1:] if argv is None else argv, "nano")
    with command():
        config = load_config(arguments, TrainConfig)
        with ranks_of_torchrun() as ranks:
            folder: RunFolder | None = None
            if ranks.is_main:
                if not config.resume:
                    if config.run_dir:
                        check_new_folder(Path(config.run_dir), "run_dir")
                    check_training(config)
                    check_fits(config)
                with checking("run_dir"):
                    folder, config = open_run(config, "sft")
            path, config = ranks.share((folder.path if folder else Path(), config))
            _run(config, folder or FollowedRun(path), Console(markup=False, quiet=not ranks.is_main), ranks)
    return path


def _run(config: TrainConfig, folder: RunFolder, console: Console, ranks: Ranks) -> None:
    """The cold start in its folder, and a line of what it can do."""
    from axpo_algo.evaluate import evaluate_envs, summarize_envs
    from axpo_algo.run.evaluation import in_short

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    if config.training.num_threads:
        torch.set_num_threads(config.training.num_threads)
    with folder:
        policy = cold_start(config, folder.path, console, ranks)
        with show_stages(console) as on_progress:
            groups = evaluate_envs(config, policy, say=say, on_progress=on_progress, ranks=ranks)
        numbers = summarize_envs(groups, k=config.evaluation.rollouts_per_question)
        say(f"{folder.path / 'start'}: {in_short(numbers, list(groups))}")


if __name__ == "__main__":
    main()
