"""The training loop's one step: sample groups, resample where the tool failed, credit, update.

Reads top to bottom as the method does (arXiv 2605.28774). Commands, run folders and evaluation are `train`; each
stage is a module of its own: `rollout`, `selection`, `algorithms`, `learner`.
"""

import contextlib
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from axpo_algo.algorithms import get_algorithm
from axpo_algo.config import TrainConfig
from axpo_algo.distributed import SINGLE, Ranks
from axpo_algo.engines import Sampling, make_engine
from axpo_algo.learner import Learner
from axpo_algo.mixture import Mixture
from axpo_algo.models.qwen3_vl import Qwen3VLPolicy
from axpo_algo.rollout import (
    UNGRADED,
    Episode,
    branch,
    check_prefix,
    run_episodes,
)
from axpo_algo.run.metrics import GroupOutcome, summarize_groups
from axpo_algo.selection import Candidate, choose_prefixes
from axpo_algo.timings import OnProgress, RolloutCounts, StepClock, ignore
from axpo_algo.types import Group, Trajectory
from axpo_algo.ungraded import UngradedWatch

__all__ = ["StepResult", "Trainer", "group_outcome"]

# Random numbers are named by (seed, purpose, step, ...), so that no stage shifts another's.
_ROLLOUT, _BRANCH = 1, 2


@dataclass(frozen=True, kw_only=True, eq=False)
class StepResult:
    """What one step leaves to log."""

    metrics: dict[str, float | int | None]
    """decided by the seed"""
    timings: dict[str, float]
    """decided by the machine, seconds and rates"""
    groups: list[Group]


class Trainer:
    """Trains `policy` in place. `reference` is the frozen start of this stage. Close it, or use it in a
    `with` block.

    ranks: each plays its part of a step's questions. Which prefixes are resampled, how the loss is normalised and what
    the metrics say is decided over all of them, as one process would.
    """

    def __init__(
        self,
        config: TrainConfig,
        policy: Qwen3VLPolicy,
        reference: Qwen3VLPolicy | None,
        ranks: Ranks = SINGLE,
    ) -> None:
        self.config = config
        self.ranks = ranks
        self.algorithm = get_algorithm(config.algorithm)
        self.group_size = config.rollout.group_size
        if config.rollout.equal_budget and not self.algorithm.resamples:
            self.group_size += int(config.axpo.extra_budget * self.group_size)
        self.policy = policy
        self.engine = make_engine(
            config.rollout.engine,
            policy,
            max_batch_size=config.rollout.max_batch_size,
            lockstep=config.rollout.lockstep,
        )
        self.learner = Learner(
            policy,
            reference,
            loss=config.loss,
            optimizer=config.optimizer,
            temperature=config.rollout.temperature,
            max_skipped_updates=config.training.max_skipped_updates,
            lora=config.lora,
            seed=config.seed,
            ranks=ranks,
        )
        self.mixture = Mixture(config, policy.chat)
        self.sampling = Sampling(
            max_new_tokens=config.rollout.max_new_tokens, temperature=config.rollout.temperature
        )
        self.has_begun_update = False
        """whether a step has begun to change weights; whoever has recorded the step sets it back"""

    def step(self, step: int, on_progress: OnProgress = ignore) -> StepResult:
        """Step number `step`, counted from 0: a function of the policy, the configuration and nothing else.

        on_progress: told how far its rollout, resampling and update are.
        Raises RunFailed, before the update, where more trajectories than `rollout.max_ungraded_share` have no
        grade.
        """
        clock = StepClock(on_progress)
        steps, tokens = self.engine.num_steps, self.engine.num_sampled_tokens
        with contextlib.ExitStack() as open_episodes:
            groups = self._roll_out(step, clock, open_episodes)
        clock.lap("resample_s")
        outcomes = [
            g for part in self.ranks.gather([group.without_tokens() for group in groups]) for g in part
        ]
        trajectories = [t for group in outcomes for t in _all_trajectories(group)]
        share = self.config.rollout.max_ungraded_share
        UngradedWatch(num_planned=len(trajectories), max_share=share).add(trajectories)

        samples = [s for group in groups for s in self.algorithm.make_samples(group, self.config.axpo)]
        for sample in samples:
            check_prefix(sample.trajectory, self.policy.chat.image_token_id)
        self.has_begun_update = True
        learned = self.learner.update(
            samples, num_trajectories=len(outcomes) * self.group_size, counts=clock.update
        )
        self.engine.sync_weights()
        clock.lap("update_s")
        sampled = sum(trajectory.num_sampled_tokens for trajectory in trajectories)
        steps = self.engine.num_steps - steps
        timings = {
            **clock.timings(),
            "sampled_tokens_per_s": sampled / max(sum(clock.laps.values()), 1e-9),
            "num_engine_steps": steps,
            "mean_batch": (self.engine.num_sampled_tokens - tokens) / max(steps, 1),
        }
        metrics: dict[str, float | int | None] = {**_group_metrics(outcomes), **learned}
        if len(self.mixture.names) > 1:
            for name in self.mixture.names:
                own = _group_metrics([group for group in outcomes if group.env_name == name])
                metrics |= {f"{name}/{key}": value for key, value in own.items()}
        metrics = {f"train/{name}": value for name, value in metrics.items()}
        return StepResult(metrics=metrics, timings=timings, groups=groups)

    def _roll_out(self, step: int, clock: StepClock, open_episodes: contextlib.ExitStack) -> list[Group]:
        """The step's groups, with their continuations. Every episode is put on the stack to be closed."""
        tasks = self.mixture.tasks(step)
        episodes: list[list[Episode]] = []
        mine = self.ranks.slice(len(tasks))
        for question in mine:
            env, index = tasks[question]
            group = self.mixture.starters[env].start(
                index=index,
                num_episodes=self.group_size,
                seed=(self.config.seed, _ROLLOUT, step, question),
                keep_forks=self.algorithm.resamples,
            )
            for episode in group:
                open_episodes.callback(episode.close)
            episodes.append(group)
        clock.lap("start_s")
        self._run([episode for group in episodes for episode in group], clock.rollout("rollout"))
        groups = [
            Group(trajectories=[e.trajectory for e in group], env_name=self.mixture.names[env])
            for group, (env, _) in zip(episodes, tasks[mine.start : mine.stop], strict=True)
        ]
        clock.lap("rollout_s")
        if self.algorithm.resamples:
            self._resample(step, episodes, groups, clock, open_episodes)
        return groups

    def _resample(
        self,
        step: int,
        episodes: Sequence[Sequence[Episode]],
        groups: Sequence[Group],
        clock: StepClock,
        open_episodes: contextlib.ExitStack,
    ) -> None:
        """AXPO's extra rollouts: K continuations of each chosen prefix, recorded in the groups."""
        axpo = self.config.axpo
        own = [[_candidate(trajectory) for trajectory in group.trajectories] for group in groups]
        candidates = self.ranks.gather(own)
        first = sum(map(len, candidates[: self.ranks.rank]))  # of this rank's questions
        chosen = choose_prefixes(
            [group for part in candidates for group in part],
            extra_budget=axpo.extra_budget,
            continuations=axpo.continuations,
            ranking=axpo.ranking,
            rng=random.Random(repr((self.config.seed, _BRANCH, step))),
        )
        branches: list[Episode] = []
        for question, member in chosen:
            if not 0 <= question - first < len(groups):
                continue
            copies = branch(
                episodes[question - first][member],
                axpo.continuations,
                seed=(self.config.seed, _BRANCH, step, question, member),
                image_token_id=self.policy.chat.image_token_id,
                time_limit_s=self.config.rollout.call_time_limit_s,
            )
            for copy in copies:
                open_episodes.callback(copy.close)
            groups[question - first].continuations[member] = [copy.trajectory for copy in copies]
            branches += copies
        self._run(branches, clock.rollout("resampling"))

    def _run(self, episodes: Sequence[Episode], counts: RolloutCounts) -> None:
        run_episodes(episodes, self.engine, self.policy.chat, self.sampling, self.config.rollout, counts)

    def close(self) -> None:
        """Closes the environments."""
        self.mixture.close()

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()


def group_outcome(group: Group) -> GroupOutcome:
    """What metrics need of a group; continuations count only for whether it recovered."""
    calls: dict[str, int] = {}
    for trajectory in group.trajectories:
        for name, count in trajectory.tool_counts.items():
            calls[name] = calls.get(name, 0) + count
    recovered = None
    if group.continuations:
        recovered = any(t.reward > 0 for copies in group.continuations.values() for t in copies)
    return GroupOutcome(
        rewards=group.rewards,
        used_tool=[trajectory.used_tool for trajectory in group.trajectories],
        tool_calls=calls,
        recovered=recovered,
        aims=[trajectory.aim for trajectory in group.trajectories if trajectory.aim is not None],
    )


def _group_metrics(groups: Sequence[Group]) -> dict[str, float | int | None]:
    """What the trajectories of a step's groups, or of one environment's, came to."""
    summary = summarize_groups([group_outcome(group) for group in groups], ks=(1, 4))
    continuations = [t for group in groups for copies in group.continuations.values() for t in copies]
    graded = [t.reward for t in continuations if not math.isnan(t.reward)]
    trajectories = [t for group in groups for t in _all_trajectories(group)]
    statuses = Counter(t.status for t in trajectories)
    return {
        **summary.as_dict(),
        "num_prefixes": sum(len(group.continuations) for group in groups),
        "num_continuations": len(continuations),
        "continuation_reward": sum(graded) / len(graded) if graded else None,
        "prefix_recovery_rate": _prefix_recovery(groups),
        "num_sampled_tokens": sum(t.num_sampled_tokens for t in trajectories),
        "mean_turns": _mean_turns(groups),
        "num_lost": sum(statuses[status] for status in UNGRADED),
        **{f"status/{status}": count for status, count in sorted(statuses.items())},
    }


def _candidate(trajectory: Trajectory) -> Candidate:
    return Candidate(
        reward=trajectory.reward, used_tool=trajectory.used_tool, confidence=trajectory.confidence
    )


def _all_trajectories(group: Group) -> list[Trajectory]:
    return [*group.trajectories, *(t for copies in group.continuations.values() for t in copies)]


def _prefix_recovery(groups: Sequence[Group]) -> float | None:
    """Share of chosen prefixes with a right continuation."""
    chosen = [copies for group in groups for copies in group.continuations.values()]
    return sum(any(t.reward > 0 for t in copies) for copies in chosen) / len(chosen) if chosen else None


def _mean_turns(groups: Sequence[Group]) -> float | None:
    turns = [len(trajectory.turns) for group in groups for trajectory in group.trajectories]
    return sum(turns) / len(turns) if turns else None
