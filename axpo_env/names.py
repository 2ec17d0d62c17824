"""Error texts for names that nobody knows: what was given, what is known, what is nearest; checks of a user's values.

The texts leave raising to the caller, since a policy's unknown name is an observation while a user's is an exception.
"""

import difflib
import math
from collections.abc import Iterable, Sequence
from numbers import Integral

_SHOWN_CHARS = 60
_LISTED = 20


def shorten(value: object, *, limit: int = _SHOWN_CHARS) -> str:
    """`repr` of `value`, cut to about `limit` characters so that a message never echoes a megabyte."""
    if isinstance(value, str | bytes):
        return repr(value) if len(value) <= limit else f"{value[:limit]!r}..."
    if isinstance(value, list | tuple | dict | set):
        value = type(value).__name__ if len(value) > limit else value
    if isinstance(value, int) and value.bit_length() > 200:
        return "a huge integer"  # repr of one refuses beyond 4300 digits
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "..."


def listed(names: Sequence[str], *, limit: int = _LISTED) -> str:
    """The first of `names`, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none") + more


def unknown_name(kind: str, given: object, known: Iterable[str]) -> str:
    """For example "unknown tool 'zoom'; known: image_zoom_in, python; nearest: image_zoom_in"."""
    names = sorted(known)
    message = f"unknown {kind} {shorten(given)}; known: {', '.join(names) or 'none'}"
    near = difflib.get_close_matches(str(given)[:_SHOWN_CHARS].lower(), names, n=1, cutoff=0.4)
    return f"{message}; nearest: {near[0]}" if near else message


def check_keys(kind: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise `ValueError` for the first of `given` that is not in `known`."""
    names = set(known)
    for name in given:
        if name not in names:
            raise ValueError(unknown_name(kind, name, names))


def check_text(name: str, value: object) -> str:
    """`value` if it is a text, else TypeError."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a text, not {shorten(value)}")
    return value


def check_whole(name: str, value: object, *, least: int = 1) -> int:
    """`value` as an int. Raises TypeError for anything but a whole number, ValueError for one below `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, not {shorten(value)}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {shorten(value)}")
    return int(value)


def check_seconds(name: str, value: object, *, zero: bool = False, most: float = math.inf) -> float:
    """`value` if it is a number above 0 (or 0, with `zero`), else TypeError or ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {shorten(value)}")
    if not (value >= 0 if zero else value > 0):
        raise ValueError(f"{name} must be {'at least' if zero else 'above'} 0, not {shorten(value)}")
    if value > most:
        raise ValueError(f"{name} must be at most {most:g}, not {shorten(value)}")
    return value
