"""What the container holds, found out by attacking it from a session; and what the relay found inside it.

Two walls: between code and the machine stands the container, between sessions of one container stand the layers
of the local backend. The relay attacks the latter; a session's word is what tells about the former.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from axpo_sandbox.base import Isolation, Session
from axpo_sandbox.local.client import environment
from axpo_sandbox.local.probe import BRANCH_SIGNALS, attack

_MAX_CHARS = 1000
# Attacks that tell of the wall between sessions when made inside, of that around the container from outside.
_BOTH = ("files", "network", "environment", "signals")
_INNER = ("system_calls", "process_tree", "branch_files", "branch_signals", "session_processes")
_TIERS = ("namespaces", "landlock", "none")

_NESTED = 'profile="nested" closes this where the engine allows it.'
_OPEN = {
    "files": "Code can read files of the machine this process runs on.",
    "network": "Code can use the network of the machine this process runs on.",
    "environment": "Code can read this process's environment variables.",
    "signals": "Code can signal processes of the machine this process runs on.",
    "container_files": f"Code can read the container's other files, those of other sessions too; {_NESTED}",
    "container_network": f"Sessions can reach each other over the container's loopback; {_NESTED}",
    "container_environment": f"Code can read the relay's environment; {_NESTED}",
    "container_signals": f"Sessions can signal each other's processes; {_NESTED}",
    "system_calls": "System calls are not filtered within the container; x86_64 or aarch64 is needed.",
    "process_tree": f"Sessions share the container's process numbers; {_NESTED}",
    "branch_files": "Branches keep their files apart by convention alone, and their working folders have "
    f"different paths; {_NESTED}",
    "branch_signals": BRANCH_SIGNALS,
    "session_processes": f"Processes are limited for the container but not per session; {_NESTED}",
    "total_memory": "The engine does not limit the container's memory; a memory cgroup closes this.",
    "total_processes": "The engine does not limit the container's processes; a pids cgroup closes this.",
}


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What the relay said of itself when it was opened."""

    tier: str
    layers: Mapping[str, bool]
    reasons: Mapping[str, str]
    """tier -> why it does not work there"""
    missing: Mapping[str, str]
    """package -> why it could not be loaded"""
    python: str
    memory_limit: int | None
    """bytes that the container's group may use, as seen inside"""
    process_limit: int | None


def checked_findings(answer: Mapping[str, Any]) -> Findings:
    """The relay's answer, which is not trusted, as Findings. Raises ValueError."""
    tier, layers, python = answer.get("tier"), answer.get("layers"), answer.get("python")
    if tier not in _TIERS or not isinstance(layers, dict) or not isinstance(python, str):
        raise ValueError("the relay did not say what it found")
    return Findings(
        tier=tier,
        layers={name: layers.get(name) is True for name in (*_BOTH, *_INNER)},
        reasons=_texts(answer.get("reasons")),
        missing=_texts(answer.get("missing")),
        python=python[:_MAX_CHARS],
        memory_limit=_number(answer.get("memory_limit")),
        process_limit=_number(answer.get("process_limit")),
    )


def probe(
    session: Session, inside: Findings, memory_bytes: int, num_processes: int, reasons: Mapping[str, str]
) -> Isolation:
    """Attack from a fresh session and report. memory_bytes, num_processes: what the container may use.

    reasons: profile -> why it was not taken. Raises SandboxUnavailable if the session does not even run that.
    """
    worked = attack(session, environment(""))
    layers = {
        **{name: not worked.get(name, True) for name in _BOTH},
        **{f"container_{name}": inside.layers[name] for name in _BOTH},
        **{name: inside.layers[name] for name in _INNER},
        "session_processes": inside.layers["session_processes"] and inside.tier == "namespaces",
        "total_memory": _holds(inside.memory_limit, memory_bytes),
        "total_processes": _holds(inside.process_limit, num_processes),
    }
    sentences = [_OPEN[name] for name, holds in layers.items() if not holds]
    why = [f"Profile {name} was not taken: {reason}." for name, reason in reasons.items()]
    return Isolation(
        tier=f"docker+{inside.tier}", layers=layers, open=tuple(sentences + (why if sentences else []))
    )


def _holds(found: int | None, wanted: int) -> bool:
    return found is not None and found <= wanted


def _number(said: Any) -> int | None:
    return said if isinstance(said, int) and not isinstance(said, bool) and said > 0 else None


def _texts(said: Any) -> dict[str, str]:
    items = list(said.items())[:64] if isinstance(said, dict) else []
    return {str(name)[:_MAX_CHARS]: str(text)[:_MAX_CHARS] for name, text in items}
