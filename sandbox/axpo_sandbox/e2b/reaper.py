"""Ends machines and snapshots that trainers left behind.

    python -m axpo_sandbox.e2b.reaper            # those of processes of this host that have ended
    python -m axpo_sandbox.e2b.reaper --owner X  # those of one owner, say, on a host that is gone
    python -m axpo_sandbox.e2b.reaper --all      # all that any sandbox of this kind made

Machines end by themselves when their lifetime is over; snapshots stay until someone deletes them.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from axpo_sandbox.base import SandboxUnavailable
from axpo_sandbox.e2b.config import E2BConfig
from axpo_sandbox.e2b.owner import owner_has_ended


@dataclass(frozen=True, kw_only=True)
class Reaped:
    """What was ended, running or paused."""

    machines: tuple[str, ...]
    snapshots: tuple[str, ...]
    left: tuple[str, ...]
    """what could not be ended, a sentence each"""


def reap(config: E2BConfig | None = None, *, owner: str | None = None, everything: bool = False) -> Reaped:
    """End what owners that have ended left behind; of one owner if given, or of all.

    Raises SandboxUnavailable.
    """
    from axpo_sandbox.e2b.cloud import Cloud
    from axpo_sandbox.e2b.rules import Refused

    cloud = Cloud(config or E2BConfig())
    left: list[str] = []

    def end(found: dict[str, str], end_one: Callable[[str], bool]) -> tuple[str, ...]:
        ended = []
        for name, whose in found.items():
            if everything or (whose == owner if owner is not None else owner_has_ended(whose)):
                try:
                    if end_one(name):
                        ended.append(name)
                except Refused as error:  # say, machines made of a snapshot run
                    left.append(str(error))
        return tuple(ended)

    return Reaped(
        machines=end({item.id: item.owner for item in cloud.machines()}, cloud.kill),
        snapshots=end(cloud.snapshots(), cloud.delete_snapshot),
        left=tuple(left),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Reap and say what. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m axpo_sandbox.e2b.reaper", description=__doc__.splitlines()[0]
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--owner", help="the owner whose machines and snapshots are ended")
    which.add_argument("--all", action="store_true", help="end those of all owners")
    given = parser.parse_args(arguments)
    try:
        reaped = reap(owner=given.owner, everything=given.all)
    except SandboxUnavailable as error:
        print(error, file=sys.stderr)
        return 1
    print(f"ended {len(reaped.machines)} machines, deleted {len(reaped.snapshots)} snapshots")
    for sentence in reaped.left:
        print(sentence, file=sys.stderr)
    return 1 if reaped.left else 0


if __name__ == "__main__":
    sys.exit(main())
