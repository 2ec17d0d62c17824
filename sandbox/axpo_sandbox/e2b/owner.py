"""Whose a machine is: the name of a process that others can find out to have ended."""

import hashlib
import os
import socket


def owner_of_this_process() -> str:
    """Host (hashed), process id and start time."""
    return f"{_host()}-{os.getpid()}-{_start_time(os.getpid())}"


def owner_has_ended(owner: str) -> bool:
    """Whether the process that `owner` names ran on this host and does not any more."""
    host, _, rest = owner.partition("-")
    pid, _, started = rest.partition("-")
    return host == _host() and pid.isdecimal() and _start_time(int(pid)) != started


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _start_time(pid: int) -> str:
    """Clock ticks from boot to the start of the process; "" if there is none."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[19]
    except OSError:
        return ""
