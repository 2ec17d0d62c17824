"""Adapters: nothing at first, then what the policy that samples has merged, with everything else as it was."""

import importlib.util

import pytest
import torch
from test_packing import Maker, group
from transformers import AutoModelForImageTextToText, AutoTokenizer

from axpo_algo.config import ConfigError, LoraConfig, LossConfig, OptimizerConfig, PolicyConfig
from axpo_algo.learner import Learner
from axpo_algo.lora import without_adapters
from axpo_algo.models.nano import NanoConfig, build_nano
from axpo_algo.packing import make_trees, pack, token_logprobs
from axpo_algo.policies import load_policy
from axpo_algo.train import main as train_main

pytest.importorskip("peft")


@pytest.mark.parametrize("vision", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_adapters_train_and_the_policy_samples_with_their_product(dtype, tolerance, vision):
    policy = load_policy(PolicyConfig(device="cpu", dtype=dtype), seed=0)
    samples = group(Maker(policy, 0))
    (batch,) = pack(policy, make_trees(policy, samples), 4096)
    learner = Learner(
        policy,
        None,
        loss=LossConfig(kl_coefficient=0.1),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=0),
        lora=LoraConfig(rank=4, vision=vision),
    )
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    start = token_logprobs(policy, batch).detach()
    assert torch.equal(token_logprobs(policy, batch, network=learner.network), start)
    assert all("lora_" in name for name in learner.tensors())
    assert {t.dtype for name, t in learner.tensors().items() if name.startswith("weights.")} == {
        torch.float32
    }
    metrics = [learner.update(samples, num_trajectories=8) for _ in range(2)]
    assert metrics[0]["kl"] == 0 and metrics[1]["kl"] > 0
    trained = token_logprobs(policy, batch, network=learner.network)
    assert (trained - start).abs().max() > 0.2
    assert (trained - token_logprobs(policy, batch)).abs().max() < tolerance
    with without_adapters(learner.network):
        assert torch.equal(token_logprobs(policy, batch, network=learner.network), start)
    changed = {
        name for name, value in policy.model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed and all(".layers." in name or ".blocks." in name for name in changed)
    assert any("visual" in name for name in changed) == vision


def test_a_missing_peft_is_named_before_anything_is_made(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else found(name))
    from axpo_algo.checks import check_training
    from axpo_algo.config import TrainConfig

    with pytest.raises(ConfigError, match=r"lora\.rank: .* pip install 'axpo\[lora\]'"):
        check_training(TrainConfig(lora=LoraConfig(rank=4)))


def test_cold_start_and_training_with_adapters_export_an_ordinary_checkpoint(tmp_path):
    """With as many rows in the vocabulary as Qwen3-VL has, beyond the tokenizer's."""
    policy = build_nano(NanoConfig(hidden_size=64, num_layers=2), seed=0)
    policy.model.resize_token_embeddings(151_936)
    policy.save(tmp_path / "tiny")
    phases = "[{num_steps: 2, batch_size: 3, sources: [{tool_fraction: 0.5}]}]"
    folder = train_main(
        [
            "recipe=nano", "baseline=null", f"run_dir={tmp_path / 'run'}", f"policy.path={tmp_path / 'tiny'}",
            "policy.dtype=bfloat16", "lora.rank=4", f"sft.phases={phases}", "training.num_steps=2",
            "rollout.group_size=2", "rollout.questions_per_step=2", "rollout.max_new_tokens=8",
            "evaluation.num_questions=2", "evaluation.rollouts_per_question=1", "evaluation.max_new_tokens=8",
        ]
    )  # fmt: skip
    exported = AutoModelForImageTextToText.from_pretrained(folder / "policy", dtype="auto")
    assert exported.dtype == torch.bfloat16 and not any("lora" in name for name in exported.state_dict())
    assert exported.lm_head.weight.shape[0] == 151_936
    mine = load_policy(PolicyConfig(path=str(folder / "policy"), dtype="bfloat16", device="cpu"), seed=0)
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    prompt = torch.tensor([tokenizer("Which bar is leftmost?")["input_ids"]])
    batch = mine.batch([(prompt[0].tolist(), [])])
    expected = mine.model.lm_head(mine.hidden_states(batch)).argmax(-1)
    assert torch.equal(exported(prompt).logits.argmax(-1), expected)
