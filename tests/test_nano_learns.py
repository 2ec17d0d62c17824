"""The claim of the README, one seed in full: the gap is there, AXPO closes it, GRPO gives the tool up."""

import json

import pytest

from axpo_algo.config import TrainConfig, load_config
from axpo_algo.runfolder import read_jsonl
from axpo_algo.train import train


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_from_one_cold_start_axpo_learns_the_tool_and_grpo_drops_it(tmp_path):
    config = load_config(["recipe=nano", "seed=1", f"run_dir={tmp_path / 'run'}"], TrainConfig)
    run = train(config)
    start = json.loads((run / "evaluation-start.json").read_text())
    assert 0.2 <= start["tool_use_rate"] <= 0.4
    assert start["pass@1_tool"] < start["pass@1_no_tool"]
    assert start["all_wrong_tool"] > start["all_wrong_no_tool"]

    axpo = json.loads((run / "evaluation-end.json").read_text())
    assert axpo["pass@1"] >= start["pass@1"] + 0.10
    assert axpo["tool_use_rate_needed"] > start["tool_use_rate_needed"]
    grpo = json.loads((run / "grpo" / "evaluation-end.json").read_text())
    assert grpo["tool_use_rate"] < axpo["tool_use_rate"]
    assert grpo["pass@1"] < axpo["pass@1"]

    for folder in (run, run / "grpo"):
        steps = read_jsonl(folder / "metrics.jsonl")[1:]
        assert len(steps) == config.training.num_steps
        assert max(step["train/logprob_gap"] for step in steps) < 1e-4
