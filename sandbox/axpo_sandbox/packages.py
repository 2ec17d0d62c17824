"""Packages that were to be preloaded and could not be: which of them nothing goes without, and what to do.

Finding them out is left to the backends.
"""

import warnings
from collections.abc import Mapping

from axpo_sandbox.base import SandboxUnavailable

# By which images get into cells and figures out of them -> what installs it.
FOR_IMAGES = {"numpy": "numpy", "matplotlib": "matplotlib", "PIL": "pillow"}
_MAX_REASON_CHARS = 200  # numpy explains itself at length


def check_missing(missing: Mapping[str, str], backend: str, where: str, mend: str, *, quiet: bool) -> None:
    """Raise SandboxUnavailable for packages that images need; warn of others, which code does without, unless quiet.

    missing: package -> why. where: they are missing. mend: how to get them, with {packages} for what installs them.
    """
    needed = [name for name in FOR_IMAGES if name in missing]
    if needed:
        packages = " ".join(FOR_IMAGES[name] for name in needed)
        raise SandboxUnavailable(
            f"images need packages that {where} cannot import: {_told(missing, needed)}. "
            f"{mend.format(packages=packages)}, or leave them out of preload to do without images"
        )
    if missing and not quiet:
        warnings.warn(
            f"{backend} sandbox: code in {where} cannot import {_told(missing, list(missing))}", stacklevel=5
        )


def _told(missing: Mapping[str, str], names: list[str]) -> str:
    reasons = {name: " ".join(missing[name].split()) for name in names}
    return ", ".join(f"{name} ({reason[:_MAX_REASON_CHARS]})" for name, reason in reasons.items())
