"""The learner's updates: one with a loss or a gradient that is not finite changes nothing, several end training."""

import copy
import itertools
import math
import random
from collections import Counter

import pytest
import torch

from axpo_algo.config import EnvConfig, LossConfig, OptimizerConfig, PolicyConfig, SFTConfig, SFTPhase
from axpo_algo.environments import make_env
from axpo_algo.learner import DivergedError, Learner
from axpo_algo.models import network
from axpo_algo.models.nano import build_nano
from axpo_algo.policies import load_policy
from axpo_algo.sft import demonstrate, run_sft
from axpo_algo.types import Sample, Trajectory

ENV = EnvConfig(kwargs={"difficulty": "nano", "max_pixels": 2304, "tools": ["image_zoom_in"]})


def sample(policy, advantage, text="<think>\nA bar.\n</think>\n\n<answer>\\boxed{5}</answer>"):
    tokens = policy.chat.action(text)
    trajectory = Trajectory()
    trajectory.append_observation(tokens[:1], [])
    trajectory.append_action(tokens[1:], [-1.0] * (len(tokens) - 1), text)
    return Sample(trajectory=trajectory, advantage=advantage, length=len(tokens))


def make(policy, *, max_skipped=3, parts=1, eps=1e-8):
    """max_tokens_per_micro_batch is below the length of two samples: each has a micro-batch of its own."""
    loss = LossConfig(
        kl_coefficient=0.0, updates_per_step=parts, max_tokens_per_micro_batch=20, share_prefixes=False
    )
    optimizer = OptimizerConfig(learning_rate=1e-3, warmup_steps=4, eps=eps)
    return Learner(policy, None, loss=loss, optimizer=optimizer, max_skipped_updates=max_skipped)


def everything(learner):
    """All weights and moments."""
    moments = [value for state in learner.optimizer.state.values() for value in state.values()]
    return [tensor.clone() for tensor in [*learner.policy.model.state_dict().values(), *moments]]


def equal(one, two):
    return len(one) == len(two) and all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


GOOD = (1.0, -0.5)
NOT_FINITE = [(1.0, math.nan), (math.nan, 1.0), (math.inf, 1.0), (1.0, -math.inf)]


@pytest.mark.parametrize("bad", NOT_FINITE)
def test_an_update_with_one_bad_micro_batch_changes_nothing_and_the_next_goes_on(bad):
    policy = build_nano(seed=0)
    learner, other = make(policy), make(copy.deepcopy(policy))

    def update(learner, advantages):
        samples = [sample(policy, advantage) for advantage in advantages]
        return learner.update(samples, num_trajectories=2)

    assert update(learner, GOOD)["skipped_updates"] == 0
    before = everything(learner)
    metrics = update(learner, bad)
    assert metrics["skipped_updates"] == 1 and not math.isfinite(metrics["loss"])
    assert equal(before, everything(learner)) and learner.num_updates == 1
    assert update(learner, GOOD)["skipped_updates"] == 0 and learner.num_updates == 2
    update(other, GOOD)
    update(other, GOOD)
    assert equal(everything(other), everything(learner))
    assert not equal(before, everything(learner))


def test_one_nan_in_one_gradient_leaves_no_tensor_nan():
    policy = build_nano(seed=0)
    learner = make(policy)
    calls = []

    def spoil(gradient):
        calls.append(1)
        return gradient.index_fill(0, torch.tensor([0]), math.nan) if len(calls) == 2 else gradient

    hook = next(policy.model.model.language_model.parameters()).register_hook(spoil)
    metrics = learner.update([sample(policy, advantage) for advantage in GOOD], num_trajectories=2)
    hook.remove()
    assert len(calls) == 2 and math.isfinite(metrics["loss"]) and math.isnan(metrics["grad_norm"])
    assert metrics["skipped_updates"] == 1
    assert sum(bool(tensor.isnan().any()) for tensor in everything(learner)) == 0


def test_of_a_steps_updates_only_the_bad_one_is_skipped():
    policy = build_nano(seed=0)
    learner = make(policy, parts=2)
    before = everything(learner)
    metrics = learner.update([sample(policy, a) for a in (1.0, math.nan)], num_trajectories=2)
    assert metrics["skipped_updates"] == 1 and learner.num_updates == 1
    after = everything(learner)
    assert not equal(before, after) and all(tensor.isfinite().all() for tensor in after)


def test_training_ends_at_the_named_number_in_a_row_counted_across_a_resumption():
    policy = build_nano(seed=0)
    learner = make(policy, max_skipped=3)

    def update(advantage):
        return learner.update([sample(policy, advantage)], num_trajectories=1)["skipped_updates"]

    assert [update(math.nan), update(math.nan), update(1.0), update(math.nan), update(math.nan)] == [
        1, 1, 0, 1, 1,
    ]  # fmt: skip
    counters = learner.counters()
    learner = make(policy, max_skipped=3)
    learner.set_counters(counters)
    before = everything(learner)
    with pytest.raises(DivergedError, match=r"3 updates in a row .* training\.max_skipped_updates"):
        update(math.nan)
    assert equal(before, everything(learner))


def test_weights_that_an_update_makes_nan_end_training_at_once():
    policy = build_nano(seed=0)
    learner = make(policy, eps=0.0)  # 0 / 0 where a weight has no gradient
    with pytest.raises(DivergedError, match="weights are no longer finite after an update"):
        learner.update([sample(policy, 1.0)], num_trajectories=1)


@pytest.mark.parametrize("bad_steps", [{2}, {1, 2, 3}])
def test_a_supervised_step_with_a_bad_gradient_changes_nothing(bad_steps):
    policy = build_nano(seed=0)
    parameter = next(policy.model.model.language_model.parameters())
    steps, lines, weights = [], [], [parameter.detach().clone()]

    def spoil(gradient):
        steps.append(1)
        return gradient * math.nan if len(steps) in bad_steps else gradient

    def log(step, metrics):
        lines.append(metrics["sft/skipped_updates"])
        weights.append(parameter.detach().clone())

    parameter.register_hook(spoil)
    config = SFTConfig(phases=(SFTPhase(num_steps=4, batch_size=2),), warmup_steps=1)
    if len(bad_steps) == 3:
        with pytest.raises(DivergedError, match="3 updates in a row"):
            run_sft(policy, config, ENV, max_turns=3, seed=0, log=log, max_skipped_updates=3)
        assert lines == [1.0, 1.0] and torch.equal(weights[0], parameter.detach())
    else:
        run_sft(policy, config, ENV, max_turns=3, seed=0, log=log)
        assert lines == [0.0, 1.0, 0.0, 0.0]
        changed = [not torch.equal(a, b) for a, b in itertools.pairwise(weights)]
        assert changed == [True, False, True, True]
    assert all(p.isfinite().all() for p in policy.model.parameters())


def test_checkpointed_blocks_and_chunked_logits_give_the_same_update(monkeypatch):
    """Demonstrations with images, so that both towers are run again in the backward pass."""
    env = make_env(ENV, split="train", max_turns=3)
    weights = {}
    for name, config in (("plain", {}), ("checkpointed", {"gradient_checkpointing": True})):
        policy = load_policy(PolicyConfig(device="cpu", **config), seed=0)
        if name == "checkpointed":
            monkeypatch.setattr(network, "_LOGITS_PER_CHUNK", 7 * len(policy.network.banned))
        trajectories = [
            demonstrate(env, policy.chat, index=i, rng=random.Random(i), use_tools=bool(i % 2))
            for i in range(4)
        ]
        learner = make(policy, eps=1e-3)  # an update in proportion to the gradient
        metrics = learner.update_supervised(trajectories, learning_rate=1.0)
        weights[name] = {**policy.model.state_dict(), "loss": torch.tensor(metrics["loss"])}
    env.close()
    for name, value in weights["plain"].items():
        assert torch.allclose(value, weights["checkpointed"][name], atol=1e-5, rtol=1e-5), name


def test_checkpointing_runs_every_block_twice():
    policy = load_policy(PolicyConfig(device="cpu", gradient_checkpointing=True), seed=0)
    calls = Counter()
    blocks = {"decoder": policy.model.model.language_model.layers, "vision": policy.model.model.visual.blocks}
    for kind, found in blocks.items():
        for block in found:  # their inputs' norms: the block itself is entered once
            block.get_submodule("input_layernorm" if kind == "decoder" else "norm1").register_forward_hook(
                lambda *_, kind=kind: calls.update([kind])
            )
    env = make_env(ENV, split="train", max_turns=3)
    trajectory = demonstrate(env, policy.chat, index=0, rng=random.Random(0), use_tools=True)
    env.close()
    make(policy).update_supervised([trajectory], learning_rate=1e-3)
    assert calls == {kind: 2 * len(found) for kind, found in blocks.items()}


def test_a_frozen_vision_tower_stays_as_it_is():
    policy = load_policy(PolicyConfig(device="cpu", freeze_vision=True), seed=0)
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    env = make_env(ENV, split="train", max_turns=3)
    trajectory = demonstrate(env, policy.chat, index=0, rng=random.Random(0), use_tools=True)
    env.close()
    learner = make(policy)
    learner.update_supervised([trajectory], learning_rate=1e-2)
    changed = {
        name for name, value in policy.model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed and not any("visual" in name for name in changed)
    assert len(learner.optimizer.state) == sum(p.requires_grad for p in policy.model.parameters())
