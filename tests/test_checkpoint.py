"""Checkpoints: whole or not at all, the newest kept, weights and optimizer exactly back."""

import torch

from axpo_algo.config import OptimizerConfig
from axpo_algo.learner import make_optimizer
from axpo_algo.models.nano import build_nano
from axpo_algo.run.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint, save_policy


def test_weights_and_optimizer_come_back_exactly(tmp_path):
    policy = build_nano(seed=0)
    optimizer = make_optimizer(policy, OptimizerConfig())
    for parameter in policy.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    path = save_checkpoint(
        tmp_path, 7, policy, {"optimizer": optimizer.state_dict(), "num_updates": 7}, keep=1
    )
    other = build_nano(seed=1)
    step, state = load_checkpoint(path, other)
    assert step == 7 and state["num_updates"] == 7
    for name, value in policy.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name
    fresh = make_optimizer(other, OptimizerConfig())
    fresh.load_state_dict(state["optimizer"])
    for one, two in zip(optimizer.state.values(), fresh.state.values(), strict=True):
        assert torch.equal(one["exp_avg"], two["exp_avg"]) and torch.equal(
            one["exp_avg_sq"], two["exp_avg_sq"]
        )


def test_the_newest_stay_and_half_written_ones_do_not_count(tmp_path):
    policy = build_nano()
    assert latest_checkpoint(tmp_path / "none") is None
    for step in (2, 4, 10):
        save_checkpoint(tmp_path, step, policy, {}, keep=2)
    (tmp_path / ".step-000012.partial").mkdir()
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".")) == [
        "step-000004",
        "step-000010",
    ]
    assert latest_checkpoint(tmp_path).name == "step-000010"


def test_a_policy_folder_is_replaced_as_a_whole(tmp_path):
    folder = tmp_path / "policy"
    save_policy(folder, build_nano(seed=0))
    (folder / "stray").touch()
    save_policy(folder, build_nano(seed=1))
    assert not (folder / "stray").exists() and [p.name for p in tmp_path.iterdir()] == ["policy"]
