"""Opening a command's run folder: a new one, or the one to resume, at its newest checkpoint that can be used."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from axpo_algo.config import TrainConfig, config_from_file, to_yaml
from axpo_algo.run.checkpoint import usable_checkpoint
from axpo_algo.run.folder import RunFolder, RunFolderError, latest_run_path, require_run

__all__ = ["open_run", "read_config", "resume_folder"]


def open_run(
    config: TrainConfig, name: str, say: Callable[[str], None] = print
) -> tuple[RunFolder, TrainConfig]:
    """The folder of `config`, and the configuration that holds in it: that of the run, where one is resumed.

    name: of runs/NAME-NNN, where `run_dir` is null. Raises RunFolderError.
    """
    if config.resume:
        path = Path(config.run_dir) if config.run_dir else latest_run_path("runs", name)
        saved = dataclasses.replace(read_config(path), resume=True)
        return resume_folder(path, say), saved
    if config.run_dir:
        return RunFolder.create(config.run_dir, to_yaml(config)), config
    return RunFolder.create_next("runs", name, to_yaml(config)), config


def resume_folder(path: Path, say: Callable[[str], None] = print) -> RunFolder:
    """`RunFolder.resume` at the newest checkpoint that can be used; `say` is told of those that cannot.

    Raises RunFolderError.
    """
    return RunFolder.resume(path, lambda last: usable_checkpoint(path / "checkpoints", last, say), say)


def read_config(path: Path) -> TrainConfig:
    """The configuration of the run at `path`, as it was given.

    Raises RunFolderError if config.yaml is missing, damaged, or not of this version: a field that it does not name
    could mean anything.
    """
    require_run(path)
    file = path / "config.yaml"
    try:
        config = config_from_file(file, TrainConfig)
        absent = _absent(yaml.safe_load(to_yaml(config)), yaml.safe_load(file.read_text(encoding="utf-8")))
        if absent is not None:
            raise ValueError(f"it does not say {absent!r}")
    except ValueError as error:
        raise RunFolderError(
            f"{file} is not the whole configuration of a run of this version: {error}. A run of version 0.1 is "
            "resumed by version 0.1"
        ) from error
    return config


def _absent(expected: Any, given: Any, prefix: str = "") -> str | None:
    """The first dotted key of `expected` that `given` lacks, at any depth; keywords of environments are free."""
    if isinstance(expected, list):
        expected = {str(index): item for index, item in enumerate(expected)}
        given = {str(index): item for index, item in enumerate(given)} if isinstance(given, list) else given
    if not isinstance(expected, Mapping):
        return None
    for key, value in expected.items():
        if not isinstance(given, Mapping) or key not in given:
            return f"{prefix}{key}"
        found = _absent(value, given[key], f"{prefix}{key}.")
        if found is not None:
            return found
    return None
