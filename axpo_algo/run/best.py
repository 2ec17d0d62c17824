"""The policy that was best by evaluation, kept beside the newest.

    best/                 a policy's folder, as `policy` is
        best.json         {"step": 50, "metric": "pass@1", "value": 0.93}
    .best-000020/         that of step 20, the best before it, while the run may yet have to go back there

Which step is best, metrics.jsonl says: the first with the highest number. A run goes back behind its best where it was
killed before the next checkpoint, and where it is made longer and its best was an end that is no longer evaluated.
"""

import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from axpo_algo.config import TrainConfig
from axpo_algo.models.qwen3_vl import Qwen3VLPolicy
from axpo_algo.run.checkpoint import latest_checkpoint, save_policy
from axpo_algo.run.disk import sync
from axpo_algo.run.extend import is_evaluated_anyhow
from axpo_algo.run.jsonl import read_jsonl
from axpo_algo.run.tables import format_value

__all__ = ["BestPolicy", "best_metrics", "find_best"]

NOTE = "best.json"


def best_metrics(k: int) -> list[str]:
    """The numbers of an evaluation with `k` rollouts a question of which more is better."""
    passes = dict.fromkeys(["pass@1", f"pass@{k}"])
    return [*passes, "mean_reward", "pass@1_tool", "pass@1_no_tool", "aim_on_target", "aim_bits"]


def find_best(records: Iterable[Mapping[str, Any]], metric: str) -> dict[str, Any] | None:
    """What best.json says of a run with these lines in its metrics.jsonl; None where they have no such number."""
    best: dict[str, Any] | None = None
    for record in records:
        value = record.get(f"eval/{metric}")
        if value is not None and math.isfinite(value) and (best is None or value > best["value"]):
            best = {"step": record["step"], "metric": metric, "value": value}
    return best


class BestPolicy:
    """The best policy of the run at `run`, by `config.checkpoint.best_metric`; with null, all of this does nothing."""

    def __init__(self, run: Path, config: TrainConfig) -> None:
        self.run, self.config = run, config
        self.path = run / "best"

    def keep(self, policy: Qwen3VLPolicy, step: int) -> None:
        """Keeps `policy`, as it is after `step`, if the run is at its best there and it is not kept yet.

        To be called once the step is logged and before its checkpoint: a run that goes on from there then has its
        best. Raises CheckpointError if a weight is not finite.
        """
        note, old = self._expected(), _read(self.path)
        if note is None or note["step"] != step or note == old:
            return
        if old is not None:
            os.replace(self.path, self.run / f".best-{old['step']:06d}")
            sync(self.run)
        save_policy(self.path, policy, {NOTE: json.dumps(note) + "\n"})
        self.settle()

    def settle(self) -> None:
        """Removes the bests before that the run cannot go back to: after a checkpoint, and where it goes on from one.

        It can go back to its newest checkpoint, and, made longer, behind an end that only was evaluated for being one.
        """
        note = _read(self.path)
        if note is None:
            return
        checkpoint = latest_checkpoint(self.run / "checkpoints")
        last = -1 if checkpoint is None else int(checkpoint.name.removeprefix("step-"))
        older, needed = self._older(), set()
        if note["step"] > last:
            needed.add(max((step for step in older if step <= last), default=None))
        if not is_evaluated_anyhow(self.config, note["step"]):
            due = [step for step in older if is_evaluated_anyhow(self.config, step)]
            needed.add(max(due, default=None))
        for step, folder in older.items():
            if step not in needed:
                shutil.rmtree(folder)

    def rewind(self) -> None:
        """Where a run goes on: a best that metrics.jsonl does not have (any more) gives way to the one before."""
        metric = self.config.checkpoint.best_metric
        if metric is None:
            return
        known = [find_best([record], metric) for record in read_jsonl(self.run / "metrics.jsonl")]
        for folder in (self.path, *self._older().values()):
            note = _read(folder)
            if note is None or note not in known:
                shutil.rmtree(folder, ignore_errors=True)
        older = self._older()
        if older and not self.path.exists():
            os.replace(older[max(older)], self.path)
            sync(self.run)

    def _older(self) -> dict[int, Path]:
        """The bests before, by step."""
        return {
            int(folder.name.removeprefix(".best-")): folder for folder in self.run.glob(".best-[0-9]*[0-9]")
        }

    def in_words(self) -> str:
        """For example "best pass@1: 0.930 after step 50, kept as RUN/best"; empty where nothing was measured."""
        note = self._expected()
        if note is None:
            return ""
        kept = "kept as" if note == _read(self.path) else "no longer in"
        return f"best {note['metric']}: {format_value(note['value'])} after step {note['step']}, {kept} {self.path}"

    def _expected(self) -> dict[str, Any] | None:
        metric = self.config.checkpoint.best_metric
        return None if metric is None else find_best(read_jsonl(self.run / "metrics.jsonl"), metric)


def _read(folder: Path) -> dict[str, Any] | None:
    """The best.json in a folder; None where there is none that can be read."""
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) else None
