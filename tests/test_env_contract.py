"""The contract over every id and level, and that it catches environments that break it."""

import random
from concurrent.futures import ThreadPoolExecutor

import gymnasium as gym
import pytest

import axpo_env
from axpo_env import contract
from axpo_env.actions import BAD_ACTIONS
from axpo_env.contract import CHECKS, make_env
from axpo_env.env import ToolEnv
from axpo_env.scripted import BlankPolicy, OraclePolicy, run_episode
from axpo_env.state import EpisodeState

ZOOM_ONLY = {"difficulty": "nano", "split": "test", "tools": ("image_zoom_in",)}


@pytest.mark.parametrize("env_id", sorted(axpo_env.IDS))
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(env_id, check):
    check(make_env(env_id, ZOOM_ONLY))


class Forgetful(ToolEnv):
    """Restores nothing."""

    def restore(self, snapshot):
        super().restore(snapshot)
        return self.reset(seed=1)


class Moody(ToolEnv):
    """Says something else in every copy."""

    def _observe(self):
        observation, info = super()._observe()
        return {**observation, "text": observation["text"] + str(id(self))}, info


class Stubborn(ToolEnv):
    """Raises for what it does not like."""

    def step(self, action):
        if not isinstance(action, str):
            raise TypeError("text, please")
        return super().step(action)


class Deaf(ToolEnv):
    """Ignores which task is asked for."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)


@pytest.mark.parametrize(
    ("broken", "failing"),
    [
        (Forgetful, {"snapshots"}),
        (Moody, {"seeding", "indices", "snapshots"}),
        (Stubborn, {"bad_actions"}),
        (Deaf, {"indices"}),
    ],
)
def test_contract_catches(broken, failing):
    checks = {check.__name__.removeprefix("check_"): check for check in CHECKS}
    for name in failing:
        with pytest.raises((AssertionError, TypeError)):
            checks[name](lambda: broken(**ZOOM_ONLY))


def test_command_line(capsys, monkeypatch):
    monkeypatch.setattr(contract, "CHECKS", (contract.check_indices, contract.check_closing))
    assert contract.main(["AXPO/ChartQA-Tools-v0", "--tools", "image_zoom_in"]) == 0
    assert capsys.readouterr().out == "ok      indices\nok      closing\n"

    def check_nothing_works(make):
        raise AssertionError("as expected")

    monkeypatch.setattr(contract, "CHECKS", (check_nothing_works,))
    assert contract.main(["AXPO/ChartQA-Tools-v0", "--tools", "image_zoom_in"]) == 1
    assert capsys.readouterr().out == "FAILED  nothing_works   AssertionError: as expected\n"
    assert contract.main(["AXPO/ChartQA-v0"]) == 2
    assert "nearest: AXPO/ChartQA-Tools-v0" in capsys.readouterr().err


def test_bad_actions_end_or_answer_in_the_last_turn_too():
    env = make_env("AXPO/ChartQA-Tools-v0", {**ZOOM_ONLY, "max_turns": 1})()
    for action in BAD_ACTIONS:
        env.reset(seed=1)
        _, reward, terminated, truncated, info = env.step(action)
        assert reward == 0.0 and (terminated or truncated) and info["grade"]["correct"] is False


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(("level", "num_tasks"), [("nano", 100), ("easy", 20)])
def test_oracle_and_blank_through_the_environment(level, num_tasks, split):
    env = make_env("AXPO/ChartQA-Tools-v0", {**ZOOM_ONLY, "difficulty": level, "split": split})()
    for index in range(num_tasks):
        _, info = env.reset(options={"index": index})
        reward, end = run_episode(env, OraclePolicy(env.task), info)
        assert (reward, end["grade"]["strict"], end["num_turns"]) == (1.0, True, 2)
        _, info = env.reset(options={"index": index})
        assert run_episode(env, BlankPolicy(), info)[0] == 0.0


def test_many_threads_share_source_and_snapshot():
    env = make_env("AXPO/ChartQA-Tools-v0", ZOOM_ONLY)()
    env.reset(seed=3)
    snapshot = env.snapshot()
    oracle = OraclePolicy(env.task)

    def episode(seed: int) -> tuple[float, EpisodeState]:
        branch = make_env("AXPO/ChartQA-Tools-v0", ZOOM_ONLY)()
        _, info = branch.reset(seed=seed)
        rewards = [run_episode(branch, OraclePolicy(branch.task), info)[0]]
        _, info = branch.restore(snapshot)
        rewards.append(run_episode(branch, oracle, info)[0])
        return sum(rewards), branch.state

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(episode, range(64)))
    assert [total for total, _ in results] == [2.0] * 64
    assert {state.task.id for _, state in results} == {snapshot.state.task.id}


def test_make_env_with_wrappers_behaves_the_same():
    wrapped = gym.make("AXPO/ChartQA-Tools-v0", **ZOOM_ONLY)
    wrapped.reset(options={"index": 1})
    actions = wrapped.unwrapped.task.demonstrate(random.Random(0))
    outcomes = [wrapped.step(action) for action in actions]
    assert outcomes[-1][1] == 1.0 and wrapped.spec.id == "AXPO/ChartQA-Tools-v0"
