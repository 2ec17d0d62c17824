"""Actions to try an environment with: a corpus of bad ones, and plausible random ones.

What must hold when they are played is left to `contract`.
"""

import random
from collections.abc import Iterable, Mapping
from typing import Any

from axpo_env.messages import format_action, format_answer, format_call

# Every one of these is answered with an observation or ends the episode; none raises.
BAD_ACTIONS: tuple[Any, ...] = (
    "",
    " \n",
    "no tags at all",
    "<think>never closed",
    "thinking\n</think>",
    "</think></think><think>",
    format_call("image_zoom_in", {"bbox_2d": [0, 0, 9, 9], "label": "x"}) + "\n</think>\n\nquoted only",
    "</think><tool_call>{",
    "</think><tool_call>{}</tool_call>",
    "</think><tool_call>[]</tool_call>",
    "</think><tool_call>" + "[" * 100_000 + "</tool_call>",
    '</think><tool_call>{"name": "image_zoom_in", "arguments": {"bbox_2d": [NaN]}}</tool_call>',
    '</think><tool_call>{"name": "image_zoom_in", "arguments": {}}',
    format_action("", format_call("no_such_tool", {})),
    format_action("", format_call("image_zoom_in", {})),
    format_action("", format_call("image_zoom_in", {"bbox_2d": [900, 0, 100, 9], "label": "x"})),
    format_action("", format_call("image_zoom_in", {"bbox_2d": [0, 0, 5000, 9], "label": "x"})),
    format_action("", format_call("image_zoom_in", {"bbox_2d": [0, 0, 9, 9], "label": "x", "img_idx": 99})),
    format_action("", format_call("image_zoom_in", {"bbox_2d": "all", "label": 1})),
    format_action("", format_call("image_zoom_in", {"box": [0, 0, 9, 9]})),
    '</think><tool_call>{"name": "image_zoom_in", "arguments": "text"}</tool_call>',
    '</think><tool_call>{"name": "python", "arguments": null}</tool_call>',
    '</think><tool_call>{"name": "python", "arguments": ["1"]}</tool_call>',
    '</think><tool_call>{"name": null, "arguments": {}}</tool_call>',
    '</think><tool_call>{"name": ["python"], "arguments": {"code": "1"}}</tool_call>',
    '</think><tool_call>{"name": "python", "arguments": {"code": ' + "[" * 500 + "]" * 500 + "}}</tool_call>",
    '</think><tool_call>{"name": "image_zoom_in", "arguments": {"bbox_2d": [1e999, 0, 1, 1]}}</tool_call>',
    format_action("", format_call("python", {"code": 1})),
    format_action("", format_call("python", {"code": "1", "timeout": -1})),
    format_action("", *[format_call("no_such_tool", {})] * 1000),
    format_action("", format_call("no_such_tool", {}), format_answer("1")),
    "</think><answer></answer>",
    "</think><answer>\\boxed{1",
    "\ud800\0\x1b[2J",
    "<tool_call>" * 90_000,
    "x" * 1_000_000,
    None,
    42,
    b"bytes",
    ["a", "list"],
)


WORDS = (
    "tower",
    "the firm",
    "who founded",
    "mayor of",
    "inhabitants",
    "1887",
    "region",
    "ship",
    "map",
    "-",
    "é",
)
_KNOWN = ("image_zoom_in", "python")  # tools that `random_action` knows how to use well


def random_action(rng: random.Random, schemas: Iterable[Mapping[str, Any]] = ()) -> str:
    """One plausible action: a good or bad zoom, Python, prose or, rarely, an answer.

    `schemas` are those of the episode's tools; a third of the calls are then to tools beside zoom and Python.
    """
    box = [rng.randrange(500), rng.randrange(500), rng.randrange(501, 1100), rng.randrange(400, 1000)]
    zoom = format_call("image_zoom_in", {"bbox_2d": box, "label": "x", "img_idx": rng.randrange(3)})
    code = rng.choice(
        [
            "n = globals().get('n', 0) + 1; print(n)",
            "import random; print(random.random())",
            "print(len(_pil_images), _pil_images[-1].size)",
            "open('notes.txt', 'a').write('x'); print(len(open('notes.txt').read()))",
            "1 / 0",
        ]
    )
    python = format_call("python", {"code": code})
    parts = rng.choice([[zoom], [zoom, zoom], [python], [python], [python, zoom, python], ["I do not know"]])
    others = [schema for schema in schemas if schema["function"]["name"] not in _KNOWN]
    if others and rng.random() < 1 / 3:
        schema = rng.choice(others)
        parts = [format_call(schema["function"]["name"], fitting_arguments(schema, rng)), *parts[1:]]
    answer = format_action("", format_answer(str(rng.randrange(100))))
    return answer if rng.random() < 0.1 else format_action("hm", *parts)


def fitting_arguments(schema: Mapping[str, Any], rng: random.Random) -> dict[str, Any]:
    """Arguments that fit a tool's `schema`: every required one, the others half of the time.

    A tool may still refuse them for what no schema says, such as a box whose sides are swapped; and of what few
    schemas say, such as patterns, nothing is known here.
    """
    parameters = schema["function"].get("parameters", {})
    required = parameters.get("required", ())
    return {
        name: _fitting_value(value, rng)
        for name, value in parameters.get("properties", {}).items()
        if name in required or rng.random() < 0.5
    }


def _fitting_value(schema: Any, rng: random.Random) -> Any:
    if not isinstance(schema, Mapping):
        return "x"  # `true`: anything will do
    for name in ("enum", "examples"):
        if schema.get(name):
            return rng.choice(list(schema[name]))
    if "const" in schema:
        return schema["const"]
    for name in ("anyOf", "oneOf", "allOf"):
        if schema.get(name):
            return _fitting_value(rng.choice(list(schema[name])), rng)
    kind = schema.get("type", "string")
    if not isinstance(kind, str):
        kind = rng.choice(list(kind))
    if kind in ("integer", "number"):
        low = schema.get("minimum", 0)
        return rng.randint(low, schema.get("maximum", low + 3))
    if kind == "array":
        least = schema.get("minItems", 0)
        count = rng.randint(least, schema.get("maxItems", least + 2))
        return [_fitting_value(schema.get("items", True), rng) for _ in range(count)]
    values: dict[str, Any] = {
        "string": " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 4)))[: schema.get("maxLength")],
        "boolean": rng.random() < 0.5,
        "object": {name: _fitting_value(part, rng) for name, part in schema.get("properties", {}).items()},
        "null": None,
    }
    return values[kind]
