"""Error texts for unknown names: what was given, what is known, what is nearest.

The text alone: raising is left to the caller, since a policy's unknown name is an observation while a user's is an
exception.
"""

import difflib
from collections.abc import Iterable

_SHOWN_CHARS = 60


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


def nearest_name(given: object, known: Iterable[str], *, cutoff: float = 0.4) -> str | None:
    """The one of `known` that is most like `given`, upper and lower case alike; None where none comes close.

    cutoff: the likeness that counts as close, 0-1 (`difflib`'s ratio).
    """
    folded: dict[str, str] = {}
    for name in known:
        folded.setdefault(name.lower(), name)
    near = difflib.get_close_matches(str(given)[:_SHOWN_CHARS].lower(), folded, n=1, cutoff=cutoff)
    return folded[near[0]] if near else None


def unknown_name(
    kind: str, given: object, known: Iterable[str], *, where: str = "", nearest: str | None = None
) -> str:
    """For example "unknown tool 'zoom'; known: image_zoom_in, python; nearest: image_zoom_in".

    where: the place whose names are listed, such as " under 'rollout'"; nearest: said instead of the one of `known`.
    """
    names = sorted(known)
    message = f"unknown {kind} {shorten(given)}; known{where}: {', '.join(names) or 'none'}"
    nearest = nearest or nearest_name(given, names)
    return f"{message}; nearest: {nearest}" if nearest else message
