"""Rollouts: many episodes in flight, one engine, tools running meanwhile, and nobody waits for who hangs.

`run_episodes` is one loop over an engine that takes requests one by one and hands each back when it is done, and
workers that step environments and can be abandoned. What an episode records is `episodes`, how it begins
`forking`; their names are also found here.
"""

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from axpo_algo.config import RolloutConfig
from axpo_algo.engines.base import Engine, GenerationRequest, Sampling, Ticket
from axpo_algo.episodes import (
    CUT,
    UNGRADED,
    Episode,
    Held,
    Hung,
    as_exception,
    close_env,
    is_graded,
    observe,
    take_turn,
)
from axpo_algo.forking import GroupStarter, PrefixMismatch, branch, check_prefix, start_group
from axpo_algo.models.chat import Chat
from axpo_algo.timings import RolloutCounts
from axpo_algo.types import Generation
from axpo_env.workers import Crew, Failure, Job

__all__ = [
    "CUT",
    "UNGRADED",
    "Episode",
    "GroupStarter",
    "PrefixMismatch",
    "branch",
    "check_prefix",
    "is_graded",
    "run_episodes",
    "start_group",
]

POLL_S = 0.02
"""seconds that an engine elsewhere is waited for while tools run"""
TICK_S = 1.0
"""seconds after which whoever watches is told again, though no environment has answered"""


def run_episodes(
    episodes: Sequence[Episode],
    engine: Engine,
    chat: Chat,
    sampling: Sampling,
    config: RolloutConfig,
    counts: RolloutCounts | None = None,
) -> None:
    """Drives all episodes to their end; each episode's trajectory then has its status and reward.

    sampling: its `max_new_tokens` is a turn's. config: workers, limits and lockstep; with `lockstep` no turn begins
    before every running episode is ready for it, which makes the batches, and so the last digit of every log-prob,
    independent of how long tools take. counts: told, and ticked, as the loop goes on.

    A step that raises ends its own episode as "infrastructure", one that takes longer than `call_time_limit_s`, or an
    episode longer than `episode_time_limit_s`, as "timeout"; such a reward is NaN. What the engine raises, or an
    interrupt, closes all episodes and is raised.
    """
    _Rollout(episodes, engine, chat, sampling, config, counts or RolloutCounts()).run()


class _Rollout:
    """One run of `run_episodes`. Episodes are known by their position."""

    def __init__(
        self,
        episodes: Sequence[Episode],
        engine: Engine,
        chat: Chat,
        sampling: Sampling,
        config: RolloutConfig,
        counts: RolloutCounts,
    ) -> None:
        self.episodes, self.engine, self.chat, self.config = episodes, engine, chat, config
        self.counts, self.num_tokens_before = counts, engine.num_sampled_tokens
        self.max_new_tokens = sampling.max_new_tokens
        self.sampling = replace(sampling, max_new_tokens=None)  # each request names what is left
        self.crew = Crew()
        self.running = {position for position, episode in enumerate(episodes) if not episode.done}
        # A running episode is in exactly one of these: ready for its next turn, at the engine, or stepping.
        self.ready = sorted(self.running)
        self.generating: dict[Ticket, int] = {}
        self.jobs: deque[tuple[int, Job]] = deque()  # waiting for one of `num_workers`
        self.until_s: dict[int, float] = {}  # deadlines of the jobs in flight, by time.monotonic()
        limit_s = config.episode_time_limit_s
        self.end_s = math.inf if limit_s is None else time.monotonic() + limit_s
        for position, episode in enumerate(episodes):
            episode.worker.number = position
        counts.num_all, counts.num_done = len(episodes), len(episodes) - len(self.running)
        self.alone_since_s = time.monotonic()  # means something while one episode is left

    def run(self) -> None:
        self.counts.tick()
        try:
            while self.running or self.jobs or self.crew.in_flight:
                self._submit_turns()
                self._start_jobs()
                if self.generating:
                    self._poll_engine()
                self._take_results()
                self._end_late()
                self.counts.num_sampled_tokens = self.engine.num_sampled_tokens - self.num_tokens_before
                self.counts.tick()
        except BaseException:
            for position in list(self.crew.in_flight):
                self.crew.abandon(position)
            for episode in self.episodes:
                episode.close()
            raise
        finally:
            self.engine.cancel(self.generating)
            self.crew.dismiss(until_s=time.monotonic())

    def _submit_turns(self) -> None:
        """Asks the engine for the turns of all who are ready; in lockstep once everyone is."""
        if self.config.lockstep and len(self.ready) < len(self.running):
            return
        ready, self.ready = sorted(self.ready), []
        for position in ready:
            episode = self.episodes[position]
            left, cut_status = episode.tokens_left(self.max_new_tokens, self.config.max_response_tokens)
            if left is not None and left < 1:
                episode.cut(cut_status, self.config)
                self._end(position)
                continue
            request = GenerationRequest(
                token_ids=episode.trajectory.token_ids + episode.forced,
                images=list(episode.trajectory.images),
                seed=(*episode.seed, len(episode.trajectory.turns)),
                max_new_tokens=left,
            )
            self.generating[self.engine.submit(request, self.sampling)] = position

    def _start_jobs(self) -> None:
        while self.jobs and len(self.crew.in_flight) < self.config.num_workers:
            position, job = self.jobs.popleft()
            self.until_s[position] = time.monotonic() + self.config.call_time_limit_s
            self.crew.submit(self.episodes[position].worker, job)

    def _poll_engine(self) -> None:
        """Lets the engine go on, and sends whoever finished a turn to step."""
        started_s = time.monotonic()
        done = self.engine.poll(timeout_s=POLL_S if self.crew.in_flight else 1.0)
        self.counts.engine_s += time.monotonic() - started_s
        for ticket, generation in done:
            position = self.generating.pop(ticket)
            try:
                self._take_turn(position, generation)
            except Exception as error:
                self._lose(position, error)

    def _take_turn(self, position: int, generation: Generation) -> None:
        episode = self.episodes[position]
        forks = take_turn(episode, generation, self.chat, self.config, self.max_new_tokens)
        if episode.done:
            self._end(position, forks=forks)
        else:
            action = self.chat.as_action(episode.trajectory.turns[-1].text)
            self.jobs.append((position, _job(action, forks=forks)))

    def _take_results(self) -> None:
        """Records what the environments answered. Waits for one of them only where the engine has nothing to do."""
        if self.crew.in_flight:
            now_s = time.monotonic()
            until_s = min(self.end_s, now_s + TICK_S, *(self.until_s[at] for at in self.crew.in_flight))
            self.crew.wait(1, until_s=now_s if self.generating else until_s)
            if not self.generating:
                self.counts.tool_wait_s += time.monotonic() - now_s
        for position in list(self.crew.results):
            episode, result = self.episodes[position], self.crew.results.pop(position)
            held = episode.worker.env
            if held.step_s is not None:
                self.counts.env_step_s.append(held.step_s)
                held.step_s = None
            try:
                if isinstance(result, Failure):
                    raise as_exception(result.error)
                if episode.done:
                    continue
                observe(episode, result, self.chat)
            except Exception as error:
                self._lose(position, error)
                continue
            if episode.done:
                self._end(position)
            else:
                self.ready.append(position)

    def _end_late(self) -> None:
        """Abandons the steps, and ends the episodes, that have had their time."""
        now_s = time.monotonic()
        late = [position for position in self.crew.in_flight if self.until_s[position] <= now_s]
        for position in late:
            self._abandon(
                position, f"a step took longer than call_time_limit_s = {self.config.call_time_limit_s:g}"
            )
        if now_s < self.end_s or not self.running:
            return
        reason = f"the episode took longer than episode_time_limit_s = {self.config.episode_time_limit_s:g}"
        self.engine.cancel(self.generating)
        self.generating.clear()
        self.ready.clear()
        self.jobs = deque((position, job) for position, job in self.jobs if position not in self.running)
        for position in sorted(self.running):
            if position in self.crew.in_flight:
                self._abandon(position, reason)
            else:
                self._lose(position, Hung(reason))

    def _abandon(self, position: int, reason: str) -> None:
        self.crew.abandon(position)
        if not self.episodes[position].done:  # else it was being closed
            since_s = self.until_s[position] - self.config.call_time_limit_s
            self.counts.env_step_s.append(time.monotonic() - since_s)
        self._lose(position, Hung(reason))

    def _lose(self, position: int, error: Exception) -> None:
        """Ends an episode for what its environment raised; one that has already ended keeps its verdict."""
        episode = self.episodes[position]
        if episode.done:
            episode.lose_fork(error)
        else:
            episode.lose(error)
            self._end(position)

    def _end(self, position: int, *, forks: bool = False) -> None:
        """An ended episode's environment is closed at once, its fork is kept."""
        self.running.remove(position)
        if not self.running:
            self.counts.tail_s = time.monotonic() - self.alone_since_s
        elif len(self.running) == 1:
            self.alone_since_s = time.monotonic()
        self.counts.num_done += 1
        if not self.episodes[position].worker.has_ended:
            self.jobs.append((position, _job(None, forks=forks)))


def _job(action: str | None, *, forks: bool = False) -> Job:
    """What a worker does with an environment: steps it, or closes it where there is no action; `forks` it before."""

    def job(held: Held) -> Any:
        if forks:
            held.fork = held.env.fork(1)[0]
        if action is None:
            return close_env(held.env)
        started_s = time.monotonic()
        try:
            return held.env.step(action)
        finally:
            held.step_s = time.monotonic() - started_s

    return job
