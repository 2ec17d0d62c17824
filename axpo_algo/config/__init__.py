"""Settings of every command, and loading them: `load_config(["recipe=nano", "seed=1"], TrainConfig)`."""

from axpo_algo.config.loading import (
    config_from_file,
    config_from_mapping,
    load_config,
    load_config_or_exit,
    recipe_names,
    to_yaml,
)
from axpo_algo.config.schema import ConfigError
from axpo_algo.config.settings import (
    AxpoConfig,
    CheckpointConfig,
    EnvConfig,
    EvaluationConfig,
    LoggingConfig,
    LoraConfig,
    LossConfig,
    OptimizerConfig,
    PolicyConfig,
    RolloutConfig,
    SFTConfig,
    SFTPhase,
    SFTSource,
    TrainConfig,
    TrainingConfig,
)

__all__ = [
    "AxpoConfig",
    "CheckpointConfig",
    "ConfigError",
    "EnvConfig",
    "EvaluationConfig",
    "LoggingConfig",
    "LoraConfig",
    "LossConfig",
    "OptimizerConfig",
    "PolicyConfig",
    "RolloutConfig",
    "SFTConfig",
    "SFTPhase",
    "SFTSource",
    "TrainConfig",
    "TrainingConfig",
    "config_from_file",
    "config_from_mapping",
    "load_config",
    "load_config_or_exit",
    "recipe_names",
    "to_yaml",
]
