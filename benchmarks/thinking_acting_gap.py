"""Does AXPO close the Thinking-Acting Gap where GRPO does not? Both from one cold start, on one budget, over seeds.

    python benchmarks/thinking_acting_gap.py [--seeds 0,1,2] [--runs FOLDER] [--json PATH] [--png PATH] [KEY=VALUE ...]

Each seed is a run of the recipe `nano` in FOLDER/seed-N: cold start, AXPO, GRPO with as many rollouts. Runs that are
finished are read, broken ones gone on with. The rest of the arguments override the recipe. About seven minutes a seed
on two cores.
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from axpo_algo.config import TrainConfig, load_config_or_exit
from axpo_algo.run.curves import Panel, draw_curves
from axpo_algo.run.folder import read_jsonl
from axpo_algo.run.tables import markdown_table, write_json
from axpo_algo.train import train

SHOWN = (
    "pass@1",
    "pass@4",
    "tool_use_rate_needed",
    "pass@1_tool",
    "pass@1_no_tool",
    "all_wrong_tool",
    "all_wrong_no_tool",
)
PANELS = (
    Panel(title="share of right answers in training", keys=("train/mean_reward",)),
    Panel(title="share of rollouts that call the tool", keys=("train/tool_use_rate",)),
    Panel(title="tool-using subgroups that are all wrong", keys=("train/all_wrong_tool",)),
)

Records = Sequence[Mapping[str, Any]]


def run_seed(seed: int, folder: Path, overrides: Sequence[str]) -> dict[str, Records]:
    """Trains one seed, or reads it where it is finished: {algorithm: its metrics}."""
    path = folder / f"seed-{seed}"
    if not (path / "report.md").exists():
        resume = ["resume=true"] if (path / "metrics.jsonl").exists() else []
        train(
            load_config_or_exit(
                ["recipe=nano", f"seed={seed}", f"run_dir={path}", *resume, *overrides], TrainConfig
            )
        )
    return {"axpo": read_jsonl(path / "metrics.jsonl"), "grpo": read_jsonl(path / "grpo" / "metrics.jsonl")}


def evaluation(record: Mapping[str, Any]) -> dict[str, Any]:
    """The shown numbers of a step's evaluation."""
    return {name: record.get(f"eval/{name}") for name in SHOWN}


def mean_row(rows: Sequence[Mapping[str, Any]], policy: str) -> dict[str, Any]:
    """The mean over seeds of every number of `policy`; a number that some seed lacks is left out."""
    mine = [row for row in rows if row["policy"] == policy]
    means = {}
    for name in SHOWN:
        values = [row[name] for row in mine]
        means[name] = statistics.fmean(values) if all(value is not None for value in values) else None
    return {"seed": "mean", "policy": policy, **means}


def mean_records(runs: Sequence[Records], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Step by step, the mean over seeds of the given metrics; a step that some seed lacks a number in is a gap."""
    merged = []
    for records in zip(*runs, strict=True):
        row: dict[str, Any] = {"step": records[0]["step"]}
        for key in keys:
            values = [record.get(key) for record in records]
            if all(value is not None for value in values):
                row[key] = statistics.fmean(values)
        merged.append(row)
    return merged


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated")
    parser.add_argument("--runs", type=Path, default=Path("runs/thinking_acting_gap"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    options, overrides = parser.parse_known_args(argv)

    seeds = [int(seed) for seed in options.seeds.split(",")]
    runs = {seed: run_seed(seed, options.runs, overrides) for seed in seeds}
    rows = []
    for seed, algorithms in runs.items():
        rows.append({"seed": seed, "policy": "start", **evaluation(algorithms["axpo"][0])})
        for name in ("grpo", "axpo"):
            rows.append({"seed": seed, "policy": name, **evaluation(algorithms[name][-1])})
    rows += [mean_row(rows, policy) for policy in ("start", "grpo", "axpo")]
    if options.png:
        keys = [key for panel in PANELS for key in panel.keys]
        means = {name: mean_records([r[name] for r in runs.values()], keys) for name in ("grpo", "axpo")}
        draw_curves(means, options.png, panels=PANELS)
    if options.json:
        write_json(options.json, {"rows": rows})
    print(markdown_table(rows, columns=("seed", "policy", *SHOWN)))


if __name__ == "__main__":
    main()
