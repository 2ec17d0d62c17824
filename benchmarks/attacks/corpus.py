"""What an attack is, what may come of one, and the list of all of them.

Families register theirs when their module is imported (`load`). The place they run in is `arena`, running them in
order is left to `run`.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from axpo_sandbox.names import unknown_name

if TYPE_CHECKING:
    from benchmarks.attacks.arena import Arena

SUCCEEDED, HELD, SKIPPED = "succeeded", "held", "not applicable"

FAMILIES = {
    "network": "reach a socket of this machine",
    "files": "read or change files of this machine",
    "secrets": "find the caller's environment, arguments, descriptors or memory",
    "signals": "end, stop or slow other processes",
    "tracing": "read or write other processes' memory and descriptors",
    "processes": "start more processes than allowed",
    "memory": "use more memory than allowed",
    "storage": "write more files, or open more, than allowed",
    "output": "answer with more than allowed",
    "images": "answer with pictures that are too large or are none",
    "escapes": "outlive the cell, the branch, the session or the sandbox",
    "kernel": "make system calls that code has no use for",
    "neighbours": "reach another session or branch",
    "poison": "change what later sessions are made of",
    "protocol": "forge the frames to the trusted side",
    "objects": "have the trusted side run, unpickle or trip over something",
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one attack."""

    verdict: str
    """SUCCEEDED, HELD or SKIPPED"""
    why: str
    """what was seen, or what stood in the way"""


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One attempt to break a promise."""

    name: str
    family: str
    goal: str
    """what it means that it succeeded; reads on from "code can ..." """
    run: Callable[["Arena"], Outcome]
    layer: str = ""
    """the key of `Isolation.layers` that covers it: where the sandbox itself says that this is open, it is no news"""
    accepted: str = ""
    """why it may succeed on every tier, as sandbox/README.md says; "" if it must not"""


ATTACKS: dict[str, Attack] = {}


def attack(
    family: str, goal: str, *, layer: str = "", accepted: str = ""
) -> Callable[[Callable[["Arena"], Outcome]], Callable[["Arena"], Outcome]]:
    """Register a function as the attack of its name."""

    def register(function: Callable[["Arena"], Outcome]) -> Callable[["Arena"], Outcome]:
        add(function.__name__, family, goal, function, layer=layer, accepted=accepted)
        return function

    return register


def cell(
    name: str,
    family: str,
    goal: str,
    code: str,
    *,
    layer: str = "",
    accepted: str = "",
    **values: Callable[["Arena"], Any],
) -> None:
    """Register an attack that is one cell, which says itself whether it worked: see `Arena.attack_cell`.

    values: name in the code -> what it is, asked of the arena when the attack is made.
    """

    def run(arena: "Arena") -> Outcome:
        return arena.attack_cell(code, {key: ask(arena) for key, ask in values.items()})

    add(name, family, goal, run, layer=layer, accepted=accepted)


def add(
    name: str,
    family: str,
    goal: str,
    run: Callable[["Arena"], Outcome],
    *,
    layer: str = "",
    accepted: str = "",
) -> None:
    """Register an attack. Raises ValueError for a name that is taken or a family that is not known."""
    if name in ATTACKS:
        raise ValueError(f"two attacks are called {name!r}")
    if family not in FAMILIES:
        raise ValueError(unknown_name("family", family, FAMILIES))
    ATTACKS[name] = Attack(name=name, family=family, goal=goal, run=run, layer=layer, accepted=accepted)


def load() -> Mapping[str, Attack]:
    """All attacks by name, in the order of their families."""
    for module in (
        "network",
        "files",
        "secrets",
        "signals",
        "exhaustion",
        "answers",
        "escapes",
        "kernel",
        "neighbours",
        "stalling",
        "relatives",
        "protocol",
        "objects",
    ):
        importlib.import_module(f"benchmarks.attacks.{module}")
    order = list(FAMILIES)
    return dict(sorted(ATTACKS.items(), key=lambda item: order.index(item[1].family)))


def succeeded(why: str) -> Outcome:
    return Outcome(verdict=SUCCEEDED, why=why[:300])


def held(why: str) -> Outcome:
    return Outcome(verdict=HELD, why=why[:300])


def skipped(why: str) -> Outcome:
    return Outcome(verdict=SKIPPED, why=why[:300])
