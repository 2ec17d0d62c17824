"""Message contents as other libraries want them: images as PIL images, or as data URLs."""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from PIL import Image as PILImage

from axpo_env.escape import escape_json
from axpo_env.messages import CALL, END_CALL, END_RESPONSE, RESPONSE
from axpo_env.views import encode_png

Part = dict[str, Any]


def with_pil(content: Iterable[Mapping[str, Any]]) -> list[Part]:
    """`content` of a message in `info`, its arrays [H, W, 3] as PIL images."""
    return [
        {"type": "image", "image": PILImage.fromarray(part["image"])}
        if part["type"] == "image"
        else dict(part)
        for part in content
    ]


def with_urls(content: Iterable[Mapping[str, Any]]) -> list[Part]:
    """`content` of a message in `info` in OpenAI's format, its arrays [H, W, 3] as PNG data URLs."""
    return [
        {"type": "image_url", "image_url": {"url": _data_url(part["image"])}}
        if part["type"] == "image"
        else dict(part)
        for part in content
    ]


def images_in(messages: Iterable[Mapping[str, Any]]) -> list[Any]:
    """The images of `messages`, in order, as they stand there."""
    return [part["image"] for message in messages for part in message["content"] if part["type"] == "image"]


def action_text(content: str | Iterable[Mapping[str, Any]] | None, calls: Iterable[tuple[str, str]]) -> str:
    """A chat reply as an action: its text, and the calls (name, JSON of arguments) that a server took out of it."""
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content or ())
    written = [
        f'{CALL}\n{{"name": {escape_json(json.dumps(name))}, "arguments": {escape_json(arguments)}}}\n{END_CALL}'
        for name, arguments in calls
    ]
    return "\n".join([text, *written])


def chat_answers(new: Sequence[Mapping[str, Any]], call_ids: Sequence[str]) -> list[dict[str, Any]]:
    """`new` messages of `info` in OpenAI's format, in answer to a reply whose calls a server named `call_ids`.

    A tool message must name a call: without ids they are one message of the user's, each in the tags that a chat
    template puts around a tool's.
    """
    contents = [with_urls(message["content"]) for message in new]
    if not call_ids:
        parts = []
        for number, content in enumerate(contents):
            opening = f"\n{RESPONSE}\n" if number else f"{RESPONSE}\n"
            parts += [_text(opening), *content, _text(f"\n{END_RESPONSE}")]
        return [{"role": "user", "content": parts}]
    # Calls past the limit a turn were not run, and have no message of their own.
    contents += [[_text("(not run)")]] * (len(call_ids) - len(contents))
    return [
        {"role": "tool", "tool_call_id": call_id, "content": content}
        for call_id, content in zip(call_ids, contents, strict=False)
    ]


def _text(text: str) -> Part:
    return {"type": "text", "text": text}


def _data_url(image: Any) -> str:
    return "data:image/png;base64," + base64.b64encode(encode_png(image)).decode()
