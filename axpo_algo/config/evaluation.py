"""The settings of `axpo_algo.evaluate`: of the run that a checkpoint came from, of a recipe or file, or the paper's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from axpo_algo.config.loading import given_values, load_config, print_help, read_yaml
from axpo_algo.config.schema import ConfigError, annotation_of
from axpo_algo.config.settings import (
    EnvConfig,
    EvalEnvConfig,
    EvaluationConfig,
    PolicyConfig,
    RolloutConfig,
    TrainConfig,
    check_names,
    check_seed,
)

__all__ = ["EvaluateConfig", "envs_by_name", "load_settings", "run_config", "unused_keys"]

# The paper's budget of a whole response, which is that of one turn too; the rest of its sampling are the defaults.
PAPER_TOKENS = {"evaluation": {"max_new_tokens": 32768, "max_response_tokens": 32768}}


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """One evaluation."""

    seed: int = 0
    """of sampling"""
    json: str | None = None
    """file to write: the settings, the numbers and every rollout, as one JSON document"""
    env: EnvConfig = field(default_factory=EnvConfig)
    """the environment; evaluation_split is used"""
    eval_envs: tuple[EvalEnvConfig, ...] = ()
    """environments to evaluate on, each with a name; empty: `env` alone"""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """the policy, or "oracle" or "blank" as its path"""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """how it is measured"""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """engine, workers and max_ungraded_share; lengths, turns and temperature are the evaluation's"""

    def __post_init__(self) -> None:
        check_seed(self)
        check_names("eval_envs", self.eval_envs)


def envs_by_name(config: TrainConfig | EvaluateConfig) -> dict[str, EnvConfig]:
    """The environments that are evaluated on, in order; `env` alone is called "env"."""
    return {entry.name: entry.env for entry in config.eval_envs} or {"env": config.env}


def load_settings(argv: Sequence[str]) -> tuple[EvaluateConfig, str]:
    """The settings of an evaluation from command-line arguments, and where they come from, in words.

    Keys of `TrainConfig` that evaluation has no use for may be given, and are left out. Raises ConfigError.
    """
    print_help(argv, EvaluateConfig)
    given = given_values(argv, EvaluateConfig)
    path = given.get("policy.path", PolicyConfig().path)
    run = run_config(path)
    arguments = list(argv)
    base: Mapping[str, Any] = {}
    if "recipe" in given or "config" in given:
        origin = " and ".join(given[key] for key in ("recipe", "config") if key in given)
    elif run is not None:
        base, origin = read_yaml(run), str(run)
    elif path == "nano":
        arguments, origin = ["recipe=nano", *argv], "nano"
    else:
        base, origin = PAPER_TOKENS, "the environment's defaults and the paper's sampling"
    config = load_config(arguments, EvaluateConfig, base=base, wider=TrainConfig)
    without_effect = [key for key in given if key.split(".")[0] == "env"]
    if config.eval_envs and without_effect:
        raise ConfigError(
            f"{', '.join(without_effect)}: no effect where eval_envs lists environments "
            f"({', '.join(entry.name for entry in config.eval_envs)}): set eval_envs.N.env, or eval_envs=[] to "
            "evaluate on env alone"
        )
    return config, origin


def run_config(path: str) -> Path | None:
    """The config.yaml of the run that the checkpoint at `path` lies in: RUN/policy, RUN/best, RUN/start, or
    RUN/checkpoints/step-NNNNNN/policy; None where it lies in no run."""
    folder = Path(path).absolute()
    run = folder.parents[2] if folder.match("checkpoints/step-*/policy") else folder.parent
    config = run / "config.yaml"
    is_kept = folder.is_dir() and folder.name in ("policy", "best", "start")
    return config if is_kept and config.is_file() else None


def unused_keys(argv: Sequence[str]) -> list[str]:
    """The keys among the arguments that are settings of training alone."""
    given = [key for key in given_values(argv, EvaluateConfig) if key not in ("recipe", "config")]
    return [key for key in given if annotation_of(EvaluateConfig, key) is None]
