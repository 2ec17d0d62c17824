"""What a tool is, and the check of a call's arguments against the tool's schema.

A tool of your own takes one class with `name`, `schema` and `run`, and one line: pass an instance among
`gym.make(..., tools=("image_zoom_in", MyTool()))`, or `register_tool("my_tool", MyTool)` to know it by name.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from axpo_env.names import shorten, unknown_name

if TYPE_CHECKING:
    from axpo_env.state import EpisodeState
    from axpo_env.tools.interpreter import Interpreter


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
    """Raise ArgumentError unless `arguments` fit the tool's `schema` (what tools use of JSON schema)."""
    parameters = schema["function"]["parameters"]
    properties = parameters["properties"]
    for name in arguments:
        if name not in properties:
            raise ArgumentError(unknown_name("argument", name, properties))
    for name in parameters.get("required", ()):
        if name not in arguments:
            raise ArgumentError(f"argument {name!r} is missing")
    for name, value in arguments.items():
        _check_value(name, value, properties[name])


def _check_value(name: str, value: Any, schema: Mapping[str, Any]) -> None:
    expected = schema["type"]
    if not _has_type(value, expected):
        raise ArgumentError(f"{name} must be of type {expected}, not {shorten(value)}")
    if expected in ("number", "integer"):
        low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
        if not low <= value <= high:
            raise ArgumentError(f"{name} is {shorten(value)}, must lie in {low} to {high}")
    if expected == "array":
        low, high = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        if not low <= len(value) <= high:
            count = f"exactly {low}" if low == high else f"{low} to {high}"
            raise ArgumentError(f"{name} has {len(value)} items, must have {count}")
        for position, item in enumerate(value):
            _check_value(f"{name}[{position}]", item, schema["items"])


def _has_type(value: Any, expected: str) -> bool:
    if expected == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    if expected == "number":
        # An integer is always finite, and one of 400 digits overflows isfinite.
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        return is_integer or (isinstance(value, float) and math.isfinite(value))
    types: dict[str, type] = {"string": str, "array": list, "object": dict, "boolean": bool}
    return isinstance(value, types[expected])
