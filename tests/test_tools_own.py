"""Tools of one's own: one class, one line; their memory, their outages and their time."""

import gymnasium as gym
import numpy as np
import pytest

import axpo_env  # noqa: F401 - registers the ids
from axpo_env.messages import format_action, format_answer, format_call
from axpo_env.tools import make_tools, register_tool, tool_names
from axpo_env.tools.base import (
    ArgumentError,
    ToolResult,
    ToolUnavailable,
    check_arguments,
    function_schema,
)
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
    env = make(Tally(), tool_time_limit_s=1e-9)
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
    with pytest.raises(TypeError, match=r"an instance, Tally\(\), not the class Tally"):
        make_tools((Tally,))
    with pytest.raises(TypeError, match="not 'python'"):
        make_tools("python")
    with pytest.raises(ValueError, match="tool 'image_zoom_in' is given twice"):
        make_tools(("image_zoom_in", "image_zoom_in"))


def probe(parameters, name="probe"):
    """A tool with these parameters that repeats its arguments."""

    class Probe:
        schema = {"type": "function", "function": {"name": name, "parameters": parameters}}  # noqa: RUF012

        def run(self, arguments, state, interpreter):
            return ToolResult(text=f"got {arguments!r}")

    Probe.name = "probe"
    return Probe()


NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "required": ["x"]}


@pytest.mark.parametrize(
    ("schema", "good", "bad", "said"),
    [
        ({"enum": ["x", "y", 3]}, [3, "x"], "z", "a: 'z' does not fit enum"),
        (
            {"type": "string", "enum": ["left", "right"]},
            ["left"],
            "lefd",
            "known: left, right; nearest: left",
        ),
        ({"type": ["string", "null"]}, ["x", None], 3, "a: 3 does not fit type"),
        ({"type": ["number", "null"]}, [1.5, None], float("inf"), "a: inf does not fit type"),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, ["x", 3], 3.0, "a: 3.0 does not fit"),
        ({"type": "array"}, [[], [1, "x"]], "x", "a: 'x' does not fit type: 'array'"),
        ({"type": "null"}, [None], 0, "a: 0 does not fit type: 'null'"),
        ({"type": "string", "maxLength": 2}, ["ab"], "abc", "a: 'abc' does not fit maxLength: 2"),
        ({"type": "string", "pattern": "^a$"}, ["a"], "b", r"a: 'b' does not fit pattern: '\^a"),
        ({"type": "number", "multipleOf": 0.5}, [1.5], 10**400, "too large a number"),
        ({"$ref": "#/$defs/node"}, [{"x": 1}], {"x": 1, "next": {}}, "a.next: 'x' is a required property"),
        ({"type": "array", "items": {"type": "object", "required": ["k"]}}, [[{"k": 1}]], [{}], r"a\[0\]"),
        (True, [1, "x", None], None, None),
    ],
)
def test_any_json_schema_is_checked_and_none_raises(schema, good, bad, said):
    parameters = {"type": "object", "properties": {"a": schema}, "required": ["a"], "$defs": {"node": NODE}}
    for parts in (parameters, {name: part for name, part in parameters.items() if name != "$defs"}):
        if "$defs" not in parts and schema is not True and "$ref" in schema:
            continue
        tool = probe(parts)
        for value in good:
            check_arguments(tool.schema, {"a": value})
        with pytest.raises(ArgumentError, match="argument 'a' is missing"):
            check_arguments(tool.schema, {})
        if said is not None:
            with pytest.raises(ArgumentError, match=said):
                check_arguments(tool.schema, {"a": bad})
            text = make(tool).step(format_action("", format_call("probe", {"a": bad})))[0]["text"]
            assert text.startswith("Error: ")
        text = make(tool).step(format_action("", format_call("probe", {"a": good[0]})))[0]["text"]
        assert text == f"got {{'a': {good[0]!r}}}"


def test_a_tool_may_name_no_parameters_or_leave_them_open():
    bare = {"type": "function", "function": {"name": "probe"}}
    check_arguments(bare, {})
    with pytest.raises(ArgumentError, match="unknown argument 'x'; known: none"):
        check_arguments(bare, {"x": 1})
    open_to = {"type": "object", "additionalProperties": {"type": "integer"}}
    check_arguments(probe(open_to).schema, {"x": 1})
    with pytest.raises(ArgumentError, match="x: 'y' does not fit type: 'integer'"):
        check_arguments(probe(open_to).schema, {"x": "y"})


TEXT = {"type": "string"}
EITHER = [
    {"properties": {"a": TEXT}, "required": ["a"]},
    {"properties": {"b": {"type": "integer"}}, "required": ["b"]},
]


@pytest.mark.parametrize(
    ("parameters", "good", "bad"),
    [
        ({"anyOf": EITHER}, [{"a": "x"}, {"b": 1}], {"a": 3}),
        ({"anyOf": EITHER}, [{"a": "x", "b": 1}], {"a": "x", "z": 1}),
        ({"type": "object", "oneOf": EITHER}, [{"a": "x"}, {"b": 1}], {"z": 1}),
        ({"allOf": EITHER[:1], "properties": {"c": {}}}, [{"a": "x"}, {"a": "x", "c": 1}], {"c": 1}),
        (
            {"$ref": "#/$defs/all", "$defs": {"all": {"properties": {"a": TEXT}}}},
            [{}, {"a": "x"}],
            {"a": "x", "z": 1},
        ),
        ({"type": ["object", "null"], "properties": {"a": TEXT}}, [{"a": "x"}], {"z": 1}),
        ({"properties": {"a": TEXT}}, [{"a": "x"}], {"a": 3}),
        ({"additionalProperties": {}, "properties": {"a": TEXT}}, [{"z": [1]}], {"a": 3}),
        ({"properties": {"a": {"const": {"$ref": "#/no"}}}}, [{"a": {"$ref": "#/no"}}], {"a": {"$ref": "#"}}),
        ({"properties": {"a": {"enum": [{"$ref": "x:y"}]}}}, [{"a": {"$ref": "x:y"}}], {"a": "x:y"}),
        ({"properties": {"$ref": TEXT}}, [{"$ref": "x"}], {"$ref": 3}),
        (
            {
                "properties": {"a": {"$ref": "http://x.example/n"}},
                "$defs": {
                    "n": {"$id": "http://x.example/n", "$ref": "#/$defs/own", "$defs": {"own": TEXT}},
                },
            },
            [{"a": "x"}],
            {"a": 3},
        ),
        (
            {
                "$id": "http://x.example/all",
                "properties": {"a": {"$ref": "n"}},
                "$defs": {"n": {"$id": "n", **TEXT}},
            },
            [{"a": "x"}],
            {"a": 3},
        ),
        (
            {"properties": {"a": {"$dynamicRef": "#n"}}, "$defs": {"n": {"$dynamicAnchor": "n", **TEXT}}},
            [{"a": "x"}],
            {"a": 3},
        ),
        (
            {
                "$schema": "http://json-schema.org/draft-07/schema#",
                "properties": {"a": {"$ref": "#/definitions/n"}},
                "definitions": {"n": TEXT},
            },
            [{"a": "x"}],
            {"a": 3},
        ),
        ({"properties": {"a": False}}, [{}], {"a": 3}),
        (
            {"patternProperties": {"^x_": TEXT}, "additionalProperties": False, "required": ["x_1"]},
            [{"x_1": "x", "x_2": ""}],
            {"x_1": "x", "z": 1},
        ),
    ],
)
def test_parameters_may_be_any_json_schema_that_allows_an_object(parameters, good, bad):
    (tool,) = make_tools((probe(parameters),)).values()
    for arguments in good:
        check_arguments(tool.schema, arguments)
    with pytest.raises(ArgumentError) as refused:
        check_arguments(tool.schema, bad)
    assert "None" not in str(refused.value)
    make(tool).step(format_action("", format_call("probe", bad)))


def test_an_argument_that_no_part_of_a_schema_names_is_told():
    with pytest.raises(ArgumentError, match=r"the arguments: Unevaluated .*'zz") as refused:
        check_arguments(probe({"anyOf": EITHER}).schema, {"a": "x", "z" * 10_000: 1})
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"type": "object", "properties": {"a": {"type": "text"}}}, "'text' is not valid"),
        (
            {"properties": {"width": TEXT}, "required": ["widht"], "additionalProperties": False},
            "requires 'widht', .*known: width; nearest: width",
        ),
        ({"type": "object", "properties": {}, "required": ["a"]}, "requires 'a', .*known: none"),
        (
            {"type": "object", "properties": {"a": False}, "required": ["a"]},
            "requires 'a', which it does not",
        ),
        (
            {"patternProperties": {"^x": TEXT}, "additionalProperties": False, "required": ["a"]},
            "requires 'a', which it does not",
        ),
        ({"type": "object", "properties": {"a": TEXT}, "required": [3]}, "3 is not of type 'string'"),
        ({"properties": {"a": {"$dynamicRef": "http://x.example/y#z"}}}, "refers to 'http://x.example/y#z'"),
        ({"properties": {"a": {"$dynamicRef": "#nowhere"}}}, "refers to '#nowhere', which is not in it"),
        (
            {"properties": {"a": {"$ref": "#/x-own"}}, "x-own": {"$ref": "#/no"}},
            "refers to '#/no', which is not",
        ),
        (
            {"properties": {"a": {"$ref": "#/title"}}, "title": "t"},
            "refers to '#/title', which is no JSON schema",
        ),
        (
            {"properties": {"a": {"$ref": "#/x-own"}}, "x-own": {"type": 3}},
            "refers to '#/x-own', which is no",
        ),
        ({"properties": {"a": {"$ref": "http://[bad"}}}, "refers to 'http://.bad', which is not in it"),
        ({"type": ["string", "null"]}, r"must be of type 'object', not \['string', 'null'\]"),
        ({"type": 3}, "must be of type 'object', not 3"),
        ({"type": "object", "properties": {"a": {"type": "integer", "minimum": "0"}}}, "minimum: '0' is not"),
        ({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}, "is not a 'regex'"),
        (
            {"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}},
            "refers to '#/.defs/b', which is not",
        ),
        (
            {"type": "object", "properties": {"a": {"$ref": "http://x.example/y"}}},
            "refers to 'http://x.example",
        ),
        ({"type": "object", "required": "a"}, "'a' is not of type 'array'"),
        ({"type": "string"}, "must be of type 'object', not 'string'"),
        ([], r"must be a JSON schema, not \[\]"),
        (
            {"type": "object", "properties": {"a": {"type": "string", "default": {1}}}},
            "not JSON serializable",
        ),
    ],
)
def test_a_schema_that_will_not_do_is_refused_when_the_tool_is_given(parameters, said):
    with pytest.raises(ValueError, match=f"(?s)tool 'probe': its schema will not do: .*{said}"):
        make_tools((probe(parameters),))


def test_a_schema_of_another_name_or_of_no_function_is_refused():
    with pytest.raises(ValueError, match=r"tool 'probe': .* it is the schema of 'prob'"):
        make_tools((probe({}, name="prob"),))
    tool = probe({})
    type(tool).schema = {"name": "probe"}
    with pytest.raises(ValueError, match="tool 'probe': its schema lacks 'function'"):
        make_tools((tool,))


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (None, "gave back None, must be a ToolResult"),
        ("text", "gave back 'text', must be a ToolResult"),
        (ToolResult(text=3), "gave back the text 3"),
        (ToolResult(images=np.zeros((2, 5, 5, 3), np.uint8)), "images as ndarray, must be a tuple"),
        (ToolResult(images=(np.zeros((5, 5), np.float32),)), r"an image float32 \[5, 5\], must be uint8"),
        (ToolResult(images=(np.zeros((5, 0, 3), np.uint8),)), r"an image uint8 \[5, 0, 3\], must be"),
        (ToolResult(images=("a.png",)), "an image as str, must be an array"),
    ],
)
def test_a_result_that_is_none_names_the_tool(result, said):
    class Wrong(Silent):
        def run(self, arguments, state, interpreter):
            return result

    with pytest.raises((TypeError, ValueError), match=f"tool 'silent' .*{said}"):
        make(Wrong()).step(format_action("", format_call("silent", {})))


def test_a_tool_that_writes_into_its_image_later_changes_nothing():
    class Canvas(Silent):
        image = np.zeros((4, 4, 3), np.uint8)

        def run(self, arguments, state, interpreter):
            self.image += 1
            return ToolResult(images=[self.image])

    env = make(Canvas())
    call = format_action("", format_call("silent", {}))
    first, second = env.step(call)[0]["images"][0], env.step(call)[0]["images"][0]
    assert (int(first.max()), int(second.max())) == (1, 2)
    assert [int(image.max()) for image in env.unwrapped.state.images[1:]] == [1, 2]
    assert not any(image.flags.writeable for image in env.unwrapped.state.images)
