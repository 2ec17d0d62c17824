"""Training: `python -m axpo_algo.train`. Cold start, reinforcement learning, evaluation before and after, a run folder.

Without arguments it trains the built-in small policy (recipe `nano`). `algorithm=grpo` is the baseline on the
same budget; `--resume` goes on from the newest checkpoint and ends where an unbroken run would have, at another
number of steps if `training.num_steps` is given with it. Ctrl-C saves the last finished step.
"""

from axpo_algo.commands import CtrlC, command, require_extra

if __name__ == "__main__":
    require_extra("train")

import dataclasses
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console

from axpo_algo.checks import check_new_folder, check_training, checking
from axpo_algo.config import ConfigError, TrainConfig, load_config, to_yaml
from axpo_algo.config.evaluation import envs_by_name
from axpo_algo.config.loading import given_keys, print_help, with_default_recipe
from axpo_algo.distributed import Ranks, ranks_of_torchrun
from axpo_algo.dry_run import check_fits, format_plan, make_plan, problems
from axpo_algo.evaluate import evaluate_envs, summarize_envs
from axpo_algo.models.qwen3_vl import Qwen3VLPolicy
from axpo_algo.run.best import BestPolicy
from axpo_algo.run.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint, save_policy
from axpo_algo.run.curves import draw_curves
from axpo_algo.run.disk import lock_folder
from axpo_algo.run.evaluation import TABLE_COLUMNS, in_short, table_rows
from axpo_algo.run.extend import change_num_steps, is_evaluated, set_evaluation
from axpo_algo.run.folder import FollowedRun, RunFolder, latest_run_path, read_jsonl
from axpo_algo.run.progress import Progress, show_stages
from axpo_algo.run.resume import open_run, read_config, resume_folder
from axpo_algo.run.sinks import open_sinks
from axpo_algo.run.tables import markdown_table, write_json
from axpo_algo.run.transcripts import transcripts
from axpo_algo.sft import SFT_CHECKPOINTS, cold_start
from axpo_algo.timings import Clock, OnProgress, shares
from axpo_algo.trainer import StepResult, Trainer
from axpo_algo.ungraded import UngradedWatch

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

    Raises ConfigError, a ValueError, for what `axpo_algo.checks` refuses before anything is made, RunFolderError where
    `run_dir` holds a run and `resume` is not set (a FileExistsError too), where there is none to resume (a
    FileNotFoundError too), where another process has it or it is damaged, DivergedError where losses, gradients or
    weights stop being finite.
    """
    with ranks_of_torchrun() as ranks:
        console = _console(console, ranks)
        folder, config = _open_for_all(config, _printer(console), ranks)
        return _run(config, folder, console, ranks)


def _console(console: Console | None, ranks: Ranks) -> Console:
    """Where a rank prints: nowhere, but for the main one."""
    return console or Console(markup=False) if ranks.is_main else Console(quiet=True)


def _printer(console: Console) -> Callable[[str], None]:
    """Prints lines as they are, without markup."""
    return lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)


def _run(config: TrainConfig, folder: RunFolder, console: Console, ranks: Ranks) -> Path:
    if config.training.num_threads:
        torch.set_num_threads(config.training.num_threads)
    with folder:
        console.print(f"run folder: {folder.path}", highlight=False)
        policy = _cold_start(config, folder.path, console, ranks)
        rows = _reinforce(config, folder, policy, None, console, ranks)
        runs = {config.algorithm: folder.read_metrics()}
        if config.baseline not in (None, config.algorithm):
            other = dataclasses.replace(config, algorithm=str(config.baseline), baseline=None)
            with _open_baseline(folder, other, _printer(console), ranks) as second:
                policy = _cold_start(config, folder.path, console, ranks)
                rows += _reinforce(other, second, policy, rows[0], console, ranks)[1:]
                runs[other.algorithm] = second.read_metrics()
        if not ranks.is_main:
            return folder.path
        draw_curves(runs, folder.curves_path)
        rows = [
            line for row in rows for line in table_rows(row.pop("policy"), row, list(envs_by_name(config)))
        ]
        columns = [column for column in TABLE_COLUMNS if any(column in row for row in rows)]
        console.print(markdown_table(rows, columns=columns), markup=False, highlight=False, soft_wrap=True)
        (folder.path / "report.md").write_text(markdown_table(rows, columns=columns) + "\n", encoding="utf-8")
    return folder.path


def _cold_start(config: TrainConfig, folder: Path, console: Console, ranks: Ranks) -> Qwen3VLPolicy:
    try:
        return cold_start(config, folder, console, ranks)
    except KeyboardInterrupt:
        saved = _last_step(folder, SFT_CHECKPOINTS)
        where = f"after step {saved}" if saved else "which will begin anew"
        raise KeyboardInterrupt(f"in the cold start, {where}") from None


def _open_for_all(
    config: TrainConfig, say: Callable[[str], None], ranks: Ranks, num_steps: int | None = None
) -> tuple[RunFolder, TrainConfig]:
    """`_open` on the main rank; the others read what it writes, on a file system that they share."""
    folder: RunFolder | None = None
    if ranks.is_main:
        folder, config = _open(config, say, num_steps)
    path, config = ranks.share((folder.path if folder else Path(), config))
    return folder or FollowedRun(path), config


def _open(
    config: TrainConfig, say: Callable[[str], None], num_steps: int | None = None
) -> tuple[RunFolder, TrainConfig]:
    """The run's folder: a new one, or the one to resume, whose own configuration then holds, but for `num_steps`.

    Everything is checked before the folder is made or changed.
    """
    if not config.resume:
        if config.run_dir:
            check_new_folder(Path(config.run_dir), "run_dir")
        check_training(config)
        check_fits(config)
        return open_run(config, config.algorithm, say)
    path = Path(config.run_dir) if config.run_dir else latest_run_path("runs", config.algorithm)
    config = read_config(path)
    start = path / "start" if (path / "start").exists() else None
    check_training(config, has_start=start is not None)
    check_fits(config, start=start)
    if num_steps is not None:
        with lock_folder(path):
            config = _change_num_steps(path, config, num_steps)
    return resume_folder(path, say), dataclasses.replace(config, resume=True)


def _change_num_steps(path: Path, config: TrainConfig, num_steps: int) -> TrainConfig:
    """`change_num_steps` of the run and of its baseline inside it."""
    num_done = max(_last_step(folder) or 0 for folder in (path, path / str(config.baseline)))
    inside = path / str(config.baseline)
    if (inside / "config.yaml").exists():
        change_num_steps(inside, read_config(inside), num_steps=num_steps, num_done=num_done)
    return change_num_steps(path, config, num_steps=num_steps, num_done=num_done)


def _open_baseline(
    folder: RunFolder, config: TrainConfig, say: Callable[[str], None], ranks: Ranks
) -> RunFolder:
    """The second algorithm's folder inside the run's, new or gone on with."""
    path = folder.path / config.algorithm
    if not ranks.is_main:
        return FollowedRun(path)
    if (path / "config.yaml").exists():
        return resume_folder(path, say)
    return RunFolder.create(path, to_yaml(config))


def _last_step(path: Path, name: str = "checkpoints") -> int | None:
    checkpoint = latest_checkpoint(path / name)
    return None if checkpoint is None else int(checkpoint.name.removeprefix("step-"))


def _reinforce(
    config: TrainConfig,
    folder: RunFolder,
    policy: Qwen3VLPolicy,
    start_row: dict[str, Any] | None,
    console: Console,
    ranks: Ranks,
) -> list[dict[str, Any]]:
    """Reinforcement learning of `policy`, from its start or the newest checkpoint; returns the table's rows.

    start_row: the start's measurement, where it was made already.
    """
    ranks.barrier()  # the folder is open
    if ranks.is_main:
        folder.sinks += open_sinks(
            folder=folder.path,
            tensorboard=config.logging.tensorboard,
            wandb_project=config.logging.wandb,
            name=folder.path.name,
            config=yaml.safe_load(to_yaml(config)),
            resume_step=_last_step(folder.path) or (-1 if config.resume else None),
            say=lambda text: console.print(text, highlight=False),
        )
    needs_reference = config.loss.kl_coefficient > 0 and not config.lora.rank
    reference = policy.clone_frozen() if needs_reference else None
    clock, best = Clock(), _best(folder, config, ranks)
    with Trainer(config, policy, reference, ranks) as trainer:
        start = 0
        checkpoint = latest_checkpoint(folder.checkpoints_path)
        if checkpoint is not None:
            start, state = load_checkpoint(checkpoint, policy, trainer.learner.tensors(), ranks=ranks)
            trainer.learner.set_counters(state)
            console.print(f"{config.algorithm}: going on after step {start}", highlight=False)
            best.rewind()
            best.settle()
        else:
            numbers = start_row or _evaluate(config, folder, policy, "start", console, ranks)
            clock.lap("evaluation_s")
            folder.log(
                0,
                {f"eval/{key}": value for key, value in numbers.items() if key != "policy"},
                clock.take(),
            )
            best.rewind()
        last = ranks.share(folder.read_metrics()[-1] if ranks.is_main else {})
        if start == config.training.num_steps > 0 and "eval/pass@1" not in last:
            # Its end is where it stopped once: no line follows that one.
            numbers = _evaluate(config, folder, policy, "end", console, ranks)
            if ranks.is_main:
                set_evaluation(folder.metrics_path, start, numbers)
            clock.lap("evaluation_s")
        best.keep(policy, start)
        clock.lap("checkpoint_s")
        _loop(config, folder, trainer, policy, start, clock, console)
    while folder.sinks:
        folder.sinks.pop().close()
    clock.lap()
    if ranks.is_main:
        save_policy(folder.path / "policy", policy)
        clock.lap("checkpoint_s")
        folder.write_curves()
        clock.lap("views_s")
        for line in (shares([*read_jsonl(folder.timings_path), clock.take()]), best.in_words()):
            if line:
                _printer(console)(f"{config.algorithm}: {line}")
    ranks.barrier()
    rows = []
    for record in folder.read_metrics():
        if "eval/pass@1" in record:
            name = "start" if record["step"] == 0 else f"{config.algorithm}, {record['step']} steps"
            numbers = {key[5:]: value for key, value in record.items() if key.startswith("eval/")}
            rows.append({"policy": name, **numbers})
    return rows


def _best(folder: RunFolder, config: TrainConfig, ranks: Ranks) -> BestPolicy:
    """The best policy so far, which the main rank keeps."""
    if not ranks.is_main:
        config = dataclasses.replace(
            config, checkpoint=dataclasses.replace(config.checkpoint, best_metric=None)
        )
    return BestPolicy(folder.path, config)


def _loop(
    config: TrainConfig,
    folder: RunFolder,
    trainer: Trainer,
    policy: Qwen3VLPolicy,
    start: int,
    clock: Clock,
    console: Console,
) -> None:
    """Steps from `start` on, with evaluations, pages, curves and checkpoints as often as configured.

    Ctrl-C saves the last finished step; the KeyboardInterrupt that is raised then says so.
    """
    num_steps, done = config.training.num_steps, start
    best = _best(folder, config, trainer.ranks)

    def save(step: int) -> None:
        learner = trainer.learner
        save_checkpoint(
            folder.checkpoints_path,
            step,
            policy,
            learner.counters(),
            learner.tensors(),
            keep=config.checkpoint.keep,
            ranks=trainer.ranks,
        )
        best.settle()

    with (
        Progress(
            num_steps, start_step=start, title=config.algorithm, show=SHOWN, console=console
        ) as progress,
        CtrlC(lambda: trainer.has_begun_update, progress.say) as ctrl_c,
    ):
        watch = UngradedWatch(progress.say)
        try:
            for step in range(start + 1, num_steps + 1):
                result = trainer.step(step - 1, progress.inside)
                clock.lap()  # it has laps of its own
                metrics: dict[str, Any] = dict(result.metrics)
                watch.add(trajectory for group in result.groups for trajectory in group.trajectories)
                if is_evaluated(config, step):
                    name = "end" if step == num_steps else f"step-{step:06d}"
                    numbers = _evaluate(config, folder, policy, name, console, trainer.ranks, progress.inside)
                    metrics |= {f"eval/{key}": value for key, value in numbers.items()}
                    clock.lap("evaluation_s")
                folder.log(step, metrics, {**result.timings, **clock.take()})
                progress.update(step, metrics)
                _write_views(config, folder, policy, step, result)
                clock.lap("views_s")
                if is_evaluated(config, step):
                    best.keep(policy, step)
                if step == num_steps or _due(step, config.checkpoint.every_num_steps):
                    save(step)
                clock.lap("checkpoint_s")
                trainer.has_begun_update, done = False, step
                ctrl_c.check()
        except KeyboardInterrupt:
            saved = _last_step(folder.path) or 0
            # Several ranks are interrupted at different points, and save only together.
            if saved < done and not trainer.has_begun_update and trainer.ranks.size == 1:
                save(done)
                saved = done
            what = f"saved as {folder.checkpoints_path}/step-{saved:06d}" if saved else "no step is finished"
            raise KeyboardInterrupt(f"after step {saved} of {num_steps}, {what}") from None


def _write_views(
    config: TrainConfig, folder: RunFolder, policy: Qwen3VLPolicy, step: int, result: StepResult
) -> None:
    """A page of trajectories and the curves, where they are due."""
    logging = config.logging
    if _due(step, logging.trajectories_every_num_steps) or step == 1:
        folder.write_trajectories(
            step, transcripts(result.groups, policy.chat, num_shown=logging.num_trajectories)
        )
    if _due(step, logging.curves_every_num_steps):
        folder.write_curves()


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _evaluate(
    config: TrainConfig,
    folder: RunFolder,
    policy: Qwen3VLPolicy,
    name: str,
    console: Console,
    ranks: Ranks,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Measures the policy on the held-out split, writes evaluation-NAME.json, returns the numbers.

    on_progress: None shows how far it is, too.
    """
    with nullcontext(on_progress) if on_progress else show_stages(console) as told:
        groups = evaluate_envs(config, policy, say=_printer(console), on_progress=told, ranks=ranks)
    numbers = summarize_envs(groups, k=config.evaluation.rollouts_per_question)
    if ranks.is_main:
        write_json(folder.path / f"evaluation-{name}.json", numbers)
    said = f"held-out questions, {name}: {in_short(numbers, list(groups))}"
    console.print(said, highlight=False, soft_wrap=True)
    return numbers


# What a resumed run may be given: which run it is, and how long it shall be.
_WITH_RESUME = ("resume", "run_dir", "algorithm", "training.num_steps")


def _dry_run(config: TrainConfig, say: Callable[[str], None]) -> None:
    """Prints the plan. Raises ConfigError where it does not fit."""
    plan = make_plan(config)
    say(format_plan(plan))
    found = problems(plan)
    if found:
        raise ConfigError("; ".join(found))


def main(argv: Sequence[str] | None = None) -> Path | None:
    """The command. A resumed run (`--resume`) keeps its own configuration, but for `training.num_steps`.

    Returns the run's folder; None for `dry_run=true`, which makes none.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    with command() as ending:
        print_help(arguments, TrainConfig)
        given = given_keys(arguments, TrainConfig)
        config = load_config(with_default_recipe(arguments, "nano"), TrainConfig)
        refused = [key for key in given if key not in _WITH_RESUME]
        if config.resume and refused:
            raise ConfigError(
                f"a resumed run keeps its own configuration; {', '.join(refused)} cannot be changed. Allowed beside "
                "resume: run_dir, algorithm (which run to find), training.num_steps (how long it shall be)"
            )
        num_steps = config.training.num_steps if "training.num_steps" in given else None
        if config.dry_run:
            _dry_run(config, _printer(Console(markup=False)))
            return None
        with ranks_of_torchrun() as ranks:
            console = _console(None, ranks)
            with checking("run_dir"):
                folder, config = _open_for_all(config, _printer(console), ranks, num_steps)
            resume = f"python -m axpo_algo.train --resume run_dir={shlex.quote(str(folder.path))}"
            ending.how_to_go_on = f"go on with: {resume}"
            return _run(config, folder, console, ranks)


if __name__ == "__main__":
    main()
