"""The contract over every id and level, and that it catches environments that break it."""

import contextlib
import functools
import os
import pickle
import random
import signal
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence

import axpo_env
from axpo_env import contract, contract_faults, contract_leaks
from axpo_env.actions import BAD_ACTIONS
from axpo_env.catalogue import find_entries
from axpo_env.contract import CHECKS, make_env
from axpo_env.contract_play import Skipped, play, same, see
from axpo_env.echo import EchoSandbox
from axpo_env.env import ToolEnv
from axpo_env.grading.choice import grade_letter
from axpo_env.grading.options import show_options
from axpo_env.messages import format_action, format_answer, format_call
from axpo_env.scripted import BlankPolicy, OraclePolicy, run_episode
from axpo_env.state import EpisodeState
from axpo_env.tasks.base import Task
from axpo_env.tasks.synthetic.families import TWINS
from axpo_env.tools.zoom import ZoomTool

ZOOM_ONLY = {"difficulty": "nano", "split": "test", "tools": ("image_zoom_in",)}


GENERATED = [entry for entry in find_entries() if entry.source == "synthetic"]


FIRST = {family: benchmark for benchmark, family in reversed(TWINS.items())}  # one benchmark of each family


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(
            entry,
            marks=() if axpo_env.IDS[entry.env_id] in FIRST.values() else pytest.mark.slow,
            id=entry.name,
        )
        for entry in GENERATED
    ],
)
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


class Lossy(ToolEnv):
    """Counts its steps, and loses the count in `to_bytes`."""

    count = 0

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return super().reset(seed=seed, options=options)

    def snapshot(self):
        snapshot = super().snapshot()
        snapshot.count = self.count
        return snapshot

    def snapshot_from_bytes(self, data):
        snapshot = super().snapshot_from_bytes(data)
        snapshot.count = 0
        return snapshot

    def restore(self, snapshot):
        self.count = getattr(snapshot, "count", 0)
        return super().restore(snapshot)

    def fork(self, num_branches):
        branches = super().fork(num_branches)
        for branch in branches:
            branch.count = self.count
        return branches

    def step(self, action):
        self.count += 1
        observation, *rest = super().step(action)
        return {**observation, "text": f"{observation['text']} {self.count}"}, *rest


class Reseeding(ToolEnv):
    """Does not bring the random state back."""

    def restore(self, snapshot):
        start = super().restore(snapshot)
        self.np_random = np.random.default_rng(5)
        return start


class Blurting(ToolEnv):
    """Gives every branch one list to write into."""

    log: ClassVar[list] = []

    def step(self, action):
        *rest, info = super().step(action)
        return *rest, {**info, "log": self.log}


class Exposed(ToolEnv):
    """Gives its own images away, and lets them be written to."""

    def _observe(self):
        observation, info = super()._observe()
        for image in observation["images"]:
            image.flags.writeable = True
        return observation, info


class Overwriting(ToolEnv):
    """Writes into the images it gave before."""

    last = ()

    def _observe(self):
        observation, info = super()._observe()
        for image in self.last:
            image[:] = 0
        self.last = tuple(np.array(image) for image in observation["images"])
        return {**observation, "images": tuple(image[:] for image in self.last)}, info


class Parent(ToolEnv):
    """Starts a process that outlives the one that started it, in a session of its own."""

    pids: ClassVar[list] = []

    def __init__(self, **keywords):
        super().__init__(**keywords)
        command = "setsid sleep 60 >/dev/null 2>&1 & echo $!"
        self.pids.append(int(subprocess.run(["sh", "-c", command], capture_output=True, check=True).stdout))


class Elephant(ToolEnv):
    """Forgets nothing."""

    held: ClassVar[list] = []

    def step(self, action):
        self.held.append(bytearray(100_000))
        return super().step(action)


class Messy(ToolEnv):
    """Leaves a folder behind."""

    folder = "."

    def __init__(self, **keywords):
        super().__init__(**keywords)
        tempfile.mkdtemp(dir=self.folder)


class Undecided(ToolEnv):
    """Ends episodes in both ways."""

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, terminated or truncated, info


class Endless(ToolEnv):
    """Takes steps after the end."""

    def step(self, action):
        if self.state.stop_reason is None:
            return super().step(action)
        observation, info = self._observe()
        return observation, 0.0, False, True, info


class Fussy(ToolEnv):
    """Raises for arguments that are no object."""

    def step(self, action):
        if '"arguments": "' in str(action):
            raise TypeError("an object, please")
        return super().step(action)


class Punctual(ToolEnv):
    """Tells the time."""

    def step(self, action):
        observation, *rest = super().step(action)
        return {**observation, "text": observation["text"] + time.strftime("%H:%M:%S")}, *rest


class Priceless(ToolEnv):
    """Has no number for a reward."""

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, float("nan"), *rest


class Monotonous(ToolEnv):
    """Has one seed."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=0, options=options)


class Careless(ToolEnv):
    """Breaks Gymnasium's rules."""

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed, options=options)
        return {**observation, "images": list(observation["images"])}, info


class Unfair(ToolEnv):
    """Refuses its own references."""

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, 0.0, *rest


class Lopsided(ToolEnv):
    """Asks multiple choice, and A is right for 36 questions of a hundred."""

    def __init__(self, **keywords):
        super().__init__(**keywords)
        self.source = Letters(["A"] * 36 + ["B", "C"] * 16 + ["D"] * 32)


class Letters:
    """Multiple-choice questions whose right letters are given."""

    def __init__(self, letters, options=("red", "green", "blue", "grey")):
        self.letters, self.options, self.num_tasks = letters, options, len(letters)

    def get(self, index):
        grader = functools.partial(grade_letter, options=self.options)
        return Task(
            id=f"letters/{index}",
            index=index,
            split="test",
            source="letters",
            question=show_options("Which?", self.options),
            images=(),
            references=(self.letters[index],),
            grader=grader,
        )


class Picky(ToolEnv):
    """Raises for anything beyond ASCII."""

    def step(self, action):
        if isinstance(action, str):
            action.encode("ascii")
        return super().step(action)


# Broken environment -> checks that fail, among others.
BROKEN = (
    (Forgetful, {"snapshots"}),
    (Moody, {"seeding", "indices", "snapshots"}),
    (Stubborn, {"bad_actions"}),
    (Deaf, {"indices"}),
    (Entangled, {"forks", "snapshots"}),
    (Blaming, {"outages"}),
    (Hoarder, {"closing"}),
    (Lossy, {"bytes"}),
    (Reseeding, {"snapshots"}),
    (Blurting, {"returns"}),
    (Exposed, {"returns"}),
    (Overwriting, {"returns"}),
    (Parent, {"closing"}),
    (Elephant, {"memory"}),
    (Messy, {"closing"}),
    (Undecided, {"ends"}),
    (Endless, {"ends"}),
    (Fussy, {"bad_actions"}),
    (Punctual, {"bytes"}),
    (Priceless, {"ends"}),
    (Monotonous, {"seeding"}),
    (Careless, {"gymnasium"}),
    (Picky, {"random_text"}),
    (Unfair, {"answers"}),
    (Lopsided, {"constants"}),
)


@pytest.fixture
def no_waiting(monkeypatch, tmp_path):
    """Breaks nothing for the tests that follow."""
    monkeypatch.setattr(contract_leaks, "_WAITS", 1)
    monkeypatch.setattr(Messy, "folder", tmp_path)
    yield
    Hoarder.held.clear()
    Elephant.held.clear()
    while Parent.pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(Parent.pids.pop(), signal.SIGKILL)


@pytest.mark.parametrize(("broken", "failing"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_contract_catches(broken, failing, no_waiting):
    for name in failing:
        with pytest.raises((AssertionError, TypeError, UnicodeEncodeError)):
            getattr(contract, f"check_{name}")(lambda: broken(**ZOOM_ONLY))


@pytest.mark.parametrize(
    ("letters", "options", "outcome"),
    [
        ("A" * 35 + "B" * 33 + "C" * 32, 4, None),
        ("A" * 36 + "B" * 32 + "C" * 32, 4, "'A' is right for 0.36 of 100 .* at most 0.35 are fair"),
        ("A" * 60 + "B" * 40, 2, None),  # two options: a guess is right for half
        ("A" * 39 + "B" * 61, 2, "'B' is right for 0.61 of 100 .* at most 0.60 are fair"),
        ("A" * 99, 4, "99 multiple-choice questions are too few to tell"),
    ],
)
def test_a_letter_may_be_right_a_little_more_often_than_a_guess(letters, options, outcome):
    class Asking(ToolEnv):
        def __init__(self, **keywords):
            super().__init__(**keywords)
            self.source = Letters(letters, ("red", "green", "blue", "grey")[:options])

    if outcome is None:
        contract.check_constants(lambda: Asking(**ZOOM_ONLY))
        return
    with pytest.raises((AssertionError, Skipped), match=outcome):
        contract.check_constants(lambda: Asking(**ZOOM_ONLY))


def test_every_check_can_fail():
    names = {check.__name__.removeprefix("check_") for check in CHECKS}
    # A spec that does not pickle has a test of its own.
    assert set().union(*(failing for _, failing in BROKEN)) == names - {"pickling"}


def test_a_plain_environment_without_a_spec_passes_every_check(no_waiting):
    outcomes = contract.run_checks(lambda: ToolEnv(**ZOOM_ONLY))
    assert [outcome for outcome in outcomes if outcome.error] == []
    skipped = {outcome.name: outcome.skipped for outcome in outcomes if outcome.skipped}
    assert skipped.keys() == {"bytes", "pickling"} and all("no spec" in why for why in skipped.values())


class Foreign(gym.Env):
    """Somebody else's: the documented interface over a random walk, and nothing more of the suite's."""

    observation_space = gym.spaces.Box(-100, 100, (2,), np.float64)
    action_space = gym.spaces.Discrete(3)
    metadata: ClassVar[dict] = {"render_modes": []}

    def reset(self, *, seed=None, options=None):
        gym.Env.reset(self, seed=seed)
        self.place, self.num_steps = self.np_random.normal(size=2), 0
        return self.place.copy(), {}

    def step(self, action):
        if self.num_steps == 9:
            raise RuntimeError("over")
        self.num_steps += 1
        self.place = np.clip(self.place + self.np_random.normal(size=2) * int(action), -100, 100)
        return self.place.copy(), 0.0, False, self.num_steps == 9, {"num_steps": self.num_steps}

    def snapshot(self):
        return Mark(self.place.copy(), self.num_steps, self.np_random.bit_generator.state)

    def restore(self, snapshot):
        self.place, self.num_steps = snapshot.place.copy(), snapshot.num_steps
        self.np_random = np.random.default_rng()
        self.np_random.bit_generator.state = snapshot.random_state
        return self.place.copy(), {}

    def fork(self, num_branches):
        branches = [type(self)() for _ in range(num_branches)]
        for branch in branches:
            branch.restore(self.snapshot())
        return branches

    def snapshot_from_bytes(self, data):
        return pickle.loads(data)


class Mark:
    """A moment of it."""

    def __init__(self, *parts):
        self.place, self.num_steps, self.random_state = parts

    def to_bytes(self):
        return pickle.dumps(self)


class Stray(Foreign):
    """Leaves its place where it is."""

    def restore(self, snapshot):
        place = self.place if hasattr(self, "place") else snapshot.place
        super().restore(snapshot)
        self.place = place
        return self.place.copy(), {}


class Bare(gym.Env):
    """No more than Gymnasium's own."""

    observation_space, action_space = Foreign.observation_space, Foreign.action_space
    metadata: ClassVar[dict] = {"render_modes": []}
    reset, step = Foreign.reset, Foreign.step


def verdicts(make):
    """Check -> "ok", "skipped" or what it raised."""
    return {one.name: one.error or ("skipped" if one.skipped else "ok") for one in contract.run_checks(make)}


def test_environments_of_others_are_asked_what_they_can_answer(no_waiting):
    skipped = {"indices", "bad_actions", "bytes", "answers", "constants", "outages", "pickling"}
    found = verdicts(Foreign)
    assert {name for name, verdict in found.items() if verdict == "skipped"} == skipped
    assert {verdict for name, verdict in found.items() if name not in skipped} == {"ok"}
    assert "AttributeError" not in "".join(found.values())
    found = verdicts(Bare)
    assert {name for name, verdict in found.items() if verdict == "skipped"} == {
        *skipped,
        "snapshots",
        "forks",
    }
    assert set(found.values()) == {"skipped", "ok"}
    with pytest.raises(AssertionError, match=r"episode 0, turn 0: restored goes another way \(step 0"):
        contract.check_snapshots(Stray)


def test_what_is_skipped_is_said(capsys, monkeypatch):
    gym.register(id="Test/Bare-v0", entry_point=Bare)
    monkeypatch.setattr(contract, "_find", lambda given: {"bare": lambda: gym.make("Test/Bare-v0").unwrapped})
    monkeypatch.setattr(contract, "CHECKS", (contract.check_forks, contract.check_ends))
    try:
        assert contract.main(["Test/Bare-v0"]) == 0
        assert (
            capsys.readouterr().out == "skipped forks           the environment has no fork\nok      ends\n"
        )
        assert contract.main(["--all"]) == 0
        assert capsys.readouterr().out.startswith("bare: 1 of 2 in 0 s\nskipped forks   ")
    finally:
        del gym.registry["Test/Bare-v0"]


def test_a_difference_is_named_where_it_is():
    one, other = ({"a": [1, {"b": np.full(3, number)}]} for number in (1, 2))
    with pytest.raises(AssertionError, match=r"not alike \(a/1/b: ndarray int64 \[3\] \w+ and ndarray int64"):
        same(see(one), see(other), "not alike")
    same(see({"a": 1, "b": 2.0}), see({"b": 2.0, "a": 1}), "order does not matter")
    for mine, others in (
        (1, True),
        (1, 1.0),
        ([1], (1,)),
        ("x" * 300, "x" * 301),
        ({"a": 1}, {"a": 1, "b": 2}),
    ):
        with pytest.raises(AssertionError):
            same(see(mine), see(others), "these differ")


def test_the_command_line_plays_with_the_ids_own_tools(monkeypatch):
    made = []
    monkeypatch.setattr(contract, "CHECKS", (lambda make: made.append(make().config.tools),))
    contract.CHECKS[0].__name__ = "check_tools"
    assert contract.main(["AXPO/MMSearch-Tools-v0", "--sandbox", "echo"]) == 0
    assert contract.main(["AXPO/MMSearch-Tools-v0", "--source", "charts", "--sandbox", "echo"]) == 0
    assert contract.main(["AXPO/VStar-Tools-v0", "--sandbox", "echo"]) == 0
    everything = ("image_zoom_in", "python", "tavily-search", "image-search")
    assert made == [everything, everything, ("image_zoom_in", "python")]


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
