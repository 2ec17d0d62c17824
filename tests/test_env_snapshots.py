"""The snapshot law: a restored episode repeats itself, and branches never see each other."""

import json
import random
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import data_equivalence

import axpo_env  # noqa: F401 - registers the ids
from axpo_env.messages import format_action, format_answer, format_call
from axpo_env.snapshots import ReplayDiverged

ROOT = Path(__file__).parents[1]
KEYWORDS = {"difficulty": "nano", "max_pixels": 2304, "tools": ("image_zoom_in",), "max_turns": 6}


def make(**keywords):
    return gym.make("AXPO/ChartQA-Tools-v0", **{**KEYWORDS, **keywords}).unwrapped


def random_action(rng):
    box = [rng.randrange(500), rng.randrange(500), rng.randrange(501, 1200), rng.randrange(400, 1000)]
    zoom = {"bbox_2d": box, "label": "x", "img_idx": rng.randrange(3)}
    return rng.choice(
        [
            format_action("zoom", format_call("image_zoom_in", zoom)),
            format_action("two", *[format_call("image_zoom_in", zoom)] * 2),
            format_action("hm", "I do not know"),
            "<tool_call>{",
            format_action("", format_answer(str(rng.randrange(1, 10) * 10))),
        ]
    )


def play(env, actions):
    outcomes = []
    for action in actions:
        if env.state.stop_reason is not None:
            break
        outcomes.append(env.step(action))
    return outcomes


def test_restored_and_forked_episodes_repeat_themselves():
    rng = random.Random(0)
    env, other = make(), make()
    for episode in range(200):
        env.reset(seed=episode)
        play(env, [random_action(rng) for _ in range(rng.randrange(3))])
        if env.state.stop_reason is not None:
            continue
        snapshot = env.snapshot()
        actions = [random_action(rng) for _ in range(5)]
        first = play(env, actions)
        env.restore(snapshot)
        branch = env.fork(1)[0]
        other.reset(seed=99)
        other.restore(snapshot)
        for copy in (env, branch, other):
            assert data_equivalence(play(copy, actions), first, exact=True)


def test_restore_returns_the_moment_it_restores():
    env = make()
    observation, info = env.reset(seed=1)
    start = env.snapshot()
    env.step(format_action("zoom", format_call("image_zoom_in", {"bbox_2d": [0, 0, 9, 9], "label": "x"})))
    again, info_again = env.restore(start)
    assert data_equivalence(again, observation, exact=True)
    assert data_equivalence(info_again, info, exact=True)


def test_random_state_belongs_to_the_snapshot():
    env = make()
    env.reset(seed=1)
    snapshot = env.snapshot()
    tasks = [env.reset()[1]["task"] for _ in range(3)]
    branch = env.fork(1)[0]
    env.restore(snapshot)
    assert [env.reset()[1]["task"] for _ in range(3)] == tasks
    assert branch.reset()[1]["task"] == env.reset()[1]["task"]


def test_branches_are_independent():
    env = make()
    env.reset(seed=1)
    branches = env.fork(3)
    zoom = format_action("zoom", format_call("image_zoom_in", {"bbox_2d": [0, 0, 9, 9], "label": "x"}))
    branches[0].step(zoom)
    branches[1].step("hm")
    assert [branch.state.num_turns for branch in [*branches, env]] == [1, 1, 0, 0]
    assert [len(branch.state.images) for branch in [*branches, env]] == [2, 1, 1, 1]
    assert env.fork(0) == []
    with pytest.raises(ValueError, match="cannot fork -1"):
        env.fork(-1)


def test_a_finished_episode_snapshots_too():
    env = make()
    env.reset(seed=1)
    env.step(format_action("", format_answer("7")))
    copy = env.snapshot_from_bytes(env.snapshot().to_bytes())
    assert copy.state.stop_reason == "answer" and copy.state.grade == env.state.grade


CHILD = """
import sys, gymnasium as gym, axpo_env
from axpo_env.snapshots import digest
env = gym.make("AXPO/ChartQA-Tools-v0", **{keywords!r}).unwrapped
env.restore(env.snapshot_from_bytes(sys.stdin.buffer.read()))
env.step({action!r})
print(digest(env.state), env.reset()[1]["task"]["index"])
"""


def test_bytes_replay_in_another_process():
    from axpo_env.snapshots import digest

    env = make()
    env.reset(seed=3)
    for action in ("hm \ud800", 5, format_action("", format_call("image_zoom_in", {}))):
        env.step(action)
    data = env.snapshot().to_bytes()
    assert len(data) < 2_000
    action = format_action("zoom", format_call("image_zoom_in", {"bbox_2d": [0, 0, 9, 9], "label": "x"}))
    code = CHILD.format(keywords=KEYWORDS, action=action)
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True, cwd=ROOT)
    env.step(action)
    assert done.stdout.decode().split() == [digest(env.state), str(env.reset()[1]["task"]["index"])]


def test_rebuilding_leaves_the_environment_alone():
    env = make()
    env.reset(seed=3)
    data = env.snapshot().to_bytes()
    env.step("hm")
    state = env.state
    env.snapshot_from_bytes(data)
    assert env.state is state


def test_bytes_of_other_things_are_refused():
    env = make()
    env.reset(seed=3)
    env.step("hm")
    data = env.snapshot().to_bytes()
    with pytest.raises(ValueError, match="no environment snapshot"):
        env.snapshot_from_bytes(b"{}")
    with pytest.raises(ValueError, match="this environment of"):
        make(max_turns=5).snapshot_from_bytes(data)
    record = json.loads(data)
    record["actions"] = ["hm?"]
    with pytest.raises(ReplayDiverged, match="replaying 1 actions led to other messages"):
        env.snapshot_from_bytes(json.dumps(record).encode())
    record["actions"] = [format_answer("1"), "hm"]
    with pytest.raises(ReplayDiverged, match="ended early: answer"):
        env.snapshot_from_bytes(json.dumps(record).encode())
    record["version"] = 2
    with pytest.raises(ValueError, match="snapshot version 2; this reads version 1"):
        env.snapshot_from_bytes(json.dumps(record).encode())


@pytest.mark.parametrize("name", ["version", "settings", "task", "actions", "random_state", "digest"])
def test_bytes_that_lack_a_part_are_refused(name):
    env = make()
    env.reset(seed=3)
    record = json.loads(env.snapshot().to_bytes())
    short = {key: value for key, value in record.items() if key != name}
    for spoilt in (short, {**record, name: None}):
        with pytest.raises(ValueError, match=f"{name} of the snapshot|snapshot {name}"):
            env.snapshot_from_bytes(json.dumps(spoilt).encode())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": {"id": "charts/nano/train/3"}}, "task of the snapshot .*'index'"),
        ({"task": {"id": "x", "index": "3"}}, "task of the snapshot .*'index'"),
        ({"actions": [3]}, "actions of the snapshot .*3"),
        ({"actions": [{"type": "int"}]}, "actions of the snapshot .*'type'"),
        ({"random_state": {}}, "random_state of the snapshot"),
        ({"random_state": {"bit_generator": "seed"}}, "random_state of the snapshot"),
    ],
)
def test_bytes_with_a_part_that_will_not_do_are_refused(changes, message):
    env = make()
    env.reset(seed=3)
    record = json.loads(env.snapshot().to_bytes())
    with pytest.raises(ValueError, match=message):
        env.snapshot_from_bytes(json.dumps({**record, **changes}).encode())


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"{", b"[" * 100_000])
def test_bytes_that_are_no_json_are_refused(data):
    with pytest.raises(ValueError, match="these bytes are no environment snapshot"):
        make().snapshot_from_bytes(data)


@pytest.mark.parametrize("given", [None, b"bytes", {}])
def test_what_is_no_snapshot_is_not_restored(given):
    with pytest.raises(TypeError, match=r"restore takes a Snapshot.*, not "):
        make().restore(given)
    if not isinstance(given, bytes):
        with pytest.raises(TypeError, match=r"snapshot_from_bytes takes what .*to_bytes.* gave, not "):
            make().snapshot_from_bytes(given)
