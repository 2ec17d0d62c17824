"""The records a rollout leaves: images, trajectories, groups, and the samples that training takes from them.

A `Trajectory` is append-only: token ids are carried from the sampler to the loss and never rendered again. Who
fills one is `rollout`; what its tokens mean is `models.chat`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

__all__ = ["Generation", "Group", "ProcessedImage", "Sample", "Trajectory", "Turn"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ProcessedImage:
    """One image as the vision tower takes it. Equal pixels have equal digests, so that equal images are
    encoded once."""

    digest: str
    """SHA-1 of shape and bytes"""
    patches: torch.Tensor
    """uint8 [grid_t * grid_h * grid_w, 3, pixels of a patch]; their floats are `models.images.Images.pixel_values`"""
    grid: tuple[int, int, int]
    """patches in time, height, width"""
    num_tokens: int
    """image placeholders it takes in the sequence"""
    pixels: np.ndarray
    """uint8 [H, W, 3], as the environment showed it"""

    @property
    def num_bytes(self) -> int:
        """Bytes of patches and pixels."""
        return self.patches.nbytes + self.pixels.nbytes


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What an engine sampled after one prompt."""

    token_ids: list[int]
    """sampled tokens, the stop token included"""
    logprobs: list[float]
    """of each sampled token, under the distribution it was drawn from"""
    finished: bool
    """a stop token ended it, rather than a limit of tokens"""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Where one turn's sampled tokens lie in its trajectory, and what the policy wrote there."""

    start: int
    """index of the first sampled token"""
    end: int
    """one past the last"""
    text: str


@dataclass(kw_only=True, eq=False)
class Trajectory:
    """One episode as tokens: observation and action tokens in the order the policy saw and wrote them."""

    token_ids: list[int] = field(default_factory=list)
    loss_mask: list[bool] = field(default_factory=list)
    """per token: sampled by the policy in this trajectory; observations and a repeated prefix are not"""
    sampling_logprobs: list[float] = field(default_factory=list)
    """per token; 0.0 where not sampled"""
    images: list[ProcessedImage] = field(default_factory=list)
    """in the order of their placeholders"""
    turns: list[Turn] = field(default_factory=list)
    reward: float = float("nan")
    """NaN until graded, and for good where grading was impossible (an outage, an answer that needs a judge)"""
    status: str = "running"
    """the environment's stop reason; "infrastructure" where it raised, "timeout" where it hung; "max_new_tokens" or
    "max_response_tokens" where a turn, or all turns together, needed more tokens"""
    branch_point: int | None = None
    """one past the opening tag of the first tool call: the length of the prefix that resampling keeps; None also
    where sampling that call again would be no use or no copy, see `episodes.take_turn`"""
    call_end: int | None = None
    """one past the last token of the first tool call"""
    used_tool: bool = False
    is_first_call_malformed: bool = False
    """the environment could not read the first call it ran"""
    tool_counts: dict[str, int] = field(default_factory=dict)
    aim: dict[str, Any] | None = None
    """of the first call that aimed somewhere, where the task knows where it should have: on_target, place, target"""
    source: "Trajectory | None" = None
    """the trajectory whose prefix this one continues"""
    prefix_length: int = 0
    """tokens shared with `source`; 0 without one"""
    info: dict[str, Any] = field(default_factory=dict)
    """"task", its description, and "grade", as the environment gave them; "outage": what went wrong outside the
    policy"""

    def append_observation(self, token_ids: Sequence[int], images: Sequence[ProcessedImage]) -> None:
        """Adds tokens that the policy reads and is not trained on."""
        self.token_ids += token_ids
        self.loss_mask += [False] * len(token_ids)
        self.sampling_logprobs += [0.0] * len(token_ids)
        self.images += images

    def append_action(
        self, token_ids: Sequence[int], logprobs: Sequence[float], text: str, *, num_given: int = 0
    ) -> None:
        """Adds a turn; logprobs [len(token_ids)]. Its first `num_given` tokens were not sampled here
        but kept from a source."""
        if len(token_ids) != len(logprobs):
            raise ValueError(f"{len(token_ids)} tokens with {len(logprobs)} log-probs")
        start = len(self.token_ids)
        self.token_ids += token_ids
        self.loss_mask += [False] * num_given + [True] * (len(token_ids) - num_given)
        self.sampling_logprobs += logprobs
        self.turns.append(Turn(start=start, end=len(self.token_ids), text=text))

    @property
    def num_sampled_tokens(self) -> int:
        """Tokens that the policy wrote here: not those of a repeated prefix."""
        return sum(max(0, turn.end - max(turn.start, self.prefix_length)) for turn in self.turns)

    @property
    def confidence(self) -> float | None:
        """Mean probability of the first tool call's tokens, both tags included (AXPO's ranking); None
        without a call to branch from."""
        if self.branch_point is None or self.call_end is None:
            return None
        logprobs = self.sampling_logprobs[self.branch_point - 1 : self.call_end]
        return float(np.exp(np.asarray(logprobs, dtype=np.float64)).mean())

    def without_tokens(self) -> "Trajectory":
        """What it came to, without tokens, log-probs and images; its `source` is left out as well."""
        return replace(self, token_ids=[], loss_mask=[], sampling_logprobs=[], images=[], source=None)

    def num_images_before(self, length: int, image_token_id: int) -> int:
        """How many images stand in the first `length` tokens. Raises ValueError where that cuts one in two."""
        remaining = sum(token == image_token_id for token in self.token_ids[:length])
        count = 0
        while remaining > 0 and count < len(self.images):
            remaining -= self.images[count].num_tokens
            count += 1
        if remaining != 0:
            raise ValueError(f"a prefix of {length} tokens cuts an image's placeholders in two")
        return count


@dataclass(kw_only=True, eq=False)
class Group:
    """The trajectories of one question, and the continuations resampled from some of them."""

    trajectories: list[Trajectory]
    """[N], from one start"""
    continuations: dict[int, list[Trajectory]] = field(default_factory=dict)
    """{index of the source: [K]}"""
    env_name: str | None = None
    """the environment's name in `train_envs`"""

    def without_tokens(self) -> "Group":
        """See `Trajectory.without_tokens`."""
        return replace(
            self,
            trajectories=[t.without_tokens() for t in self.trajectories],
            continuations={n: [t.without_tokens() for t in ts] for n, ts in self.continuations.items()},
        )

    @property
    def rewards(self) -> list[float]:
        return [trajectory.reward for trajectory in self.trajectories]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """One sequence to train on: the tokens [0, length) of a trajectory, of which [start, length) may carry loss."""

    trajectory: Trajectory
    advantage: float
    start: int = 0
    length: int

    @property
    def trained_positions(self) -> list[int]:
        """Indices of the tokens that carry loss."""
        trained = self.trajectory.loss_mask
        return [i for i in range(self.start, self.length) if trained[i]]
