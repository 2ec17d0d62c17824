"""Checkpoints: whole or not at all, checked before they are used, the newest kept, everything exactly back."""

import json
import os
import shutil

import pytest
import torch

from axpo_algo.config import LossConfig, OptimizerConfig, PolicyConfig
from axpo_algo.learner import Learner
from axpo_algo.models.nano import build_nano
from axpo_algo.models.qwen3_vl import PolicyError
from axpo_algo.policies import load_policy
from axpo_algo.run.checkpoint import (
    CheckpointError,
    check_checkpoint,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    save_policy,
    usable_checkpoint,
)

TENSORS = {"moments": torch.ones(3)}


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with checkpoints of steps 2 and 4; tests work on copies."""
    folder = tmp_path_factory.mktemp("two") / "checkpoints"
    policy = build_nano(seed=0)
    for step in (2, 4):
        save_checkpoint(folder, step, policy, {"num_updates": step}, TENSORS, keep=2)
    return folder


@pytest.fixture
def checkpoints(two, tmp_path):
    return shutil.copytree(two, tmp_path / "checkpoints")


def test_weights_and_optimizer_come_back_exactly(tmp_path):
    def learner(policy):
        return Learner(policy, None, loss=LossConfig(), optimizer=OptimizerConfig())

    policy, other = build_nano(seed=0), build_nano(seed=1)
    one, two = learner(policy), learner(other)
    for parameter in policy.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    one.optimizer.step()
    path = save_checkpoint(tmp_path, 7, policy, {"num_updates": 7}, one.tensors(), keep=1)
    step, state = load_checkpoint(path, other, two.tensors())
    assert step == 7 and state == {"num_updates": 7}
    for name, value in policy.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name
    assert len(one.tensors()) == 4 * len(list(policy.model.parameters()))
    for name, value in one.tensors().items():
        assert torch.equal(value, two.tensors()[name]), name


def test_the_newest_stay_and_half_written_ones_do_not_count(tmp_path):
    policy = build_nano()
    assert latest_checkpoint(tmp_path / "none") is None
    for step in (2, 4, 10):
        save_checkpoint(tmp_path, step, policy, {}, TENSORS, keep=2)
    (tmp_path / ".step-000012.partial").mkdir()
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".")) == [
        "step-000004",
        "step-000010",
    ]
    assert latest_checkpoint(tmp_path).name == "step-000010"
    save_checkpoint(tmp_path, 11, policy, {}, TENSORS, keep=1)
    assert names(tmp_path) == ["step-000011"]


def test_a_policy_folder_is_replaced_as_a_whole(tmp_path):
    folder = tmp_path / "policy"
    save_policy(folder, build_nano(seed=0))
    (folder / "stray").touch()
    save_policy(folder, build_nano(seed=1))
    assert not (folder / "stray").exists() and [p.name for p in tmp_path.iterdir()] == ["policy"]


# Damage


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 1
    path.write_bytes(data)


def empty(path):
    shutil.rmtree(path)
    path.mkdir()


def unlist(path):
    manifest = json.loads(path.read_text())
    del manifest["files"]["trainer.pt"]
    path.write_text(json.dumps(manifest))


def poison(path):
    """The weights become NaN, and the manifest says that this is right."""
    from safetensors.torch import load_file, save_file

    from axpo_algo.run.checkpoint import _write_manifest

    weights = load_file(path)
    first = next(iter(weights))
    weights[first][0] = torch.nan
    save_file(weights, path, metadata={"format": "pt"})
    (path.parent.parent / "manifest.json").unlink()
    _write_manifest(path.parent.parent)


DAMAGES = {
    "weights cut": (cut, "policy/model.safetensors", r"model\.safetensors has \d+ bytes, written were \d+"),
    "state cut": (cut, "trainer.pt", r"trainer\.pt has \d+ bytes, written were \d+"),
    "weights flipped": (flip, "policy/model.safetensors", r"model\.safetensors was changed: its SHA-256"),
    "state flipped": (flip, "trainer.pt", r"trainer\.pt was changed: its SHA-256"),
    "manifest flipped": (flip, "manifest.json", "step-000004"),
    "manifest cut": (cut, "manifest.json", r"manifest\.json is damaged"),
    "manifest without an entry": (unlist, "manifest.json", r"damaged: it does not list trainer\.pt"),
    "no manifest": (os.unlink, "manifest.json", r"has no manifest\.json: not complete, or of version 0\.1"),
    "no state": (os.unlink, "trainer.pt", r"trainer\.pt is missing"),
    "empty": (empty, "", "step-000004 is empty"),
    "not finite": (poison, "policy/model.safetensors", "has weights that are not finite: model"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_is_told_and_set_aside_and_the_one_before_used(checkpoints, damage):
    harm, name, told = DAMAGES[damage]
    harm(checkpoints / "step-000004" / name)
    with pytest.raises(CheckpointError, match=told):
        check_checkpoint(checkpoints / "step-000004")
    policy = build_nano(seed=1)
    before = [p.clone() for p in policy.model.parameters()]
    with pytest.raises(CheckpointError, match=told):
        load_checkpoint(checkpoints / "step-000004", policy, TENSORS)
    assert all(torch.equal(a, b) for a, b in zip(before, policy.model.parameters(), strict=True))
    said = []
    assert usable_checkpoint(checkpoints, 4, said.append) == 2
    assert len(said) == 1 and said[0].endswith("; kept as step-000004.aside, going on from step-000002")
    assert names(checkpoints) == ["step-000002", "step-000004.aside"]
    assert usable_checkpoint(checkpoints, 4, said.append) == 2 and len(said) == 1


def test_a_checkpoint_later_than_the_metrics_is_not_used(checkpoints):
    said = []
    assert usable_checkpoint(checkpoints, 3, said.append) == 2
    assert "step-000004 is later than metrics.jsonl, which ends at step 3" in said[0]


def test_where_none_can_be_used_all_are_told_and_nothing_is_changed(checkpoints):
    (checkpoints / "step-000002" / "manifest.json").unlink()
    cut(checkpoints / "step-000004" / "trainer.pt")
    with pytest.raises(CheckpointError, match=r"step-000004.* written were .*step-000002 has no manifest"):
        usable_checkpoint(checkpoints, 4)
    assert names(checkpoints) == ["step-000002", "step-000004"]
    assert usable_checkpoint(checkpoints / "nothing", 4) is None


def test_weights_that_are_not_finite_are_not_written_and_push_nothing_out(checkpoints, tmp_path):
    policy = build_nano(seed=0)
    with torch.no_grad():
        next(policy.model.parameters()).view(-1)[3] = torch.inf
    with pytest.raises(CheckpointError, match="step-000006 is not written: weights are not finite: model"):
        save_checkpoint(checkpoints, 6, policy, {}, TENSORS, keep=1)
    with pytest.raises(CheckpointError, match="policy is not written: weights are not finite"):
        save_policy(tmp_path / "policy", policy)
    assert names(checkpoints) == ["step-000002", "step-000004"] and not (tmp_path / "policy").exists()
    assert usable_checkpoint(checkpoints, 6) == 4


def test_a_leftover_later_checkpoint_does_not_push_the_new_one_out(checkpoints):
    cut(checkpoints / "step-000004" / "trainer.pt")
    save_checkpoint(checkpoints, 3, build_nano(seed=0), {}, TENSORS, keep=1)
    assert names(checkpoints) == ["step-000003", "step-000004"]
    assert usable_checkpoint(checkpoints, 9, lambda text: None) == 3


@pytest.mark.parametrize("where", ["policy", "checkpoints/step-000004/policy"])
def test_a_damaged_policy_of_a_run_is_not_loaded(checkpoints, tmp_path, where):
    save_policy(tmp_path / "policy", build_nano(seed=0))
    config = PolicyConfig(path=str(tmp_path / where), device="cpu")
    load_policy(config, seed=0)
    flip(tmp_path / where / "model.safetensors")
    with pytest.raises(PolicyError, match=r"policy/model\.safetensors was changed"):
        load_policy(config, seed=0)
    flip(tmp_path / where / "model.safetensors")
    load_policy(config, seed=0)


def test_everything_is_on_disk_before_it_has_its_name_and_the_name_before_older_ones_go(
    checkpoints, monkeypatch
):
    events = []
    fsync, replace = os.fsync, os.replace

    def logged_fsync(descriptor):
        events.append(("fsync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def logged_replace(source, target):
        if str(target) == str(checkpoints / "step-000006"):
            files = [source, *source.rglob("*")]
            assert {str(file) for file in files} <= {name for kind, name in events if kind == "fsync"}
            assert len(files) > 5
        events.append(("replace", str(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(os, "replace", logged_replace)
    save_checkpoint(checkpoints, 6, build_nano(seed=0), {}, TENSORS, keep=1)
    named = events.index(("replace", str(checkpoints / "step-000006")))
    assert events[named + 1] == ("fsync", str(checkpoints))
    assert [kind for kind, _ in events[named + 2 :]] == ["replace", "replace"]  # out of the way, then removed


def test_a_write_that_fails_leaves_the_older_ones_and_no_draft(checkpoints, monkeypatch):
    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(checkpoints, 6, build_nano(seed=0), {}, TENSORS, keep=1)
    assert names(checkpoints) == ["step-000002", "step-000004"]
