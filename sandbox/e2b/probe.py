"""Finding out at start what a machine keeps code from, by trying from inside, and saying what is open."""

import json
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from sandbox.base import Execution, Isolation, SandboxUnavailable

TIMEOUT_S = 60.0
# What is true in the printed report is an attack that succeeded.
_ATTACK = """
def _attack(secret_path, names, host, port):
    import json, os, socket
    def succeeds(attempt):
        try:
            return bool(attempt())
        except (OSError, ValueError):
            return False
    def connects():
        with socket.create_connection((host, port), timeout=3):
            return True
    attempts = {
        "files": lambda: open(secret_path).read() != "",
        "environment": lambda: any(os.environ.get(name) == value for name, value in names),
        "network": connects,
    }
    print(json.dumps({name: succeeds(attempt) for name, attempt in attempts.items()}))
"""
_OPEN = {
    "files": "Code can read files of the machine that this process runs on: E2B's API is served from here.",
    "environment": "Code finds variables of this process's environment in its machine.",
    "network": "Code can use the internet; allow_internet_access=False closes it where the cluster holds to it.",
}
_NEVER_HELD = (
    "The working folder and the number of processes are limited only by the machine itself"
    " (Limits.workdir_bytes, num_processes): choose its size with the template.",
)


def attack_code(folder: str, environment: Mapping[str, str]) -> str:
    """Code for a session. folder: holds a file with something secret."""
    secret = Path(folder) / "secret"
    secret.write_text(secrets.token_hex(8))
    os.chmod(folder, 0o755)  # so that only the sandbox stands in the way
    # Names that any machine has are compared by value, and only digests leave this process.
    names = [(name, value) for name, value in environment.items() if name.startswith("AXPO_PROBE_")]
    host, port = control_plane(environment)
    return f"{_ATTACK}_attack(*{(str(secret), names, host, port)!r})"


def control_plane(environment: Mapping[str, str]) -> tuple[str, int]:
    """Host and port that the SDK speaks to: if code reaches them, it reaches the internet."""
    domain = environment.get("E2B_DOMAIN") or "e2b.app"
    parts = urlsplit(environment.get("E2B_API_URL") or f"https://api.{domain}")
    return parts.hostname or "localhost", parts.port or (80 if parts.scheme == "http" else 443)
