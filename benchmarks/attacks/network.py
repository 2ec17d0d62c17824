"""Attacks that reach for sockets of this machine. The only targets are listeners made here, on loopback."""

import contextlib
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

from benchmarks.attacks.arena import Arena, received
from benchmarks.attacks.corpus import Outcome, add, attack, cell, held, skipped, succeeded

Address = tuple[str, int] | str


def _listen(arena: Arena, family: int, kind: int, address: Address) -> tuple[socket.socket, Address]:
    listener = socket.socket(family, kind)
    listener.bind(address)
    if kind == socket.SOCK_STREAM:
        listener.listen()
    name = listener.getsockname()
    if isinstance(name, tuple):
        return listener, name[:2]
    if isinstance(name, bytes):
        return listener, name.decode()
    Path(name).chmod(0o777)
    return listener, name


def _reaching(
    name: str, goal: str, family: int, kind: int, address: Callable[[Arena], Address], code: str
) -> None:
    """Register an attack whose proof is what a listener of ours receives."""

    def run(arena: Arena) -> Outcome:
        try:
            listener, where = _listen(arena, family, kind, address(arena))
        except OSError as error:
            return skipped(f"this machine cannot listen there: {error}")
        with listener:
            outcome = arena.attack_cell("import socket, subprocess\n" + code, {"ADDRESS": where})
            return succeeded("the listener was reached") if received(listener) else held(outcome.why)

    add(name, "network", goal, run, layer="network")


_CONNECT = """
def reach():
    with socket.socket(socket.{family}, socket.SOCK_STREAM, {protocol}) as client:
        client.settimeout(2)
        client.connect(ADDRESS)
attempt(reach)
"""
_SEND = """
def reach():
    with socket.socket(socket.{family}, socket.SOCK_DGRAM) as client:
        client.sendto(b"x", ADDRESS)
attempt(reach)
"""
# A pair needs no call of `socket`, yet each end can be sent or bound elsewhere.
_SEND_FROM_PAIR = """
def reach():
    ours, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.sendto(b"x", ADDRESS)
attempt(reach)
"""
_STREAM, _DGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


def _v4(arena: Arena) -> Address:
    return ("127.0.0.1", 0)


def _v6(arena: Arena) -> Address:
    return ("::1", 0)


def _path(arena: Arena) -> Address:
    return str(arena.folder / "data" / secrets.token_hex(4))


def _abstract(arena: Arena) -> Address:
    return "\0axpo-" + secrets.token_hex(6)


_connect4 = _CONNECT.format(family="AF_INET", protocol=0)
_reaching("tcp_loopback", "connect to a TCP port", socket.AF_INET, _STREAM, _v4, _connect4)
_reaching(
    "tcp_loopback_v6",
    "connect to a TCP port over IPv6",
    socket.AF_INET6,
    _STREAM,
    _v6,
    _CONNECT.format(family="AF_INET6", protocol=0),
)
_reaching(
    "mptcp_loopback",
    "connect by multipath TCP",
    socket.AF_INET,
    _STREAM,
    _v4,
    _CONNECT.format(family="AF_INET", protocol=262),
)
_reaching("udp_loopback", "send UDP", socket.AF_INET, _DGRAM, _v4, _SEND.format(family="AF_INET"))
_reaching(
    "udp_loopback_v6", "send UDP over IPv6", socket.AF_INET6, _DGRAM, _v6, _SEND.format(family="AF_INET6")
)
_reaching(
    "unix_stream_by_path",
    "connect to a unix socket in the file system",
    socket.AF_UNIX,
    _STREAM,
    _path,
    _CONNECT.format(family="AF_UNIX", protocol=0),
)
_reaching(
    "unix_dgram_by_path",
    "send to a unix socket in the file system",
    socket.AF_UNIX,
    _DGRAM,
    _path,
    _SEND.format(family="AF_UNIX"),
)
_reaching(
    "unix_stream_abstract",
    "connect to an abstract unix socket",
    socket.AF_UNIX,
    _STREAM,
    _abstract,
    _CONNECT.format(family="AF_UNIX", protocol=0),
)
_reaching(
    "unix_dgram_abstract",
    "send to an abstract unix socket",
    socket.AF_UNIX,
    _DGRAM,
    _abstract,
    _SEND.format(family="AF_UNIX"),
)
_reaching(
    "unix_pair_by_path",
    "send to a unix socket in the file system from a socket pair",
    socket.AF_UNIX,
    _DGRAM,
    _path,
    _SEND_FROM_PAIR,
)
_reaching(
    "unix_pair_abstract",
    "send to an abstract unix socket from a socket pair",
    socket.AF_UNIX,
    _DGRAM,
    _abstract,
    _SEND_FROM_PAIR,
)
_reaching(
    "tcp_by_ctypes",
    "connect to a TCP port by the C library",
    socket.AF_INET,
    _STREAM,
    _v4,
    """
def reach():
    fd = call(LIBC.socket(2, 1, 0))
    address = (2).to_bytes(2, "little") + ADDRESS[1].to_bytes(2, "big") + bytes([127, 0, 0, 1]) + bytes(8)
    call(LIBC.connect(fd, address, 16))
attempt(reach)
""",
)
_reaching(
    "tcp_from_a_program",
    "connect to a TCP port from a shell",
    socket.AF_INET,
    _STREAM,
    _v4,
    'subprocess.run(["bash", "-c", f"echo > /dev/tcp/127.0.0.1/{ADDRESS[1]}"], timeout=10)',
)
_reaching(
    "tcp_fast_open",
    "connect by sending",
    socket.AF_INET,
    _STREAM,
    _v4,
    """
def reach():
    with socket.socket() as client:
        client.sendto(b"x", 0x20000000, ADDRESS)
attempt(reach)
""",
)


@attack("network", "serve a TCP port of this machine", layer="network")
def tcp_server(arena: Arena) -> Outcome:
    code = """
import socket
try:
    server = socket.socket()
    server.bind(("127.0.0.1", PORT))
    server.listen()
    print("listens")
except OSError as error:
    print("failed:", error)
"""
    with socket.socket() as finder:
        finder.bind(("127.0.0.1", 0))
        port = finder.getsockname()[1]
    with arena.session() as session:
        execution, _ = arena.run(session, code, {"PORT": port})
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
            return succeeded("the port answered")
    return held(arena.judge(execution, False).why)


@attack("network", "speak over a connection of the caller's that was left inheritable")
def inherited_connection(arena: Arena) -> Outcome:
    code = """
import socket, stat
for fd in range(3, 64):
    try:
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            # Our own channel would take this for an answer: only a connection that is not it counts.
            peer = socket.socket(fileno=os.dup(fd))
            if peer.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == MARK:
                peer.send(b"x")
    except OSError:
        pass
"""
    arena._theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 12_345)
    mark = arena._theirs.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    outcome = arena.attack_cell(code, {"MARK": mark})
    return succeeded("its other end heard it") if received_bytes(arena.line) else held(outcome.why)


def received_bytes(line: socket.socket) -> bool:
    """Whether something is there to be read on a connection."""
    line.settimeout(0.3)
    try:
        return bool(line.recv(16))
    except OSError:
        return False


def _fixed(value: int) -> Callable[[Arena], int]:
    return lambda arena: value


for _name, _family, _kind in (
    ("packet_socket", 17, 3),
    ("netlink_socket", 16, 3),
    ("vsock_socket", 40, 1),
    ("alg_socket", 38, 5),
):
    cell(
        _name,
        "network",
        f"make a socket of the family {_name.split('_')[0]}",
        "import socket\nattempt(lambda: socket.socket(FAMILY, KIND))",
        layer="network",
        FAMILY=_fixed(_family),
        KIND=_fixed(_kind),
    )
