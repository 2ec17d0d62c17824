"""The contract over every id and level, and that it catches environments that break it."""

import os
import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import data_equivalence

import axpo_env
from axpo_env import contract, contract_faults
from axpo_env.actions import BAD_ACTIONS
from axpo_env.catalogue import find_entries
from axpo_env.contract import CHECKS, make_env, play
from axpo_env.echo import EchoSandbox
from axpo_env.env import ToolEnv
from axpo_env.messages import format_action, format_answer, format_call
from axpo_env.scripted import BlankPolicy, OraclePolicy, run_episode
from axpo_env.state import EpisodeState
from axpo_env.tools.zoom import ZoomTool

ZOOM_ONLY = {"difficulty": "nano", "split": "test", "tools": ("image_zoom_in",)}


GENERATED = [entry for entry in find_entries() if entry.source == "synthetic"]


@pytest.mark.parametrize("entry", GENERATED, ids=lambda entry: entry.name)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(entry, check):
    check(make_env(entry.env_id, {**entry.keywords, "sandbox": EchoSandbox()}))


def test_every_id_is_checked():
    assert [entry.env_id for entry in GENERATED] == list(axpo_env.IDS)


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


class Entangled(ToolEnv):
    """Counts the steps of all branches together."""

    def step(self, action):
        self.source.num_steps = getattr(self.source, "num_steps", 0) + 1
        observation, *rest = super().step(action)
        return {**observation, "text": f"{observation['text']} {self.source.num_steps}"}, *rest


class Blaming(ToolEnv):
    """Takes an outage for the policy's fault."""

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        terminated = terminated or info["outage"] is not None
        return observation, reward, terminated, truncated, info


class Hoarder(ToolEnv):
    """Keeps a file open for every environment there ever was."""

    held: ClassVar[list] = []

    def __init__(self, **keywords):
        super().__init__(**keywords)
        self.held.append(open(os.devnull))  # noqa: SIM115 - that is the point


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
        (Entangled, {"forks", "snapshots"}),
        (Blaming, {"outages"}),
        (Hoarder, {"closing"}),
    ],
)
def test_contract_catches(broken, failing, monkeypatch):
    monkeypatch.setattr(contract_faults, "_WAITS", 1)
    checks = {check.__name__.removeprefix("check_"): check for check in CHECKS}
    for name in failing:
        with pytest.raises((AssertionError, TypeError)):
            checks[name](lambda: broken(**ZOOM_ONLY))


def test_contract_catches_a_spec_that_does_not_pickle():
    class Local(ZoomTool):
        """Of a class that no other process can import."""

    with pytest.raises((AttributeError, pickle.PicklingError), match="Local"):
        contract_faults.check_pickling(make_env("AXPO/ChartQA-Tools-v0", {**ZOOM_ONLY, "tools": (Local(),)}))


def test_command_line_over_all(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(contract, "CHECKS", (contract.check_indices,))
    assert contract.main(["--all", "--sandbox", "echo", "--data", str(tmp_path)]) == 0
    names = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert names == [entry.name for entry in find_entries(data=tmp_path)]

    def check_charts_only(make):
        assert make().config.benchmark == "chartqa", "no charts"

    monkeypatch.setattr(contract, "CHECKS", (check_charts_only,))
    assert contract.main(["--all", "--sandbox", "echo", "--data", str(tmp_path)]) == 1
    assert capsys.readouterr().out.count("FAILED  charts_only     AssertionError: no charts\n") == 9
    assert contract.main(["--all", "--data", str(tmp_path / "nowhere")]) == 2
    assert "no folder of data sets" in capsys.readouterr().err


def check_row(env, other, index):
    """The snapshot law on one row: restored, and from bytes in another copy, it goes the same way."""
    assert data_equivalence(
        env.reset(options={"index": index}), other.reset(options={"index": index}), exact=True
    )
    look = format_call("image_zoom_in", {"bbox_2d": [100, 100, 600, 500], "label": "x"})
    calls = [look, format_call("python", {"code": "print(1)"})][: len(env.rules.tools)]
    actions = [format_action("", *calls), format_action("", format_answer(env.task.references[0]))]
    snapshot = env.snapshot()
    first = play(env, actions)
    assert first[-1][2] and first[0][0]["images"]
    env.restore(snapshot)
    other.restore(other.snapshot_from_bytes(snapshot.to_bytes()))
    assert data_equivalence(play(env, actions), first, exact=True)
    assert data_equivalence(play(other, actions), first, exact=True)


REAL = ("AXPO/ChartQA-Tools-v0", "AXPO/MathVision-Tools-v0", "AXPO/DynaMath-Tools-v0")


def real_entry(env_id, shared_data, **options):
    found = find_entries(ids=[env_id], data=shared_data, **options)
    (entry,) = [entry for entry in found if not entry.generated]
    return entry


@pytest.mark.parametrize("env_id", REAL)
def test_the_snapshot_law_on_a_few_real_rows(env_id, shared_data):
    entry, sandbox = real_entry(env_id, shared_data), EchoSandbox()
    env, other = entry.make(sandbox=sandbox), entry.make(sandbox=sandbox)
    for index in (0, 1, env.num_tasks // 2, env.num_tasks - 1):
        check_row(env, other, index)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("env_id", REAL)
def test_the_snapshot_law_on_all_real_rows(env_id, shared_data):
    entry = real_entry(env_id, shared_data, python=False)  # encoding every image for it takes minutes
    env, other = entry.make(), entry.make()
    for index in range(env.num_tasks):
        check_row(env, other, index)


@pytest.mark.slow
@pytest.mark.parametrize("env_id", REAL)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract_on_real_rows(env_id, check, shared_data):
    entry = real_entry(env_id, shared_data)
    check(make_env(entry.env_id, {**entry.keywords, "sandbox": EchoSandbox()}))


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
