"""The loop of rollouts: what raises or hangs ends its own episode, tokens are counted, and what cannot be resampled
is no source."""

import logging
import math
import threading
from collections import Counter

import pytest
from scripted_engine import ANSWER, ZOOM, ScriptedEngine, facts

from axpo_algo.commands import RunFailed
from axpo_algo.config import EnvConfig, RolloutConfig, TrainConfig, config_from_mapping
from axpo_algo.engines import Sampling
from axpo_algo.environments import make_env, step_indices
from axpo_algo.models.nano import build_nano
from axpo_algo.rollout import (
    GroupStarter,
    branch,
    run_episodes,
    start_group,
)
from axpo_algo.trainer import Trainer
from axpo_algo.types import Trajectory
from axpo_algo.ungraded import UngradedWatch

CALL = ZOOM.format(c="red", x=0, y=167)
RIGHT = ANSWER.format(c="red", v=1)
TURN = Sampling(max_new_tokens=64)
NANO_ENV = {"kwargs": {"difficulty": "nano", "max_pixels": 2304, "tools": ["image_zoom_in"]}}


@pytest.fixture(scope="module")
def chat():
    return build_nano().chat


@pytest.fixture
def env():
    made = make_env(config_from_mapping(NANO_ENV, EnvConfig), split="train", max_turns=3)
    yield made
    made.close()


class Toy:
    """An environment in which every turn but an answer is a call. `faults` {(member, turn): what to do there}."""

    def __init__(self, faults=None, member=None):
        self.faults, self.member = {} if faults is None else faults, member
        self.turn = self.closed = 0
        self.forks = []

    def reset(self, *, seed=None, options=None):
        self.do(("reset", options["index"]))
        messages = [{"role": "user", "content": "What is the value of the red bar?"}]
        return None, {"new_messages": messages, "tools": [], "task": {"id": f"toy-{options['index']}"}}

    def fork(self, num_branches):
        self.do((self.member, f"fork {num_branches}"))
        numbers = range(num_branches) if self.member is None else [self.member] * num_branches
        copies = [Toy(self.faults, number) for number in numbers]
        for copy in copies:
            copy.turn = self.turn
        self.forks += copies
        return copies

    def step(self, action):
        fault = self.do((self.member, self.turn))
        if fault is not None:
            return fault
        self.turn += 1
        answered = "<answer>" in action
        info = {
            "new_messages": [] if answered else [{"role": "tool", "content": "seen"}],
            "tool_calls": [] if answered else [{"name": "zoom"}],
            "stop_reason": "answer" if answered else None,
            "grade": {"correct": True} if answered else None,
        }
        return None, float(answered), answered, False, info

    def do(self, key):
        fault = self.faults.get(key)
        if isinstance(fault, BaseException):
            raise fault
        return fault() if callable(fault) else fault

    def close(self):
        self.closed += 1
        self.do((self.member, "close"))


def call_then_answer(request):
    return CALL if request.seed[-1] == 0 else RIGHT


def run_toys(chat, faults, *, num=4, script=call_then_answer, keep_forks=False, sampling=TURN, **settings):
    episodes = start_group(Toy(faults), chat, index=0, num_episodes=num, seed=(7,), keep_forks=keep_forks)
    engine = ScriptedEngine(chat, script)
    run_episodes(episodes, engine, chat, sampling, RolloutConfig(**settings))
    return episodes, engine


class Hang:
    """Waits until it is released; never longer than a minute."""

    def __init__(self):
        self.released, self.num_waiting = threading.Event(), 0

    def __call__(self):
        self.num_waiting += 1
        assert self.released.wait(60)

    def join_all(self):
        self.released.set()
        for thread in threading.enumerate():
            if thread.name.startswith("envs-"):
                thread.join(60)
                assert not thread.is_alive()


@pytest.fixture
def hang():
    made = Hang()
    yield made
    made.join_all()


@pytest.mark.parametrize("lockstep", [True, False])
def test_tools_that_raise_and_hang_cost_nobody_else(env, chat, hang, lockstep):
    """500 episodes; 1 in 8 ends in a call that raises, 1 in 20 in one that hangs."""
    tasks = {index: facts(env, index) for index in range(10)}

    class Faulty:
        name = "image_zoom_in"
        schema = env.rules.tools["image_zoom_in"].schema

        def run(self, arguments, state, interpreter):
            if arguments["label"] == "raise":
                raise KeyError("a bug in a tool")
            if arguments["label"] == "hang":
                hang()
            return env.rules.tools["image_zoom_in"].run(arguments, state, interpreter)

    def fate(number):
        return "raise" if number % 8 == 0 else "hang" if number % 20 == 1 else "fine"

    def script(request):
        index, member, turn = request.seed
        number = 50 * index + member
        num_calls = 1 + number % 2  # the last of them goes wrong
        if turn == num_calls:
            right, wrong = tasks[index][2:]
            return ANSWER.format(c="red", v=right if number % 3 == 0 else wrong)
        label = fate(number) if turn == num_calls - 1 else "fine"
        return ZOOM.format(c=label, x=0, y=167)

    faulty = make_env(
        EnvConfig(kwargs={**NANO_ENV["kwargs"], "tools": [Faulty()]}), split="train", max_turns=3
    )
    groups = [start_group(faulty, chat, index=index, num_episodes=50, seed=(index,)) for index in tasks]
    episodes = [episode for group in groups for episode in group]
    config = RolloutConfig(call_time_limit_s=2.0, num_workers=16, lockstep=lockstep)
    run_episodes(episodes, ScriptedEngine(chat, script), chat, Sampling(max_new_tokens=64), config)
    ended = {"raise": "infrastructure", "hang": "timeout", "fine": "answer"}
    assert hang.num_waiting == 25
    for number, episode in enumerate(episodes):
        trajectory = episode.trajectory
        assert trajectory.status == ended[fate(number)], number
        assert trajectory.used_tool
        if fate(number) == "fine":
            assert trajectory.reward == float(number % 3 == 0)
        else:
            assert math.isnan(trajectory.reward) and trajectory.info["outage"]
        episode.close()
    assert Counter(e.trajectory.status for e in episodes) == {
        "answer": 412,
        "infrastructure": 63,
        "timeout": 25,
    }
    faulty.close()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (ValueError("broken"), "ValueError: broken"),
        (TimeoutError("a socket's"), "TimeoutError: a socket's"),  # it came back: an outage
        (SystemExit(3), "RuntimeError: SystemExit: 3"),
        (lambda: (None, 0.0, False, False, {}), "KeyError: 'tool_calls'"),
        (lambda: (None, 0.0, False, False, {"tool_calls": [], "new_messages": [{"role": "god"}]}), "Error"),
        (lambda: "no tuple", "ValueError"),
    ],
)
@pytest.mark.parametrize("lockstep", [True, False])
def test_an_error_ends_its_own_episode_and_is_logged_once(chat, caplog, fault, said, lockstep):
    with caplog.at_level(logging.WARNING):
        episodes, _ = run_toys(chat, {(1, 0): fault}, lockstep=lockstep)
    statuses = [episode.trajectory.status for episode in episodes]
    assert statuses == ["answer", "infrastructure", "answer", "answer"]
    assert [e.trajectory.reward == 1.0 for e in episodes] == [True, False, True, True]
    assert math.isnan(episodes[1].trajectory.reward)
    assert said in episodes[1].trajectory.info["outage"]
    (record,) = caplog.records
    assert record.exc_info is not None and said in record.getMessage() and "toy-0" in record.getMessage()
    assert record.name == "axpo_algo.episodes"
    assert all(episode.env.closed == 1 for episode in episodes)


def test_a_fork_that_raises_ends_its_own_episode(chat):
    episodes, _ = run_toys(chat, {(2, "fork 1"): OSError("no memory")}, keep_forks=True)
    assert [e.trajectory.status for e in episodes] == ["answer", "answer", "infrastructure", "answer"]
    assert episodes[2].fork is None and episodes[0].fork is not None
    for episode in episodes:
        episode.close()
    assert episodes[0].worker.env.fork.closed == 1


def test_a_cut_source_whose_fork_fails_is_no_source(chat):
    episodes, _ = run_toys(
        chat,
        {(0, "fork 1"): OSError("no memory")},
        num=2,
        keep_forks=True,
        sampling=Sampling(max_new_tokens=15),
    )
    assert [e.trajectory.status for e in episodes] == ["max_new_tokens"] * 2
    assert [e.trajectory.reward for e in episodes] == [0.0, 0.0]
    assert episodes[0].trajectory.confidence is None and episodes[1].trajectory.confidence is not None


def test_a_verdict_stands_when_closing_fails(chat, caplog):
    with caplog.at_level(logging.WARNING):
        episodes, _ = run_toys(chat, {(0, "close"): OSError("busy")}, num=1)
    assert (episodes[0].trajectory.status, episodes[0].trajectory.reward) == ("answer", 1.0)
    assert ["could not be closed" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("lockstep", [True, False])
def test_a_step_that_hangs_is_abandoned_and_closed_when_it_returns(chat, hang, lockstep):
    episodes, _ = run_toys(
        chat, {(0, 0): hang}, call_time_limit_s=0.2, num_workers=1, lockstep=lockstep
    )  # the one worker is free again
    statuses = [episode.trajectory.status for episode in episodes]
    assert statuses == ["timeout", "answer", "answer", "answer"]
    assert "call_time_limit_s = 0.2" in episodes[0].trajectory.info["outage"]
    episodes[0].close()
    assert episodes[0].env.closed == 0  # in use
    hang.join_all()
    assert episodes[0].env.closed == 1


def test_an_episode_has_its_time(chat, hang):
    """One hangs in a step, one waits for a worker, one is at the engine, one had finished."""

    class Slow(ScriptedEngine):
        def poll(self, timeout_s=0.0):
            self.kept = [item for item in self.waiting if item[1].seed[-2] == 2]
            self.waiting = [item for item in self.waiting if item[1].seed[-2] != 2]
            done = super().poll()
            self.waiting = self.kept
            return done

    toys = Toy({(0, 0): hang})
    episodes = start_group(toys, chat, index=0, num_episodes=4, seed=(7,))
    engine = Slow(chat, lambda request: RIGHT if request.seed[-2] == 3 else CALL)
    order = [episodes[3], episodes[0], episodes[1], episodes[2]]
    config = RolloutConfig(episode_time_limit_s=0.5, num_workers=1, lockstep=False)
    run_episodes(order, engine, chat, TURN, config)
    assert [e.trajectory.status for e in episodes] == ["timeout", "timeout", "timeout", "answer"]
    assert all("episode_time_limit_s" in e.trajectory.info["outage"] for e in episodes[:3])
    assert engine.waiting == []  # cancelled


@pytest.mark.parametrize("where", ["engine", "worker"])
def test_an_interrupt_ends_the_loop_and_closes_all(chat, where):
    class Interrupted(ScriptedEngine):
        def poll(self, timeout_s=0.0):
            if where == "engine" and len(self.batches) == 1 and self.waiting:
                raise KeyboardInterrupt
            return super().poll()

    toy = Toy({} if where == "engine" else {(1, 0): KeyboardInterrupt()})
    episodes = start_group(toy, chat, index=0, num_episodes=4, seed=(7,), keep_forks=True)
    engine = Interrupted(chat, call_then_answer)
    with pytest.raises(KeyboardInterrupt):
        run_episodes(episodes, engine, chat, TURN, RolloutConfig())
    assert engine.waiting == []
    for thread in threading.enumerate():
        if thread.name.startswith("envs-"):
            thread.join(60)
    assert all(episode.env.closed for episode in episodes)
    assert all(fork.closed for episode in episodes for fork in episode.env.forks)


def test_a_group_that_cannot_start_is_lost_alone(chat, hang, caplog):
    made = []

    def make():
        made.append(Toy({("reset", 1): OSError("no such file"), ("reset", 2): hang}))
        return made[-1]

    starter = GroupStarter(make, chat, time_limit_s=0.2)
    with caplog.at_level(logging.WARNING):
        groups = [starter.start(index=index, num_episodes=3, seed=(index,)) for index in range(4)]
    statuses = [[episode.trajectory.status for episode in group] for group in groups]
    assert statuses == [["running"] * 3, ["infrastructure"] * 3, ["timeout"] * 3, ["running"] * 3]
    assert len(made) == 2 and starter.env is made[1]  # the one that hangs was replaced
    assert len(caplog.records) == 2 and all(record.exc_info for record in caplog.records)
    episodes = [episode for group in groups for episode in group]
    run_episodes(episodes, ScriptedEngine(chat, call_then_answer), chat, TURN, RolloutConfig())
    assert [e.trajectory.reward for e in groups[3]] == [1.0] * 3
    assert all(math.isnan(e.trajectory.reward) for e in groups[1] + groups[2])
    for episode in episodes:
        episode.close()
    starter.close()
    assert made[0].closed == 0 and made[1].closed == 1
    hang.join_all()
    assert made[0].closed == 1 and all(fork.closed == 1 for fork in made[0].forks[3:])


def test_branches_that_cannot_fork_are_lost(chat):
    faults = {}
    (source,), engine = run_toys(chat, faults, num=1, keep_forks=True)
    faults[(0, "fork 4")] = OSError("no memory")
    copies = branch(source, 4, seed=(8,), image_token_id=chat.image_token_id, time_limit_s=60)
    run_episodes(copies, engine, chat, TURN, RolloutConfig())
    assert [copy.trajectory.status for copy in copies] == ["infrastructure"] * 4
    assert all(math.isnan(copy.trajectory.reward) for copy in copies)


def test_too_many_ungraded_end_the_run():
    def ended(status, reward, **info):
        return Trajectory(status=status, reward=reward, info=info)

    nan = math.nan
    fine = [ended("answer", 1.0)] * 5 + [ended("max_new_tokens", nan)]  # masked, as was asked for
    lost = [
        ended("answer", nan, grade={"correct": None}),
        ended("timeout", nan, outage="Hung: 3 s"),
        ended("timeout", nan, outage="Hung: 4 s"),
    ]
    UngradedWatch(num_planned=9, max_share=3 / 9).add(fine + lost)
    words = r"3 of 9 .*2 timeout, 1 needs a judge.* 0.3 allows; the first outage: Hung: 3 s"
    with pytest.raises(RunFailed, match=words):
        UngradedWatch(num_planned=9, max_share=0.3).add(fine + lost)
    UngradedWatch(max_share=0.0).add([])


def trainer_config(**rollout):
    values = {"group_size": 2, "questions_per_step": 2, "max_new_tokens": 8, **rollout}
    return config_from_mapping({"env": NANO_ENV, "rollout": values, "policy": {"device": "cpu"}}, TrainConfig)


def test_a_step_counts_statuses_and_stops_without_grades():
    policy = build_nano()
    with Trainer(trainer_config(), policy, None) as trainer:
        result = trainer.step(0)
        assert result.metrics["train/status/max_new_tokens"] == 4 and result.metrics["train/num_lost"] == 0
        assert (result.timings["num_engine_steps"], result.timings["mean_batch"]) == (8, 4.0)
        reset = trainer.mixture.starters[0].env.reset

        def broken(*, seed, options):
            if seed == failing:
                raise OSError("down")
            return reset(seed=seed, options=options)

        failing = trainer_indices(trainer, 1)[0]
        trainer.mixture.starters[0].env.reset = broken
        with pytest.raises(RunFailed, match=r"2 of 4 .*2 infrastructure.*; the first outage: OSError: down"):
            trainer.step(1)
    with Trainer(trainer_config(max_ungraded_share=0.5), policy, None) as trainer:
        reset = trainer.mixture.starters[0].env.reset
        trainer.mixture.starters[0].env.reset = broken
        metrics = trainer.step(1).metrics
        assert metrics["train/num_lost"] == metrics["train/status/infrastructure"] == 2
        assert metrics["train/num_ungraded"] == 2 and metrics["train/status/max_new_tokens"] == 2
        assert metrics["train/mean_reward"] == 0.0  # over those that were graded


def trainer_indices(trainer, step):
    return step_indices(
        trainer.mixture.starters[0].env.num_tasks, step=step, count=2, seed=trainer.config.seed
    )


@pytest.mark.parametrize(("rule", "reward"), [("wrong", 0.0), ("masked", math.nan)])
def test_a_cut_response_is_wrong_or_masked(chat, rule, reward):
    (episode,), _ = run_toys(chat, {}, num=1, sampling=Sampling(max_new_tokens=5), cut_response=rule)
    assert episode.trajectory.status == "max_new_tokens"
    assert episode.trajectory.reward == pytest.approx(reward, nan_ok=True)
    assert episode.env.closed == 1


def test_a_response_has_its_tokens_over_all_turns(chat):
    num_call, num_answer = len(chat.action(CALL)), len(chat.action(RIGHT))
    unlimited = Sampling(max_new_tokens=None)
    whole = num_call + num_answer
    for limit, status in (
        (whole, "answer"),
        (whole - 1, "max_response_tokens"),
        (num_call, "max_response_tokens"),
    ):
        (episode,), engine = run_toys(chat, {}, num=1, sampling=unlimited, max_response_tokens=limit)
        assert episode.trajectory.status == status
        assert sum(episode.trajectory.loss_mask) == limit
        assert engine.limits == [limit, limit - num_call][: 1 + (limit > num_call)]
    (episode,), engine = run_toys(
        chat, {}, num=1, sampling=Sampling(max_new_tokens=num_call), max_response_tokens=whole + 5
    )
    assert episode.trajectory.status == "answer" and engine.limits == [
        num_call,
        min(num_call, num_answer + 5),
    ]
    with pytest.raises(ValueError, match="max_new_tokens"):
        run_toys(chat, {}, num=1, sampling=unlimited)
    with pytest.raises(ValueError, match="cannot both be null"):
        RolloutConfig(max_new_tokens=None)


def test_a_first_call_in_the_last_turn_is_no_source(env, chat):
    def script(request):
        return CALL if request.seed[-1] == request.seed[-2] else "hm"

    episodes = start_group(env, chat, index=5, num_episodes=3, seed=(7,), keep_forks=True)
    run_episodes(episodes, ScriptedEngine(chat, script), chat, TURN, RolloutConfig(max_turns=3))
    trajectories = [episode.trajectory for episode in episodes]
    assert [t.used_tool for t in trajectories] == [True] * 3
    assert [t.confidence is None for t in trajectories] == [False, False, True]
    assert trajectories[2].status == "max_turns" and trajectories[2].branch_point is None
    assert [episode.fork is None for episode in episodes] == [False, False, True]
    with pytest.raises(ValueError, match="made a tool call"):
        branch(episodes[2], 1, seed=(8,), image_token_id=chat.image_token_id)
    for episode in episodes:
        episode.close()


def test_continuations_get_what_is_left_of_turn_and_response(chat):
    (source,), engine = run_toys(
        chat, {}, num=1, keep_forks=True, sampling=Sampling(max_new_tokens=100), max_response_tokens=110
    )
    trajectory = source.trajectory
    prefix = trajectory.branch_point - trajectory.turns[0].start
    num_call = len(chat.action(CALL))
    assert engine.limits == [100, 110 - num_call]
    copies = branch(source, 2, seed=(8,), image_token_id=chat.image_token_id)
    engine.limits.clear()
    config = RolloutConfig(max_response_tokens=110)
    run_episodes(copies, engine, chat, Sampling(max_new_tokens=100), config)
    assert engine.limits == [100 - prefix] * 2 + [110 - num_call] * 2
    assert [copy.trajectory.reward for copy in copies] == [1.0, 1.0]
    assert [sum(copy.trajectory.loss_mask) for copy in copies] == [sum(trajectory.loss_mask) - prefix] * 2
    for episode in (source, *copies):
        episode.close()


def spelled(chat, text):
    """A tag in ordinary characters."""
    return [token for character in text for token in chat.tokenizer.encode(character)]


def turn_ids(chat, *parts):
    """Token ids of a turn: text as the policy writes it, or ids."""
    ids = [t for part in parts for t in (chat.action(part)[:-1] if isinstance(part, str) else part)]
    return [*ids, chat.end_of_turn_id]


def first_turns(chat, shape):
    """(token ids of turns, index of the tag in the first turn that may be branched, or None)."""
    opening, closing = spelled(chat, "<tool_call>"), spelled(chat, "</tool_call>")
    think, call = CALL.split("<tool_call>")[0], "<tool_call>" + CALL.split("<tool_call>")[1]
    body = call.removeprefix("<tool_call>").removesuffix("</tool_call>")
    plain = turn_ids(chat, CALL)
    return {
        "tags": ([plain], plain.index(chat.tool_call_id)),
        "two calls": ([turn_ids(chat, CALL, "\n" + call)], plain.index(chat.tool_call_id)),
        "spelled, a turn before": ([turn_ids(chat, think, opening, body, closing), plain], None),
        "spelled, in the same turn": ([turn_ids(chat, think, opening, body, closing, "\n" + call)], None),
        "spelled end": ([turn_ids(chat, think, "<tool_call>", body, closing, "\n" + call)], None),
        "spelled end of thinking": (
            [turn_ids(chat, "hm", spelled(chat, "</think>"), call, "\n" + CALL)],
            None,
        ),
    }[shape]


@pytest.mark.parametrize(
    "shape",
    [
        "tags",
        "two calls",
        "spelled, a turn before",
        "spelled, in the same turn",
        "spelled end",
        "spelled end of thinking",
    ],
)
def test_only_the_call_that_was_run_first_is_branched(env, chat, shape):
    turns, tag = first_turns(chat, shape)
    turns = [*turns, turn_ids(chat, ANSWER.format(c="red", v=5))]
    (episode,) = start_group(env, chat, index=5, num_episodes=1, seed=(7,), keep_forks=True)
    engine = ScriptedEngine(chat, lambda request: turns[request.seed[-1]])
    run_episodes([episode], engine, chat, Sampling(max_new_tokens=400), RolloutConfig())
    trajectory = episode.trajectory
    assert trajectory.status == "answer" and trajectory.used_tool
    assert trajectory.tool_counts["image_zoom_in"] >= 1
    if tag is None:
        assert trajectory.branch_point is trajectory.call_end is trajectory.confidence is None
        assert episode.fork is None
    else:
        start = trajectory.turns[0].start
        assert trajectory.branch_point == start + tag + 1
        end = turns[0].index(chat.tokenizer.convert_tokens_to_ids("</tool_call>"))
        assert trajectory.call_end == start + end + 1
        assert episode.fork is not None
    episode.close()


def test_a_tag_that_is_the_last_token_leaves_nothing_to_resample(chat):
    tag = chat.action(CALL).index(chat.tool_call_id)
    for limit, is_source in ((tag + 1, False), (tag + 2, True)):
        (episode,), _ = run_toys(chat, {}, num=1, keep_forks=True, sampling=Sampling(max_new_tokens=limit))
        assert episode.trajectory.status == "max_new_tokens" and episode.trajectory.used_tool
        assert (episode.trajectory.branch_point is not None) == is_source
        assert (episode.fork is not None) == is_source
        episode.close()
