"""Policies by name: the built-in "nano", or any Qwen3-VL checkpoint by folder or hub id."""

from pathlib import Path

import torch

from axpo_algo.config import PolicyConfig
from axpo_algo.models.qwen3_vl import Qwen3VLPolicy
from axpo_algo.run.checkpoint import check_policy_folder

__all__ = ["load_policy"]


def load_policy(config: PolicyConfig, *, seed: int) -> Qwen3VLPolicy:
    """The policy that `config` names; `seed` decides nano's weights.

    Raises PolicyError for what cannot be loaded, its subclass CheckpointError for a folder of a run that is damaged.
    """
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if config.path != "nano":
        check_policy_folder(Path(config.path))
        return Qwen3VLPolicy.load(config.path, dtype=config.dtype, device=device)
    from axpo_algo.models.nano import build_nano

    policy = build_nano(seed=seed)
    policy.model.to(device, getattr(torch, config.dtype))
    return Qwen3VLPolicy(policy.model, policy.chat)
