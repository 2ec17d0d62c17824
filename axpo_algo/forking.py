"""How episodes begin: forked from the start of a task (a group), or from a source before its first call (branches).

Both happen on the environment's worker, within a time limit: what raises or hangs there is that group, or those
branches, alone. What an episode records is `episodes`; who is branched is `selection`; what branches are worth is
`advantage`.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from axpo_algo.episodes import Episode, Held, Hung, as_exception, close_env, lose, make_worker
from axpo_algo.models.chat import Chat
from axpo_algo.types import Trajectory
from axpo_env.workers import Crew, Failure, Job, Worker

__all__ = ["GroupStarter", "PrefixMismatch", "branch", "check_prefix", "start_group"]


class PrefixMismatch(AssertionError):
    """A branch's first tokens or images differ from its source's: credit would land on the wrong tokens."""


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
        self._worker = make_worker(make())

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
                self._worker = make_worker(self._make())
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
        lose(trajectory, error, f"group {seed}" if number == 0 else None)
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
            lose(trajectory, failed, f"branches {seed}" if number == 0 else None)
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
