"""The claim of the README on two seeds in full: the cold start sees and half aims, and AXPO learns the tool.

All ten seeds, other arithmetics and GRPO beside it are run by benchmarks/thinking_acting_gap.py.
"""

import json

import pytest

from axpo_algo.config import TrainConfig, load_config
from axpo_algo.run.folder import read_jsonl
from axpo_algo.train import train

SEEDS = (0, 5)  # of the first ten only 8 needs more steps than 5 to learn to read


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("seed", SEEDS)
def test_from_its_cold_start_axpo_learns_the_tool(tmp_path, seed):
    overrides = ["baseline=null", f"seed={seed}", f"run_dir={tmp_path / 'run'}", "training.num_threads=1"]
    config = load_config(["recipe=nano", *overrides], TrainConfig)
    run = train(config)
    start = json.loads((run / "evaluation-start.json").read_text())
    assert start["pass@1"] <= 0.40
    assert 0.2 <= start["tool_use_rate"] <= 0.4
    assert start["aim_bits"] > 0.2  # of log2(6) = 2.58; 0 where the question does not tell where to look

    steps = read_jsonl(run / "metrics.jsonl")[1:]
    assert len(steps) == config.training.num_steps
    assert max(step["train/logprob_gap"] for step in steps) < 1e-4

    end = json.loads((run / "evaluation-end.json").read_text())
    assert end["pass@1"] >= 0.80
    assert end["tool_use_rate"] > start["tool_use_rate"]
    calls = {name: count for name, count in end.items() if name.startswith("calls/")}
    assert calls.get("calls/malformed", 0) <= 0.02 * sum(calls.values())
