"""Does AXPO close the Thinking-Acting Gap, on every seed and on other arithmetics, and does GRPO?

    python benchmarks/thinking_acting_gap.py [--recipes nano,nano-gap] [--seeds 0-9] [--jobs 2] [KEY=VALUE ...]
    python benchmarks/thinking_acting_gap.py --report

Each run is `python -m axpo_algo.train` in a process and a folder of its own: cold start, AXPO, and from the same start
GRPO with as many rollouts. `nano` is also run with other arithmetics, AXPO alone, since a claim about learning that
holds on one processor may fail on the next. Finished runs are read, broken ones gone on with. The numbers go to
results/thinking_acting_gap.json; `--report` draws the figure and writes the README's tables from that file alone,
what did not hold included. The rest of the arguments override the recipes. About nine core-minutes a run of `nano`.
"""

import argparse
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scipy import stats

from axpo_algo.run.curves import Panel, draw_curves
from axpo_algo.run.folder import read_jsonl
from axpo_algo.run.tables import markdown_table, write_json

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "thinking_acting_gap.json"
README = HERE.parent / "README.md"
RECIPES = {"nano": range(10), "nano-gap": range(5)}  # seeds of each
ARITHMETICS: dict[str, dict[str, str]] = {  # environment of the process, one factor at a time
    "": {},
    "ATEN_CPU_CAPABILITY=default": {"ATEN_CPU_CAPABILITY": "default"},
    "MKL_CBWR=COMPATIBLE": {"MKL_CBWR": "COMPATIBLE"},
    "2 threads": {"OMP_NUM_THREADS": "2"},
}
ARITHMETIC_SEEDS = range(3)
SHOWN = (
    "pass@1",
    "pass@4",
    "tool_use_rate",
    "pass@1_tool",
    "pass@1_no_tool",
    "all_wrong_tool",
    "all_wrong_no_tool",
    "aim_on_target",
    "aim_bits",
    "malformed",
)
LEARNED = 0.8
CURVES = ("train/mean_reward", "train/tool_use_rate", "train/all_wrong_tool", "train/aim_on_target")
PANELS = (
    Panel(title="right answers in training", keys=CURVES[:1]),
    Panel(title="rollouts that call the tool", keys=CURVES[1:2]),
    Panel(title="tool-using subgroups that are all wrong", keys=CURVES[2:3]),
    Panel(title="first zooms on target", keys=CURVES[3:]),
)

Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run to make."""

    recipe: str
    seed: int
    arithmetic: str = ""
    """a key of ARITHMETICS"""

    @property
    def name(self) -> str:
        return "-".join(filter(None, [self.recipe, str(self.seed), re.sub(r"\W+", "-", self.arithmetic)]))


def planned(recipes: Sequence[str], seeds: Sequence[int] | None) -> Iterator[Run]:
    """The runs of these recipes, seed by seed; `seeds` None: all there are."""
    for recipe in recipes:
        for seed in RECIPES[recipe] if seeds is None else seeds:
            yield Run(recipe=recipe, seed=seed)
    if "nano" in recipes:
        for arithmetic in list(ARITHMETICS)[1:]:
            for seed in ARITHMETIC_SEEDS:
                if seeds is None or seed in seeds:
                    yield Run(recipe="nano", seed=seed, arithmetic=arithmetic)


def train(run: Run, folder: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Makes, goes on with, or reads one run; returns what is kept of it. Raises CalledProcessError where it fails."""
    path = folder / run.name
    threads = 2 if run.arithmetic == "2 threads" else 1
    if not (path / "report.md").exists():
        arguments = [f"recipe={run.recipe}", f"seed={run.seed}", f"run_dir={path}"]
        arguments += [f"training.num_threads={threads}", "logging.trajectories_every_num_steps=0"]
        arguments += ["baseline=null"] if run.arithmetic else []
        if (path / "metrics.jsonl").exists():
            arguments, overrides = ["--resume", f"run_dir={path}"], ()
        subprocess.run(
            [sys.executable, "-m", "axpo_algo.train", *arguments, *overrides],
            env={**os.environ, "OMP_NUM_THREADS": "1", **ARITHMETICS[run.arithmetic]},
            stdout=subprocess.DEVNULL,
            check=True,
        )
    return {"recipe": run.recipe, "seed": run.seed, "arithmetic": run.arithmetic, **measured(path)}


def measured(path: Path) -> dict[str, Any]:
    """What is kept of a finished run: evaluations at the start and the ends, curves, when it had learned."""
    runs = {"axpo": read_jsonl(path / "metrics.jsonl")}
    if (path / "grpo" / "metrics.jsonl").exists():
        runs["grpo"] = read_jsonl(path / "grpo" / "metrics.jsonl")
    kept: dict[str, Any] = {"start": evaluation(runs["axpo"][0])}
    for name, records in runs.items():
        kept[name] = evaluation(records[-1])
        kept[f"{name}_curves"] = {
            key: [_rounded(record.get(key)) for record in records[1:]] for key in CURVES
        }
        kept[f"{name}_malformed"] = [record.get("train/calls/malformed", 0) for record in records[1:]]
    kept["logprob_gap"] = max(
        record["train/logprob_gap"] for records in runs.values() for record in records[1:]
    )
    return kept


def evaluation(record: Mapping[str, Any]) -> dict[str, float | None]:
    """The shown numbers of a step's evaluation; `malformed` is the share of calls that could not be read."""
    calls = {key: value for key, value in record.items() if key.startswith("eval/calls/")}
    malformed = calls.get("eval/calls/malformed", 0) / sum(calls.values()) if calls else None
    values = {name: record.get(f"eval/{name}") for name in SHOWN if name != "malformed"}
    return {name: _rounded(value) for name, value in {**values, "malformed": malformed}.items()}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def broken_claims(row: Mapping[str, Any]) -> list[str]:
    """What a run was meant to show and did not: empty where all of it held."""
    start, end = row["start"], row["axpo"]
    claims = {"AXPO ends at Pass@1 0.80 or more": end["pass@1"] >= 0.80}
    if row["recipe"] == "nano":
        claims["it starts at Pass@1 0.40 or less"] = start["pass@1"] <= 0.40
        claims["at most 2 % of the calls are malformed at the end"] = (end["malformed"] or 0.0) <= 0.02
    else:
        claims["tool use starts at 0.20 to 0.40"] = 0.20 <= start["tool_use_rate"] <= 0.40
        claims["Pass@1 with the tool starts 0.10 or more below Pass@1 without"] = (
            start["pass@1_tool"] <= start["pass@1_no_tool"] - 0.10
        )
        claims["tool-using subgroups start all-wrong more often than no-tool ones"] = (
            start["all_wrong_tool"] > start["all_wrong_no_tool"]
        )
    return [claim for claim, held in claims.items() if not held]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % confidence interval of the mean (Student's t), from two values or more."""
    mean, spread = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * spread
    return mean - half, mean + half


def in_words(values: Sequence[float | None], *, is_rate: bool = True) -> str:
    """Mean and interval over seeds; seeds without the number (nothing to count) are left out."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return f"{known[0]:.2f}" if known else "-"
    low, high = interval(known)
    if is_rate:
        low, high = max(low, 0.0), min(high, 1.0)
    return f"{statistics.fmean(known):.2f} [{low:.2f}, {high:.2f}]"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Both recipes beside each other: every seed's Pass@1, then means and intervals."""
    lines = []
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        mine = [row for row in rows if row["recipe"] == recipe and not row["arithmetic"]]
        for policy in ("start", "grpo", "axpo"):
            found = [row[policy] for row in mine if policy in row]
            if not found:
                continue
            lines.append(
                {
                    "recipe": f"`{recipe}`",
                    "policy": {"start": "cold start", "grpo": "GRPO", "axpo": "AXPO"}[policy],
                    "Pass@1 of each seed": " ".join(f"{numbers['pass@1']:.2f}"[1:] for numbers in found),
                    "Pass@1": in_words([numbers["pass@1"] for numbers in found]),
                    "tool use": in_words([numbers["tool_use_rate"] for numbers in found]),
                    "all-wrong, tool": in_words([numbers["all_wrong_tool"] for numbers in found]),
                    "all-wrong, no tool": in_words([numbers["all_wrong_no_tool"] for numbers in found]),
                    "on target": in_words([numbers["aim_on_target"] for numbers in found]),
                    "aim, bits": in_words([numbers["aim_bits"] for numbers in found], is_rate=False),
                }
            )
    return markdown_table(lines)


def speed_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Steps that each seed needed under either algorithm, until training rollouts are right as often as LEARNED."""
    lines = []
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        mine = [row for row in rows if row["recipe"] == recipe and not row["arithmetic"]]
        for policy in ("grpo", "axpo"):
            steps = [steps_to_learn(row[f"{policy}_curves"]) for row in mine if policy in row]
            if steps:
                median = statistics.median(math.inf if step is None else step for step in steps)
                lines.append(
                    {
                        "recipe": f"`{recipe}`",
                        "policy": policy.upper(),
                        f"steps until {LEARNED:.0%} of training rollouts are right": " ".join(
                            "-" if step is None else str(step) for step in steps
                        ),
                        "median": f"{median:g}",
                    }
                )
    return markdown_table(lines)


def steps_to_learn(curves: Mapping[str, Sequence[float | None]]) -> int | None:
    """First step at which the mean of it and the four before is LEARNED or more; None where there is none."""
    rewards = [value or 0.0 for value in curves["train/mean_reward"]]
    means = (statistics.fmean(rewards[end - 5 : end]) for end in range(5, len(rewards) + 1))
    return next((step for step, mean in enumerate(means, start=5) if mean >= LEARNED), None)


def arithmetics_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Pass@1 of AXPO by arithmetic, the seeds that were run with each."""
    lines = []
    for arithmetic in ARITHMETICS:
        mine = [row for row in rows if row["recipe"] == "nano" and row["arithmetic"] == arithmetic]
        mine = [row for row in mine if row["seed"] in ARITHMETIC_SEEDS]
        if mine:
            lines.append(
                {
                    "arithmetic of `nano`": arithmetic or "one thread, all the processor has",
                    "seeds": " ".join(str(row["seed"]) for row in mine),
                    "cold start": " ".join(f"{row['start']['pass@1']:.2f}" for row in mine),
                    "AXPO": " ".join(f"{row['axpo']['pass@1']:.2f}" for row in mine),
                }
            )
    return markdown_table(lines)


def report(document: Mapping[str, Any]) -> str:
    """The README's part: both tables, and every claim that did not hold."""
    rows = document["rows"]
    failed = [
        f"- `{row['recipe']}`, seed {row['seed']}{', ' + row['arithmetic'] if row['arithmetic'] else ''}: "
        f"not so that {claim} ({row['start']['pass@1']:.2f} to {row['axpo']['pass@1']:.2f})"
        for row in rows
        for claim in broken_claims(row)
    ]
    held = f"Of {len(rows)} runs, all that was claimed held in {sum(not broken_claims(row) for row in rows)}."
    parts = [table(rows), speed_table(rows), arithmetics_table(rows), held, "\n".join(failed)]
    return "\n\n".join(filter(None, parts))


def figure(document: Mapping[str, Any], path: Path) -> None:
    """Mean curves over seeds, a line per recipe and algorithm."""
    curves = {}
    for recipe in dict.fromkeys(row["recipe"] for row in document["rows"]):
        mine = [row for row in document["rows"] if row["recipe"] == recipe and not row["arithmetic"]]
        for name in ("grpo", "axpo"):
            runs = [row[f"{name}_curves"] for row in mine if f"{name}_curves" in row]
            if runs:
                curves[f"{recipe}, {name.upper()}"] = mean_records(runs)
    draw_curves(curves, path, panels=PANELS)


def mean_records(runs: Sequence[Mapping[str, Sequence[float | None]]]) -> list[dict[str, Any]]:
    """Step by step, the mean over runs of every curve; a step that some run lacks a number in is a gap."""
    merged: list[dict[str, Any]] = []
    for step in range(min(len(values) for run in runs for values in run.values())):
        record: dict[str, Any] = {"step": step + 1}
        for key in runs[0]:
            values = [run[key][step] for run in runs]
            if all(value is not None for value in values):
                record[key] = statistics.fmean([value for value in values if value is not None])
        merged.append(record)
    return merged


def write_readme(text: str, path: Path = README) -> None:
    """Puts `text` between the markers in the README. Raises ValueError where they are not there."""
    begin, end = "<!-- thinking_acting_gap -->", "<!-- end of thinking_acting_gap -->"
    old = path.read_text(encoding="utf-8")
    if begin not in old or end not in old:
        raise ValueError(f"{path} has no markers {begin} and {end}")
    head, tail = old.partition(begin)[0], old.partition(end)[2]
    path.write_text(f"{head}{begin}\n{text}\n{end}{tail}", encoding="utf-8")


def machine() -> dict[str, str]:
    """What decides the last digits: processor and libraries."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "numpy", "axpo")},
    }


def _seeds(text: str) -> list[int]:
    """ "0-2,7" is [0, 1, 2, 7]."""
    seeds: list[int] = []
    for part in text.split(","):
        low, _, high = part.partition("-")
        seeds += range(int(low), int(high or low) + 1)
    return seeds


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", default=",".join(RECIPES), help="comma-separated")
    parser.add_argument("--seeds", type=_seeds, help="such as 0-2,7; by default each recipe's own")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, a core each")
    parser.add_argument("--runs", type=Path, default=Path("runs/thinking_acting_gap"))
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true", help="run nothing: README and figure from the JSON")
    options, overrides = parser.parse_known_args(argv)
    if options.report:
        document = json.loads(options.json.read_text(encoding="utf-8"))
        write_readme(report(document))
        figure(document, HERE / "thinking_acting_gap.png")
    else:
        runs = list(planned(options.recipes.split(","), options.seeds))
        with ThreadPoolExecutor(options.jobs) as pool:
            rows = list(pool.map(lambda run: train(run, options.runs, overrides), runs))
        document = {"machine": machine(), "overrides": overrides, "rows": rows}
        write_json(options.json, document)
    print(report(document))
    return document


if __name__ == "__main__":
    main()
