"""Branches share nothing with each other, their session or its snapshot, whatever was open or mapped before."""

import mmap
from collections.abc import Iterator
from pathlib import Path

import pytest

from axpo_sandbox import Sandbox, Session, make_sandbox
from axpo_sandbox.local import apart


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with make_sandbox("local", preload=(), quiet=True) as made:
        if made.isolation.tier != "namespaces":
            pytest.skip(f"the strongest tier here is {made.isolation.tier}: {made.isolation.open}")
        yield made


def test_the_kernel_s_answer_and_its_list_name_the_same_memory(tmp_path: Path) -> None:
    (tmp_path / "file with a space").write_bytes(bytes(9000))
    with open(tmp_path / "file with a space", "r+b") as file:
        whole = mmap.mmap(file.fileno(), 0)
        part = mmap.mmap(file.fileno(), 808, access=mmap.ACCESS_READ, offset=8192)
        nameless = mmap.mmap(-1, 5000)
        private = mmap.mmap(-1, 5000, flags=mmap.MAP_PRIVATE)
    listed = list(apart._listed(Path("/proc/self/maps").read_bytes()))
    found = {(item.length, item.protection, item.offset, item.path) for item in listed}
    path = str(tmp_path / "file with a space")
    assert {(12288, 3, 0, path), (4096, 1, 8192, path)} <= found
    assert any(item.path == "/dev/zero (deleted)" and item.length >= 8192 for item in listed)
    with open("/proc/self/maps", "rb") as maps:
        try:
            assert list(apart._asked(maps.fileno())) == listed
        except OSError:
            pytest.skip("this kernel does not answer")
    own = apart.shared_mappings((str(tmp_path),))
    assert [item for item in own if item.path == path] == [item for item in listed if item.path == path]
    for item in (whole, part, nameless, private):
        item.close()


def text(session: Session, code: str) -> str | None:
    execution = session.run(code, timeout_s=60)
    assert execution.error is None, execution.error
    return execution.text


@pytest.mark.parametrize(
    ("before", "write", "read"),
    [
        ("import mmap; m = mmap.mmap(-1, 10000)", "m[:3] = b'new'", "m[:3]"),
        (
            "import mmap; open('a', 'wb').write(b'old'); f = open('a', 'r+b'); m = mmap.mmap(f.fileno(), 3)",
            "m[:3] = b'new'",
            "m[:3]",
        ),
        (
            "import mmap, os; f = open('a', 'w+b'); f.write(b'old'); f.flush(); m = mmap.mmap(f.fileno(), 3)\n"
            "os.unlink('a')",
            "m[:3] = b'new'",
            "m[:3]",
        ),
        (
            "import os; f = open('a', 'w+b', buffering=0); f.write(b'old'); os.unlink('a')",
            "os.pwrite(f.fileno(), b'new', 0)",
            "os.pread(f.fileno(), 3, 0), f.tell()",
        ),
        (
            "import os; os.mkdir('d'); open('d/a', 'w').write('old'); fd = os.open('d', os.O_RDONLY)",
            "f = os.open('a', os.O_WRONLY, dir_fd=fd); os.write(f, b'new')",
            "os.read(os.open('a', os.O_RDONLY, dir_fd=fd), 3)",
        ),
        (
            "import os; f = open(os.__file__)",
            "f.seek(10)",
            "f.tell()",
        ),
    ],
)
def test_what_a_branch_writes_no_other_sees(sandbox: Sandbox, before: str, write: str, read: str) -> None:
    with sandbox.session() as session:
        text(session, before)
        first = text(session, read)
        with session.snapshot() as snapshot:
            left, right = snapshot.fork(2)
            with left, right:
                assert text(left, read) == first
                text(left, write)
                assert text(left, read) != first
                assert text(right, read) == first
                text(session, write)
                (later,) = snapshot.fork()
                with later:
                    assert text(later, read) == first


def test_memory_shared_by_a_branch_and_its_own_children_stays_shared(sandbox: Sandbox) -> None:
    code = """
import os
child = os.fork()
if child == 0:
    m[0] = 7
    os._exit(0)
os.waitpid(child, 0)
m[0]
"""
    with sandbox.session() as session:
        text(session, "import mmap; m = mmap.mmap(-1, 4096)")
        (branch,) = session.snapshot().fork()
        with branch:
            assert text(branch, code) == "7"
        assert text(session, "m[0]") == "0"


def test_a_file_mapped_by_a_branch_is_the_branch_s_own_file(sandbox: Sandbox) -> None:
    with sandbox.session() as session:
        text(session, "import mmap; open('a', 'wb').write(bytes(9))")
        text(session, "f = open('a', 'r+b'); m = mmap.mmap(f.fileno(), 9)")
        (branch,) = session.snapshot().fork()
        with branch:
            assert text(branch, "m[0] = 65; open('a', 'rb').read(1)") == "b'A'"


@pytest.mark.parametrize(
    ("before", "use"),
    [
        ("import os; r, w = os.pipe()", "os.write(w, b'x')"),
        ("import socket; a, b = socket.socketpair()", "a.send(b'x')"),
        ("import os; e = os.eventfd(0)", "os.eventfd_write(e, 1)"),
    ],
)
def test_a_branch_has_no_way_to_speak_that_was_there_before(sandbox: Sandbox, before: str, use: str) -> None:
    with sandbox.session() as session:
        text(session, before)
        snapshot = session.snapshot()
        assert any("pipes or sockets" in warning for warning in snapshot.warnings)
        (branch,) = snapshot.fork()
        with branch:
            error = branch.run(use).error
            assert error is not None and (error.name, "Bad file descriptor" in error.value) == (
                "OSError",
                True,
            )
            # The number is taken: what is opened now does not get it, and is not closed with the old object.
            held = "dict(globals()).get('r') or dict(globals()).get('e') or a.fileno()"
            assert text(branch, f"import os; n = os.open('/dev/null', 0); n == ({held})") == "False"
        text(session, use)  # where it was made it goes on
