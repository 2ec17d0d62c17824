"""Checks of a user's values, with errors that name the argument, what was given and what is allowed."""

import math
from collections.abc import Iterable, Sequence
from numbers import Integral

from axpo_sandbox.names import shorten, unknown_name

__all__ = ["check_keys", "check_seconds", "check_text", "check_whole", "listed", "shorten", "unknown_name"]

_LISTED = 20


def listed(names: Sequence[str], *, limit: int = _LISTED) -> str:
    """The first of `names`, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none") + more


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
