"""Message contents as other libraries want them: images as PIL images, or as data URLs."""

import base64
from collections.abc import Iterable, Mapping
from typing import Any

from PIL import Image as PILImage

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


def _data_url(image: Any) -> str:
    return "data:image/png;base64," + base64.b64encode(encode_png(image)).decode()
