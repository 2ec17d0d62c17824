"""Actions to try an environment with: a corpus of bad ones, and plausible random ones.

What must hold when they are played is left to `contract`.
"""

import random
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


def random_action(rng: random.Random) -> str:
    """One plausible action: a good or bad zoom, Python, prose or, rarely, an answer."""
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
    answer = format_action("", format_answer(str(rng.randrange(100))))
    return answer if rng.random() < 0.1 else format_action("hm", *parts)
