"""The fields of a row, each checked as it is taken; what does not fit is a `BadRow`.

`where` names file and row in every message. What the fields mean is left to each benchmark's module.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

from axpo_env.names import listed, shorten, unknown_name
from axpo_env.tasks.datasets.files import Files
from axpo_env.views import decode_image

MAX_IMAGE_PIXELS = 178_956_970  # from here on Pillow refuses to open an image


class BadRow(ValueError):
    """A row that does not fit its data set's schema; the text names file, row and field."""


def take_any(row: Mapping[str, Any], name: str, where: str) -> Any:
    """Field `name` of `row`, whatever it holds. Raises BadRow if the row has no such field."""
    if name not in row:
        raise BadRow(f"{where}, field {name!r}: missing; there are {listed(sorted(row))}")
    return row[name]


def take_id(row: Mapping[str, Any], name: str, where: str) -> str:
    """The number or text in field `name`, as text. Raises BadRow for anything else and for blank text."""
    value = take_any(row, name, where)
    return str(value) if isinstance(value, int | float) else take_text(row, name, where)


def take(row: Mapping[str, Any], name: str, kind: type, where: str) -> Any:
    """Field `name` of `row` if it is a `kind`. Raises BadRow otherwise."""
    value = take_any(row, name, where)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BadRow(f"{where}, field {name!r}: {type(value).__name__} where {kind.__name__} belongs")
    return value


def take_text(row: Mapping[str, Any], name: str, where: str) -> str:
    """The text in field `name`, without space around it. Raises BadRow if it is missing or blank."""
    text: str = take(row, name, str, where).strip()
    if not text:
        raise BadRow(f"{where}, field {name!r}: blank")
    return text


def take_whole(row: Mapping[str, Any], name: str, where: str) -> int:
    """The whole number in field `name`, which some tables hold as a text or a float. Raises BadRow otherwise."""
    value = take_any(row, name, where)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise BadRow(f"{where}, field {name!r}: {type(value).__name__} where int belongs")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not number.is_integer():
        raise BadRow(f"{where}, field {name!r}: {shorten(value)} where a whole number belongs")
    return int(number)


def take_texts(row: Mapping[str, Any], name: str, where: str, *, least: int = 1) -> list[str]:
    """The texts in field `name`, a list or one alone, with numbers as texts, without space around them.

    What is blank (None, NaN, no text, only space) says nothing, and is left out. Raises BadRow for other things, and
    where fewer than `least` are left.
    """
    value = take_any(row, name, where)
    items = [
        item for item in (value if isinstance(value, list) else [value]) if item is not None and item == item
    ]
    strange = [item for item in items if isinstance(item, bool) or not isinstance(item, str | int | float)]
    texts = [text for text in (str(item).strip() for item in items) if text]
    if strange or len(texts) < least:
        raise BadRow(f"{where}, field {name!r}: needs one or more non-empty strings, not {shorten(value)}")
    return texts


def take_one_of(row: Mapping[str, Any], name: str, known: Sequence[str], where: str) -> str:
    """Field `name` if it is one of `known`. Raises BadRow otherwise."""
    value: str = take(row, name, str, where)
    if value not in known:
        raise BadRow(f"{where}, field {name!r}: {unknown_name('value', value, known)}")
    return value


def take_image(row: Mapping[str, Any], name: str, where: str, *, files: Files | None = None) -> Any:
    """The decoded image [H, W, 3] in field `name`, from its bytes or, with `files`, its path.

    Raises BadRow if there is none or it is unreadable.
    """
    value = row.get(name)
    if files is not None and isinstance(value, str):
        return decode_file(files, value, name, where)
    image = take(row, name, dict, where)
    data, path = image.get("bytes"), image.get("path")
    if data is None and files is not None and isinstance(path, str):
        return decode_file(files, path, name, where)
    if not isinstance(data, bytes):
        raise BadRow(f"{where}, field {name!r}: no image bytes")
    return decode(data, name, f"{where}, image {shorten(path)}" if isinstance(path, str) else where)


def decode_file(files: Files, path: str, name: str, where: str) -> Any:
    """The decoded image in a file. Raises BadRow if there is none or it is unreadable."""
    try:
        data = files.read(path)
    except (OSError, ValueError) as error:
        raise BadRow(f"{where}, field {name!r}: {error}") from error
    return decode(data, name, f"{where}, image {shorten(path)}")


def decode_base64(row: Mapping[str, Any], name: str, where: str) -> Any:
    """The decoded image in field `name`, a text in base64. Raises BadRow if it is none."""
    try:
        data = base64.b64decode(take(row, name, str, where), validate=True)
    except ValueError as error:
        raise BadRow(f"{where}, field {name!r}: not base64: {error}") from error
    return decode(data, name, where)


def decode(data: bytes, name: str, where: str) -> Any:
    """The image [H, W, 3] in `data`. Raises BadRow, naming field and row, if it is unreadable or too large."""
    try:
        return decode_image(data, max_pixels=MAX_IMAGE_PIXELS)
    except ValueError as error:
        raise BadRow(f"{where}, field {name!r}: {error}") from error
