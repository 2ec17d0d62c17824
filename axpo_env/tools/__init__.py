"""The tools an episode can offer, by name. Names are resolved when an environment is made, not at import."""

import importlib
from collections.abc import Callable, Sequence

from axpo_env.names import shorten, unknown_name
from axpo_env.tools.base import Tool, check_tool

_BUILT_IN = {
    "image_zoom_in": "axpo_env.tools.zoom:ZoomTool",
    "python": "axpo_env.tools.python:PythonTool",
    "tavily-search": "axpo_env.tools.search:Search",
    "image-search": "axpo_env.tools.image_search:ImageSearch",
}
_REGISTERED: dict[str, Callable[[], Tool]] = {}


def register_tool(name: str, make: Callable[[], Tool]) -> None:
    """Let `tools=(name,)` stand for `make()`. Raises ValueError for a name already taken."""
    if name in tool_names():
        raise ValueError(f"tool {name!r} exists already")
    _REGISTERED[name] = make


def tool_names() -> tuple[str, ...]:
    """Every known name, sorted."""
    return tuple(sorted((*_BUILT_IN, *_REGISTERED)))


def check_sequence(tools: object) -> tuple[str | Tool, ...]:
    """`tools` as a tuple. Raises TypeError for what is no sequence of several, such as one name or tool alone."""
    if isinstance(tools, str) or not isinstance(tools, Sequence):
        raise TypeError(f"tools is a sequence of names or tools, not {shorten(tools)}")
    return tuple(tools)


def make_tools(tools: Sequence[str | Tool]) -> dict[str, Tool]:
    """Tools by name from names and ready tools, in order.

    Raises ValueError for unknown or repeated names, and as `check_tool` for what is no tool.
    """
    made: dict[str, Tool] = {}
    for item in check_sequence(tools):
        tool = _make(item) if isinstance(item, str) else item
        tool = check_tool(tool)
        if tool.name in made:
            raise ValueError(f"tool {tool.name!r} is given twice")
        made[tool.name] = tool
    return made


def _make(name: str) -> Tool:
    if name in _REGISTERED:
        return _REGISTERED[name]()
    if name not in _BUILT_IN:
        raise ValueError(unknown_name("tool", name, tool_names()))
    module, attribute = _BUILT_IN[name].split(":")
    tool: Tool = getattr(importlib.import_module(module), attribute)()
    return tool
