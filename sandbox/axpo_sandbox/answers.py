"""What a process that ran untrusted code says of a cell, checked field by field before anyone believes it.

Where the answer comes from, and how long it may be as a whole, is left to the backends.
"""

import base64
import binascii
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

from axpo_sandbox.base import ExecutionError, Limits

_MAX_WARNINGS = 32
_MAX_WARNING_CHARS = 600
_MAX_ERROR_CHARS = 20_000
_PNG_START = b"\x89PNG\r\n\x1a\n"


class CellAnswer(NamedTuple):
    """The parts of an `Execution` that only the interpreter itself can tell."""

    text: str | None
    images: tuple[bytes, ...]
    error: ExecutionError | None
    warnings: list[str]


def checked_answer(frame: Mapping[str, Any], limits: Limits) -> CellAnswer:
    """An untrusted answer with keys text, images (base64 of PNG), error, warnings.

    Raises ValueError saying what is wrong.
    """
    text, images = frame.get("text"), frame.get("images")
    if text is not None and (
        not isinstance(text, str) or len(text.encode("utf-8", "replace")) > limits.output_bytes
    ):
        raise ValueError("text is not a string within the limit")
    if not isinstance(images, list) or len(images) > limits.num_images:
        raise ValueError("images is not a list within the limit")
    warnings = frame.get("warnings")
    if not isinstance(warnings, list) or not all(isinstance(item, str) for item in warnings):
        raise ValueError("warnings is not a list of strings")
    short = [_encodable(item[:_MAX_WARNING_CHARS]) for item in warnings[:_MAX_WARNINGS]]
    pictures = tuple(_checked_png(image, limits.image_pixels) for image in images)
    text = None if text is None else _encodable(text)
    return CellAnswer(text, pictures, _checked_error(frame.get("error")), short)


def _checked_error(raw: Any) -> ExecutionError | None:
    if raw is None:
        return None
    fields = ("name", "value", "traceback")
    if not isinstance(raw, dict) or not all(isinstance(raw.get(name), str) for name in fields):
        raise ValueError("error is not a name, a value and a traceback")
    name, value, trace = (_encodable(raw[field][:_MAX_ERROR_CHARS]) for field in fields)
    return ExecutionError(name=name, value=value, traceback=trace or f"{name}: {value}\n")


def _encodable(text: str) -> str:
    """`text` with a question mark for each half of a character, which JSON can carry and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


def _checked_png(encoded: Any, max_pixels: int) -> bytes:
    if not isinstance(encoded, str):
        raise ValueError("an image is not base64 text")
    try:
        data = base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise ValueError("an image is not base64 text") from error
    if not data.startswith(_PNG_START) or data[12:16] != b"IHDR" or len(data) < 33:
        raise ValueError("an image is not a PNG file")
    width, height = struct.unpack("!II", data[16:24])
    if not 0 < width * height <= max_pixels:
        raise ValueError(f"an image has {width} x {height} px; at most {max_pixels} are allowed")
    return data
