"""Set-ups of the docker backend that cannot work, and the text that says what helps; sockets that must not stay open.

The docker package is the real one. It speaks with a server of ours, which says what engines say.
"""

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from axpo_sandbox import SandboxUnavailable
from axpo_sandbox.docker import client
from axpo_sandbox.docker.advice import advice, socket_group
from axpo_sandbox.docker.client import DockerSandbox
from axpo_sandbox.docker.config import DockerConfig
from axpo_sandbox.docker.engine import Engine
from tests.docker_fakes import PYTHON, engine_at

Patch = pytest.MonkeyPatch
NO_ANSWER = "no Docker engine answers at {host}"
BROKEN = "the container of image 'axpo-sandbox:latest' does not work"


def start(**options: Any) -> None:
    """Start a sandbox and end it."""
    DockerSandbox(
        DockerConfig(**{"python": PYTHON, "preload": (), "profile": "default", "quiet": True} | options)
    ).close()


def interpreter(folder: Path, lines: str) -> str:
    """A program to stand where an image has its Python."""
    path = folder / "python3"
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    return str(path)


def check(said: str, text: str) -> None:
    """[...] stands for words of the docker package, which may change."""
    begin, _, end = text.partition("[...]")
    assert said.startswith(begin) and said.endswith(end), said
    assert "[...]" in text or said == text


class AuthenticationException(Exception):
    """As paramiko's."""


AuthenticationException.__module__ = "paramiko.ssh_exception"


def refuse(*_: object, **__: object) -> None:
    raise AuthenticationException("Authentication failed.")


def forbid_sockets(patch: Patch) -> None:
    """Root may use every socket: so the answer that others get is made here."""

    def connect(self: socket.socket, address: object) -> None:
        raise PermissionError(13, "Permission denied")

    patch.setattr(socket.socket, "connect", connect)


# Name -> (the variable DOCKER_HOST, what is changed, the text).
UNREACHABLE: dict[str, tuple[str, Callable[[Patch], object], str]] = {
    "no package": (
        "unix:///nowhere/d",
        lambda patch: patch.setitem(sys.modules, "docker", None),
        "the docker backend needs the package docker; install it with: pip install 'axpo[docker]'",
    ),
    "no engine": (
        "unix:///nowhere/d",
        lambda patch: None,
        f"{NO_ANSWER}: No such file or directory. Start an engine, or set DOCKER_HOST to one.",
    ),
    "a dead engine's socket": (
        "unix://{folder}/dead",
        lambda patch: None,
        f"{NO_ANSWER}: Connection refused. Start an engine, or set DOCKER_HOST to one.",
    ),
    "no permission": (
        "unix://{folder}/dead",
        forbid_sockets,
        f"{NO_ANSWER}: Permission denied. Join the group of the engine's socket (sudo usermod -aG docker $USER, then "
        "log in anew), or set DOCKER_HOST to an engine of your own.",
    ),
    "an address of no known kind": (
        "dokcer://here",
        lambda patch: None,
        f"{NO_ANSWER}: Invalid bind address protocol: dokcer://here. DOCKER_HOST must be unix:///PATH, "
        "tcp://HOST:PORT or ssh://USER@HOST.",
    ),
    "an address without a port": (
        "tcp://localhost",
        lambda patch: None,
        f"{NO_ANSWER}: Invalid bind address format: port is required: tcp://localhost. DOCKER_HOST must be "
        "unix:///PATH, tcp://HOST:PORT or ssh://USER@HOST.",
    ),
    "a port that is none": (
        "tcp://localhost:x",
        lambda patch: None,
        f"{NO_ANSWER}: Port could not be cast to integer value as 'x'. DOCKER_HOST must be unix:///PATH, "
        "tcp://HOST:PORT or ssh://USER@HOST.",
    ),
    "ssh without its package": (
        "ssh://me@there",
        lambda patch: patch.delattr("docker.api.client.SSHHTTPAdapter", raising=False),
        f"{NO_ANSWER}: Install paramiko package to enable ssh:// support. Addresses with ssh:// need paramiko: pip "
        "install 'docker[ssh]'.",
    ),
    "ssh without a key": (
        "ssh://me@there",
        lambda patch: patch.setattr("docker.api.client.SSHHTTPAdapter", refuse, raising=False),
        f"{NO_ANSWER}: Authentication failed. `ssh USER@HOST docker version` must work without a question: add the "
        "host to ~/.ssh/known_hosts and the key to an agent (ssh-add).",
    ),
    "certificates that are not there": (
        "tcp://localhost:1",
        lambda patch: (patch.setenv("DOCKER_TLS_VERIFY", "1"), patch.setenv("DOCKER_CERT_PATH", "/nowhere")),
        f"{NO_ANSWER}: Path to a certificate [...]. Set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH to the folder of "
        "ca.pem, cert.pem and key.pem, as the engine wants.",
    ),
}


@pytest.mark.parametrize("name", UNREACHABLE)
def test_an_engine_out_of_reach(name: str, tmp_path: Path, monkeypatch: Patch) -> None:
    host, change, text = UNREACHABLE[name]
    host = host.replace("{folder}", str(tmp_path))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    monkeypatch.setenv("DOCKER_HOST", host)
    monkeypatch.setattr("axpo_sandbox.docker.advice.socket_group", lambda: "docker")
    change(monkeypatch)
    with pytest.raises(SandboxUnavailable) as raised:
        start()
    check(str(raised.value), text.replace("{host}", host))


# Name -> (what the engine answers, options, the text).
REFUSED: dict[str, tuple[tuple[tuple[str, int, Any], ...], dict[str, Any], str]] = {
    "no such image": (
        (),
        {"image": "axpo-sandbx"},
        "unknown image 'axpo-sandbx'; known: axpo-sandbox:latest; nearest: axpo-sandbox:latest; `python -m "
        "axpo_sandbox.docker.image` makes one",
    ),
    "no image at all": (
        (("/images/json", 200, []), ("GET .*/images/axpo", 404, "No such image")),
        {},
        "no image 'axpo-sandbox:latest': the engine has none at all; `python -m axpo_sandbox.docker.image` makes one",
    ),
    "too little memory for the engine": (
        (("create", 400, "Minimum memory limit allowed is 6MB"),),
        {"total_memory_bytes": 1 << 20},
        "cannot make a container: Minimum memory limit allowed is 6MB. Raise "
        "total_memory_bytes, or preload less: it may have been too little memory.",
    ),
    "more processors than there are": (
        (("create", 400, "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available"),),
        {"num_cpus": 64},
        "cannot make a container: Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs "
        "available. Set num_cpus from 0.01 to the cores of the engine's machine, or leave it out.",
    ),
    "no Python in the image": (
        (
            (
                "start",
                400,
                'OCI runtime create failed: exec: "python4": executable file not found in $PATH: unknown',
            ),
        ),
        {"python": "python4"},
        'cannot start a container: OCI runtime create failed: exec: "python4": executable file not found in $PATH: '
        "unknown. image must hold the interpreter that python names: set either.",
    ),
    "a share of a processor too small for the kernel": (
        (
            (
                "start",
                400,
                'failed to write "100": write /sys/fs/cgroup/cpu/docker/1/cpu.cfs_quota_us: invalid argument',
            ),
        ),
        {"num_cpus": 0.001},
        'cannot start a container: failed to write "100": write /sys/fs/cgroup/cpu/docker/1/cpu.cfs_quota_us: invalid '
        "argument. Set num_cpus from 0.01 to the cores of the engine's machine, or leave it out.",
    ),
    "a kernel without seccomp": (
        (("start", 500, "seccomp is not enabled in your kernel, cannot run a custom seccomp profile"),),
        {"profile": "nested"},
        "cannot start a container: seccomp is not enabled in your kernel, cannot run a custom seccomp profile. Set "
        'profile to "default", which asks nothing special of the engine.',
    ),
    "a full disk": (
        (("create", 500, "mkdir /var/lib/docker/overlay2/x: no space left on device"),),
        {},
        "cannot make a container: mkdir /var/lib/docker/overlay2/x: no space left on device. "
        "The engine's disk is full, or total_memory_bytes too small for the files.",
    ),
    "an engine that wants TLS": (
        (("_ping", 400, "Client sent an HTTP request to an HTTPS server"),),
        {},
        "the Docker engine refuses: Client sent an HTTP request to an HTTPS server. Set DOCKER_TLS_VERIFY=1 and "
        "DOCKER_CERT_PATH to the folder of ca.pem, cert.pem and key.pem, as the engine wants.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_an_engine_refuses(name: str, tmp_path: Path, monkeypatch: Patch) -> None:
    answers, options, text = REFUSED[name]
    with engine_at(tmp_path / "d", *answers) as server:
        monkeypatch.setenv("DOCKER_HOST", server.url)
        with pytest.raises(SandboxUnavailable) as raised:
            start(**options)
        assert str(raised.value) == text
        assert server.engine.labels == {}


def test_an_engine_that_hangs(tmp_path: Path, monkeypatch: Patch) -> None:
    with engine_at(tmp_path / "d", hang="/version") as server:
        monkeypatch.setenv("DOCKER_HOST", server.url)
        with pytest.raises(SandboxUnavailable) as raised:
            Engine(timeout_s=1)
    check(
        str(raised.value),
        f"no Docker engine answers at {server.url}: [...] Read timed out. (read timeout=1). The engine hangs or is "
        "overloaded: restart it, or set DOCKER_HOST to another.",
    )


# Name -> (what stands in the place of Python, the text).
DYING: dict[str, tuple[str, str]] = {
    "an old Python": (
        "echo Python 3.11 or newer is needed in the image, not 3.9.2 >&2; exit 1",
        f"{BROKEN}: the container ended; its last words: Python 3.11 or newer is needed in the image, not 3.9.2. Set "
        "image to one that has it, or python to another interpreter in it.",
    ),
    "too few processes": (
        "echo 'BlockingIOError: [Errno 11] Resource temporarily unavailable' >&2; exit 1",
        f"{BROKEN}: the container ended; its last words: BlockingIOError: [Errno 11] Resource temporarily unavailable. "
        "Raise total_processes.",
    ),
    "too little memory": (
        "kill -9 $$",
        f"{BROKEN}: the container ended. Raise total_memory_bytes, or preload less: it may have been too little "
        "memory.",
    ),
    "too little time": (
        "exec sleep 600",
        f"{BROKEN}: the container did not answer within 0.5 s. Raise start_timeout_s, or preload less.",
    ),
}


@pytest.mark.parametrize("name", DYING)
def test_containers_that_end_before_they_begin(name: str, tmp_path: Path, monkeypatch: Patch) -> None:
    lines, text = DYING[name]
    monkeypatch.setattr(client, "_ANSWER_SLACK_S", 0.0)
    with engine_at(tmp_path / "d") as server:
        monkeypatch.setenv("DOCKER_HOST", server.url)
        start_timeout_s = 0.5 if name == "too little time" else 600.0
        with pytest.raises(SandboxUnavailable) as raised:
            start(python=interpreter(tmp_path, lines), start_timeout_s=start_timeout_s)
        assert str(raised.value) == text
        assert server.engine.labels == {}


@pytest.mark.filterwarnings("ignore:docker sandbox. The engine does not limit")
def test_an_image_without_the_packages_that_images_need(
    tmp_path: Path, monkeypatch: Patch, bare_python: str
) -> None:
    with engine_at(tmp_path / "d") as server:
        monkeypatch.setenv("DOCKER_HOST", server.url)
        with pytest.raises(SandboxUnavailable) as raised:
            start(python=bare_python, preload=("json", "PIL", "scipy"))
        assert str(raised.value) == (
            "images need packages that image 'axpo-sandbox:latest' cannot import: PIL (ModuleNotFoundError: No module "
            "named 'PIL'). Set image to one that has them (`python -m axpo_sandbox.docker.image` makes one), or leave "
            "them out of preload to do without images"
        )
        assert server.engine.labels == {}
        with pytest.warns(UserWarning, match=r"code in image 'axpo-sandbox:latest' cannot import scipy \("):
            start(python=bare_python, preload=("scipy",), quiet=False)


@pytest.mark.parametrize(
    ("error", "option"),
    [
        ('exec: "/etc/passwd": permission denied: unknown', "python"),
        (
            "the sandbox's fork server does not answer: the other side is gone",
            "total_memory_bytes or total_processes",
        ),
        ("the sandbox's fork server does not answer: no answer in time", "start_timeout_s"),
        ("cannot start '/usr/bin/python3': [Errno 11] Resource temporarily unavailable", "total_processes"),
    ],
)
def test_what_helps_is_told_by_the_words(error: str, option: str) -> None:
    assert option in advice(error)


def test_what_is_unknown_gets_no_advice() -> None:
    assert advice("the moon is full") == ""


def test_the_group_is_that_of_the_socket(tmp_path: Path, monkeypatch: Patch) -> None:
    path = tmp_path / "d"
    path.touch()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    monkeypatch.setattr("grp.getgrgid", lambda number: type("Group", (), {"gr_name": f"group{number}"}))
    assert socket_group() == f"group{os.getgid()}"
    path.unlink()
    assert socket_group() == "docker"


def pooled(engine: Engine) -> list[Any]:
    """Connections to the engine that are kept for later requests."""
    return [pool.pool for pool in engine._api._custom_adapter.pools._container.values()]


def test_a_closed_sandbox_leaves_no_socket_open(tmp_path: Path, monkeypatch: Patch) -> None:
    with engine_at(tmp_path / "d") as server:
        monkeypatch.setenv("DOCKER_HOST", server.url)
        sandbox = DockerSandbox(DockerConfig(python=PYTHON, preload=(), profile="default", quiet=True))
        with sandbox.session() as session:
            assert session.run("6 * 7").text == "42"
        stream, engine = sandbox._inside.link._stream, sandbox._engine
        assert stream.fileno() >= 0 and pooled(engine)
        sandbox.close()
        assert stream.fileno() == -1
        assert pooled(engine) == []


def test_a_start_that_fails_leaves_no_socket_open(tmp_path: Path, monkeypatch: Patch) -> None:
    engines: list[Engine] = []
    monkeypatch.setattr(client, "Engine", lambda: engines.append(Engine()) or engines[0])
    with engine_at(tmp_path / "d") as server:
        monkeypatch.setenv("DOCKER_HOST", server.url)
        with pytest.raises(SandboxUnavailable, match="unknown image 'x'"):
            start(image="x")
        assert [pooled(engine) for engine in engines] == [[]]


def test_an_engine_that_was_given_stays_the_givers(tmp_path: Path, monkeypatch: Patch) -> None:
    with engine_at(tmp_path / "d") as server:
        monkeypatch.setenv("DOCKER_HOST", server.url)
        with Engine() as engine:
            with pytest.raises(SandboxUnavailable, match="unknown image 'x'"):
                DockerSandbox(DockerConfig(image="x"), engine)
            assert pooled(engine)
        assert pooled(engine) == []
