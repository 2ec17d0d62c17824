"""Training state on disk: weights, optimizer, step. Written whole or not at all, and checked before it is used.

    step-000050/          in a run's `checkpoints`
        manifest.json     size and SHA-256 of every other file
        policy/           an ordinary transformers checkpoint
        state/            the learner's tensors, of each rank a file; another number of ranks may read them
        trainer.pt        numbers

`start`, `policy` and `best` of a run are a policy and a manifest. What a run folder holds besides is `folder`.
"""

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError, safe_open
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException

from axpo_algo.commands import one_line
from axpo_algo.distributed import SINGLE, Ranks
from axpo_algo.models.qwen3_vl import PolicyError, Qwen3VLPolicy
from axpo_algo.run.disk import RunFolderError, sync, write_folder

__all__ = [
    "CheckpointError",
    "check_checkpoint",
    "check_policy_folder",
    "latest_checkpoint",
    "load_checkpoint",
    "save_checkpoint",
    "save_policy",
    "usable_checkpoint",
]

MANIFEST = "manifest.json"
_FORMAT = 1
_NAME = re.compile(r"step-(\d{6,})")


class CheckpointError(RunFolderError, PolicyError):
    """A checkpoint or a policy's folder that must not be used: parts missing, cut or changed, weights not finite."""


def save_policy(folder: Path, policy: Qwen3VLPolicy, notes: Mapping[str, str] | None = None) -> None:
    """Writes a policy's folder with its manifest, replacing an old one only once the new one is complete.

    notes: texts of more files, by name. Raises CheckpointError, and writes nothing, if a weight is not finite.
    """
    _require_finite(policy, folder)

    def fill(draft: Path) -> None:
        policy.save(draft)
        for name, text in (notes or {}).items():
            (draft / name).write_text(text, encoding="utf-8")
        _write_manifest(draft)

    write_folder(folder, fill)


def save_checkpoint(
    folder: Path,
    step: int,
    policy: Qwen3VLPolicy,
    state: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    *,
    keep: int,
    ranks: Ranks = SINGLE,
) -> Path:
    """Writes `folder/step-NNNNNN`, then removes all up to it but the newest `keep`; returns its path.

    state: numbers and containers of them, as `torch.save` takes them; tensors: of which each rank may hold a part.
    All ranks call this, on a file system that they share. Raises CheckpointError, and leaves the older ones alone, if
    a weight is not finite.
    """
    path = folder / f"step-{step:06d}"
    _require_finite(policy, path)
    if not ranks.is_main:
        _save_tensors(ranks.share(path), tensors, ranks)
        ranks.barrier()
        return path

    def fill(draft: Path) -> None:
        policy.save(draft / "policy")
        torch.save({"step": step, "state": dict(state)}, draft / "trainer.pt")
        _save_tensors(ranks.share(draft), tensors, ranks)
        _write_manifest(draft)

    write_folder(path, fill)
    older = [entry for entry in _checkpoints(folder) if _step(entry) <= step]
    for old in older[:-keep]:  # a kill among the removals leaves nothing that looks like a checkpoint
        os.replace(old, folder / f".{old.name}.replaced")
    for rest in folder.glob(".step-*"):
        shutil.rmtree(rest)
    ranks.barrier()
    return path


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the highest step, unchecked; None where there is none."""
    found = _checkpoints(folder)
    return found[-1] if found else None


def usable_checkpoint(folder: Path, last_step: int | None, say: Callable[[str], None] = print) -> int | None:
    """Step of the newest checkpoint that passes `check_checkpoint` and is not after `last_step`, the last one logged.

    Later ones are told to `say`, and renamed to `step-NNNNNN.aside` so that they are out of the way. None: there are
    no checkpoints. Raises CheckpointError if none of those there are can be used, and then renames none.
    """
    faults: dict[Path, str] = {}
    for path in reversed(_checkpoints(folder)):
        try:
            if last_step is None or _step(path) > last_step:
                at = "is empty" if last_step is None else f"ends at step {last_step}"
                raise CheckpointError(f"{path} is later than metrics.jsonl, which {at}")
            check_checkpoint(path)
        except CheckpointError as error:
            faults[path] = str(error)
            continue
        for bad, fault in faults.items():
            aside = bad.with_name(f"{bad.name}.aside")
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(bad, aside)
            say(f"{fault}; kept as {aside.name}, going on from {path.name}")
        if faults:
            sync(folder)
        return _step(path)
    if faults:
        raise CheckpointError(
            f"no checkpoint can be used: {'; '.join(faults.values())}. Remove {folder} to start over"
        )
    return None


def load_checkpoint(
    path: Path, policy: Qwen3VLPolicy, tensors: Mapping[str, torch.Tensor], *, ranks: Ranks = SINGLE
) -> tuple[int, dict[str, Any]]:
    """Loads the weights into `policy` and the rest into `tensors`; returns the step and what was saved as `state`.

    Nothing is unpickled but numbers. Raises CheckpointError for what does not pass `check_checkpoint`, and where
    another kind of training has written the tensors.
    """
    if ranks.is_main:
        check_checkpoint(path)
    ranks.barrier()
    saved = torch.load(path / "trainer.pt", map_location="cpu", weights_only=True)
    stored = type(policy.model).from_pretrained(path / "policy", dtype=policy.model.dtype)
    policy.model.load_state_dict(stored.state_dict())
    _load_tensors(path, tensors, ranks)
    return int(saved["step"]), saved["state"]


def _save_tensors(folder: Path, tensors: Mapping[str, torch.Tensor], ranks: Ranks) -> None:
    writer = HuggingFaceStorageWriter(str(folder / "state"), save_distributed=True)
    with _dcp_errors():
        dcp.save(dict(tensors), storage_writer=writer, no_dist=ranks.size == 1)


def _load_tensors(path: Path, tensors: Mapping[str, torch.Tensor], ranks: Ranks) -> None:
    try:
        with _dcp_errors():
            reader = HuggingFaceStorageReader(str(path / "state"))
            dcp.load(dict(tensors), storage_reader=reader, no_dist=ranks.size == 1)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{path / 'state'} is of another kind of training ({one_line(error)}): policy.dtype, policy.freeze_vision "
            "and whatever else decides which weights are trained must be as in the run"
        ) from error


@contextmanager
def _dcp_errors() -> Iterator[None]:
    """What failed inside torch.distributed.checkpoint is raised as it was, an OSError as an OSError."""
    with warnings.catch_warnings(action="ignore"):  # that there is one process
        try:
            yield
        except CheckpointException as error:
            raise next(iter(error.failures.values()))[0] from None


def check_checkpoint(path: Path) -> None:
    """Raises CheckpointError, naming the file and what is wrong with it, unless all is as it was written and finite."""
    _check_files(path, path, needed=("trainer.pt", "policy/config.json"))
    if not any((path / "state").glob("*.safetensors")):
        raise CheckpointError(f"{path} has no state/*.safetensors: not complete, or of an earlier version")
    _check_weights(path / "policy")


def check_policy_folder(folder: Path) -> None:
    """Raises CheckpointError unless a policy's folder is as it was written and finite.

    Covers the `policy` inside a checkpoint too. A folder without a manifest comes from elsewhere: nothing is checked.
    """
    if (folder / MANIFEST).exists():
        _check_files(folder, folder, needed=("config.json",))
    elif (folder.parent / MANIFEST).exists() and _NAME.fullmatch(folder.parent.name):
        _check_files(folder.parent, folder, needed=(f"{folder.name}/config.json",))
    else:
        return
    _check_weights(folder)


def _checkpoints(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((entry for entry in folder.iterdir() if _NAME.fullmatch(entry.name)), key=_step)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _files(folder: Path) -> dict[str, Path]:
    return {
        entry.relative_to(folder).as_posix(): entry for entry in sorted(folder.rglob("*")) if entry.is_file()
    }


def _write_manifest(folder: Path) -> None:
    files = {
        name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for name, path in _files(folder).items()
    }
    text = json.dumps({"format": _FORMAT, "files": files}, indent=2)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_files(folder: Path, part: Path, *, needed: tuple[str, ...]) -> None:
    """Compares what `folder`'s manifest lists inside `part`, which is `folder` or a folder in it."""
    if not folder.is_dir() or not any(folder.iterdir()):
        raise CheckpointError(f"{folder} is {'empty' if folder.is_dir() else 'no folder'}")
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
        version = manifest["format"]
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has no {MANIFEST}: not complete, or of version 0.1") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{folder / MANIFEST} is damaged: {error!r}") from error
    if version != _FORMAT:
        raise CheckpointError(f"{folder / MANIFEST} has format {version!r}; this version reads {_FORMAT}")
    for name in needed:
        if name not in files:
            raise CheckpointError(f"{folder / MANIFEST} is damaged: it does not list {name}")
    for name, (size, digest) in files.items():
        path = folder / name
        if part not in path.parents:
            continue
        if not path.is_file():
            raise CheckpointError(f"{path} is missing")
        if path.stat().st_size != size:
            raise CheckpointError(f"{path} has {path.stat().st_size} bytes, written were {size}")
        if _sha256(path) != digest:
            raise CheckpointError(f"{path} was changed: its SHA-256 is not the one in {MANIFEST}")


def _check_weights(folder: Path) -> None:
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise CheckpointError(f"{folder} has no weights (*.safetensors)")
    for shard in shards:
        try:
            with safe_open(shard, framework="pt") as weights:
                bad = [name for name in weights.keys() if not _is_finite(weights.get_tensor(name))]  # noqa: SIM118
        except SafetensorError as error:
            raise CheckpointError(f"{shard} cannot be read: {error}") from error
        if bad:
            raise CheckpointError(f"{shard} has weights that are not finite: {_some(bad)}")


def _require_finite(policy: Qwen3VLPolicy, path: Path) -> None:
    bad = [name for name, value in policy.model.state_dict().items() if not _is_finite(value)]
    if bad:
        raise CheckpointError(f"{path} is not written: weights are not finite: {_some(bad)}")


def _is_finite(value: torch.Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value).all())


def _some(names: list[str]) -> str:
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]
