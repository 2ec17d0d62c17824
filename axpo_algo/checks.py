"""What a command checks before it makes anything: names, paths, devices, environments, and that tools can run.

Each check raises ConfigError that names the setting, what was given, what is allowed and the nearest. Ranges are
checked by the settings themselves, unknown keys as they are read.
"""

import errno
import importlib.util
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

from axpo_algo.algorithms import get_algorithm
from axpo_algo.commands import one_line
from axpo_algo.config import ConfigError, EnvConfig, PolicyConfig, TrainConfig
from axpo_algo.config.evaluation import EvaluateConfig
from axpo_algo.engines import ENGINES
from axpo_algo.environments import make_env
from axpo_algo.policies import check_policy
from axpo_algo.run.best import best_metrics
from axpo_env.messages import format_action, format_call
from axpo_env.tools.interpreter import sandbox_name
from axpo_sandbox.names import unknown_name

__all__ = [
    "check_env",
    "check_envs",
    "check_new_folder",
    "check_new_file",
    "check_training",
    "check_engine",
    "checking",
]


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
    if config.lora.rank and importlib.util.find_spec("peft") is None:
        raise ConfigError("lora.rank: adapters need peft, which is not installed: pip install 'axpo[lora]'")
    metric, known = config.checkpoint.best_metric, best_metrics(config.evaluation.rollouts_per_question)
    if metric is not None and metric not in known:
        raise ConfigError(f"checkpoint.best_metric: {unknown_name('metric', metric, known)}")
    with checking("policy"):
        check_policy(config.policy if not has_start else PolicyConfig(device=config.policy.device))
    check_envs(config, "train_envs", max_turns=config.rollout.max_turns)
    check_envs(config, "eval_envs", max_turns=config.evaluation.max_turns)
    if not has_start:
        _check_demonstrations(config)


def check_engine(name: str) -> None:
    """Raises ConfigError for an engine that there is not."""
    if name not in ENGINES:
        raise ConfigError(f"rollout.engine: {unknown_name('engine', name, ENGINES)}")


def check_envs(
    config: TrainConfig | EvaluateConfig, setting: Literal["train_envs", "eval_envs"], *, max_turns: int
) -> None:
    """`check_env` of every environment that `setting` lists, or of `config.env` alone where it lists none."""
    split_key = "split" if setting == "train_envs" else "evaluation_split"
    entries = getattr(config, setting)
    envs = {f"{setting}.{number}.env": entry.env for number, entry in enumerate(entries)}
    for where, env in (envs or {"env": config.env}).items():
        check_env(env, setting=where, split_key=split_key, max_turns=max_turns)


def check_env(config: EnvConfig, *, setting: str = "env", split_key: str, max_turns: int) -> None:
    """Raises ConfigError for an environment that cannot be made, has no tasks, or whose sandbox does not start.

    setting: what `config` is called. split_key: the field of `config` that names the split.
    """
    with closing(_make_env(config, setting=setting, split_key=split_key, max_turns=max_turns)) as env:
        _check_sandbox(env, setting)


def _make_env(
    config: EnvConfig,
    *,
    setting: str = "env",
    split_key: str,
    max_turns: int,
    where: str | None = None,
    **overrides: Any,
) -> Any:
    """where: what is named for mistakes in the overrides; None: `setting`."""
    split, where = getattr(config, split_key), where or setting
    try:
        with checking(where):
            env = make_env(config, split=split, max_turns=max_turns, **overrides)
    except ConfigError as error:
        if not any(words in str(error) for words in (f"unknown split {split!r}", f"no {split} split")):
            raise
        raise ConfigError(f"{setting}.{split_key}{str(error).removeprefix(where)}") from error.__cause__
    if env.num_tasks < 1:
        raise ConfigError(f"{setting}.{split_key}: there is no task in {config.id} {split!r}")
    return env


def _check_sandbox(env: Any, setting: str) -> None:
    """One call of the python tool, if the environment has it: it starts the sandbox that the run would use."""
    tools = getattr(getattr(env, "rules", None), "tools", {})
    if "python" not in tools or env.rules.max_turns < 2:
        return
    with checking(setting):
        env.reset(options={"index": 0})
    *_, info = env.step(format_action("", format_call("python", {"code": "1"})))
    if info["outage"] is not None:
        name, outage = sandbox_name(env.config.sandbox), " ".join(info["outage"].split()).rstrip(".")
        raise ConfigError(
            f"{setting}.kwargs.sandbox: the python tool needs the sandbox {name!r}, which does not work here: "
            f"{outage}. Mend it, name another ({setting}.kwargs.sandbox), or leave python out of "
            f"{setting}.kwargs.tools"
        )


def _check_demonstrations(config: TrainConfig) -> None:
    """Every source of the cold start can be made and has demonstrations."""
    named = {entry.name: (f"train_envs.{n}.env", entry.env) for n, entry in enumerate(config.train_envs)}
    seen: list[Any] = []
    for number, phase in enumerate(config.sft.phases):
        for source in phase.sources if phase.num_steps else ():
            if (source.env, source.env_kwargs) in seen:
                continue
            seen.append((source.env, source.env_kwargs))
            where = f"sft.phases.{number}"
            setting, env_config = ("env", config.env) if source.env is None else named[source.env]
            env = _make_env(
                env_config,
                setting=setting,
                split_key="split",
                max_turns=config.rollout.max_turns,
                where=where,
                **source.env_kwargs,
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
