"""Policies by name: the built-in "nano", or any Qwen3-VL checkpoint by folder or hub id."""

import json
from pathlib import Path

import torch
from transformers import AutoConfig

from axpo_algo.config import PolicyConfig
from axpo_algo.models.qwen3_vl import PolicyError, Qwen3VLPolicy, require_qwen3_vl
from axpo_algo.run.checkpoint import check_policy_folder
from axpo_sandbox.names import nearest_name, unknown_name

__all__ = ["check_policy", "choose_device", "load_policy"]

DEVICES = ("auto", "cpu", "cuda", "cuda:N", "mps", "xpu")


def load_policy(config: PolicyConfig, *, seed: int) -> Qwen3VLPolicy:
    """The policy that `config` names; `seed` decides nano's weights.

    Raises PolicyError for what cannot be loaded, its subclass CheckpointError for a folder of a run that is damaged.
    """
    device = choose_device(config.device)
    if config.path != "nano":
        check_policy_folder(Path(config.path))
        return _for_training(Qwen3VLPolicy.load(config.path, dtype=config.dtype, device=device), config)
    from axpo_algo.models.nano import build_nano

    policy = build_nano(seed=seed)
    for parameter in policy.model.parameters():  # not the buffers: rotary tables stay float32
        parameter.data = parameter.data.to(getattr(torch, config.dtype))
    policy.model.to(device)
    return _for_training(Qwen3VLPolicy(policy.model, policy.chat), config)


def _for_training(policy: Qwen3VLPolicy, config: PolicyConfig) -> Qwen3VLPolicy:
    """`policy` with what `config` says of its training set in its model; sampling is as before."""
    if config.gradient_checkpointing:
        # Transformers 5.24 renamed the method, and warns of the old name.
        enable = getattr(policy.model, "activation_checkpointing_enable", None)
        (enable or policy.model.gradient_checkpointing_enable)({"use_reentrant": False})
    if config.freeze_vision:
        policy.model.model.visual.requires_grad_(False)
    return policy


def check_policy(config: PolicyConfig, *, names: tuple[str, ...] = ("nano",)) -> None:
    """Raises PolicyError for a device that is not here or a checkpoint that is none, before any weights are read.

    Of a hub id it fetches the config.json alone. names: what `config.path` may be besides folders and hub ids.
    """
    choose_device(config.device)
    path, folder = config.path, Path(config.path)
    if path in names:
        return
    if folder.exists() and not folder.is_dir():
        raise PolicyError(f"{path!r} is a file; a policy is a checkpoint's folder, a hub id or {names[0]!r}")
    kept = ("policy", "best", "start")
    inside = [folder / name for name in kept if (folder / name / "config.json").is_file()]
    if inside and not (folder / "config.json").is_file():
        raise PolicyError(f"{path!r} is no checkpoint, but holds some: use {' or '.join(map(str, inside))}")
    try:
        require_qwen3_vl(path)
    except json.JSONDecodeError as error:
        raise PolicyError(f"{folder / 'config.json'} is not JSON: {error}") from error
    except PolicyError as error:
        raise PolicyError(f"{error}{_nearest(path, names)}") from error
    if folder.is_dir():
        if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
            raise PolicyError(f"{path!r} holds a config.json and no weights (*.safetensors)")
        return
    try:
        model_type = AutoConfig.from_pretrained(path).model_type
    except (OSError, ValueError) as error:
        raise PolicyError(
            f"there is no folder {path!r}, and no checkpoint of that id could be fetched from the hub "
            f"({type(error.__cause__ or error).__name__}){_nearest(path, names)}"
        ) from error
    if model_type != "qwen3_vl":
        raise PolicyError(f"{path!r} is a {model_type!r}; this policy is 'qwen3_vl'")


def choose_device(name: str) -> str:
    """The device that `name` stands for. Raises PolicyError for one that torch does not know, or that is not here."""
    accelerators = {kind: getattr(torch, kind) for kind in ("cuda", "mps", "xpu")}
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        nearest = "cuda" if name.lower().startswith("gpu") else None
        raise PolicyError(unknown_name("device", name, DEVICES, nearest=nearest)) from error
    if device.type == "cpu":
        return name
    if device.type not in accelerators:
        raise PolicyError(unknown_name("device", name, DEVICES))
    module = accelerators[device.type]
    if not module.is_available():
        raise PolicyError(f"torch sees no device {device.type!r} here, got {name!r}: use auto or cpu")
    if device.index is not None and device.index >= module.device_count():
        raise PolicyError(
            f"torch sees {module.device_count()} devices {device.type!r}, counted from 0: got {name!r}"
        )
    return name


def _nearest(path: str, names: tuple[str, ...]) -> str:
    """The name, or the folder that is there, which a misspelt `path` is nearest to, as the end of a message."""
    missing = Path(path)
    if missing.exists():
        return ""
    while not missing.parent.is_dir():
        missing = missing.parent
    rest = Path(path).relative_to(missing)
    beside = [str(entry / rest) for entry in missing.parent.iterdir() if (entry / rest).is_dir()]
    nearest = nearest_name(path, [*names, *beside], cutoff=0.6)
    return f"; nearest: {nearest}" if nearest else ""
