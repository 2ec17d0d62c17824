"""What the relay could not do, by name: an exception there becomes the same exception here."""

from axpo_sandbox.backend import Dead, HostDied, LostInCell, Stalled, Starved
from axpo_sandbox.base import FilesRefused, SandboxUnavailable

# An exception goes by the first kind that it is of: what is narrow stands above what is wide.
_KINDS: dict[str, type[Exception]] = {
    "starved": Starved,
    "host": HostDied,
    "stalled": Stalled,
    "in cell": LostInCell,
    "dead": Dead,
    "files": FilesRefused,
    "unavailable": SandboxUnavailable,
}


def name_of(error: Exception) -> str:
    """What to call `error`, a Dead or a SandboxError, on the wire."""
    return next((name for name, kind in _KINDS.items() if isinstance(error, kind)), "unavailable")


def failure_of(name: object, message: str) -> Exception:
    """The exception of an untrusted name; Dead for one that is none."""
    return _KINDS.get(name if isinstance(name, str) else "", Dead)(message)
