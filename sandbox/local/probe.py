"""Finding out what the isolation holds by attacking it from a session, and saying what it does not.

Run once at start. What to do about the findings is left to `client`.
"""

import json
import os
import secrets
import socket
import tempfile
from pathlib import Path

from sandbox.base import Isolation, SandboxUnavailable
from sandbox.local.cgroup import Cgroup
from sandbox.local.session import LocalSession

# Each line of `attempts` is an attack; what it reports as true succeeded.
_ATTACK = """
def _attack(secret_path, port, trainer):
    import ctypes, json, os, socket
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
    def lists_others():
        return any(name.isdigit() and int(name) != os.getpid() for name in os.listdir("/proc"))
    def sees_trainer():
        return os.kill(trainer, 0) is None and not os.path.exists("/box")
    def mounts():
        libc = ctypes.CDLL(None)
        return libc.unshare(0x20000) == 0 or libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0
    attempts = {
        "files": lambda: open(secret_path).read() != "",
        "network": connects,
        "signals": sees_trainer,
        "environment": lambda: "SANDBOX_PROBE" in os.environ,
        "syscalls": mounts,
    }
    print(json.dumps({name: succeeds(attempt) for name, attempt in attempts.items()}))
"""

_CLOSE_FILES = (
    "Code can read this machine's files; allow unprivileged user namespaces, or use Linux 5.13 or newer."
)
_OPEN = {
    "files": _CLOSE_FILES,
    "network": "Code can use this machine's network; allow unprivileged user namespaces.",
    "signals": "Code can signal this machine's processes; run as another user, or on Linux 6.12 or newer.",
    "environment": "Code can see this process's environment variables.",
    "syscalls": "System calls are not filtered; run on x86_64 or aarch64 with seccomp.",
    "process_tree": "Code shares this machine's process ids and can list them; allow user namespaces.",
    "branch_files": "Branches keep their files apart by convention alone; allow user namespaces.",
    "branch_signals": "Branches of one session can signal each other; use Linux 6.12 or newer.",
    "total_memory": "Memory is limited per process but not in total; run where a memory cgroup can be made.",
    "total_processes": "Processes are limited per session, not in total; run where a pids cgroup works.",
    "session_processes": "Code runs as root, whose processes are not counted; run as an ordinary user.",
}


def probe(session: LocalSession, tier: str, reasons: dict[str, str], cgroup: Cgroup) -> Isolation:
    """Attack from a fresh session and report. Raises SandboxUnavailable if the session cannot even be
    attacked from.
    """
    with tempfile.TemporaryDirectory(prefix="axpo-probe-") as folder, socket.socket() as listener:
        secret = Path(folder) / "secret"
        secret.write_text(secrets.token_hex(8))
        os.chmod(folder, 0o755)  # so that only the sandbox stands in the way
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        port = listener.getsockname()[1]
        execution = session.run(f"{_ATTACK}_attack({str(secret)!r}, {port}, {os.getpid()})", timeout_s=60)
    try:
        succeeded = json.loads(execution.stdout)
    except ValueError:
        raise SandboxUnavailable(f"sessions do not work: {execution}") from None
    layers = {
        name: succeeded.get(name) is False
        for name in ("files", "network", "signals", "environment", "syscalls")
    }
    return _judge(layers, session, tier, reasons, cgroup)


def _judge(
    layers: dict[str, bool], session: LocalSession, tier: str, reasons: dict[str, str], cgroup: Cgroup
) -> Isolation:
    nothing_else = "import os; print(sorted(name for name in os.listdir('/proc') if name.isdigit()))"
    listed = session.run(nothing_else, timeout_s=60).stdout
    layers["process_tree"] = tier == "namespaces" and listed.count("'") <= 8
    layers["branch_files"] = tier == "namespaces"
    layers["branch_signals"] = session.run(_signal_parent(), timeout_s=60).text == "'refused'"
    layers["session_processes"] = session.run("import os; os.getuid()", timeout_s=60).text != "0"
    layers["total_memory"] = cgroup.memory
    layers["total_processes"] = cgroup.processes
    why = [f"Tier {name} is not used: {reason}." for name, reason in reasons.items()]
    open_layers = [_OPEN[name] for name, holds in layers.items() if not holds]
    return Isolation(tier=tier, layers=layers, open=tuple(open_layers + (why if open_layers else [])))


def _signal_parent() -> str:
    return (
        "def _signal_parent():\n"
        "    import os\n"
        "    try:\n"
        "        os.kill(os.getppid(), 0)\n"
        "    except PermissionError:\n"
        "        return 'refused'\n"
        "    return 'allowed'\n"
        "_signal_parent()"
    )
