"""Finding out at start what a machine keeps code from, by trying from inside, and saying what is open."""

import json
import os
import re
import secrets
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from axpo_sandbox.base import Isolation, SandboxUnavailable
from axpo_sandbox.e2b.live import E2BLive

_TIMEOUT_S = 60.0
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
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
        "environment": lambda: any(name in os.environ for name in names),
        "network": connects,
    }
    print(json.dumps({name: succeeds(attempt) for name, attempt in attempts.items()}))
"""
_OPEN = {
    "files": "Code can read files of this machine: the cluster that makes machines runs them here, unconfined.",
    "environment": "Code finds variables of this process's environment in its machine; see the template.",
    "network": "Code can use the network; allow_internet_access=False closes it in a cluster that holds to it.",
}
_NEVER_HELD = (
    "The size of the working folder and the number of processes are limited by the machine alone, not by"
    " Limits.workdir_bytes and num_processes; choose the machine's size with the template."
)


def probe(live: E2BLive) -> Isolation:
    """Attack from a machine that was begun, and report. Raises SandboxUnavailable if it does not run that."""
    names = sorted({"E2B_API_KEY", *(name for name in os.environ if _SECRET_NAME.search(name))})
    with tempfile.TemporaryDirectory(prefix="axpo-probe-") as folder:
        secret = Path(folder) / "secret"
        secret.write_text(secrets.token_hex(8))
        os.chmod(folder, 0o755)  # so that only the machine's walls stand in the way
        arguments = (str(secret), names, *control_plane())
        execution = live.run(f"{_ATTACK}_attack(*{arguments!r})", timeout_s=_TIMEOUT_S)
    try:
        report = json.loads(execution.stdout)
        layers = {name: report[name] is False for name in _OPEN}
    except (ValueError, TypeError, KeyError):
        raise SandboxUnavailable(f"machines do not run cells: {execution}") from None
    sentences = [_OPEN[name] for name, holds in layers.items() if not holds]
    return Isolation(tier="e2b", layers=layers, open=(*sentences, _NEVER_HELD))


def control_plane() -> tuple[str, int]:
    """Host and port that the SDK speaks to: code that reaches them reaches the network."""
    domain = os.environ.get("E2B_DOMAIN") or "e2b.app"
    parts = urlsplit(os.environ.get("E2B_API_URL") or f"https://api.{domain}")
    return parts.hostname or "localhost", parts.port or (80 if parts.scheme == "http" else 443)
