"""The environment: an episode from reset to answer, what ends it, and Gymnasium's own checks."""

import random
import re
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from dataset_rows import CHARTQA, ENV_IDS, ROWS, write_table
from gymnasium.utils.env_checker import check_env

import axpo_env
from axpo_env.echo import EchoSandbox
from axpo_env.messages import format_action, format_answer, format_call
from axpo_env.state import StopReason
from axpo_env.tasks.synthetic.families import FAMILIES

NANO = {"difficulty": "nano", "max_pixels": 48 * 48, "tools": ("image_zoom_in",)}


def make(**keywords):
    return gym.make("AXPO/ChartQA-Tools-v0", **{**NANO, **keywords})


@pytest.mark.parametrize("env_id", sorted(axpo_env.IDS))
@pytest.mark.filterwarnings("error::UserWarning")
def test_gymnasium_check(env_id):
    check_env(gym.make(env_id, difficulty="nano").unwrapped)


def test_reset_shows_system_images_and_question():
    env = make()
    observation, info = env.reset(options={"index": 3})
    task = env.unwrapped.task
    assert observation["text"] == task.question
    assert [image.shape for image in observation["images"]] == [(48, 48, 3)]
    assert task.images[0].shape == (384, 384, 3)
    assert [message["role"] for message in info["messages"]] == ["system", "user"]
    assert info["new_messages"] == info["messages"]
    assert [part["type"] for part in info["messages"][1]["content"]] == ["image", "text"]
    assert info["messages"][1]["content"][0]["image"] is observation["images"][0]
    assert [tool["function"]["name"] for tool in info["tools"]] == ["image_zoom_in"]
    assert info["task"] == {
        "id": "charts/nano/train/3",
        "index": 3,
        "split": "train",
        "source": "synthetic",
        "needs_tools": ("image_zoom_in",),
    }
    assert (info["stop_reason"], info["grade"], info["num_turns"], info["tool_calls"]) == (None, None, 0, [])


def test_zoom_then_right_answer():
    env = make()
    env.reset(options={"index": 3})
    zoom, answer = env.unwrapped.task.demonstrate(random.Random(0))
    observation, reward, terminated, truncated, info = env.step(zoom)
    assert (observation["text"], reward, terminated, truncated) == ("Image 1:", 0.0, False, False)
    assert [image.shape for image in observation["images"]] == [(48, 48, 3)]
    assert [message["role"] for message in info["messages"]] == ["system", "user", "assistant", "tool"]
    assert info["messages"][2]["content"] == [{"type": "text", "text": zoom}]
    assert info["new_messages"][0]["name"] == "image_zoom_in"
    assert info["tool_calls"][0]["name"] == "image_zoom_in" and info["tool_calls"][0]["error"] is None
    observation, reward, terminated, truncated, info = env.step(answer)
    assert (observation["text"], observation["images"]) == ("", ())
    assert (reward, terminated, truncated, info["stop_reason"]) == (1.0, True, False, StopReason.ANSWER)
    reference = env.unwrapped.task.references
    right = {"correct": True, "strict": True, "answer": reference[0], "reference": reference, "score": 1.0}
    assert info["grade"] == right
    with pytest.raises(RuntimeError, match="episode is over"):
        env.unwrapped.step(answer)


def test_wrong_answer_ends_with_nothing():
    env = make()
    env.reset(options={"index": 3})
    _, reward, terminated, _, info = env.step(format_action("guess", format_answer("7")))
    assert (reward, terminated, info["grade"]["correct"]) == (0.0, True, False)


def test_a_call_in_the_last_turn_is_not_run():
    env = make(max_turns=2)
    env.reset(options={"index": 3})
    zoom = env.unwrapped.task.demonstrate(random.Random(0))[0]
    env.step(zoom)
    observation, reward, terminated, truncated, info = env.step(zoom)
    assert (observation["text"], reward, terminated, truncated) == ("", 0.0, False, True)
    assert (info["stop_reason"], info["num_turns"]) == ("max_turns", 2)
    assert info["tool_calls"][0]["error"] == "not run: this was the last turn"
    assert info["grade"]["answer"] is None and info["grade"]["correct"] is False


def test_malformed_actions_cost_turns():
    env = make(max_turns=2)
    env.reset(options={"index": 3})
    observation, _, terminated, truncated, info = env.step("hm\n</think>\n\nI do not know")
    assert (terminated, truncated, info["num_turns"]) == (False, False, 1)
    assert observation["text"] == (
        "Your reply held neither a tool call nor an answer. "
        "Write a tool call, or <answer>\\boxed{...}</answer>."
    )
    assert [(message["role"], message["name"]) for message in info["new_messages"]] == [("tool", "unknown")]
    _, reward, _, truncated, info = env.step("")
    assert (reward, truncated, info["stop_reason"]) == (0.0, True, "malformed")


def test_answer_beside_a_call_is_ignored():
    env = make()
    env.reset(options={"index": 3})
    box = {"bbox_2d": [0, 0, 500, 500], "label": "x"}
    action = format_action("", format_call("image_zoom_in", box), format_answer("40"))
    observation, _, terminated, _, _ = env.step(action)
    assert not terminated
    assert observation["text"] == "Image 1:\nYour answer was ignored: it came together with a tool call."


def test_several_calls_share_a_turn_up_to_a_limit():
    env = make(max_calls=2)
    env.reset(options={"index": 3})
    call = format_call("image_zoom_in", {"bbox_2d": [0, 0, 500, 500], "label": "x"})
    observation, *_, info = env.step(format_action("", call, call, call))
    assert observation["text"] == "Image 1:\nImage 2:\nOnly the first 2 of 3 calls were run."
    assert len(observation["images"]) == len(info["tool_calls"]) == len(info["new_messages"]) == 2


def test_seed_and_index_choose_the_task():
    first, second = make(), make()
    assert first.reset(seed=7)[1]["task"] == second.reset(seed=7)[1]["task"]
    assert first.reset()[1]["task"] == second.reset()[1]["task"]
    first.reset(seed=7, options={"index": 5})
    second.reset(seed=7)
    assert first.unwrapped.task.index == 5
    assert first.reset()[1]["task"] == second.reset()[1]["task"]  # a given index shifts nothing
    with pytest.raises(IndexError, match="not -1"):
        first.reset(options={"index": -1})
    with pytest.raises(ValueError, match="unknown reset option 'idx'; known: index; nearest: index"):
        first.reset(options={"idx": 1})


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"dificulty": "nano"}, "unknown keyword 'dificulty'.*nearest: difficulty"),
        ({"difficulty": "nan"}, "unknown difficulty of charts 'nan'.*nearest: nano"),
        ({"split": "valid"}, "unknown split 'valid'.*nearest: validation"),
        (
            {"source": "synthtic"},
            "unknown source 'synthtic'; known: charts, .*hub.*nearest: synthetic; a folder",
        ),
        ({"source": "ledger"}, "unknown source 'ledger'.*nearest: ledgers"),
        ({"tools": ("zoom",)}, "unknown tool 'zoom'; known: .*python.*; nearest: image_zoom_in"),
        ({"tools": ("python",), "sandbox": None}, "python tool needs a sandbox"),
        ({"source": ""}, "unknown source ''; known: charts, .*hub.*; a folder"),
        ({"source": None}, "unknown source None; known: charts, .*hub"),
        ({"source": 3}, "unknown source 3; known: charts, .*hub"),
        ({"source": ["charts"]}, r"unknown source \['charts'\]; known: charts, .*hub"),
        ({"max_turns": 0}, "max_turns must be at least 1, not 0"),
        ({"max_calls": -3}, "max_calls must be at least 1, not -3"),
        ({"max_pixels": 0}, "max_pixels must be at least 1, not 0"),
        ({"tool_time_limit_s": 0}, "tool_time_limit_s must be above 0, not 0"),
        ({"tool_time_limit_s": -1.0}, r"tool_time_limit_s must be above 0, not -1\.0"),
        ({"tool_time_limit_s": float("nan")}, "tool_time_limit_s must be above 0, not nan"),
    ],
)
def test_wrong_keywords_are_named(keywords, message):
    with pytest.raises(ValueError, match=message):
        make(**keywords)


@pytest.mark.parametrize("name", ["max_turns", "max_calls", "max_pixels"])
@pytest.mark.parametrize("value", [None, 2.5, "3", True, [3]])
def test_counts_are_whole_numbers(name, value):
    if (name, value) == ("max_pixels", None):
        return  # the level's own
    with pytest.raises(TypeError, match=rf"^{name} must be a whole number, not {re.escape(repr(value))}"):
        make(**{name: value})
    assert getattr(make(**{name: np.int64(3)}).unwrapped.config, name) == 3


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"tool_time_limit_s": "x"}, "tool_time_limit_s must be a number, not 'x'"),
        ({"sandbox": 3}, "sandbox must be a backend's name .*local.* or a ready Sandbox, not 3"),
        ({"sandbox": EchoSandbox}, r"sandbox must be .* a ready Sandbox, not <class .*EchoSandbox"),
        ({"tools": None}, "tools is a sequence of names or tools, not None"),
        ({"tools": 3}, "tools is a sequence of names or tools, not 3"),
        ({"tools": "python"}, "tools is a sequence of names or tools, not 'python'"),
        ({"tools": {"python"}}, r"tools is a sequence of names or tools, not \{'python'\}"),
        ({"variant": 3}, "variant must be a text, not 3"),
        ({"split": ["test"]}, r"split must be a text, not \['test'\]"),
    ],
)
def test_keywords_of_a_wrong_type_are_named(keywords, message):
    with pytest.raises(TypeError, match=message):
        make(**keywords)


def test_a_folder_may_be_given_as_a_path(tmp_path):
    write_table(tmp_path / "test.parquet", CHARTQA)
    env = make(source=tmp_path, split="test").unwrapped
    env.reset()
    assert env.config.source == str(tmp_path)
    assert env.snapshot_from_bytes(env.snapshot().to_bytes()).settings == env.snapshot().settings


def test_returned_images_cannot_be_changed():
    env = make()
    observation, _ = env.reset(options={"index": 3})
    with pytest.raises(ValueError, match="read-only"):
        observation["images"][0][0, 0, 0] = 1
    assert not np.shares_memory(observation["images"][0], env.reset(options={"index": 3})[0]["images"][0])


@pytest.mark.parametrize("env_id", axpo_env.IDS)
def test_generated_images_are_seen_as_their_level_means_it(env_id):
    env = gym.make(env_id, difficulty="nano").unwrapped
    observation, _ = env.reset(options={"index": 0})
    level = env.source.level
    assert (
        env.config.max_pixels == level.view_pixels < env.task.images[0].shape[0] * env.task.images[0].shape[1]
    )
    assert observation["images"][0].shape[0] * observation["images"][0].shape[1] <= level.view_pixels
    assert gym.make(env_id, difficulty="nano", max_pixels=9).unwrapped.config.max_pixels == 9


@pytest.mark.parametrize("source", ["synthetic", *FAMILIES])
@pytest.mark.parametrize("env_id", axpo_env.IDS)
def test_a_generated_source_brings_the_tools_and_turns_it_takes(env_id, source):
    env = gym.make(env_id, source=source, split="test", difficulty="easy").unwrapped
    for index in range(8):
        item = env.source.item(index)
        assert set(item.needs_tools) <= set(env.rules.tools)
        assert len(item.solve(random.Random(0), 0)) <= env.rules.max_turns
    own = gym.make(env_id, source=source, tools=("image_zoom_in",), max_turns=2).unwrapped
    assert (tuple(own.rules.tools), own.rules.max_turns) == (("image_zoom_in",), 2)


def test_rows_of_search_benchmarks_are_searched_for(tmp_path):
    for benchmark, (name, rows, _) in ROWS.items():
        write_table(tmp_path / benchmark / name, rows)
        config = gym.make(ENV_IDS[benchmark], source=tmp_path / benchmark, split="test").unwrapped.config
        searches = benchmark in ("hrmmsearch", "mmsearch")
        assert ("tavily-search" in config.tools, config.max_turns) == (searches, 6 if searches else 3)


def test_import_is_light_and_silent():
    code = (
        "import sys, threading, axpo_env;"
        "heavy = {'torch', 'transformers', 'docker', 'e2b', 'datasets', 'matplotlib', 'pandas', 'scipy'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules);"
        "assert threading.active_count() == 1"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
