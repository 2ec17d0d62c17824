"""What a command checks before it makes anything: names, paths, devices, environments, and that tools can run.

Each check raises ConfigError that names the setting, what was given, what is allowed and the nearest. Ranges are
checked by the settings themselves, unknown keys as they are read.
"""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from axpo_algo.algorithms import get_algorithm
from axpo_algo.commands import one_line
from axpo_algo.config import ConfigError, EnvConfig, PolicyConfig, SFTConfig, TrainConfig
from axpo_algo.engines import ENGINES
from axpo_algo.environments import make_env
from axpo_algo.policies import check_policy
from axpo_algo.run.best import best_metrics
from axpo_env.messages import format_action, format_call
from axpo_env.tools.interpreter import sandbox_name
from axpo_sandbox.names import unknown_name

__all__ = ["check_env", "check_new_folder", "check_new_file", "check_training", "check_engine", "checking"]


@contextmanager
def checking(setting: str) -> Iterator[None]:
    """What is raised in the block over a value that was given becomes a ConfigError that names `setting`.

    A full disk is nobody's mistake and stays an OSError.
    """
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, TypeError, LookupError, OSError, ImportError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        raise ConfigError(f"{setting}: {one_line(error)}") from error


def check_training(config: TrainConfig, *, has_start: bool = False) -> None:
    """Raises ConfigError for what would stop a run of `config`. has_start: its first policy is kept already."""
    for setting in ("algorithm", "baseline"):
        if getattr(config, setting) is not None:
            with checking(setting):
                get_algorithm(getattr(config, setting))
    check_engine(config.rollout.engine)
    metric, known = config.checkpoint.best_metric, best_metrics(config.evaluation.rollouts_per_question)
    if metric is not None and metric not in known:
        raise ConfigError(f"checkpoint.best_metric: {unknown_name('metric', metric, known)}")
    with checking("policy"):
        check_policy(config.policy if not has_start else PolicyConfig(device=config.policy.device))
    check_env(config.env, split_key="split", max_turns=config.rollout.max_turns)
    check_env(config.env, split_key="evaluation_split", max_turns=config.evaluation.max_turns)
    if not has_start:
        _check_demonstrations(config.sft, config.env, max_turns=config.rollout.max_turns)


def check_engine(name: str) -> None:
    """Raises ConfigError for an engine that there is not."""
    if name not in ENGINES:
        raise ConfigError(f"rollout.engine: {unknown_name('engine', name, ENGINES)}")


def check_env(config: EnvConfig, *, split_key: str, max_turns: int) -> None:
    """Raises ConfigError for an environment that cannot be made, has no tasks, or whose sandbox does not start.

    split_key: the field of `config` that names the split.
    """
    with closing(_make_env(config, split_key=split_key, max_turns=max_turns)) as env:
        _check_sandbox(env)


def _make_env(
    config: EnvConfig, *, split_key: str, max_turns: int, where: str = "env", **overrides: Any
) -> Any:
    split = getattr(config, split_key)
    try:
        with checking(where):
            env = make_env(config, split=split, max_turns=max_turns, **overrides)
    except ConfigError as error:
        if not any(words in str(error) for words in (f"unknown split {split!r}", f"no {split} split")):
            raise
        raise ConfigError(f"env.{split_key}{str(error).removeprefix(where)}") from error.__cause__
    if env.num_tasks < 1:
        raise ConfigError(f"env.{split_key}: there is no task in {config.id} {split!r}")
    return env


def _check_sandbox(env: Any) -> None:
    """One call of the python tool, if the environment has it: it starts the sandbox that the run would use."""
    tools = getattr(getattr(env, "rules", None), "tools", {})
    if "python" not in tools or env.rules.max_turns < 2:
        return
    with checking("env"):
        env.reset(options={"index": 0})
    *_, info = env.step(format_action("", format_call("python", {"code": "1"})))
    if info["outage"] is not None:
        name, outage = sandbox_name(env.config.sandbox), " ".join(info["outage"].split()).rstrip(".")
        raise ConfigError(
            f"env.kwargs.sandbox: the python tool needs the sandbox {name!r}, which does not work here: {outage}. "
            "Mend it, name another (env.kwargs.sandbox), or leave python out of env.kwargs.tools"
        )


def _check_demonstrations(config: SFTConfig, env_config: EnvConfig, *, max_turns: int) -> None:
    """Every source of the cold start can be made and has demonstrations."""
    seen: list[Mapping[str, Any]] = []
    for number, phase in enumerate(config.phases):
        for source in phase.sources if phase.num_steps else ():
            if source.env_kwargs in seen:
                continue
            seen.append(source.env_kwargs)
            where = f"sft.phases.{number}"
            env = _make_env(
                env_config, split_key="split", max_turns=max_turns, where=where, **source.env_kwargs
            )
            with checking(where), closing(env):
                env.reset(options={"index": 0})
                demonstrator = getattr(getattr(env, "task", None), "demonstrator", None)
            if demonstrator is None:
                raise ConfigError(
                    f"{where}: the tasks of {env_config.id} with {dict(env_config.kwargs)} have no "
                    "demonstrations to learn from; leave the cold start out (sft.phases=[])"
                )


def check_new_folder(path: Path, setting: str) -> None:
    """Raises ConfigError where no folder can be made, or no file written in the one that is there."""
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{setting}: {str(path)!r} is a file; name a folder")
    _check_writable(path, path, setting)


def check_new_file(path: Path, setting: str) -> None:
    """Raises ConfigError where the file cannot be written; it and its folder need not be there."""
    if path.is_dir():
        raise ConfigError(f"{setting}: {str(path)!r} is a folder; name a file")
    if path.exists() and not os.access(path, os.W_OK):
        raise ConfigError(f"{setting}: {str(path)!r} is not writable")
    _check_writable(path, path.parent, setting)


def _check_writable(path: Path, folder: Path, setting: str) -> None:
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise ConfigError(f"{setting}: {str(path)!r} cannot be made: {str(folder)!r} is a file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{setting}: {str(path)!r} cannot be made: {str(folder)!r} is not writable")
