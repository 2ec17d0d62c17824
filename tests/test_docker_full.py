"""Containers of a real engine, at DOCKER_HOST, that are full or held up: what the user reads, and who pays for it."""

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Any

import pytest

from axpo_sandbox import FilesRefused, SandboxUnavailable, Session, make_sandbox
from axpo_sandbox.docker.client import DockerSandbox
from tests.test_sandbox_stalled import SPOILS

pytestmark = pytest.mark.docker

TOTAL_BYTES = 600 << 20
TOTAL_PROCESSES = 120
PROFILES = ("nested", "default")


@pytest.fixture(scope="module", params=PROFILES)
def sandbox(request: pytest.FixtureRequest) -> Iterator[DockerSandbox]:
    options: dict[str, Any] = {"total_memory_bytes": TOTAL_BYTES, "total_processes": TOTAL_PROCESSES}
    with make_sandbox("docker", profile=request.param, preload=(), quiet=True, **options) as made:
        assert isinstance(made, DockerSandbox)
        if request.param == "nested" and made.isolation.tier != "docker+namespaces":
            pytest.skip(f"no namespaces in this engine's containers: {made.isolation.open}")
        yield made


@pytest.fixture(autouse=True)
def same_container(sandbox: DockerSandbox) -> Iterator[None]:
    """Nothing here ends the container."""
    before = sandbox.container_id
    yield
    assert sandbox.container_id == before


def value(session: Session, code: str) -> str | None:
    execution = session.run(code, timeout_s=60)
    assert execution.error is None, execution
    return execution.text


def refusal(session: Session, num_bytes: int) -> str:
    with pytest.raises(FilesRefused) as raised:
        session.write_files({"big": bytes(num_bytes)})
    return str(raised.value)


NO_SPACE = f"could not write big: [Errno {errno.ENOSPC}] {os.strerror(errno.ENOSPC)}"


def test_a_full_working_folder(sandbox: DockerSandbox) -> None:
    if sandbox.config.profile == "nested":
        limits, option = {"workdir_bytes": 8 << 20}, f" (limits.workdir_bytes is {8 << 20})"
    else:  # the engine caps the files of all sessions together
        limits, option = {}, " (the files of all sessions share half of total_memory_bytes)"
    with sandbox.session(limits={"file_bytes": 1 << 30, **limits}) as session, sandbox.session() as other:
        room = limits.get("workdir_bytes", TOTAL_BYTES // 2)
        fill = (
            f"with open('fill', 'wb') as f:\n    for _ in range(1 + ({room} >> 20)): f.write(bytes(1 << 20))"
        )
        error = session.run(fill, timeout_s=60).error
        assert error is not None
        assert (error.name, error.value) == ("OSError", f"[Errno {errno.ENOSPC}] {os.strerror(errno.ENOSPC)}")
        assert refusal(session, 2 << 20) == NO_SPACE + option
        if sandbox.config.profile == "nested":
            other.write_files({"small": b"1"})
        value(session, "import os; os.unlink('fill')")
        session.write_files({"small": b"1"})
        assert value(session, "open('small').read()") == "'1'"
        other.write_files({"small": b"1"})


def test_a_file_that_is_too_large(sandbox: DockerSandbox) -> None:
    with sandbox.session(limits={"file_bytes": 1 << 20}) as session:
        too_large = f"[Errno {errno.EFBIG}] {os.strerror(errno.EFBIG)} (limits.file_bytes is {1 << 20})"
        assert refusal(session, 2 << 20) == f"could not write big: {too_large}"


def hold(session: Session, num_mb: int) -> str | None:
    return value(session, f"x = bytearray(b'x') * ({num_mb} << 20); len(x) >> 20")


def test_a_session_is_not_blamed_for_the_memory_of_its_neighbours(sandbox: DockerSandbox) -> None:
    with contextlib.ExitStack() as stack:
        holders = [stack.enter_context(sandbox.session()) for _ in range(4)]
        assert [hold(holder, 90) for holder in holders] == ["90"] * 4
        with sandbox.session(limits={"memory_bytes": 1 << 30}) as session:
            value(session, "kept = 1")
            with pytest.raises(SandboxUnavailable) as raised:
                hold(session, 400)
            said = str(raised.value)
            assert f"of {TOTAL_BYTES >> 20} MB for all sessions together" in said
            assert said.endswith("which may have 1024 MB; raise total_memory_bytes, or run fewer sessions")
            assert [value(holder, "len(x) >> 20") for holder in holders] == ["90"] * 4
            for holder in holders:
                holder.close()
            assert (value(session, "kept"), hold(session, 400)) == ("1", "400")


def test_a_session_that_fills_the_memory_alone_is_told_so(sandbox: DockerSandbox) -> None:
    with sandbox.session() as session, sandbox.session() as other:
        value(other, "kept = 1")
        value(session, "kept = 2")
        error = session.run("x = bytearray(b'x') * (900 << 20)", timeout_s=60).error
        assert error is not None
        assert error.name == "OutOfMemory"
        assert (value(session, "kept"), value(other, "kept")) == ("2", "1")


HOG = """
import os, signal, time
children = []
try:
    while len(children) < 500:
        child = os.fork()
        if child == 0:
            time.sleep(600)
            os._exit(0)
        children.append(child)
except BlockingIOError:
    pass
"""


def test_no_session_starts_where_all_processes_are_in_use(sandbox: DockerSandbox) -> None:
    with sandbox.session(limits={"num_processes": 400}) as hog, sandbox.session() as other:
        value(other, "kept = 1")
        value(hog, HOG)
        with pytest.raises(SandboxUnavailable) as raised:
            sandbox.session()
        said = str(raised.value)
        assert said.startswith("no session could be started: ")
        assert f" of {TOTAL_PROCESSES} processes and threads: raise total_processes" in said
        assert said.endswith("lower limits.num_processes, or let fewer sessions run")
        assert value(other, "kept") == "1"
        value(hog, "for child in children: os.kill(child, signal.SIGKILL); os.waitpid(child, 0)")
        with sandbox.session() as session:
            assert value(session, "1") == "1"


@pytest.mark.parametrize("name", ["stop and exit", "reap", "fork"])
def test_a_session_that_is_held_up_costs_others_nothing(sandbox: DockerSandbox, name: str) -> None:
    with sandbox.session() as session, sandbox.session() as other:
        session.run("kept = 1")
        value(other, "kept = 2")
        session.run(SPOILS[name], timeout_s=2)
        # Where it hung before, this is an outage.
        results = [session.run("kept + 1", timeout_s=2) for _ in range(3)]
        assert results[-1].text == "2", results
        result = other.run("kept")
        assert (result.text, result.incidents) == ("2", ())
