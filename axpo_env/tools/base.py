"""What a tool is, and the checks of what it is given and gives back. What JSON schema allows is left to `schemas`.

A tool of your own takes one class with `name`, `schema` and `run`, and one line: pass an instance among
`gym.make(..., tools=("image_zoom_in", MyTool()))`, or `register_tool("my_tool", MyTool)` to know it by name.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from axpo_env.names import shorten, unknown_name
from axpo_env.tools.schemas import allows_others, check_parameters, check_value, is_plain, misfit
from axpo_env.views import freeze

if TYPE_CHECKING:
    from axpo_env.state import EpisodeState
    from axpo_env.tools.interpreter import Interpreter


# Keywords of `parameters` that `check_arguments` sees to itself, or that check nothing.
_PLAIN_PARAMETERS = frozenset(
    {"type", "properties", "required", "title", "description", "additionalProperties"}
)


class ToolUnavailable(RuntimeError):
    """What a tool stands on is down: an outage, which ends the episode ungraded. Never the policy's fault."""


class ArgumentError(ValueError):
    """The policy's arguments do not fit; the text is the observation it gets."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ToolResult:
    """What a call gives back. Images are full resolution [H, W, 3].

    Each joins the episode's images, in order.
    """

    text: str | None = None  # None if the images say it all
    images: tuple[NDArray[np.uint8], ...] = ()
    tool_state: object = None  # replaces `state.tool_states[name]` unless None; must be immutable


@runtime_checkable
class Tool(Protocol):
    """One tool. `run` is called by one thread at a time per episode, but by many episodes at once."""

    @property
    def name(self) -> str: ...

    @property
    def schema(self) -> Mapping[str, Any]:
        """{"type": "function", "function": {"name", "description", "parameters": JSON schema}}"""
        ...

    def run(
        self, arguments: Mapping[str, Any], state: "EpisodeState", interpreter: "Interpreter"
    ) -> ToolResult:
        """Run a call whose arguments fit the schema. Must depend on its inputs only, so that branches agree.

        Raises ArgumentError for arguments that do not fit the episode, ToolUnavailable for an outage.
        """
        ...


def check_tool(tool: object) -> Tool:
    """`tool` if it is one. Raises TypeError or ValueError that says what it lacks, or what its schema does."""
    if isinstance(tool, type):
        raise TypeError(f"a tool is an instance, {tool.__name__}(), not the class {tool.__name__}")
    lacking = [name for name in ("name", "schema", "run") if not hasattr(tool, name)]
    if lacking or not isinstance(tool, Tool):
        what = type(tool).__name__
        raise TypeError(f"a tool has name, schema and run; {what} has not (it lacks {', '.join(lacking)})")
    name = tool.name
    if not isinstance(name, str) or not name:
        raise TypeError(f"the name of a tool is a text; that of {type(tool).__name__} is {shorten(name)}")
    try:
        function = tool.schema["function"]
        if function["name"] != name:
            raise ValueError(f"it is the schema of {shorten(function['name'])}")
        json.dumps(dict(tool.schema))
        check_parameters(function.get("parameters", {}))
    except KeyError as error:
        raise ValueError(f"tool {name!r}: its schema lacks {error}; function_schema makes one") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"tool {name!r}: its schema will not do: {error}") from error
    return tool


def check_result(tool: Tool, result: object) -> ToolResult:
    """What a tool's `run` gave, its images made read-only. Raises TypeError or ValueError if it is no result."""
    given = f"tool {tool.name!r} gave back"
    if not isinstance(result, ToolResult):
        raise TypeError(f"{given} {shorten(result)}, must be a ToolResult(text=..., images=...)")
    if result.text is not None and not isinstance(result.text, str):
        raise TypeError(f"{given} the text {shorten(result.text)}, must be a str or None")
    if not isinstance(result.images, tuple | list):
        raise TypeError(f"{given} images as {type(result.images).__name__}, must be a tuple of arrays")
    for image in result.images:
        if not isinstance(image, np.ndarray):
            raise TypeError(f"{given} an image as {type(image).__name__}, must be an array uint8 [H, W, 3]")
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            form = f"{image.dtype} {list(image.shape)}"
            raise ValueError(f"{given} an image {form}, must be uint8 [H, W, 3] with H and W above 0")
    if isinstance(result.images, list) or any(image.flags.writeable for image in result.images):
        # The tool may write into its own later.
        images = tuple(freeze(image.copy()) if image.flags.writeable else image for image in result.images)
        result = replace(result, images=images)
    return result


def function_schema(
    name: str, description: str, properties: Mapping[str, Any], *, required: tuple[str, ...]
) -> dict[str, Any]:
    """A tool schema in OpenAI's function format."""
    parameters = {"type": "object", "properties": dict(properties), "required": list(required)}
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


def check_arguments(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Raise ArgumentError unless `arguments` fit the tool's `schema`.

    Arguments that the schema does not name are refused unless it says what they may be.
    """
    parameters = schema["function"].get("parameters", {})
    properties = parameters.get("properties", {})
    others = allows_others(parameters)
    for name in arguments:
        if name not in properties and not others:
            raise ArgumentError(unknown_name("argument", name, properties))
    for name in parameters.get("required", ()):
        if name not in arguments:
            raise ArgumentError(f"argument {name!r} is missing")
    plain = parameters.keys() <= _PLAIN_PARAMETERS and not others
    for name, value in arguments.items():
        if name in properties and is_plain(properties[name]):
            problem = check_value(name, value, properties[name])
            if problem is not None:
                raise ArgumentError(problem)
        else:
            plain = False
    problem = None if plain else misfit(parameters, arguments)
    if problem is not None:
        raise ArgumentError(problem)
