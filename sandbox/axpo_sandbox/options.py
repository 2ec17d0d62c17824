"""What the options of all backends have in common: how they are checked, and the defaults they share."""

import dataclasses
import math
import types
import typing
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from axpo_sandbox.base import MAX_SECONDS, Limits
from axpo_sandbox.names import shorten, unknown_name

FALLBACKS = ("snapshot", "replay")
PRELOAD = ("numpy", "scipy", "sympy", "pandas", "matplotlib", "PIL")

Config = TypeVar("Config")


def config_of(kind: type[Config], backend: str, options: Mapping[str, Any]) -> Config:
    """`options` as a config of dataclass `kind`; `limits` may be a mapping, `preload` any sequence.

    Raises ValueError on unknown keys, and what is wrong with the values.
    """
    names = [item.name for item in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in options:
        if key not in names:
            raise ValueError(unknown_name(f"option of the {backend} sandbox", key, names))
    given = dict(options)
    given["limits"] = Limits.of(given.get("limits"))
    if isinstance(given.get("preload"), Collection) and not isinstance(given["preload"], str):
        given["preload"] = tuple(given["preload"])
    return kind(**given)


def check_options(config: Any) -> None:
    """Raises ValueError for a field of a config dataclass that is not what its annotation says: numbers are finite
    and positive, texts not empty, and `fallback` is one of FALLBACKS.
    """
    for name, annotation in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        expected = _expected(annotation, value, is_seconds=name.endswith("_s"))
        if expected:
            raise ValueError(f"{name} must be {expected}, not {shorten(value)}")
    if config.fallback not in FALLBACKS:
        raise ValueError(unknown_name("fallback", config.fallback, FALLBACKS))


def _expected(annotation: Any, value: Any, *, is_seconds: bool) -> str:
    """What a value should have been; "" where it is."""
    kinds = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    (kind,) = (kind for kind in kinds if kind is not types.NoneType)
    if value is None and len(kinds) > 1:
        return ""
    if kind in (int, float):
        words = "a positive whole number" if kind is int else "a positive number"
        fits = isinstance(value, int | kind) and not isinstance(value, bool) and math.isfinite(value)
        fits = fits and value > 0
        if fits and is_seconds and value > MAX_SECONDS:
            fits, words = False, f"at most {MAX_SECONDS:g} s"
    elif kind is bool:
        fits, words = isinstance(value, bool), "true or false"
    elif kind is str:
        fits, words = isinstance(value, str) and value.strip() != "", "a text that is not empty"
    elif kind is Limits:
        fits, words = isinstance(value, Limits), "Limits"
    else:  # tuple[str, ...]
        fits = isinstance(value, tuple) and all(isinstance(item, str) for item in value)
        words = "a sequence of names"
    return "" if fits else words + (" or null" if len(kinds) > 1 else "")
