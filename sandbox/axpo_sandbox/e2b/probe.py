"""Finding out at start what a machine keeps code from, by trying from inside, and saying what is open."""

import contextlib
import json
import os
import re
import secrets
import socket
import ssl
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from axpo_sandbox.base import Isolation, Limits, SandboxUnavailable
from axpo_sandbox.e2b.live import E2BLive

_TIMEOUT_S = 60.0
_NUM_NUMBERS = 3  # addresses that are tried, each for some seconds
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
# What is true in the printed report is an attack that succeeded.
_ATTACK = """
def _attack(secret_path, names, addresses, hello):
    import json, os, socket
    def succeeds(attempt):
        try:
            return bool(attempt())
        except (OSError, ValueError):
            return False
    def is_answered(address):
        with socket.create_connection(address, timeout=3) as connection:
            connection.sendall(hello)  # what stands between may take connections and pass on nothing
            return connection.recv(1) != b""
    attempts = {
        "files": lambda: open(secret_path).read() != "",
        "environment": lambda: any(name in os.environ for name in names),
        "network": lambda: any(succeeds(lambda: is_answered(tuple(address))) for address in addresses),
    }
    print(json.dumps({name: succeeds(attempt) for name, attempt in attempts.items()}))
"""
_OPEN = {
    "files": "Code can read files of this machine: the cluster that makes machines runs them here, unconfined.",
    "environment": "Code finds variables of this process's environment in its machine; see the template.",
    "network": "Code can use the network; allow_internet_access=False closes it in a cluster that holds to it.",
}
_SMALL = (
    "Machines have {} MiB for a process, less than the {} MiB of Limits.memory_bytes: that is its limit there;"
    " choose the machine's size with the template."
)
_NEVER_HELD = (
    "The size of the working folder and the number of processes are limited by the machine alone, not by"
    " Limits.workdir_bytes and num_processes; choose the machine's size with the template."
)


def probe(live: E2BLive, memory_bytes: int, limits: Limits) -> Isolation:
    """Attack from a machine that was begun, and report. memory_bytes: that it has for a process, of what limits allow.

    Raises SandboxUnavailable if it does not run that.
    """
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
    if memory_bytes < limits.memory_bytes:
        sentences.append(_SMALL.format(memory_bytes >> 20, limits.memory_bytes >> 20))
    return Isolation(tier="e2b", layers=layers, open=(*sentences, _NEVER_HELD))


def control_plane() -> tuple[list[tuple[str, int]], bytes]:
    """Where the SDK's requests go, by name and by number, and how one begins: code that gets an answer there has the
    network. By number, because machines without a resolver for names may still have one.
    """
    domain = os.environ.get("E2B_DOMAIN") or "e2b.app"
    parts = urlsplit(os.environ.get("E2B_API_URL") or f"https://api.{domain}")
    host, port = parts.hostname or "localhost", parts.port or (80 if parts.scheme == "http" else 443)
    numbers: list[str] = []
    with contextlib.suppress(OSError):
        numbers = sorted(
            {str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
        )
    addresses = [(name, port) for name in dict.fromkeys([host, *numbers[:_NUM_NUMBERS]])]
    return addresses, b"GET / HTTP/1.0\r\n\r\n" if parts.scheme == "http" else _client_hello(host)


def _client_hello(host: str) -> bytes:
    """The first bytes of a TLS connection, which every server answers."""
    sent = ssl.MemoryBIO()
    connection = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), sent, server_hostname=host)
    with contextlib.suppress(ssl.SSLWantReadError):
        connection.do_handshake()
    return sent.read()
