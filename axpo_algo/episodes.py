"""Episodes as the policy lives them: an environment, and a record of what was seen and written in it turn by turn.

An `Episode` pairs a forkable environment with its append-only `Trajectory`. The environment runs on a worker that can
be abandoned, and what it raises ends its own episode, without a reward. How episodes begin is `forking`; who steps
when is `rollout`.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from axpo_algo.config import RolloutConfig
from axpo_algo.models.chat import Chat
from axpo_algo.types import Generation, Trajectory
from axpo_env.messages import CALL, END_CALL, split_thinking
from axpo_env.workers import Worker

__all__ = [
    "CUT",
    "UNGRADED",
    "Episode",
    "Held",
    "Hung",
    "as_exception",
    "close_env",
    "is_graded",
    "observe",
    "lose",
    "make_worker",
    "take_turn",
]

logger = logging.getLogger(__name__)

UNGRADED = ("infrastructure", "timeout")
"""Stop reasons that say nothing of the policy: such a trajectory's reward stays NaN and it is masked."""
CUT = ("max_new_tokens", "max_response_tokens")
"""Stop reasons of a response that needed more tokens: than its turn may have, or all its turns together."""


class Hung(TimeoutError):
    """An environment took longer than its time limit and was abandoned."""


class Held:
    """What a worker runs on and closes: an environment, and forks of it."""

    def __init__(self, env: Any) -> None:
        self.env = env
        self.fork: Any = None
        self.made: list[Any] = []
        """forks on their way to new owners"""
        self.step_s: float | None = None
        """seconds that its last step took, until they are counted"""

    def close(self) -> None:
        for env in (self.env, self.fork, *self.made):
            close_env(env)


@dataclass(kw_only=True, eq=False)
class Episode:
    """One environment and what the policy has seen and written in it."""

    env: Any
    """steps and forks as `axpo_env.env.ToolEnv` does; None where it could not be started"""
    trajectory: Trajectory
    seed: tuple[int, ...]
    """names the episode's random numbers; each turn adds its number"""
    forced: list[int] = field(default_factory=list)
    """tokens that the coming turn already begins with: a branch's share of that turn"""
    keep_fork: bool = False
    """keep a fork of the environment from before the first tool call, to branch from"""
    fork_turns: int = 0
    """turns that were finished when it was made"""

    def __post_init__(self) -> None:
        self.worker = make_worker(self.env)
        """whoever steps, forks or closes the environment does it here"""

    @property
    def done(self) -> bool:
        return self.trajectory.status != "running"

    @property
    def fork(self) -> Any:
        """The environment as it was before the first tool call; None without a call to branch from."""
        return self.worker.env.fork

    def close(self) -> None:
        """Releases the environment and the kept fork; where a step still runs, as soon as it is done."""
        self.worker.has_ended = True
        self.worker.close()

    def cut(self, status: str, config: RolloutConfig) -> None:
        """Ends the episode for a response that needed more tokens."""
        self.trajectory.status = status
        self.trajectory.reward = 0.0 if config.cut_response == "wrong" else math.nan

    def lose(self, error: Exception) -> None:
        """Ends the episode without a reward for what its environment raised, or because it `Hung`."""
        lose(self.trajectory, error, f"episode {self.seed}")

    def lose_fork(self, error: Exception) -> None:
        """Notes that an ended episode cannot be branched: forking or closing its environment failed."""
        self.trajectory.branch_point = self.trajectory.call_end = None
        logger.error(
            "episode %s, which has ended, was not left in order: %s", self.seed, error, exc_info=error
        )

    def tokens_left(
        self, max_new_tokens: int | None, max_response_tokens: int | None
    ) -> tuple[int | None, str]:
        """How many tokens may yet be sampled in the coming turn (None: any number), and the status where that is
        too few. Tokens that a branch shares with its source count as its own."""
        written = len(self.forced) + sum(turn.end - turn.start for turn in self.trajectory.turns)
        limits = ((max_new_tokens, len(self.forced)), (max_response_tokens, written))
        left = [
            (limit - used, status)
            for (limit, used), status in zip(limits, CUT, strict=True)
            if limit is not None
        ]
        return min(left, default=(None, ""))


def take_turn(
    episode: Episode, generation: Generation, chat: Chat, config: RolloutConfig, max_new_tokens: int | None
) -> bool:
    """Records what was sampled, and ends the episode where a limit of tokens cut it.

    Returns whether the turn makes the first tool call, before which the environment is to be forked. Only a call that
    can be sampled again has a branch point: the environment would run it, no other was made before it, and both ends
    of it are where its tags' own tokens are.
    """
    trajectory, forced = episode.trajectory, episode.forced
    left, cut_status = episode.tokens_left(max_new_tokens, config.max_response_tokens)
    turn_ids = forced + generation.token_ids
    start, num_before = len(trajectory.token_ids), len(trajectory.turns)
    text = chat.decode(turn_ids)
    trajectory.append_action(turn_ids, [0.0] * len(forced) + generation.logprobs, text, num_given=len(forced))
    written, call = _first_call_written(text, chat), chat.first_call(turn_ids)
    can_branch = (
        call is not None
        and not trajectory.used_tool
        and num_before + 1 < config.max_turns  # the last turn's calls are not run
        and (left is None or call[0] - len(forced) < left)
        and written == tuple(len(chat.decode(turn_ids[:end])) for end in call)
    )
    if call is not None and can_branch:
        trajectory.branch_point, trajectory.call_end = start + call[0], start + call[1]
        episode.fork_turns = num_before
    trajectory.used_tool = trajectory.used_tool or written is not None
    episode.forced = []
    if not generation.finished:
        episode.cut(cut_status, config)
    return can_branch and episode.keep_fork


def _first_call_written(text: str, chat: Chat) -> tuple[int, int] | None:
    """Where the turn's first call is for the environment, which reads no tokens: (one past its opening tag, one past
    its end) in characters of `text`."""
    action = chat.as_action(text)
    body = split_thinking(action)[1] or ""
    if CALL not in body:
        return None
    begin = len(text) - len(body)
    opened = body.index(CALL) + len(CALL)
    closed = body.find(END_CALL, opened)
    return begin + opened, len(text) if closed < 0 else begin + closed + len(END_CALL)


def is_graded(info: Mapping[str, Any]) -> bool:
    """Whether a finished episode's reward means something: no outage, and no answer only a judge could grade."""
    grade = info["grade"]
    return info["stop_reason"] not in UNGRADED and (grade is None or grade["correct"] is not None)


def observe(episode: Episode, result: tuple[Any, ...], chat: Chat) -> None:
    """Records an environment's answer: more tokens to read, or the end."""
    _, reward, terminated, truncated, info = result
    trajectory = episode.trajectory
    for call in info["tool_calls"]:
        trajectory.used_tool = True
        trajectory.aim = trajectory.aim or call.get("aim")
        if not trajectory.tool_counts:
            trajectory.is_first_call_malformed = call["name"] is None
        name = call["name"] or "malformed"
        trajectory.tool_counts[name] = trajectory.tool_counts.get(name, 0) + 1
    if terminated or truncated:
        reward = float(reward) if is_graded(info) else math.nan
        trajectory.info["grade"] = info["grade"]
        if info.get("outage") is not None:
            trajectory.info["outage"] = info["outage"]
        trajectory.status, trajectory.reward = str(info["stop_reason"]), reward
    else:
        trajectory.append_observation(*chat.observation(info["new_messages"]))


def close_env(env: Any) -> None:
    """Closes an environment or None. An error is logged: what the episode came to stands."""
    if env is None:
        return
    try:
        env.close()
    except Exception:
        logger.exception("an environment could not be closed")


def as_exception(error: BaseException) -> Exception:
    """What an environment raised. An exit ends its episode like any error; an interrupt is raised: it is the user's."""
    if isinstance(error, KeyboardInterrupt):
        raise error
    if isinstance(error, Exception):
        return error
    wrapped = RuntimeError(f"{type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped


def make_worker(env: Any) -> Worker:
    """A worker that owns an environment (or None), and the forks to come."""
    held = Held(env)
    return Worker(0, lambda: held, env=held)


def lose(trajectory: Trajectory, error: Exception, name: str | None) -> None:
    """Ends a trajectory that nobody can grade; logged as `name`, if there is one."""
    trajectory.status = "timeout" if isinstance(error, Hung) else "infrastructure"
    trajectory.reward = math.nan
    trajectory.info["outage"] = f"{type(error).__name__}: {error}"
    if name is not None:
        task = trajectory.info["task"]["id"]
        logger.error(
            "%s of task %s: %s: %s",
            name,
            task,
            trajectory.status,
            trajectory.info["outage"],
            exc_info=error,
        )
