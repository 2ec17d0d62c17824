"""Giving a run another number of steps, so that it ends as an unbroken run of that many steps would have.

Only the end of a run depends on how long it is: its last step is evaluated, whether or not an evaluation was due.
Opening the folder, and training on from its newest checkpoint, is left to `axpo_algo.train`.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from axpo_algo.config import ConfigError, TrainConfig, to_yaml
from axpo_algo.run.disk import write_whole

__all__ = ["change_num_steps", "is_evaluated", "is_evaluated_anyhow", "set_evaluation"]


def is_evaluated(config: TrainConfig, step: int) -> bool:
    """Whether a run measures the policy after `step`."""
    return step == config.training.num_steps or is_evaluated_anyhow(config, step)


def is_evaluated_anyhow(config: TrainConfig, step: int) -> bool:
    """Whether a run of any length measures the policy after `step`."""
    every = config.evaluation.every_num_steps
    return step == 0 or (every > 0 and step % every == 0)


def change_num_steps(folder: Path, config: TrainConfig, *, num_steps: int, num_done: int) -> TrainConfig:
    """`config` with `num_steps`, written to `folder`; metrics.jsonl and the evaluations as such a run has them by now.

    num_done: steps of its newest checkpoint. Raises ConfigError, and changes nothing, where there are more of them.
    """
    old_end = config.training.num_steps
    if num_steps < num_done:
        raise ConfigError(
            f"training.num_steps: {folder} has done {num_done} steps, and can have that many or more, got {num_steps}"
        )
    config = replace(config, training=replace(config.training, num_steps=num_steps))
    if num_steps != old_end:
        if not is_evaluated(config, old_end):
            set_evaluation(folder / "metrics.jsonl", old_end, None)
        last = folder / "evaluation-end.json"
        if last.exists() and is_evaluated(config, old_end):
            os.replace(last, folder / f"evaluation-step-{old_end:06d}.json")
        last.unlink(missing_ok=True)
        write_whole(folder / "config.yaml", to_yaml(config))
    return config


def set_evaluation(path: Path, step: int, numbers: Mapping[str, Any] | None) -> None:
    """Makes `numbers` the evaluation in the line of `step` of a metrics.jsonl; None: takes it out."""
    lines = path.read_text(encoding="utf-8").split("\n")
    for index, line in enumerate(lines[:-1]):  # what follows the last line's end was cut off in the writing
        record = json.loads(line)
        if record["step"] == step:
            record = {key: value for key, value in record.items() if not key.startswith("eval/")}
            record |= {f"eval/{key}": value for key, value in (numbers or {}).items()}
            lines[index] = json.dumps(record, allow_nan=False)
    write_whole(path, "\n".join(lines))
