"""Containers whose owner is gone: found by their labels, removed. Run at each start of the docker backend, and by

    python -m axpo_sandbox.docker.reaper

A container ends by itself when its owner does, unless it was never started, or is paused, or a process that the
owner forked keeps its stream open. An owner is known by host name, boot, process namespace, process id and start
time, so containers of other machines that use the same engine are left alone.
"""

import os
import socket
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from axpo_sandbox.base import SandboxUnavailable
from axpo_sandbox.docker.engine import Engine

LABEL = "axpo.sandbox"
_PLACE, _PID, _STARTED = "axpo.sandbox.place", "axpo.sandbox.pid", "axpo.sandbox.started"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_UNKNOWN = "unknown"
_STAT_START_TIME = 19  # of the fields after the command's name


def owner_labels() -> dict[str, str]:
    """Labels that say whose a container is: this process's."""
    pid = os.getpid()
    return {LABEL: "session", _PLACE: place(), _PID: str(pid), _STARTED: start_time(pid) or ""}


def place() -> str:
    """What has to agree for a process id to mean the same process: host name, boot, process namespace."""
    try:
        boot, tree = _BOOT_ID.read_text().strip(), os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux: nothing is known of other processes, and so nothing reaped
        boot = tree = _UNKNOWN
    return f"{socket.gethostname()} {boot} {tree}"


def start_time(pid: int) -> str | None:
    """When process `pid` started, in the kernel's ticks since boot; None if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in ("Z", "X") else fields[_STAT_START_TIME]


def orphans(labels: Iterable[tuple[str, Mapping[str, str]]]) -> list[str]:
    """Of containers (id, labels), the ids of those whose owner certainly has ended."""
    here = place()
    if here.endswith(_UNKNOWN):
        return []
    found = []
    for container_id, label in labels:
        pid = label.get(_PID, "")
        is_ours = LABEL in label and label.get(_PLACE) == here and pid.isascii() and pid.isdigit()
        if is_ours and start_time(int(pid)) != label.get(_STARTED):
            found.append(container_id)
    return found


def reap(engine: Engine) -> list[str]:
    """Remove the orphans in an engine; returns their ids. Raises SandboxUnavailable."""
    found = orphans(engine.containers(LABEL))
    for container_id in found:
        engine.remove(container_id)
    return found


def main() -> int:
    """Reap and say what was done."""
    try:
        with Engine() as engine:
            removed = reap(engine)
    except SandboxUnavailable as error:
        print(error, file=sys.stderr)
        return 1
    for container_id in removed:
        print(f"removed {container_id[:12]}")
    print(f"{len(removed)} containers had lost their owner")
    return 0


if __name__ == "__main__":
    sys.exit(main())
