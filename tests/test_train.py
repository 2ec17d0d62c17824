"""The whole chain, small: a taught policy, training steps that agree with their rollouts, seeds, killing and
resuming."""

import io
import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForImageTextToText

from axpo_algo.config import TrainConfig, config_from_mapping
from axpo_algo.evaluate import main as evaluate_main
from axpo_algo.models.nano import build_nano
from axpo_algo.models.qwen3_vl import Qwen3VLPolicy
from axpo_algo.run.folder import read_jsonl
from axpo_algo.sft import run_sft
from axpo_algo.train import main as train_main
from axpo_algo.train import train
from axpo_algo.trainer import Trainer

NANO_ENV = {
    "kwargs": {"source": "synthetic", "difficulty": "nano", "max_pixels": 2304, "tools": ["image_zoom_in"]}
}


def config(**overrides):
    values = {
        "env": NANO_ENV,
        "policy": {"device": "cpu"},
        "training": {"num_steps": 4},
        "rollout": {"group_size": 4, "questions_per_step": 4, "max_new_tokens": 40},
        "axpo": {"extra_budget": 0.5, "continuations": 2},
        "optimizer": {"learning_rate": 3e-4, "warmup_steps": 2},
        "evaluation": {
            "num_questions": 6,
            "rollouts_per_question": 2,
            "temperature": 1.0,
            "max_new_tokens": 40,
            "max_turns": 3,
            "every_num_steps": 0,
        },
        "logging": {"trajectories_every_num_steps": 2, "curves_every_num_steps": 0},
        "checkpoint": {"every_num_steps": 2},
    }
    for key, value in overrides.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    return config_from_mapping(values, TrainConfig)


def quiet():
    return Console(file=io.StringIO())


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A policy that has learned the wire format from a few dozen steps of demonstrations, on disk."""
    policy = build_nano(seed=0)
    losses = []
    cold_start = config(
        sft={
            "warmup_steps": 5,
            "phases": [
                {
                    "num_steps": 80,
                    "batch_size": 24,
                    "learning_rate": 3e-3,
                    "sources": [{"tool_fraction": 0.6, "aim_noise": [0.5, 0.5]}],
                }
            ],
        }
    )
    run_sft(
        policy,
        cold_start.sft,
        cold_start.env,
        max_turns=3,
        seed=0,
        log=lambda step, m: losses.append(m["sft/loss"]),
    )
    assert losses[-1] < 0.5 < 3 < losses[0]
    folder = tmp_path_factory.mktemp("taught") / "policy"
    policy.save(folder)
    return str(folder)


def test_every_trained_token_has_the_log_prob_it_was_sampled_with(taught):
    policy = Qwen3VLPolicy.load(taught)
    with Trainer(config(), policy, policy.clone_frozen()) as trainer:
        seen_prefixes = 0
        for step in range(3):
            result = trainer.step(step)
            assert result.metrics["train/logprob_gap"] < 1e-4
            assert 0 < result.metrics["train/tool_use_rate"] < 1
            seen_prefixes += result.metrics["train/num_prefixes"]
            for group in result.groups:
                for source, copies in group.continuations.items():
                    kept = group.trajectories[source]
                    for copy in copies:
                        assert copy.token_ids[: kept.branch_point] == kept.token_ids[: kept.branch_point]
        assert seen_prefixes > 0


def test_the_first_update_starts_from_the_reference(taught):
    policy = Qwen3VLPolicy.load(taught)
    with Trainer(config(algorithm="grpo"), policy, policy.clone_frozen()) as trainer:
        metrics = [trainer.step(step).metrics for step in range(5)]
    first, last = metrics[0], metrics[-1]
    assert first["train/kl"] == pytest.approx(0, abs=1e-9)
    assert last["train/kl"] > 1e-6
    assert first["train/clip_fraction"] == 0 and first["train/num_prefixes"] == 0


def test_several_updates_a_step_move_the_ratio(taught):
    policy = Qwen3VLPolicy.load(taught)
    changed = config(
        algorithm="grpo", loss={"updates_per_step": 4}, optimizer={"learning_rate": 3e-3, "warmup_steps": 0}
    )
    with Trainer(changed, policy, None) as trainer:
        metrics = [trainer.step(step).metrics for step in range(5)]
        assert trainer.learner.num_updates == 20
    assert all(m["train/logprob_gap"] < 1e-4 for m in metrics)  # each before the first of its step's updates
    assert any(m["train/clip_fraction"] > 0 for m in metrics)
    assert all(m["train/kl"] == 0 for m in metrics)  # no reference, no such term


def test_micro_batches_do_not_change_the_gradient(taught):
    weights = []
    for max_tokens in (100, 100_000):
        policy = Qwen3VLPolicy.load(taught)
        with Trainer(config(loss={"max_tokens_per_micro_batch": max_tokens}), policy, None) as trainer:
            trainer.step(0)
        weights.append(policy.model.state_dict())
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], atol=2e-5), name


@pytest.mark.slow
def test_equal_seeds_give_equal_runs_and_a_run_folder(taught, tmp_path):
    policy = {"path": taught, "device": "cpu"}
    one = train(config(policy=policy, run_dir=str(tmp_path / "one")), quiet())
    two = train(config(policy=policy, run_dir=str(tmp_path / "two")), quiet())
    other = train(config(policy=policy, seed=1, run_dir=str(tmp_path / "other")), quiet())
    assert (one / "metrics.jsonl").read_bytes() == (two / "metrics.jsonl").read_bytes()
    assert (one / "metrics.jsonl").read_bytes() != (other / "metrics.jsonl").read_bytes()
    records = read_jsonl(one / "metrics.jsonl")
    assert [r["step"] for r in records] == [0, 1, 2, 3, 4]
    assert "eval/pass@1" in records[0] and "eval/pass@2" in records[-1] and "eval/pass@1" not in records[1]
    for name in ("config.yaml", "timings.jsonl", "curves.png", "report.md", "evaluation-start.json"):
        assert (one / name).stat().st_size > 0, name
    assert list((one / "tensorboard").iterdir())
    page = (one / "trajectories" / "step-000002.md").read_text()
    assert "<tool_call>" in page and ".png" in page
    assert AutoModelForImageTextToText.from_pretrained(one / "policy").config.model_type == "qwen3_vl"
    assert "axpo, 4 steps" in (one / "report.md").read_text()


@pytest.mark.slow
def test_a_baseline_trains_from_the_same_start_on_the_same_budget(taught, tmp_path):
    small = config(
        policy={"path": taught}, training={"num_steps": 1}, run_dir=str(tmp_path / "run"), baseline="grpo"
    )
    run = train(small, quiet())
    axpo, grpo = read_jsonl(run / "metrics.jsonl"), read_jsonl(run / "grpo" / "metrics.jsonl")
    assert axpo[0] == grpo[0]  # the start
    # 4 questions of 4, and 0.5 * 16 more: as continuations, or as two more trajectories a question.
    assert axpo[1]["train/num_rollouts"] + 8 == grpo[1]["train/num_rollouts"] == 24
    assert axpo[1]["train/num_continuations"] <= 8 and grpo[1]["train/num_continuations"] == 0
    report = (run / "report.md").read_text()
    assert report.index("start") < report.index("axpo, 1 steps") < report.index("grpo, 1 steps")


@pytest.mark.slow
def test_killed_and_resumed_it_ends_where_an_unbroken_run_does(taught, tmp_path):
    arguments = [
        f"policy.path={taught}",
        "policy.device=cpu",
        "training.num_steps=6",
        "training.num_threads=1",
        "rollout.group_size=4",
        "rollout.questions_per_step=4",
        "checkpoint.every_num_steps=2",
        "evaluation.num_questions=4",
        "sft.phases=[]",
        "baseline=null",
    ]
    whole = train_main([*arguments, f"run_dir={tmp_path / 'whole'}"])
    broken = tmp_path / "broken"
    command = [sys.executable, "-m", "axpo_algo.train", *arguments, f"run_dir={broken}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics = broken / "metrics.jsonl"
    for _ in range(1200):
        if metrics.exists() and metrics.read_text().count("\n") >= 4:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    steps = len(read_jsonl(metrics)) - 1
    assert 3 <= steps < 6, "killed in the middle"
    with pytest.raises(SystemExit):
        train_main(["--resume", f"run_dir={broken}", "rollout.group_size=9"])
    assert train_main(["--resume", f"run_dir={broken}"]) == broken
    assert metrics.read_bytes() == (whole / "metrics.jsonl").read_bytes()
    for name in ("model.safetensors", "tokenizer.json"):
        assert (broken / "policy" / name).read_bytes() == (whole / "policy" / name).read_bytes()


def test_a_run_folder_is_not_overwritten(taught, tmp_path):
    folder = str(tmp_path / "run")
    train(config(policy={"path": taught}, training={"num_steps": 0}, run_dir=folder), quiet())
    with pytest.raises(FileExistsError, match="resume it, or name another folder"):
        train(config(policy={"path": taught}, training={"num_steps": 0}, run_dir=folder), quiet())


def test_unknown_names_are_refused_by_name(capsys, tmp_path):
    for argument, said in (("rollout.group_sise=4", "group_size"), ("recipe=nono", "nano")):
        with pytest.raises(SystemExit) as stop:
            train_main([argument])
        assert stop.value.code == 2
        assert said in capsys.readouterr().err
    with pytest.raises(ValueError, match="unknown algorithm 'axop'; known: axpo, grpo; nearest: axpo"):
        train(config(algorithm="axop", run_dir=str(tmp_path / "run")), quiet())
    with pytest.raises(ValueError, match="unknown algorithm 'gpro'; known: axpo, grpo; nearest: grpo"):
        train(config(baseline="gpro", run_dir=str(tmp_path / "run")), quiet())
    assert not (tmp_path / "run").exists()


def test_evaluation_of_scripted_policies_on_charts():
    arguments = ["evaluation.num_questions=20", "env.kwargs.difficulty=nano"]
    assert evaluate_main(["policy.path=oracle", *arguments])["pass@1"] == 1.0
    assert evaluate_main(["policy.path=blank", *arguments])["pass@1"] == 0.0


@pytest.mark.slow
def test_evaluation_on_real_chart_questions(taught, shared_data, tmp_path):
    source = f"env.kwargs.source={shared_data / 'HuggingFaceM4--ChartQA'}"
    assert evaluate_main(["policy.path=oracle", source, "evaluation.num_questions=300"])["pass@1"] == 1.0
    assert evaluate_main(["policy.path=blank", source, "evaluation.num_questions=300"])["pass@1"] == 0.0
    numbers = evaluate_main(
        [
            f"policy.path={taught}",
            "recipe=nano",
            source,
            "env.kwargs.max_pixels=2304",
            "evaluation.num_questions=300",
            "evaluation.rollouts_per_question=1",
            f"json={tmp_path / 'numbers.json'}",
        ]
    )
    assert (numbers["num_rollouts"], numbers["num_ungraded"]) == (300, 0)
    rollouts = json.loads((tmp_path / "numbers.json").read_text())["rollouts"]
    assert len(rollouts) == 300 and all(r["reward"] in (0.0, 1.0) for r in rollouts)
