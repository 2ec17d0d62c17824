"""The settings of a training run: nested, frozen, keyword-only dataclasses, a unit under each field.

Loading them from YAML and the command line is left to `axpo_algo.config.loading`; ready YAML files lie in `recipes`.
Names of algorithms, engines and environments, paths and devices are checked by `axpo_algo.checks`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from axpo_sandbox.names import unknown_name


def _at_least(config: object, minimum: float, *names: str) -> None:
    """Raises ValueError for a field below `minimum`, or no number at all, naming class, field and value; None sets no
    limit."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not value >= minimum:
            raise ValueError(f"{type(config).__name__}.{name} must be at least {minimum:g}, got {value:g}")


def _bounded(config: Any) -> None:
    """Raises ValueError where no limit of tokens is set."""
    if config.max_new_tokens is None and config.max_response_tokens is None:
        raise ValueError(
            f"{type(config).__name__}.max_new_tokens and max_response_tokens cannot both be null: "
            "a response needs a limit"
        )


def _within(config: object, low: float, high: float, *names: str) -> None:
    """Raises ValueError for a field outside [low, high], naming class, field and value."""
    for name in names:
        value = getattr(config, name)
        if not low <= value <= high:
            raise ValueError(f"{type(config).__name__}.{name} must lie in [{low:g}, {high:g}], got {value:g}")


def _finite(config: object, *names: str) -> None:
    """Raises ValueError for a field that is infinite or no number, naming class, field and value."""
    for name in names:
        value = getattr(config, name)
        if not math.isfinite(value):
            raise ValueError(f"{type(config).__name__}.{name} must be finite, got {value:g}")


def _betas(config: object) -> None:
    """Raises ValueError for moments that never decay, or that AdamW does not know."""
    betas = config.betas  # type: ignore[attr-defined]
    if not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"{type(config).__name__}.betas must lie in [0, 1), got {list(betas)}")


def check_seed(config: object) -> None:
    """Raises ValueError for a seed that torch does not take."""
    seed = config.seed  # type: ignore[attr-defined]
    if not 0 <= seed < 2**64:
        raise ValueError(f"{type(config).__name__}.seed must lie in [0, 2^64), got {seed}")


# Keywords of an environment that have settings of their own, and which.
_SET_ELSEWHERE = {
    "split": "env.split for training, env.evaluation_split for evaluation",
    "max_turns": "rollout.max_turns for training, evaluation.max_turns for evaluation",
}


def _no_keyword_of_ours(where: str, kwargs: Mapping[str, Any]) -> None:
    """Raises ValueError for a keyword that the commands set from another setting, and for a secret."""
    for name, setting in _SET_ELSEWHERE.items():
        if name in kwargs:
            raise ValueError(f"{where}.{name} is not taken (got {kwargs[name]!r}): set {setting}")
    sandbox = kwargs.get("sandbox")
    if isinstance(sandbox, Mapping) and "api_key" in sandbox:
        raise ValueError(
            f"{where}.sandbox.api_key is not taken: settings are kept in files; set E2B_API_KEY instead"
        )


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """The environment to train in."""

    id: str = "AXPO/ChartQA-Tools-v0"
    """a registered Gymnasium id"""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """passed to gymnasium.make: source, tools, max_pixels (px), sandbox (a backend's name, or a mapping such as
    {backend: docker, image: NAME}), ...; not split and max_turns, which have settings of their own"""
    split: str = "train"
    """split that training draws from"""
    evaluation_split: str = "test"
    """split that evaluation draws from"""

    def __post_init__(self) -> None:
        _no_keyword_of_ours("env.kwargs", self.kwargs)


# What may not be an environment's name: metrics called `train/NAME/...` have it already.
_METRIC_GROUPS = ("calls", "status", "ungraded")


def _check_name(config: Any) -> None:
    """Raises ValueError for an environment's name that metrics cannot bear."""
    where, name = f"{type(config).__name__}.name", config.name
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):
        raise ValueError(
            f"{where} must be letters, digits, '_', '.' and '-', a letter or digit first, got {name!r}"
        )
    if name in _METRIC_GROUPS:
        raise ValueError(
            f"{where} must not be one of {', '.join(_METRIC_GROUPS)}, which metrics use, got {name!r}"
        )


@dataclass(frozen=True, kw_only=True)
class TrainEnvConfig:
    """One of several environments to train in."""

    name: str
    """in metrics, train/NAME/...: letters, digits, "_", "." and "-" """
    weight: float = 1.0
    """its share of the questions is weight / sum of weights; 0: none"""
    env: EnvConfig = field(default_factory=EnvConfig)
    """the environment; split is used"""

    def __post_init__(self) -> None:
        _check_name(self)
        _at_least(self, 0, "weight")
        _finite(self, "weight")


@dataclass(frozen=True, kw_only=True)
class EvalEnvConfig:
    """One of several environments to evaluate on."""

    name: str
    """in metrics, eval/NAME/...: letters, digits, "_", "." and "-" """
    env: EnvConfig = field(default_factory=EnvConfig)
    """the environment; evaluation_split is used"""

    def __post_init__(self) -> None:
        _check_name(self)


def check_names(setting: str, entries: Sequence[TrainEnvConfig | EvalEnvConfig]) -> None:
    """Raises ValueError where two environments of a list have one name."""
    names = [entry.name for entry in entries]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{setting} must have names that differ, got {twice!r} twice")


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """The policy to start from."""

    path: str = "nano"
    """"nano" (built in, random weights), a hub id, or a folder with weights"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """type in which it samples, and runs while it trains; the weights that training changes are float32 either way"""
    gradient_checkpointing: bool = False
    """activations of decoder and vision blocks are computed again in the backward pass rather than kept"""
    freeze_vision: bool = False
    """the vision tower is not trained"""
    device: str = "auto"
    """where the model lives: "cpu", "cuda", "cuda:1", ...; auto: a GPU where there is one"""


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """What the plan of memory and disk assumes of the machine and of the questions; training does not read it."""

    device_gb: float | None = None
    """memory of an accelerator, GB (1e9 bytes); null: of the one that is used, on a CPU the machine's"""
    prompt_tokens: int = 1024
    """tokens of a question with its tools, images not counted"""
    observation_tokens: int = 512
    """tokens that a tool call adds, its image not counted"""
    image_pixels: int = 1_048_576
    """pixels of an image where env.kwargs.max_pixels does not say; each call is taken to add one"""

    def __post_init__(self) -> None:
        _at_least(self, 0.1, "device_gb")
        _at_least(self, 1, "prompt_tokens", "image_pixels")
        _at_least(self, 0, "observation_tokens")


@dataclass(frozen=True, kw_only=True)
class SFTSource:
    """Demonstrations of one kind."""

    share: float = 1.0
    """weight among the phase's sources"""
    env: str | None = None
    """name of one of train_envs; null: the environment is `env`"""
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """laid over the environment's own keywords"""
    tool_fraction: float = 1.0
    """share of the demonstrations that call a tool, 0-1"""
    aim_noise: tuple[float, ...] = (1.0,)
    """probabilities of zooming 0, 1, 2, ... places beside the target"""

    def __post_init__(self) -> None:
        _at_least(self, 0, "share")
        _finite(self, "share")
        _within(self, 0, 1, "tool_fraction")
        _no_keyword_of_ours("sft.phases.sources.env_kwargs", self.env_kwargs)
        if not (all(0 <= p < math.inf for p in self.aim_noise) and sum(self.aim_noise) > 0):
            raise ValueError(
                f"SFTSource.aim_noise must be probabilities, one above 0, got {list(self.aim_noise)}"
            )


@dataclass(frozen=True, kw_only=True)
class SFTPhase:
    """One stretch of supervised fine-tuning on demonstrations."""

    num_steps: int = 100
    """optimizer steps, or the most of them where there is a target_loss"""
    target_loss: float | None = None
    """the phase ends once the mean loss of its last 20 steps is at or below it; null: after num_steps"""
    batch_size: int = 48
    """demonstrations per step"""
    learning_rate: float = 1e-3
    """per step, at the start of the phase"""
    final_learning_rate: float | None = None
    """per step, at its end, reached in a straight line; null: as at the start"""
    sources: tuple[SFTSource, ...] = (SFTSource(),)
    """where demonstrations come from"""

    def __post_init__(self) -> None:
        _at_least(self, 0, "num_steps", "learning_rate")
        _at_least(self, 1, "batch_size")
        _finite(self, "learning_rate")
        if self.target_loss is not None:
            _at_least(self, 0, "target_loss")
        if self.final_learning_rate is not None:
            _at_least(self, 0, "final_learning_rate")
            _finite(self, "final_learning_rate")
        if not sum(source.share for source in self.sources) > 0:
            raise ValueError("SFTPhase.sources must have a share above 0")


@dataclass(frozen=True, kw_only=True)
class SFTConfig:
    """The cold start before reinforcement learning; no phases, no cold start."""

    phases: tuple[SFTPhase, ...] = ()
    """run in order"""
    warmup_steps: int = 20
    """steps of linear warm-up at the very start"""
    betas: tuple[float, float] = (0.9, 0.98)
    """decay of AdamW's first and second moment, per step"""
    weight_decay: float = 0.01
    """per step, times the learning rate"""
    max_grad_norm: float = 1.0
    """gradients with a larger L2 norm are scaled down to it"""

    def __post_init__(self) -> None:
        _at_least(self, 0, "warmup_steps", "weight_decay", "max_grad_norm")
        _finite(self, "weight_decay")
        _betas(self)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The loop itself."""

    num_steps: int = 300
    """steps; one is rollouts, advantages and updates"""
    num_threads: int = 0
    """CPU threads for torch; 0 keeps torch's own choice"""
    max_skipped_updates: int = 3
    """updates in a row that end the run, in the cold start too; one is skipped if its loss or gradient is not finite"""

    def __post_init__(self) -> None:
        _at_least(self, 0, "num_steps", "num_threads")
        _at_least(self, 1, "max_skipped_updates")


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How trajectories are sampled in training."""

    engine: str = "transformers"
    """name of the engine that generates"""
    group_size: int = 8
    """trajectories per question (N)"""
    questions_per_step: int = 16
    """questions per step (B)"""
    equal_budget: bool = True
    """an algorithm that does not resample spends AXPO's extra budget on larger groups: N + floor(r * N)"""
    temperature: float = 1.0
    """of sampling; training divides its logits by it too"""
    max_new_tokens: int | None = 128
    """tokens per turn; null: only the response's limit holds"""
    max_response_tokens: int | None = None
    """tokens that the policy writes in all turns of a trajectory together; null: no limit but the turns'"""
    cut_response: Literal["wrong", "masked"] = "wrong"
    """a response that a limit of tokens cut counts 0, or is masked; assumed: 0, the paper does not say"""
    max_turns: int = 3
    """turns per trajectory"""
    num_workers: int = 4
    """environment steps, tools included, running at a time"""
    call_time_limit_s: float = 300.0
    """seconds that one environment step, tools included, may take; then its episode ends as "timeout", ungraded"""
    episode_time_limit_s: float | None = None
    """seconds that an episode may take from the start of its rollout; null: no limit"""
    max_ungraded_share: float = 0.25
    """share of a step's trajectories, or an evaluation's, that may end ungraded (outages, time-outs, answers without a
    judge), 0-1; with more the run ends"""
    lockstep: bool = True
    """a turn begins when all running episodes are ready: a seeded run repeats itself; false: as each gets ready"""
    max_batch_size: int = 256
    """sequences decoded together"""

    def __post_init__(self) -> None:
        _at_least(self, 1, "group_size", "questions_per_step", "max_new_tokens", "max_response_tokens")
        _at_least(self, 1, "max_turns", "num_workers", "max_batch_size")
        _at_least(self, 1e-3, "call_time_limit_s", "episode_time_limit_s")
        _at_least(self, 1e-6, "temperature")
        _finite(self, "temperature")
        _within(self, 0, 1, "max_ungraded_share")
        _bounded(self)


@dataclass(frozen=True, kw_only=True)
class AxpoConfig:
    """Resampling of tool calls, and how a group is normalised."""

    extra_budget: float = 0.25
    """extra continuations per step (r), as a share of the step's ordinary trajectories"""
    continuations: int = 4
    """continuations per chosen prefix (K)"""
    std: Literal["population", "sample"] = "population"
    """standard deviation that advantages are divided by, under every algorithm; the paper does not say which"""
    ranking: Literal["uncertainty", "random"] = "uncertainty"
    """which sources of a group come first: the least confident calls, or any"""
    train_malformed_calls: bool = False
    """whether a source's first call that could not be read is trained, with the advantage its trajectory has in the
    group; the paper trains no source's own call"""

    def __post_init__(self) -> None:
        _at_least(self, 0, "extra_budget")
        _finite(self, "extra_budget")
        _at_least(self, 1, "continuations")


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters that are trained instead of the weights (needs the extra "lora")."""

    rank: int = 0
    """of the adapters; 0 trains all weights"""
    alpha: int = 32
    """their product counts alpha / rank"""
    vision: bool = False
    """adapters in the vision tower too, beside the language model"""

    def __post_init__(self) -> None:
        _at_least(self, 0, "rank", "alpha")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW."""

    learning_rate: float = 1e-4
    """per step, after warm-up"""
    betas: tuple[float, float] = (0.9, 0.99)
    """decay of the first and the second moment, per step"""
    eps: float = 1e-8
    """added to the root of the second moment: gradients well below it move a weight little"""
    weight_decay: float = 0.0
    """per step, times the learning rate"""
    warmup_steps: int = 10
    """steps of linear warm-up"""
    max_grad_norm: float = 1.0
    """gradients with a larger L2 norm are scaled down to it"""
    offload: bool = False
    """float32 weights, gradients and moments wait in host memory, of bfloat16 or several ranks"""

    def __post_init__(self) -> None:
        _at_least(self, 0, "learning_rate", "eps", "weight_decay", "warmup_steps", "max_grad_norm")
        _finite(self, "learning_rate", "eps", "weight_decay")
        _betas(self)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The clipped surrogate and its KL term."""

    clip_low: float = 0.2
    """the probability ratio is clipped below at 1 - clip_low"""
    clip_high: float = 0.4
    """the probability ratio is clipped above at 1 + clip_high"""
    kl_coefficient: float = 1e-3
    """weight of the KL term to the frozen starting policy; 0 leaves the reference out"""
    updates_per_step: int = 1
    """optimizer updates that a step's samples are split over"""
    max_tokens_per_micro_batch: int = 8192
    """tokens, padding included, in one forward pass"""
    share_prefixes: bool = True
    """what a question's samples have in common (prompt, images, a source's prefix) stands once in a forward pass"""
    max_importance_weight: float = 2.0
    """cap of exp(training - sampling log-prob), the weight that corrects for the engine's arithmetic; assumed"""

    def __post_init__(self) -> None:
        _at_least(self, 0, "max_importance_weight")
        _at_least(self, 0, "clip_low", "clip_high", "kl_coefficient")
        _finite(self, "kl_coefficient")
        _at_least(self, 1, "updates_per_step", "max_tokens_per_micro_batch")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How the policy is measured; the sampling defaults are the paper's."""

    num_questions: int = 128
    """questions of each environment, the first of the split"""
    rollouts_per_question: int = 4
    """trajectories per question (k of Pass@k)"""
    temperature: float = 0.7
    """of sampling"""
    top_p: float = 0.8
    """probability mass kept, 0-1"""
    top_k: int = 20
    """tokens kept; 0 keeps all"""
    presence_penalty: float = 1.5
    """taken off the logit of every token already written"""
    max_new_tokens: int | None = 128
    """tokens per turn; null: only the response's limit holds"""
    max_response_tokens: int | None = None
    """tokens that the policy writes in all turns of a trajectory together; null: no limit but the turns'"""
    max_turns: int = 5
    """turns per trajectory"""
    every_num_steps: int = 50
    """training steps between two evaluations; 0 evaluates only before and after training"""

    def __post_init__(self) -> None:
        _at_least(self, 1, "num_questions", "rollouts_per_question", "max_turns")
        _at_least(self, 1, "max_new_tokens", "max_response_tokens")
        _at_least(self, 0, "temperature", "top_k", "every_num_steps")
        _finite(self, "temperature", "presence_penalty")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"EvaluationConfig.top_p must lie in (0, 1], got {self.top_p:g}")
        _bounded(self)


@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """What a run leaves behind besides metrics.jsonl."""

    tensorboard: bool = True
    """write TensorBoard events where the package is installed"""
    wandb: str | None = None
    """project name in Weights & Biases; null logs nothing there"""
    num_trajectories: int = 4
    """trajectories shown on one page"""
    trajectories_every_num_steps: int = 25
    """training steps between two pages; 0 writes none"""
    curves_every_num_steps: int = 10
    """training steps between two drawings of curves.png; 0 draws it at the end only"""

    def __post_init__(self) -> None:
        _at_least(self, 0, "num_trajectories", "trajectories_every_num_steps", "curves_every_num_steps")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Training state on disk, for `resume`."""

    every_num_steps: int = 50
    """training steps between two checkpoints; 0 writes one at the end only"""
    keep: int = 2
    """newest checkpoints that stay on disk; more than one, so that there is another should the newest be damaged"""
    best_metric: str | None = "pass@1"
    """number of the evaluations; best/ keeps the policy with the highest, of equals the earliest; null keeps none"""

    def __post_init__(self) -> None:
        _at_least(self, 0, "every_num_steps")
        _at_least(self, 1, "keep")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run."""

    seed: int = 0
    """everything random comes from it"""
    algorithm: str = "axpo"
    """how a group of trajectories becomes trained samples"""
    baseline: str | None = None
    """a second algorithm, trained afterwards from the same start on the same budget, for a table side by side; null or
    the first one's name: none"""
    run_dir: str | None = None
    """folder of the run; null takes the next free runs/ALGORITHM-NNN"""
    resume: bool = False
    """go on from the newest checkpoint of run_dir (null: of the newest runs/ALGORITHM-NNN)"""
    dry_run: bool = False
    """print what the run would need of memory and disk, and end: no weights are read, no folder is made"""
    plan: PlanConfig = field(default_factory=PlanConfig)
    """what that is worked out from"""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """the loop"""
    env: EnvConfig = field(default_factory=EnvConfig)
    """the environment"""
    train_envs: tuple[TrainEnvConfig, ...] = ()
    """environments to train in together, each with a name and a weight; empty: `env` alone"""
    eval_envs: tuple[EvalEnvConfig, ...] = ()
    """environments to evaluate on, each with a name; empty: `env` alone"""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """the policy"""
    sft: SFTConfig = field(default_factory=SFTConfig)
    """the cold start"""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """sampling"""
    axpo: AxpoConfig = field(default_factory=AxpoConfig)
    """resampling"""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """adapters instead of all weights"""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """steps"""
    loss: LossConfig = field(default_factory=LossConfig)
    """what the steps minimise"""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """measuring"""
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    """records"""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """training state"""

    def __post_init__(self) -> None:
        check_seed(self)
        check_names("train_envs", self.train_envs)
        check_names("eval_envs", self.eval_envs)
        weights = [entry.weight for entry in self.train_envs]
        if weights and not any(weight > 0 for weight in weights):
            raise ValueError(f"train_envs must have a weight above 0, got {weights}")
        names = [entry.name for entry in self.train_envs]
        for number, phase in enumerate(self.sft.phases):
            for source in phase.sources:
                if source.env is not None and source.env not in names:
                    where = f"sft.phases.{number}.sources.env: "
                    raise ValueError(where + unknown_name("environment of train_envs", source.env, names))
