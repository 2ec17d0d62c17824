"""The claim of the README on one seed, in full: the Thinking-Acting Gap is there at the start, and AXPO closes it."""

import json

import pytest

from axpo_algo.config import TrainConfig, load_config
from axpo_algo.runfolder import read_jsonl
from axpo_algo.train import train


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_from_its_cold_start_axpo_learns_the_tool(tmp_path):
    config = load_config(["recipe=nano", "baseline=null", f"run_dir={tmp_path / 'run'}"], TrainConfig)
    run = train(config)
    start = json.loads((run / "evaluation-start.json").read_text())
    assert 0.2 <= start["tool_use_rate"] <= 0.4
    assert start["pass@1_tool"] < start["pass@1_no_tool"]
    assert start["all_wrong_tool"] > start["all_wrong_no_tool"]

    end = json.loads((run / "evaluation-end.json").read_text())
    assert end["pass@1"] >= start["pass@1"] + 0.10
    assert end["tool_use_rate_needed"] > start["tool_use_rate_needed"]

    steps = read_jsonl(run / "metrics.jsonl")[1:]
    assert len(steps) == config.training.num_steps
    assert max(step["train/logprob_gap"] for step in steps) < 1e-4
