"""What a step counts while it runs, and where its time went. Seconds are held against bounds that no load can break."""

import random
import threading
import time
from contextlib import closing

import pytest
from scripted_engine import ANSWER, ZOOM, ScriptedEngine

from axpo_algo import rollout
from axpo_algo.config import (
    EnvConfig,
    EvaluationConfig,
    LossConfig,
    OptimizerConfig,
    RolloutConfig,
    TrainConfig,
    config_from_mapping,
)
from axpo_algo.engines import Sampling
from axpo_algo.environments import make_env
from axpo_algo.evaluate import evaluate_policy
from axpo_algo.learner import Learner
from axpo_algo.models.nano import build_nano
from axpo_algo.rollout import run_episodes, start_group
from axpo_algo.sft import demonstrate
from axpo_algo.timings import Clock, RolloutCounts, StepClock, UpdateCounts, hours, shares
from axpo_algo.trainer import Trainer
from axpo_algo.types import Sample

NANO_ENV = EnvConfig(kwargs={"difficulty": "nano", "max_pixels": 2304, "tools": ["image_zoom_in"]})
CALL, RIGHT = ZOOM.format(c="red", x=0, y=167), ANSWER.format(c="red", v=1)


@pytest.fixture(scope="module")
def policy():
    return build_nano()


@pytest.fixture
def env():
    with closing(make_env(NANO_ENV, split="train", max_turns=3)) as made:
        yield made


class Slow:
    """An environment whose first step goes on until `until` says so."""

    def __init__(self, env, until):
        self.env, self.until = env, until

    def step(self, action):
        if "<answer>" not in action:
            self.until()
        return self.env.step(action)

    def __getattr__(self, name):
        return getattr(self.env, name)


def roll_out(policy, env, counts, *, until=lambda: None, **settings):
    """Four episodes: the first calls the tool and answers, the others answer at once."""
    episodes = start_group(env, policy.chat, index=5, num_episodes=4, seed=(7,))
    held = episodes[0].worker.env
    held.env = Slow(held.env, until)
    engine = ScriptedEngine(policy.chat, lambda request: CALL if request.seed[-2:] == (0, 0) else RIGHT)
    try:
        config = RolloutConfig(**settings)
        run_episodes(episodes, engine, policy.chat, Sampling(max_new_tokens=64), config, counts)
    finally:
        for episode in episodes:
            episode.close()
    return episodes, engine


def wait_for(condition):
    """Waits in an environment's thread; longer than any test may take, it gives up."""
    for _ in range(60_000):
        if condition():
            return
        time.sleep(0.001)
    raise AssertionError("it did not come")


def test_a_rollout_counts_episodes_tokens_and_steps(policy, env):
    seen = []
    counts = RolloutCounts(on_progress=lambda c: seen.append((c.num_done, c.num_sampled_tokens)))
    episodes, engine = roll_out(policy, env, counts, until=lambda: wait_for(lambda: counts.num_done == 3))
    written = sum(sum(e.trajectory.loss_mask) for e in episodes)
    assert seen[0] == (0, 0) and seen[-1] == (4, written) and seen == sorted(seen)
    assert any(done == 3 for done, _ in seen)
    assert (counts.num_all, counts.stage, counts.unit) == (4, "rollout", "episodes")
    assert len(counts.env_step_s) == 5 and engine.num_sampled_tokens == written


def test_a_second_rollout_counts_from_nothing(policy, env):
    first, second = RolloutCounts(), RolloutCounts(stage="resampling")
    engine = ScriptedEngine(policy.chat, lambda request: RIGHT)
    for counts in (first, second):
        episodes = start_group(env, policy.chat, index=5, num_episodes=2, seed=(7,))
        run_episodes(episodes, engine, policy.chat, Sampling(max_new_tokens=64), RolloutConfig(), counts)
    assert first.num_sampled_tokens == second.num_sampled_tokens == engine.num_sampled_tokens / 2
    assert second.stage == "resampling"


def test_the_last_episode_is_waited_for(policy, env):
    counts = RolloutCounts()

    def until():
        wait_for(lambda: counts.num_done == 3)
        time.sleep(0.05)

    roll_out(policy, env, counts, until=until)
    assert max(counts.env_step_s) >= 0.05 and counts.tail_s >= 0.05
    assert counts.tool_wait_s >= 0.05  # the engine had nothing to do meanwhile


def test_an_episode_alone_is_all_tail(policy, env):
    (episode,) = start_group(env, policy.chat, index=5, num_episodes=1, seed=(7,))
    counts = RolloutCounts()
    engine = ScriptedEngine(policy.chat, lambda request: RIGHT)
    run_episodes([episode], engine, policy.chat, Sampling(max_new_tokens=64), RolloutConfig(), counts)
    assert counts.tail_s >= counts.engine_s + counts.env_step_s[0] > 0


def test_ticks_come_while_all_wait_for_a_tool(policy, env, monkeypatch):
    monkeypatch.setattr(rollout, "TICK_S", 0.01)
    ticks = []
    counts = RolloutCounts(on_progress=lambda c: ticks.append(c.num_done))
    roll_out(policy, env, counts, until=lambda: wait_for(lambda: ticks.count(3) > 5))
    assert ticks[-1] == 4


def test_an_abandoned_step_counts_as_long_as_it_was_waited_for(policy, env):
    counts, release = RolloutCounts(), threading.Event()
    try:
        episodes, _ = roll_out(policy, env, counts, until=release.wait, call_time_limit_s=0.3)
    finally:
        release.set()
    assert episodes[0].trajectory.status == "timeout" and counts.num_done == 4
    assert len(counts.env_step_s) == 4 and max(counts.env_step_s) >= 0.3


@pytest.fixture(scope="module")
def samples(policy):
    with closing(make_env(NANO_ENV, split="train", max_turns=3)) as env:
        shown = [
            demonstrate(env, policy.chat, index=index, rng=random.Random(0), use_tools=False)
            for index in range(3)
        ]
    return [Sample(trajectory=t, advantage=1.0, length=len(t.token_ids)) for t in shown]


@pytest.mark.parametrize(("kl", "parts", "num_all"), [(0.0, 1, 3), (0.0, 3, 6), (0.1, 1, 6)])
def test_an_update_counts_passes_over_micro_batches(samples, kl, parts, num_all):
    """Each sample is a micro-batch; those that are compared to log-probs from before are passed over twice."""
    policy = build_nano()
    learner = Learner(
        policy,
        policy.clone_frozen(),
        loss=LossConfig(
            kl_coefficient=kl, updates_per_step=parts, max_tokens_per_micro_batch=1, share_prefixes=False
        ),
        optimizer=OptimizerConfig(),
    )
    seen = []
    counts = UpdateCounts(on_progress=lambda c: seen.append((c.num_done, c.num_all)))
    learner.update(samples, num_trajectories=3, counts=counts)
    assert seen == [(done, num_all) for done in range(num_all + 1)]
    assert min(counts.reference_s, counts.backward_s, counts.optimizer_s) > 0


def test_an_evaluation_counts_questions_over_its_rollouts(policy):
    seen = []
    how = EvaluationConfig(num_questions=3, rollouts_per_question=2, max_new_tokens=4)
    groups = evaluate_policy(
        policy,
        how,
        NANO_ENV,
        RolloutConfig(max_batch_size=4),  # two questions at once
        seed=0,
        on_progress=lambda c: seen.append((c.num_done, c.num_sampled_tokens, c.num_all, c.unit)),
    )
    written = sum(sum(t.loss_mask) for group in groups for t in group)
    assert seen[0] == (0, 0, 3, "questions") and seen[-1] == (3, written, 3, "questions")
    assert seen == sorted(seen) and {2, 3} <= {done for done, *_ in seen}


SECONDS = {
    *("start_s", "rollout_s", "resample_s", "update_s", "engine_s", "tool_wait_s", "tail_s"),
    *("update_reference_s", "update_backward_s", "update_optimizer_s"),
}


def test_a_step_has_its_seconds_in_the_timings_alone(policy):
    config = config_from_mapping(
        {
            "env": {"kwargs": NANO_ENV.kwargs},
            "rollout": {"group_size": 2, "questions_per_step": 2, "max_new_tokens": 8},
            "policy": {"device": "cpu"},
        },
        TrainConfig,
    )
    stages = []
    with Trainer(config, build_nano(), None) as trainer:
        result = trainer.step(0, lambda counts: stages.append(counts.stage))
    assert list(dict.fromkeys(stages)) == ["rollout", "resampling", "update"]
    timings = result.timings
    assert set(timings) >= SECONDS and not any(name.endswith("_s") for name in result.metrics)
    parts = [timings[f"update_{name}_s"] for name in ("reference", "backward", "optimizer")]
    assert 0 < sum(parts) <= timings["update_s"]
    assert 0 < timings["engine_s"] + timings["tool_wait_s"] <= timings["rollout_s"] + timings["resample_s"]
    assert timings["num_env_steps"] == 0 and "env_step_max_s" not in timings  # all were cut


def test_environment_steps_are_put_together_over_a_steps_rollouts():
    clock = StepClock(lambda counts: None)
    clock.rollout("rollout").env_step_s += [float(n) for n in range(1, 20)]  # 1 ... 19
    clock.rollout("resampling").env_step_s += [100.0]
    timings = clock.timings()
    assert timings["num_env_steps"] == 20 and timings["env_step_max_s"] == 100.0
    assert (timings["env_step_mean_s"], timings["env_step_p95_s"]) == (14.5, 19.0)


def test_laps_add_up_and_are_taken_once():
    clock = Clock()
    one = clock.lap("a_s")
    clock.lap()
    two = clock.lap("a_s")
    assert clock.take() == {"a_s": one + two} and clock.take() == {}


def test_shares_are_of_all_that_was_measured():
    records = [
        {"step": 0, "evaluation_s": 10.0},
        {"step": 1, "start_s": 1.0, "rollout_s": 59.0, "engine_s": 50.0, "resample_s": 0.1, "update_s": 30.0},
        {"checkpoint_s": 0.9},
    ]
    assert shares(records) == "0:01:41, of which rollout 59 %, update 30 %, evaluation 10 %, checkpoints 1 %"
    assert shares([]) == shares([{"step": 1, "mean_batch": 3.0}]) == ""


def test_hours():
    assert [hours(seconds) for seconds in (0, 59.6, 3725)] == ["0:00:00", "0:01:00", "1:02:05"]
