"""Finding out what the isolation holds by attacking it from a session, and saying what it does not.

Run once at start. What to do about the findings is left to `client`.
"""

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

from axpo_sandbox.base import Isolation, SandboxUnavailable, Session
from axpo_sandbox.local.cgroup import Cgroup
from axpo_sandbox.local.folders import BOX

_TIMEOUT_S = 60.0
# What is true in the printed report is an attack that succeeded.
_ATTACK = """
def _attack(secret_path, port, victim, caller, names):
    import ctypes, json, os, signal, socket
    def succeeds(attempt):
        try:
            return bool(attempt())
        except (OSError, ValueError):
            return False
    def connects():
        with socket.socket() as client:
            client.settimeout(2)
            client.connect(("127.0.0.1", port))
            return True
    def mounts():
        libc = ctypes.CDLL(None)
        return libc.unshare(0x20000) == 0 or libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0
    def traces():  # in a child, for who is traced stops at each signal
        child = os.fork()
        if child == 0:
            os._exit(ctypes.CDLL(None).ptrace(0, 0, 0, 0) != 0)
        return os.waitpid(child, 0)[1] == 0
    def environment_of_caller():
        with open(f"/proc/{caller}/environ", "rb") as file:
            theirs = file.read()
        return any(name.encode() + b"=" in theirs for name in names)
    attempts = {
        "files": lambda: open(secret_path).read() != "",
        "network": connects,
        "environment": lambda: any(name in os.environ for name in names) or succeeds(environment_of_caller),
        "system_calls": lambda: mounts() or traces(),
        "signals": lambda: os.kill(victim, signal.SIGKILL) is None and False,
    }
    print(json.dumps({name: succeeds(attempt) for name, attempt in attempts.items()}))
"""

# Signal 0 asks and does nothing.
_SIGNAL = """
def _can_signal(pids):
    import os, signal
    def succeeds(attempt, pid):
        try:
            attempt(pid, 0)
            return True
        except OSError:
            return False
    attempts = (os.kill, os.killpg, lambda pid, number: signal.pidfd_send_signal(os.pidfd_open(pid), number))
    return [pid for pid in pids if any(succeeds(attempt, pid) for attempt in attempts)]
"""

_NAMESPACES = "allow user namespaces to close this."
BRANCH_SIGNALS = (
    "A session, its snapshots and its branches can signal each other; a listener of our filter closes this (Linux 5.5,"
    " and no filter around this process that has one)."
)
_OPEN = {
    "files": f"Code can read this machine's files; {_NAMESPACES}",
    "network": f"Code can use this machine's network; {_NAMESPACES}",
    "environment": f"Code can read this process's environment variables; {_NAMESPACES}",
    "signals": f"Code can signal this machine's processes; {_NAMESPACES}",
    "system_calls": "System calls are not filtered; x86_64 or aarch64 with seccomp is needed.",
    "process_tree": f"Code shares this machine's process numbers; {_NAMESPACES}",
    "branch_files": f"Branches keep their files apart by convention alone; {_NAMESPACES}",
    "branch_signals": BRANCH_SIGNALS,
    "total_memory": "Memory is limited per process but not in total; a writable memory cgroup closes this.",
    "total_processes": "Processes are limited per session but not in total; a pids cgroup closes this.",
    "session_files": f"A session may write until this machine's disk is full; {_NAMESPACES}",
    "session_processes": "Code runs as root, whose processes are not counted; run as an ordinary user.",
}


def probe(
    session: Session,
    process_id: int,
    tier: str,
    reasons: dict[str, str],
    cgroup: Cgroup,
    known_names: Collection[str],
) -> Isolation:
    """Attack from a fresh session and report.

    process_id: of its interpreter, as we count.
    known_names: environment variables that sessions are given. Raises SandboxUnavailable if the session does
    not even run that.
    """
    succeeded = attack(session, known_names)
    text = session.run("import os; os.getpid(), os.getuid(), os.getcwd()", timeout_s=_TIMEOUT_S).text
    layers = {
        **{name: not worked for name, worked in succeeded.items()},
        "branch_signals": not signals_branches(session),
        "process_tree": text is not None and not text.startswith(f"({process_id},"),
        "branch_files": text is not None and text.endswith(f", {BOX!r})"),
        "session_files": text is not None
        and text.endswith(f", {BOX!r})"),  # there it is a file system of its own
        "session_processes": text is not None and ", 0, " not in text,
        "total_memory": cgroup.memory,
        "total_processes": cgroup.processes,
    }
    sentences = [_OPEN[name] for name, holds in layers.items() if not holds]
    why = [f"Tier {name} does not work here: {reason}." for name, reason in reasons.items()]
    return Isolation(tier=tier, layers=layers, open=tuple(sentences + (why if sentences else [])))


def attack(session: Session, known_names: Collection[str]) -> dict[str, bool]:
    """Which attacks on this process and its machine succeed from a session; its own word, but for `signals`.

    known_names: environment variables that sessions are given. Raises SandboxUnavailable if the session does
    not even run that.
    """
    names = [name for name in os.environ if name not in known_names]
    victim = subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE)
    try:
        succeeded = _attack(session, victim.pid, names)
        return {**succeeded, "signals": victim.poll() is not None}
    finally:
        victim.kill()
        victim.communicate()


def signals_branches(session: Session) -> bool:
    """Whether code can signal another of a session, a snapshot of it, and two branches of that, by any call.

    Raises SandboxError if the session cannot be snapshot or branched.
    """
    with session.snapshot() as snapshot:
        left, right = snapshot.fork(2)
        with left, right:
            members = (session, left, right)
            numbers = [
                _numbers(member.run("import os; os.getpid(), os.getppid()", timeout_s=_TIMEOUT_S).text)
                for member in members
            ]
            frozen = numbers[1][1]
            for member, (own, _) in zip(members, numbers, strict=True):
                others = {frozen, *(pid for pid, _ in numbers)} - {own}
                said = member.run(f"{_SIGNAL}_can_signal({sorted(others)})", timeout_s=_TIMEOUT_S).text
                if said != "[]":
                    return True
    return False


def _numbers(text: str | None) -> tuple[int, int]:
    try:
        own, parent = json.loads(f"[{(text or '').strip('()')}]")
        return int(own), int(parent)
    except (ValueError, TypeError):
        raise SandboxUnavailable(f"sessions do not work: {text!r}") from None


def _attack(session: Session, victim: int, names: list[str]) -> dict[str, bool]:
    with tempfile.TemporaryDirectory(prefix="axpo-probe-") as folder, socket.socket() as listener:
        secret = Path(folder) / "secret"
        secret.write_text(secrets.token_hex(8))
        os.chmod(folder, 0o755)  # so that only the sandbox stands in the way
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        arguments = (str(secret), listener.getsockname()[1], victim, os.getpid(), names)
        execution = session.run(f"{_ATTACK}_attack(*{arguments!r})", timeout_s=_TIMEOUT_S)
    try:
        report = json.loads(execution.stdout)
        return {str(name): report[name] is not False for name in report}
    except (ValueError, TypeError, AttributeError):
        raise SandboxUnavailable(f"sessions do not work: {execution}") from None
