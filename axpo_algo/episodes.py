"""Episodes as the policy lives them: started in groups, recorded turn by turn, branched from a kept prefix.

An `Episode` pairs a forkable environment with its append-only `Trajectory`. Environments run on workers that can be
abandoned: one that raises or hangs ends its own episode (or group) without a reward, and nothing else. Who steps when
is `rollout`; who is branched is `selection`; what branches are worth is `advantage`.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from axpo_algo.config import RolloutConfig
from axpo_algo.models.chat import Chat
from axpo_algo.types import Generation, Trajectory
from axpo_env.messages import CALL, END_CALL, split_thinking
from axpo_env.workers import Crew, Failure, Job, Worker

__all__ = [
    "CUT",
    "UNGRADED",
    "Episode",
    "GroupStarter",
    "Held",
    "Hung",
    "PrefixMismatch",
    "branch",
    "check_prefix",
    "is_graded",
    "observe",
    "start_group",
    "take_turn",
]

logger = logging.getLogger(__name__)

UNGRADED = ("infrastructure", "timeout")
"""Stop reasons that say nothing of the policy: such a trajectory's reward stays NaN and it is masked."""
CUT = ("max_new_tokens", "max_response_tokens")
"""Stop reasons of a response that needed more tokens: than its turn may have, or all its turns together."""


class PrefixMismatch(AssertionError):
    """A branch's first tokens or images differ from its source's: credit would land on the wrong tokens."""


class Hung(TimeoutError):
    """An environment took longer than its time limit and was abandoned."""


class Held:
    """What a worker runs on and closes: an environment, and forks of it."""

    def __init__(self, env: Any) -> None:
        self.env = env
        self.fork: Any = None
        self.made: list[Any] = []
        """forks on their way to new owners"""

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
        self.worker = _worker(self.env)
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
        _lose(self.trajectory, error, f"episode {self.seed}")

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


def start_group(
    env: Any, chat: Chat, *, index: int, num_episodes: int, seed: tuple[int, ...], keep_forks: bool = False
) -> list[Episode]:
    """`num_episodes` episodes of task `index`: the environment is reset once and forked, the prompt rendered once.

    env: the unwrapped environment, left at the start of the task and free to be reset again. What it raises is
    raised here; see `GroupStarter`.
    """
    _, info = env.reset(seed=index, options={"index": index})
    return _group(env.fork(num_episodes), info, chat, seed=seed, keep_forks=keep_forks)


def _group(
    copies: Sequence[Any], info: Mapping[str, Any], chat: Chat, *, seed: tuple[int, ...], keep_forks: bool
) -> list[Episode]:
    token_ids, images = chat.prompt(info["new_messages"], info["tools"])
    episodes = []
    for number, copy in enumerate(copies):
        trajectory = Trajectory(info={"task": info["task"]})
        trajectory.append_observation(token_ids, images)
        episodes.append(Episode(env=copy, trajectory=trajectory, seed=(*seed, number), keep_fork=keep_forks))
    return episodes


class GroupStarter:
    """Starts groups from one environment as `start_group` does, each within `time_limit_s`.

    What fails is that group alone: its episodes have ended before the first token. An environment that hangs is
    replaced by a fresh one. make: makes the environment. Close the starter when done.
    """

    def __init__(self, make: Callable[[], Any], chat: Chat, *, time_limit_s: float = math.inf) -> None:
        self.chat, self.time_limit_s = chat, time_limit_s
        self._make = make
        self._worker = _worker(make())

    @property
    def env(self) -> Any:
        """The environment that is reset for each group."""
        return self._worker.env.env

    def start(
        self, *, index: int, num_episodes: int, seed: tuple[int, ...], keep_forks: bool = False
    ) -> list[Episode]:
        """`num_episodes` episodes of task `index`."""

        def reset(held: Held) -> Any:
            _, info = held.env.reset(seed=index, options={"index": index})
            held.made = held.env.fork(num_episodes)
            return info

        held = self._worker.env
        try:
            info = _run_within(self._worker, reset, self.time_limit_s)
            episodes = _group(held.made, info, self.chat, seed=seed, keep_forks=keep_forks)
        except Exception as error:
            if self._worker.has_ended:  # it hangs: its thread closes it, and what it made, one day
                self._worker = _worker(self._make())
            else:
                for copy in held.made:
                    close_env(copy)
            episodes = _never_begun(index, num_episodes, seed, error)
        held.made = []
        return episodes

    def close(self) -> None:
        """Closes the environment."""
        self._worker.has_ended = True
        self._worker.close()


def _never_begun(index: int, num_episodes: int, seed: tuple[int, ...], error: Exception) -> list[Episode]:
    trajectories = [
        Trajectory(info={"task": {"id": f"index {index}", "index": index}}) for _ in range(num_episodes)
    ]
    for number, trajectory in enumerate(trajectories):
        _lose(trajectory, error, f"group {seed}" if number == 0 else None)
    return [
        Episode(env=None, trajectory=trajectory, seed=(*seed, number))
        for number, trajectory in enumerate(trajectories)
    ]


def branch(
    source: Episode,
    num_branches: int,
    *,
    seed: tuple[int, ...],
    image_token_id: int,
    time_limit_s: float = math.inf,
) -> list[Episode]:
    """Episodes that share the source's tokens up to its branch point and its environment's state before that turn.

    Nothing of the shared prefix is trained in them. Where forking the environment raises, or takes longer than
    `time_limit_s`, they have ended without a reward. Raises ValueError where the source has no call to branch from
    or kept no fork.
    """
    kept = source.trajectory
    if kept.branch_point is None or source.fork is None:
        raise ValueError("only an episode that made a tool call and ran with keep_fork can be branched")
    start = kept.turns[source.fork_turns].start
    images = kept.images[: kept.num_images_before(start, image_token_id)]

    def fork(held: Held) -> None:
        held.made = held.fork.fork(num_branches)

    held, failed = source.worker.env, None
    try:
        _run_within(source.worker, fork, time_limit_s)
        envs, held.made = held.made, []
    except Exception as error:
        envs, failed = [None] * num_branches, error
    episodes = []
    for number, env in enumerate(envs):
        trajectory = Trajectory(
            source=kept, prefix_length=kept.branch_point, info={"task": kept.info["task"]}
        )
        trajectory.append_observation(kept.token_ids[:start], images)
        trajectory.turns = kept.turns[: source.fork_turns]
        if failed is not None:
            _lose(trajectory, failed, f"branches {seed}" if number == 0 else None)
        forced = kept.token_ids[start : kept.branch_point]
        episodes.append(Episode(env=env, trajectory=trajectory, seed=(*seed, number), forced=forced))
    return episodes


def check_prefix(trajectory: Trajectory, image_token_id: int) -> None:
    """Raises PrefixMismatch unless a branch repeats its source's prefix token by token and image by image,
    untrained."""
    source, length = trajectory.source, trajectory.prefix_length
    if source is None:
        return
    if length != source.branch_point or trajectory.token_ids[:length] != source.token_ids[:length]:
        raise PrefixMismatch(f"the first {length} tokens of a branch differ from its source's prefix")
    if any(trajectory.loss_mask[:length]):
        raise PrefixMismatch("a branch would train its repeated prefix")
    count = source.num_images_before(length, image_token_id)
    if [i.digest for i in trajectory.images[:count]] != [i.digest for i in source.images[:count]]:
        raise PrefixMismatch("a branch shows other images than its source's prefix")


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


def _worker(env: Any) -> Worker:
    held = Held(env)
    return Worker(0, lambda: held, env=held)


def _run_within(worker: Worker, job: Job, time_limit_s: float) -> Any:
    """The result of a job on a worker. Raises what it raises, or Hung: the worker is then abandoned (`has_ended`)."""
    crew = Crew()
    crew.submit(worker, job)
    try:
        if not crew.wait(1, until_s=time.monotonic() + time_limit_s):
            raise Hung(f"took longer than {time_limit_s:g} s")
    except BaseException:
        crew.abandon(worker.number)
        raise
    finally:
        crew.dismiss(until_s=time.monotonic())
    result = crew.results.pop(worker.number)
    if isinstance(result, Failure):
        raise as_exception(result.error)
    return result


def _lose(trajectory: Trajectory, error: Exception, name: str | None) -> None:
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
