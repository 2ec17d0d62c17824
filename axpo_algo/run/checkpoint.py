"""Training state on disk: weights, optimizer, step. Written whole or not at all, so that a killed run can go on.

A checkpoint's `policy` folder is an ordinary transformers checkpoint. What a run folder holds besides is `runfolder`.
"""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch

from axpo_algo.models.qwen3_vl import Qwen3VLPolicy

__all__ = ["latest_checkpoint", "load_checkpoint", "save_checkpoint", "save_policy"]

_NAME = re.compile(r"step-(\d{6,})")


def save_policy(folder: Path, policy: Qwen3VLPolicy) -> None:
    """Writes a policy's folder, replacing an old one only once the new one is complete."""
    draft = folder.with_name(folder.name + ".partial")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    policy.save(draft)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(draft, folder)


def save_checkpoint(
    folder: Path, step: int, policy: Qwen3VLPolicy, state: dict[str, Any], *, keep: int
) -> Path:
    """Writes `folder/step-NNNNNN` and removes all but the newest `keep`; returns its path.

    state: tensors, numbers and containers of them, as `torch.save` takes them.
    """
    path = folder / f"step-{step:06d}"
    draft = folder / f".step-{step:06d}.partial"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    policy.save(draft / "policy")
    torch.save({"step": step, "state": state}, draft / "trainer.pt")
    shutil.rmtree(path, ignore_errors=True)
    os.replace(draft, path)
    for old in _checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return path


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the highest step; None where there is none."""
    found = _checkpoints(folder)
    return found[-1] if found else None


def load_checkpoint(path: Path, policy: Qwen3VLPolicy) -> tuple[int, dict[str, Any]]:
    """Loads the weights into `policy`; returns the step and what was saved as `state`. Nothing is unpickled
    but tensors."""
    saved = torch.load(path / "trainer.pt", map_location=policy.device, weights_only=True)
    stored = type(policy.model).from_pretrained(path / "policy", dtype=policy.model.dtype)
    policy.model.load_state_dict(stored.state_dict())
    return int(saved["step"]), saved["state"]


def _checkpoints(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = [(int(match[1]), entry) for entry in folder.iterdir() if (match := _NAME.fullmatch(entry.name))]
    return [entry for _, entry in sorted(found)]
