"""Rollouts: many episodes in flight, one engine, tools running meanwhile; and branches from a kept prefix.

An `Episode` pairs a forkable environment with its append-only `Trajectory`. `run_episodes` drives any number of
them to their end: whoever waits for tokens goes to the engine in one batch while environments step on threads.
`branch` makes the K continuations of a source: its environment as it was before the first tool call, forked, and
its tokens up to and including the opening tag, copied. Who is branched is `selection`; what branches are worth is
`advantage`.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from axpo_algo.engines.base import Engine, GenerationRequest, Sampling
from axpo_algo.models.chat import Chat
from axpo_algo.types import Generation, Trajectory

__all__ = [
    "UNGRADED",
    "Episode",
    "PrefixMismatch",
    "branch",
    "check_prefix",
    "is_graded",
    "run_episodes",
    "start_group",
]

UNGRADED = ("infrastructure", "timeout")
"""Stop reasons that say nothing of the policy: such a trajectory's reward stays NaN and it is masked."""


class PrefixMismatch(AssertionError):
    """A branch's first tokens or images differ from its source's: credit would land on the wrong tokens."""


@dataclass(kw_only=True, eq=False)
class Episode:
    """One environment and what the policy has seen and written in it."""

    env: Any
    """steps and forks as `axpo_env.env.ToolEnv` does"""
    trajectory: Trajectory
    seed: tuple[int, ...]
    """names the episode's random numbers; each turn adds its number"""
    forced: list[int]
    """tokens that the coming turn already begins with: a branch's share of that turn"""
    keep_fork: bool = False
    """keep a fork of the environment from before the first tool call, to branch from"""
    fork: Any = None
    """that fork, once there is a call"""
    fork_turns: int = 0
    """turns that were finished when it was made"""

    @property
    def done(self) -> bool:
        return self.trajectory.status != "running"

    def close(self) -> None:
        """Releases the environment and the kept fork."""
        self.env.close()
        if self.fork is not None:
            self.fork.close()
            self.fork = None


def start_group(
    env: Any, chat: Chat, *, index: int, num_episodes: int, seed: tuple[int, ...], keep_forks: bool = False
) -> list[Episode]:
    """`num_episodes` episodes of task `index`: the environment is reset once and forked, the prompt rendered once.

    env: the unwrapped environment, left at the start of the task and free to be reset again.
    """
    _, info = env.reset(seed=index, options={"index": index})
    token_ids, images = chat.prompt(info["new_messages"], info["tools"])
    episodes = []
    for number, copy in enumerate(env.fork(num_episodes)):
        trajectory = Trajectory(info={"task": info["task"]})
        trajectory.append_observation(token_ids, images)
        episodes.append(
            Episode(env=copy, trajectory=trajectory, seed=(*seed, number), forced=[], keep_fork=keep_forks)
        )
    return episodes


def branch(
    source: Episode, num_branches: int, *, seed: tuple[int, ...], image_token_id: int
) -> list[Episode]:
    """Episodes that share the source's tokens up to its branch point and its environment's state before that turn.

    Nothing of the shared prefix is trained in them. Raises ValueError where the source made no tool call or kept
    no fork.
    """
    kept = source.trajectory
    if kept.branch_point is None or source.fork is None:
        raise ValueError("only an episode that made a tool call and ran with keep_fork can be branched")
    start = kept.turns[source.fork_turns].start
    episodes = []
    for number, env in enumerate(source.fork.fork(num_branches)):
        trajectory = Trajectory(
            source=kept, prefix_length=kept.branch_point, info={"task": kept.info["task"]}
        )
        images = kept.images[: kept.num_images_before(start, image_token_id)]
        trajectory.append_observation(kept.token_ids[:start], images)
        trajectory.turns = kept.turns[: source.fork_turns]
        forced = kept.token_ids[start : kept.branch_point]
        episodes.append(Episode(env=env, trajectory=trajectory, seed=(*seed, number), forced=forced))
    return episodes


def run_episodes(
    episodes: Sequence[Episode],
    engine: Engine,
    chat: Chat,
    sampling: Sampling,
    *,
    pool: ThreadPoolExecutor,
    lockstep: bool = True,
) -> None:
    """Drives all episodes to their end; each episode's trajectory then has its status and reward.

    lockstep: whether the engine waits until every running episode is ready. True makes the batches, and so the
    last digit of every log-prob, independent of how long tools take; False keeps engine and slow tools busy at
    once.
    """
    waiting = [episode for episode in episodes if not episode.done]
    stepping: dict[Future[tuple[Any, ...]], Episode] = {}
    order = {id(episode): position for position, episode in enumerate(episodes)}
    while waiting or stepping:
        if waiting and not (lockstep and stepping):
            requests = [
                GenerationRequest(
                    token_ids=episode.trajectory.token_ids + episode.forced,
                    images=episode.trajectory.images,
                    seed=(*episode.seed, len(episode.trajectory.turns)),
                )
                for episode in waiting
            ]
            for episode, generation in zip(waiting, engine.generate(requests, sampling), strict=True):
                action = _take_turn(episode, generation, chat)
                if action is not None:
                    stepping[pool.submit(episode.env.step, action)] = episode
            waiting = []
        if stepping:
            finished, _ = wait(stepping, return_when=FIRST_COMPLETED)
            for future in finished:
                episode = stepping.pop(future)
                _observe(episode, future.result(), chat)
                if not episode.done:
                    waiting.append(episode)
            waiting.sort(key=lambda episode: order[id(episode)])


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


def _take_turn(episode: Episode, generation: Generation, chat: Chat) -> str | None:
    """Records what was sampled; returns the action's text, or None where the turn ran into the limit of new tokens."""
    trajectory, forced = episode.trajectory, episode.forced
    turn_ids = forced + generation.token_ids
    start = len(trajectory.token_ids)
    text = chat.decode(turn_ids)
    trajectory.append_action(turn_ids, [0.0] * len(forced) + generation.logprobs, text, num_given=len(forced))
    episode.forced = []
    if trajectory.branch_point is None:
        call = chat.first_call(turn_ids)
        if call is not None:
            trajectory.used_tool = True
            trajectory.branch_point, trajectory.call_end = start + call[0], start + call[1]
            if episode.keep_fork:
                episode.fork, episode.fork_turns = episode.env.fork(1)[0], len(trajectory.turns) - 1
    if not generation.finished:
        trajectory.status, trajectory.reward = "max_new_tokens", 0.0
        episode.env.close()
        return None
    return chat.as_action(text)


def is_graded(info: Mapping[str, Any]) -> bool:
    """Whether a finished episode's reward means something: no outage, and no answer only a judge could grade."""
    grade = info["grade"]
    return info["stop_reason"] not in UNGRADED and (grade is None or grade["correct"] is not None)


def _observe(episode: Episode, result: tuple[Any, ...], chat: Chat) -> None:
    """Records an environment's answer: more tokens to read, or the end."""
    _, reward, terminated, truncated, info = result
    trajectory = episode.trajectory
    for call in info["tool_calls"]:
        trajectory.used_tool = True
        trajectory.aim = trajectory.aim or call.get("aim")
        name = call["name"] or "malformed"
        trajectory.tool_counts[name] = trajectory.tool_counts.get(name, 0) + 1
    if terminated or truncated:
        trajectory.status = str(info["stop_reason"])
        trajectory.reward = float(reward) if is_graded(info) else float("nan")
        trajectory.info["grade"] = info["grade"]
        if info.get("outage") is not None:
            trajectory.info["outage"] = info["outage"]
        episode.env.close()
    else:
        trajectory.append_observation(*chat.observation(info["new_messages"]))
