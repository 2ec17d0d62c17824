"""The docker backend in a real engine, at DOCKER_HOST: what holds, what is put back, that nothing stays behind."""

import contextlib
import errno
import hashlib
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import axpo_env
from axpo_env.contract import check_forks, check_snapshots, make_env
from axpo_sandbox import SandboxUnavailable, Session, SessionClosed, contract, make_sandbox
from axpo_sandbox.docker import reaper
from axpo_sandbox.docker.client import DockerSandbox, DockerSnapshot
from axpo_sandbox.docker.config import DockerConfig
from axpo_sandbox.docker.container import Container
from axpo_sandbox.docker.engine import Engine
from axpo_sandbox.docker.frames import Unwrapper
from axpo_sandbox.docker.link import Link
from axpo_sandbox.pool import SandboxPool

pytestmark = pytest.mark.docker

REPOSITORY = Path(__file__).parents[1]
PROFILES = ("nested", "default")
SECRET = "AXPO_TEST_SECRET"


def make_docker(**options: Any) -> DockerSandbox:
    made = make_sandbox("docker", **{"preload": (), "quiet": True, **options})
    assert isinstance(made, DockerSandbox)
    return made


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """The engine; at the end no container of ours may be left in it."""
    engine = Engine()
    yield engine
    assert eventually(lambda: ours(engine) == [])


@pytest.fixture(scope="module", params=PROFILES)
def sandbox(engine: Engine, request: pytest.FixtureRequest) -> Iterator[DockerSandbox]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SECRET, "x")
        with make_docker(profile=request.param, preload=("numpy", "matplotlib", "PIL")) as made:
            if request.param == "nested" and made.isolation.tier != "docker+namespaces":
                pytest.skip(f"no namespaces in this engine's containers: {made.isolation.open}")
            yield made


@pytest.fixture(scope="module")
def plain(engine: Engine) -> Iterator[DockerSandbox]:
    with make_docker() as made:
        yield made


def ours(engine: Engine) -> list[str]:
    """Containers that this process owns."""
    return [name for name, labels in engine.containers(reaper.LABEL) if labels == reaper.owner_labels()]


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether it comes true before patience ends."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def exists(engine: Engine, container_id: str) -> bool:
    return container_id in [name for name, _ in engine.containers(reaper.LABEL)]


def value(session: Session, code: str) -> str | None:
    execution = session.run(code, timeout_s=60)
    assert execution.error is None, execution
    return execution.text


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.name)
def test_both_profiles_keep_the_contract(sandbox: DockerSandbox, check: contract.Check) -> None:
    check.run(sandbox)


def test_what_it_says_of_its_isolation(sandbox: DockerSandbox) -> None:
    found = sandbox.isolation
    not_held = {name for name, holds in found.layers.items() if not holds}
    if sandbox.config.profile == "nested":
        assert not_held <= {"branch_signals"}  # which takes that the engine's filter has no listener
    else:
        assert found.tier == "docker+landlock"
        expected = {"process_tree", "branch_files", "session_processes"}
        assert expected <= not_held <= expected | {"branch_signals", "container_signals", "container_network"}
    assert len(found.open) == len(not_held)


ATTACKS = """
import ctypes, json, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def works(attempt):
    try:
        return bool(attempt())
    except (OSError, PermissionError):
        return False
def status(field):
    return [line.split()[1] for line in open("/proc/self/status") if line.startswith(field + ":")][0]
def readable(path):
    return works(lambda: os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(1))
print(json.dumps({
    "root": 0 in (os.getuid(), os.geteuid()),
    "groups": 0 in os.getgroups(),
    "writes to the image": any(works(lambda: open(p + "/x", "w")) for p in ("/usr", "/etc", "/var", "/home", "/")),
    "devices": works(lambda: open("/dev/mem", "rb")) or works(lambda: os.mknod("d", 0o20600, os.makedev(1, 1))),
    "relay's code": any(readable(f"/tmp/{name}") for name in ("axpo-sandbox-1.zip",)),
    "first process": readable("/proc/1/environ") and b"PATH" in open("/proc/1/environ", "rb").read(),
    "engine's socket": any(readable(p) for p in ("/var/run/docker.sock", "/run/docker.sock")),
    "unshare": libc.unshare(0x10000000) == 0 or libc.unshare(0x20000) == 0,
    "mount": libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0,
    "sockets": works(lambda: socket.socket()) or works(lambda: socket.socket(socket.AF_UNIX)),
    "kernel": any(readable(p) for p in ("/proc/kcore", "/proc/sysrq-trigger", "/sys/kernel", "/proc/sys/kernel")),
}))
"""


def test_attacks_from_inside_fail(sandbox: DockerSandbox) -> None:
    with sandbox.session() as session:
        execution = session.run(ATTACKS, timeout_s=60)
        assert execution.error is None, execution
        worked = [name for name, succeeded in json.loads(execution.stdout).items() if succeeded]
        assert worked == []
        assert value(session, f"import os; {SECRET!r} in os.environ") == "False"


# What the container itself refuses, before any layer inside: tried by its first process, in the relay's place.
OUTER = """
import ctypes, json, os, socket
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def errno_of(number, *arguments):
    ctypes.set_errno(0)
    return ctypes.get_errno() if libc.syscall(number, *arguments) < 0 else 0
def errno_in(attempt):
    try:
        attempt()
        return 0
    except OSError as error:
        return error.errno
numbers = {"bpf": 321, "perf_event_open": 298, "keyctl": 250, "add_key": 248, "kexec_load": 246, "ptrace": 101,
    "userfaultfd": 323, "open_by_handle_at": 304, "io_uring_setup": 425, "fsopen": 430, "open_tree": 428,
    "move_mount": 429, "process_vm_readv": 310, "init_module": 175, "mknod": 133, "personality": 135}
status = dict(line.split(":\t", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "calls": {name: errno_of(number, 0, 0, 0, 0, 0) for name, number in numbers.items()},
    "sockets": [errno_in(lambda: socket.socket(family, socket.SOCK_SEQPACKET)) for family in (38, 40)],
    "root": errno_in(lambda: open("/x", "w")), "usr": errno_in(lambda: open("/usr/x", "w")),
    "interfaces": [name for _, name in socket.if_nameindex()],
    "status": [status[key].strip() for key in ("CapEff", "CapPrm", "CapBnd", "NoNewPrivs", "Seccomp")],
    "ids": [*os.getresuid(), *os.getresgid(), *os.getgroups()],
}), flush=True)
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of system calls are x86_64's")
@pytest.mark.parametrize("profile", PROFILES)
def test_what_the_container_itself_refuses(
    engine: Engine, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("axpo_sandbox.docker.container.BOOT", OUTER)
    config = DockerConfig(total_memory_bytes=1 << 30)
    container = Container(engine, engine.find_image(config.image), config, profile)
    try:
        container.stream.settimeout(60)
        output, unwrapper = b"", Unwrapper()
        while not output.endswith(b"\n"):
            received = container.stream.recv(1 << 16)
            assert received
            output += b"".join(chunk for _, chunk in unwrapper.feed(received))
    finally:
        container.stream.close()
        container.remove()
    found = json.loads(output)
    if profile == "nested":  # the engine's own differs from version to version
        assert set(found["calls"].values()) == {errno.EPERM}, found["calls"]
        assert found["sockets"] == [errno.EAFNOSUPPORT] * 2
    assert (found["root"], found["usr"]) == (errno.EROFS, errno.EROFS)
    assert found["interfaces"] == ["lo"]
    assert found["status"] == ["0" * 16, "0" * 16, "0" * 16, "1", "2"]
    assert set(found["ids"]) == {65534}


def test_sessions_of_a_container_do_not_see_each_other(sandbox: DockerSandbox) -> None:
    with sandbox.session(files={"secret": b"42"}) as left, sandbox.session() as right:
        where = value(left, "import os; os.path.realpath('secret'), os.getpid()")
        assert where is not None
        path, pid = json.loads(where.replace("(", "[").replace(")", "]").replace("'", '"'))
        value(left, "import time; open('secret', 'a').close()")
        reach = f"import os\ntry:\n    r = open({path!r}).read()\nexcept OSError: r = None\nr"
        assert value(right, reach) is None
        signal_it = f"try:\n    os.kill({pid}, 0); r = 'reached' if {pid} != os.getpid() else None\n"
        assert value(right, signal_it + "except OSError: r = None\nr") is None
        assert value(left, "open('secret').read()") == "'42'"


def test_memory_and_processes_of_the_container_are_limited(engine: Engine) -> None:
    with make_docker(total_memory_bytes=500 << 20, total_processes=70) as small, small.session() as session:
        value(session, "x = 1")
        container = small.container_id
        hog = session.run("hog = b'x' * (1 << 30)", timeout_s=60)  # within its own limit, not the container's
        assert hog.error is not None
        assert hog.error.name == "OutOfMemory"
        bomb = (
            "import os, time\nn = 0\ntry:\n  while n < 500:\n    if os.fork() == 0: time.sleep(60); os._exit(0)\n"
            "    n += 1\nexcept BlockingIOError: pass\nn"
        )
        with small.session(limits={"num_processes": 400}) as other:
            count = value(other, bomb)
        assert count is not None
        assert int(count) < 70
        assert value(session, "x") == "1"
        assert small.container_id == container


def test_a_session_outlives_its_container(engine: Engine, plain: DockerSandbox) -> None:
    with plain.session(files={"a": b"1"}, seed=1) as session:
        value(session, "import random\nx = random.random()")
        with session.snapshot() as snapshot:
            before = value(session, "x")
            engine.remove(plain.container_id)
            after = session.run("x, open('a').read()", timeout_s=60)
            assert (after.text, after.error) == (f"({before}, '1')", None)
            assert any("the container ended" in warning for warning in after.warnings)
            (branch,) = snapshot.fork()
            with branch:
                assert value(branch, "x") == before


def test_a_cell_outlives_its_container(engine: Engine, plain: DockerSandbox) -> None:
    with plain.session() as session:
        value(session, "import time\nx = 1")
        container = plain.container_id
        threading.Timer(0.5, engine.remove, (container,)).start()
        execution = session.run("time.sleep(3); x + 1", timeout_s=60)
        assert (execution.text, execution.error) == ("2", None)
        assert plain.container_id != container


def test_memory_in_files_counts(engine: Engine) -> None:
    with make_docker(total_memory_bytes=300 << 20) as small:
        with small.session(limits={"workdir_bytes": 1 << 30, "file_bytes": 1 << 30}) as session:
            written = session.run("open('big', 'wb').write(bytes(700 << 20))", timeout_s=60)
            assert written.error is not None
        with small.session() as session:
            assert value(session, "1") == "1"


def test_memory_is_measured(plain: DockerSandbox) -> None:
    with plain.session() as session:
        before = plain.memory_bytes()
        value(session, "x = bytearray(b'x') * (100 << 20)")
        assert 90 << 20 < plain.memory_bytes() - before < 400 << 20


def test_many_sessions_and_branches(sandbox: DockerSandbox) -> None:
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(sandbox.session()) for _ in range(40)]
        for number, session in enumerate(sessions):
            value(session, f"import subprocess\nx = {number}")
        with sessions[7].snapshot() as snapshot:
            branches = [stack.enter_context(branch) for branch in snapshot.fork(40)]
        assert {value(branch, "x") for branch in branches} == {"7"}
        done = value(branches[-1], "subprocess.run(['true']).returncode")
        assert (done, value(sessions[0], "subprocess.run(['true']).returncode")) == ("0", "0")


def test_nothing_stays_behind_inside(engine: Engine, plain: DockerSandbox) -> None:
    def num_processes() -> int:
        return len(engine._api.top(plain.container_id)["Processes"])

    def use() -> None:
        with plain.session() as session:
            value(session, "x = 1")
            with session.snapshot() as snapshot:
                for branch in snapshot.fork(3):
                    with branch:
                        value(branch, "x")
                session.run("import os; os._exit(1)")
                value(session, "x")

    use()
    assert eventually(lambda: num_processes() < 10)
    before, files, threads = num_processes(), len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(25):
        use()
    assert eventually(lambda: num_processes() <= before)
    assert len(os.listdir("/proc/self/fd")) <= files
    assert threading.active_count() <= threads


def test_a_pool_of_containers(engine: Engine) -> None:
    options = {"preload": (), "quiet": True}
    with SandboxPool.of("docker", options, num_sandboxes=2, max_sessions=4) as pool:
        assert len(ours(engine)) >= 2
        with pool.session() as first, pool.session() as second:
            value(first, "x = 1")
            value(second, "x = 2")
            with first.snapshot() as snapshot:
                (branch,) = snapshot.fork()
            with branch:
                assert (value(branch, "x"), value(second, "x")) == ("1", "2")
        assert pool.memory_bytes() > 10 << 20


def test_much_data_in_both_directions(plain: DockerSandbox) -> None:
    content = os.urandom(1 << 20) * 24
    limits = {"output_bytes": 8 << 20, "file_bytes": 32 << 20}
    with plain.session(files={"big": content}, limits=limits) as session:
        digest = value(session, "import hashlib; hashlib.sha256(open('big', 'rb').read()).hexdigest()")
        assert digest == repr(hashlib.sha256(content).hexdigest())
        assert session.run("print('ü' * 3_000_000)", timeout_s=60).stdout == "ü" * 3_000_000 + "\n"


def test_journals_go_from_backend_to_backend(plain: DockerSandbox) -> None:
    with make_sandbox("local", preload=(), quiet=True) as local:
        for here, there in ((local, plain), (plain, local)):
            with here.session(files={"a": b"5"}, seed=3) as session:
                session.run("import random\nx = int(open('a').read()) + random.random()")
                expected = value(session, "x")
                data = session.snapshot().to_bytes()
            with there.snapshot_from_bytes(data, strict=True) as snapshot:
                (branch,) = snapshot.fork()
                with branch:
                    assert value(branch, "x") == expected


def test_a_snapshot_is_kept_as_an_image(engine: Engine, plain: DockerSandbox) -> None:
    name = f"axpo-test-{uuid.uuid4().hex}:kept"
    with plain.session(files={"a": b"5"}, seed=4) as session:
        value(session, "import random\nx = random.random(), open('a').read()")
        expected = value(session, "x")
        snapshot = session.snapshot()
        assert isinstance(snapshot, DockerSnapshot)
        image_id = snapshot.commit(name)
        with pytest.raises(SandboxUnavailable, match="lowercase"):
            snapshot.commit("Not A Name")
    try:
        assert image_id == engine.find_image(name)
        with make_docker() as other, other.snapshot_from_image(name, strict=True) as again:
            (branch,) = again.fork()
            assert value(branch, "x") == expected
        with make_docker(image=name) as on_top, on_top.snapshot_from_image(name) as again:
            (branch,) = again.fork()
            assert value(branch, "x") == expected
            assert json.loads(again.to_bytes())["origin"]["image_id"] == plain.origin()["image_id"]
    finally:
        engine.remove_image(image_id)
    with pytest.raises(SandboxUnavailable, match="was not made of a snapshot"):
        plain.snapshot_from_image(plain.config.image)
    with pytest.raises(SandboxUnavailable, match="unknown image"):
        plain.snapshot_from_image(name)


def test_what_is_wrong_with_an_image_is_said(engine: Engine) -> None:
    before = sorted(ours(engine))
    with pytest.raises(SandboxUnavailable, match=r"image 'axpo-sandbx'; known: .*; nearest: axpo-sandbox"):
        make_docker(image="axpo-sandbx")
    with pytest.raises(SandboxUnavailable, match="'A B' is no name of an image"):
        make_docker(image="A B")
    with pytest.raises(SandboxUnavailable, match="python9"):
        make_docker(python="python9")
    with pytest.raises(SandboxUnavailable, match="does not work: the container ended"):
        make_docker(python="false")
    assert eventually(lambda: sorted(ours(engine)) == before)


def test_a_forked_process_may_not_use_it(plain: DockerSandbox) -> None:
    with plain.session() as session:
        value(session, "x = 1")
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                plain.session()
            except SandboxUnavailable as error:
                os.write(writer, str(error).encode())
            finally:
                with contextlib.suppress(BaseException):
                    plain.close()
                os._exit(0)
        os.close(writer)
        with open(reader) as file:
            assert "forked from the one that made it" in file.read()
        os.waitpid(child, 0)
        assert value(session, "x") == "1"


TRAINER = """
import sys, time
from axpo_sandbox import make_sandbox
sandbox = make_sandbox("docker", preload=(), quiet=True)
session = sandbox.session()
session.run("x = 1")
print(sandbox.container_id, flush=True)
time.sleep(600)
"""
MAKER = """
import os, signal
from axpo_sandbox.docker.config import DockerConfig
from axpo_sandbox.docker.container import Container
from axpo_sandbox.docker.config import DockerConfig
from axpo_sandbox.docker.container import Container
from axpo_sandbox.docker.engine import Engine
from axpo_sandbox.docker.frames import Unwrapper
class Slow(Engine):
    def start(self, container_id):
        print(container_id, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
engine = Slow()
Container(engine, engine.find_image("axpo-sandbox:latest"), DockerConfig(), "default")
"""


def begin(code: str) -> tuple[subprocess.Popen[str], str]:
    """A process that runs `code`, and the first line it prints."""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_a_killed_trainer_leaves_no_container(engine: Engine) -> None:
    process, container = begin(TRAINER)
    assert exists(engine, container)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert eventually(lambda: not exists(engine, container))
    process.stdout.close()  # type: ignore[union-attr]


def test_a_container_that_was_never_started_is_reaped(engine: Engine, plain: DockerSandbox) -> None:
    for reap in (lambda: reaper.reap(engine), lambda: reaper.main(), lambda: make_docker().close()):
        process, container = begin(MAKER)
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]
        assert exists(engine, container)
        reap()
        assert not exists(engine, container)
    with plain.session() as session:
        assert value(session, "1") == "1"


def test_closing_leaves_no_container(engine: Engine) -> None:
    made = make_docker()
    container = made.container_id
    session = made.session()
    session.run("import time")
    ends: list[str] = []

    def wait() -> None:
        try:
            session.run("time.sleep(600)", timeout_s=900)
        except SessionClosed as error:
            ends.append(str(error))

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.2)
    made.close()
    waiting.join(30)
    assert ends == ["this session was closed while a cell ran"]
    assert eventually(lambda: not exists(engine, container))


def test_a_hung_container_is_replaced(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("axpo_sandbox.docker.remote._SLACK_S", 1.0)
    with make_docker(fallback="replay") as made, made.session() as session:
        value(session, "x = 1")
        container = made.container_id
        engine._api.pause(container)
        execution = session.run("x", timeout_s=1)
        assert execution.text == "1"
        assert any("did not answer within 2 s" in warning for warning in execution.warnings)
        assert made.container_id != container
        assert eventually(lambda: not exists(engine, container))


def test_the_stream_is_read_without_delay() -> None:
    """One write per frame, and no waiting for more: the stream is a plain socket."""
    ours, theirs = socket.socketpair()
    link = Link(ours)
    link.send(b"x" * 1000)
    assert theirs.recv(4096) == b"x" * 1000
    link.close()
    theirs.close()


@pytest.mark.parametrize("env_id", sorted(axpo_env.IDS))
def test_environments_keep_the_snapshot_law(plain: DockerSandbox, env_id: str) -> None:
    make = make_env(env_id, {"difficulty": "nano", "split": "test", "sandbox": plain})
    check_snapshots(make)
    check_forks(make)
