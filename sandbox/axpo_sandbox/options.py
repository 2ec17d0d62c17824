"""What the options of all backends have in common: which packages are warm, what a session falls back to."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from axpo_sandbox.base import Limits
from axpo_sandbox.names import unknown_name

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
    if isinstance(given.get("preload"), str):
        raise ValueError(f"preload must be a sequence of package names, not the string {given['preload']!r}")
    given["limits"] = Limits.of(given.get("limits"))
    given["preload"] = tuple(given.get("preload", PRELOAD))
    return kind(**given)


def check_fallback(fallback: str) -> None:
    """Raises ValueError unless it is one of FALLBACKS."""
    if fallback not in FALLBACKS:
        raise ValueError(unknown_name("fallback", fallback, FALLBACKS))
