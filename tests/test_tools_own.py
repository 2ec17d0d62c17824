"""Tools of one's own: one class, one line; their memory, their outages and their time."""

import gymnasium as gym
import numpy as np
import pytest

import axpo_env  # noqa: F401 - registers the ids
from axpo_env.messages import format_action, format_answer, format_call
from axpo_env.tools import make_tools, register_tool, tool_names
from axpo_env.tools.base import ToolResult, ToolUnavailable, function_schema
from axpo_env.tools.image_search import ImageSearch
from axpo_env.tools.search import Search

TALLY = format_action("", format_call("tally", {"by": 2}))


class Tally:
    """Counts up; shows how tools keep memory that snapshots."""

    name = "tally"
    schema = function_schema("tally", "Count.", {"by": {"type": "integer"}}, required=("by",))

    def run(self, arguments, state, interpreter):
        total = state.tool_states.get("tally", 0) + arguments["by"]
        return ToolResult(text=str(total), tool_state=total)


class Paint:
    """Gives two images and no text."""

    name = "paint"
    schema = function_schema("paint", "Paint.", {}, required=())

    def run(self, arguments, state, interpreter):
        return ToolResult(images=tuple(np.full((4, 4, 3), level, dtype=np.uint8) for level in (1, 2)))


class Down:
    """Its backend is down."""

    name = "down"
    schema = function_schema("down", "Fail.", {}, required=())

    def run(self, arguments, state, interpreter):
        raise ToolUnavailable("no route to the index")


class Silent:
    """Returns nothing at all."""

    name = "silent"
    schema = function_schema("silent", "Nothing.", {}, required=())

    def run(self, arguments, state, interpreter):
        return ToolResult()


def make(*tools, **keywords):
    keywords = {"difficulty": "nano", "max_turns": 9, **keywords}
    env = gym.make("AXPO/ChartQA-Tools-v0", tools=("image_zoom_in", *tools), **keywords)
    env.reset(options={"index": 0})
    return env


def test_own_tool_with_memory_that_branches():
    env = make(Tally())
    assert env.step(TALLY)[0]["text"] == "2"
    snapshot = env.unwrapped.snapshot()
    branch = env.unwrapped.fork(1)[0]
    assert [env.step(TALLY)[0]["text"] for _ in range(2)] == ["4", "6"]
    assert branch.step(TALLY)[0]["text"] == "4"
    env.unwrapped.restore(snapshot)
    assert env.step(TALLY)[0]["text"] == "4"
    assert [tool["function"]["name"] for tool in env.step(TALLY)[4]["tools"]] == ["image_zoom_in", "tally"]


def test_named_tools_own_tools_and_tools_with_options_side_by_side(tmp_path):
    (tmp_path / "lamp.md").write_text("# Lamp\nIt shines.")
    env = make(Tally(), Search(folder=tmp_path), ImageSearch(folder=tmp_path))
    _, info = env.reset(options={"index": 0})
    names = [tool["function"]["name"] for tool in info["tools"]]
    assert names == ["image_zoom_in", "tally", "tavily-search", "image-search"]
    search = format_call("tavily-search", {"query": "lamp"})
    text = env.step(format_action("", search, format_call("tally", {"by": 2})))[0]["text"]
    assert text.startswith("1. Lamp\nURL: lamp.md\n") and text.endswith("It shines.\n2")
    assert sorted(make_tools(("tavily-search", "image-search"))) == ["image-search", "tavily-search"]


def test_images_are_numbered_over_calls():
    env = make(Paint())
    paint = format_call("paint", {})
    observation, *_ = env.step(format_action("", paint, paint))
    assert observation["text"] == "Image 1:\nImage 2:\nImage 3:\nImage 4:"
    assert [int(image[0, 0, 0]) for image in observation["images"]] == [1, 2, 1, 2]


def test_a_silent_tool_is_not_an_empty_observation():
    env = make(Silent())
    assert env.step(format_action("", format_call("silent", {})))[0]["text"] == "(no output)"


def test_an_outage_ends_the_episode_ungraded():
    env = make(Down(), Tally())
    action = format_action("", format_call("tally", {"by": 1}), format_call("down", {}))
    observation, reward, terminated, truncated, info = env.step(action)
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert (info["stop_reason"], info["grade"]) == ("infrastructure", None)
    assert info["outage"] == "no route to the index"
    assert [call["error"] for call in info["tool_calls"]] == [None, "outage: no route to the index"]
    assert observation["text"] == "1"  # the call before it was answered


def test_a_tool_that_breaks_is_a_bug_and_raises():
    class Broken(Down):
        def run(self, arguments, state, interpreter):
            raise KeyError("bug")

    with pytest.raises(KeyError, match="bug"):
        make(Broken()).step(format_action("", format_call("down", {})))


def test_tool_time_limit_ends_the_episode_ungraded():
    env = make(Tally(), tool_time_limit_s=-1.0)
    *_, truncated, info = env.step(TALLY)
    assert (truncated, info["stop_reason"], info["grade"]) == (True, "timeout", None)
    env = make(Tally(), tool_time_limit_s=1e9)
    assert env.step(format_action("", format_answer("1")))[4]["stop_reason"] == "answer"


def test_registered_tools_are_known_by_name():
    register_tool("tally_by_name", lambda: Tally())
    try:
        assert "tally_by_name" in tool_names()
        assert list(make_tools(("tally_by_name",))) == ["tally"]
        with pytest.raises(ValueError, match="tool 'tally_by_name' exists already"):
            register_tool("tally_by_name", Tally)
    finally:
        from axpo_env import tools

        del tools._REGISTERED["tally_by_name"]


def test_what_is_no_tool_is_refused():
    with pytest.raises(TypeError, match="a tool has name, schema and run; int has not"):
        make_tools((3,))
    with pytest.raises(TypeError, match="not the string 'python'"):
        make_tools("python")
    with pytest.raises(ValueError, match="tool 'image_zoom_in' is given twice"):
        make_tools(("image_zoom_in", "image_zoom_in"))
