"""Training: `python -m axpo_algo.train`. Cold start, reinforcement learning, evaluation before and after, a run folder.

Without arguments it trains the built-in small policy (recipe `nano`). `algorithm=grpo` is the baseline on the
same budget; `resume=true` goes on from the newest checkpoint and ends where an unbroken run would have.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console

from axpo_algo.algorithms import get_algorithm
from axpo_algo.config import TrainConfig, load_config_or_exit, to_yaml
from axpo_algo.config.loading import with_default_recipe
from axpo_algo.evaluate import TABLE_COLUMNS, evaluate_policy, in_short, summarize
from axpo_algo.learner import DivergedError
from axpo_algo.models.qwen3_vl import Qwen3VLPolicy
from axpo_algo.run.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint, save_policy
from axpo_algo.run.curves import draw_curves
from axpo_algo.run.folder import RunFolder, RunFolderError
from axpo_algo.run.progress import Progress
from axpo_algo.run.resume import open_run, resume_folder
from axpo_algo.run.sinks import open_sinks
from axpo_algo.run.tables import markdown_table, write_json
from axpo_algo.run.transcripts import transcripts
from axpo_algo.sft import cold_start
from axpo_algo.trainer import Trainer

__all__ = ["main", "train"]

SHOWN = (
    "train/mean_reward",
    "train/tool_use_rate",
    "train/all_wrong_tool",
    "train/all_wrong_no_tool",
    "train/prefix_recovery_rate",
    "train/kl",
)


def train(config: TrainConfig, console: Console | None = None) -> Path:
    """Runs the whole chain and returns the run's folder; `policy/` in it is the trained checkpoint.

    Raises ValueError for an unknown algorithm, RunFolderError where `run_dir` holds a run and `resume` is not set
    (a FileExistsError too), where there is none to resume (a FileNotFoundError too), where another process has it or
    it is damaged, DivergedError where losses, gradients or weights stop being finite.
    """
    console = console or Console()

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    for name in filter(None, (config.algorithm, config.baseline)):
        get_algorithm(name)  # an unknown one is refused before anything is made
    folder, config = open_run(config, config.algorithm, say)
    if config.training.num_threads:
        torch.set_num_threads(config.training.num_threads)
    with folder:
        console.print(f"run folder: {folder.path}", highlight=False)
        policy = cold_start(config, folder.path, console)
        rows = _reinforce(config, folder, policy, None, console)
        runs = {config.algorithm: folder.read_metrics()}
        if config.baseline not in (None, config.algorithm):
            other = dataclasses.replace(config, algorithm=str(config.baseline), baseline=None)
            with _open_baseline(folder, other, say) as second:
                policy = cold_start(config, folder.path, console)
                rows += _reinforce(other, second, policy, rows[0], console)[1:]
                runs[other.algorithm] = second.read_metrics()
        draw_curves(runs, folder.curves_path)
        columns = [column for column in TABLE_COLUMNS if any(column in row for row in rows)]
        console.print(markdown_table(rows, columns=columns), markup=False, highlight=False, soft_wrap=True)
        (folder.path / "report.md").write_text(markdown_table(rows, columns=columns) + "\n", encoding="utf-8")
    return folder.path


def _open_baseline(folder: RunFolder, config: TrainConfig, say: Callable[[str], None]) -> RunFolder:
    """The second algorithm's folder inside the run's, new or gone on with."""
    path = folder.path / config.algorithm
    if (path / "config.yaml").exists():
        return resume_folder(path, say)
    return RunFolder.create(path, to_yaml(config))


def _last_step(path: Path) -> int | None:
    checkpoint = latest_checkpoint(path / "checkpoints")
    return None if checkpoint is None else int(checkpoint.name.removeprefix("step-"))


def _reinforce(
    config: TrainConfig,
    folder: RunFolder,
    policy: Qwen3VLPolicy,
    start_row: dict[str, Any] | None,
    console: Console,
) -> list[dict[str, Any]]:
    """Reinforcement learning of `policy`, from its start or the newest checkpoint; returns the table's rows.

    start_row: the start's measurement, where it was made already.
    """
    folder.sinks += open_sinks(
        folder=folder.path,
        tensorboard=config.logging.tensorboard,
        wandb_project=config.logging.wandb,
        name=folder.path.name,
        config=yaml.safe_load(to_yaml(config)),
        resume_step=_last_step(folder.path) or (-1 if config.resume else None),
        say=lambda text: console.print(text, highlight=False),
    )
    reference = policy.clone_frozen() if config.loss.kl_coefficient > 0 else None
    with Trainer(config, policy, reference) as trainer:
        start = 0
        checkpoint = latest_checkpoint(folder.checkpoints_path)
        if checkpoint is not None:
            start, state = load_checkpoint(checkpoint, policy)
            trainer.learner.load_state_dict(state)
            console.print(f"{config.algorithm}: going on after step {start}", highlight=False)
        else:
            numbers = start_row or _evaluate(config, folder, policy, "start", console)
            folder.log(0, {f"eval/{key}": value for key, value in numbers.items() if key != "policy"})
        _loop(config, folder, trainer, policy, start, console)
    while folder.sinks:
        folder.sinks.pop().close()
    save_policy(folder.path / "policy", policy)
    folder.write_curves()
    rows = []
    for record in folder.read_metrics():
        if "eval/pass@1" in record:
            name = "start" if record["step"] == 0 else f"{config.algorithm}, {record['step']} steps"
            rows.append({"policy": name, **{k[5:]: v for k, v in record.items() if k.startswith("eval/")}})
    return rows


def _loop(
    config: TrainConfig,
    folder: RunFolder,
    trainer: Trainer,
    policy: Qwen3VLPolicy,
    start: int,
    console: Console,
) -> None:
    """Steps from `start` on, with evaluations, pages, curves and checkpoints as often as configured."""
    num_steps, logging = config.training.num_steps, config.logging
    with Progress(
        num_steps, start_step=start, title=config.algorithm, show=SHOWN, console=console
    ) as progress:
        for step in range(start + 1, num_steps + 1):
            result = trainer.step(step - 1)
            metrics: dict[str, Any] = dict(result.metrics)
            if step == num_steps or _due(step, config.evaluation.every_num_steps):
                name = "end" if step == num_steps else f"step-{step:06d}"
                numbers = _evaluate(config, folder, policy, name, console)
                metrics |= {f"eval/{key}": value for key, value in numbers.items()}
            folder.log(step, metrics, result.timings)
            progress.update(step, metrics)
            if _due(step, logging.trajectories_every_num_steps) or step == 1:
                folder.write_trajectories(
                    step, transcripts(result.groups, policy.chat, num_shown=logging.num_trajectories)
                )
            if _due(step, logging.curves_every_num_steps):
                folder.write_curves()
            if step == num_steps or _due(step, config.checkpoint.every_num_steps):
                save_checkpoint(
                    folder.checkpoints_path,
                    step,
                    policy,
                    trainer.learner.state_dict(),
                    keep=config.checkpoint.keep,
                )


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _evaluate(
    config: TrainConfig, folder: RunFolder, policy: Qwen3VLPolicy, name: str, console: Console
) -> dict[str, Any]:
    """Measures the policy on the held-out split, writes evaluation-NAME.json, returns the numbers."""
    groups = evaluate_policy(policy, config.evaluation, config.env, config.rollout, seed=config.seed)
    numbers = summarize(groups, k=config.evaluation.rollouts_per_question)
    write_json(folder.path / f"evaluation-{name}.json", numbers)
    console.print(f"held-out questions, {name}: {in_short(numbers)}", highlight=False)
    return numbers


def main(argv: Sequence[str] | None = None) -> Path:
    """The command. `--resume` is short for `resume=true`; a resumed run keeps its own configuration."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    arguments = ["resume=true" if argument == "--resume" else argument for argument in arguments]
    config = load_config_or_exit(with_default_recipe(arguments, "nano"), TrainConfig)
    if config.resume:
        given = [a.lstrip("-").partition("=")[0] for a in arguments if "=" in a or a.startswith("-")]
        refused = [key for key in given if key not in ("resume", "run_dir", "algorithm")]
        if refused:
            print(
                f"error: a resumed run keeps its own configuration; {', '.join(refused)} cannot be changed. "
                "Allowed beside resume: run_dir, algorithm (which run to find)",
                file=sys.stderr,
            )
            raise SystemExit(2)
    try:
        return train(config)
    except (RunFolderError, DivergedError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
