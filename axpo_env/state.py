"""The frozen state of an episode, and the words for why it ended.

Everything an episode is, except the running interpreter, lies in one immutable `EpisodeState`; `dynamics`
makes the next one. The interpreter and the random state join it in `snapshots`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axpo_env.grading import Grade
from axpo_env.messages import NotText, ToolCall
from axpo_env.tasks.base import Task

Image = NDArray[np.uint8]  # [H, W, 3], read-only once in a state


class StopReason(StrEnum):
    """Why an episode ended."""

    ANSWER = "answer"  # the policy answered: terminated, graded (or ungraded where only a judge could)
    MAX_TURNS = "max_turns"  # the last turn was a tool call (not executed): truncated, graded as wrong
    MALFORMED = "malformed"  # the last turn was neither a call nor an answer: truncated, graded as wrong
    TIMEOUT = "timeout"  # the tools used up the episode's seconds: truncated, ungraded
    INFRASTRUCTURE = "infrastructure"  # a tool's backend is down: truncated, ungraded


@dataclass(frozen=True, kw_only=True)
class Text:
    """A piece of a message's text."""

    text: str

    def as_dict(self) -> dict[str, Any]:
        return {"type": "text", "text": self.text}


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """An image as the policy sees it, at most `max_pixels` large."""

    image: Image

    def as_dict(self) -> dict[str, Any]:
        return {"type": "image", "image": self.image}


@dataclass(frozen=True, kw_only=True)
class Message:
    """One message of the conversation."""

    role: str  # system, user, assistant or tool
    content: tuple[Text | Picture, ...]
    name: str | None = None  # of the tool, for role tool

    def as_dict(self) -> dict[str, Any]:
        """A fresh dict (the arrays are shared, read-only)."""
        named = {} if self.name is None else {"name": self.name}
        return {"role": self.role, **named, "content": [part.as_dict() for part in self.content]}


@dataclass(frozen=True, kw_only=True, eq=False)
class EpisodeState:
    """One moment of an episode, right after an observation was made."""

    task: Task
    images: tuple[Image, ...]  # full resolution: the task's, then those the tools made
    messages: tuple[Message, ...]  # the whole conversation
    num_new: int  # how many of the last messages are new to the policy
    actions: tuple[str | NotText, ...] = ()  # every action so far; with the task they determine all the rest
    calls: tuple[ToolCall, ...] = ()  # of the last action
    stop_reason: StopReason | None = None
    grade: Grade | None = None
    outage: str | None = None  # what was down, for StopReason.INFRASTRUCTURE
    tool_time_s: float = 0.0  # seconds the tools took so far
    tool_states: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))  # by tool name

    @property
    def num_turns(self) -> int:
        return len(self.actions)

    @property
    def new_messages(self) -> tuple[Message, ...]:
        return self.messages[len(self.messages) - self.num_new :]

    @property
    def reward(self) -> float:
        """1 or 0; 0 says nothing where the episode is ungraded."""
        return 1.0 if self.grade is not None and self.grade.correct else 0.0

    @property
    def ungraded(self) -> bool:
        """Over, and nobody can say whether right: an outage, or an answer for a judge where there is none."""
        return self.stop_reason is not None and (self.grade is None or self.grade.correct is None)

    @property
    def terminated(self) -> bool:
        return self.stop_reason is StopReason.ANSWER

    @property
    def truncated(self) -> bool:
        return self.stop_reason is not None and not self.terminated
