"""The local backend beyond the contract: tiers, users, fallbacks, and that nothing is left behind."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import venv
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from axpo_sandbox import (
    Execution,
    FilesRefused,
    Limits,
    SandboxClosed,
    SandboxUnavailable,
    Session,
    SessionClosed,
    SnapshotRefused,
    UnisolatedRefused,
    contract,
    make_sandbox,
)
from axpo_sandbox.backend import Starved
from axpo_sandbox.local.cgroup import MemoryState
from axpo_sandbox.local.client import LocalSandbox, LocalSession
from axpo_sandbox.local.live import Live
from axpo_sandbox.local.processes import descendants_of
from benchmarks.sandbox_soak import soak
from tests.patience import eventually


@pytest.fixture(scope="module")
def sandbox() -> Iterator[LocalSandbox]:
    with make_local() as made:
        yield made


def make_local(**options: Any) -> LocalSandbox:
    made = make_sandbox("local", **{"preload": (), "quiet": True, **options})
    assert isinstance(made, LocalSandbox)
    return made


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def error_name(execution: Execution) -> str | None:
    return None if execution.error is None else execution.error.name


@pytest.mark.parametrize("tier", ["landlock", "none"])
def test_lower_tiers_keep_the_contract_too(tier: str) -> None:
    with make_local(isolation=tier, allow_unisolated=True, preload=("numpy",)) as weaker:
        assert weaker.isolation.tier == tier
        assert weaker.isolation.layers["files"] == (tier == "landlock")
        assert weaker.isolation.layers["network"] == (tier == "landlock")
        assert not weaker.isolation.layers["branch_files"]
        assert not weaker.isolation.layers["session_files"]
        for check in contract.CHECKS:
            if check.name != "images":
                check.run(weaker)


def test_landlock_alone_keeps_files_network_and_signals(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    with make_local(isolation="landlock") as weaker, weaker.session() as session, weaker.session() as other:
        assert error_name(session.run(f"open({str(secret)!r})")) == "PermissionError"
        assert error_name(session.run("open('/etc/passwd')")) == "PermissionError"
        assert error_name(session.run("import socket; socket.socket()")) == "OSError"
        assert error_name(session.run(f"import os; os.kill({os.getpid()}, 9)")) == "PermissionError"
        assert error_name(session.run(f"open('/proc/{os.getpid()}/environ')")) == "PermissionError"
        theirs = other.run("import os; open('mine', 'w').close(); os.getcwd()").text
        assert error_name(session.run(f"import os; os.listdir({theirs})")) == "PermissionError"


def test_resource_limits_alone_are_refused_unless_asked_for() -> None:
    with pytest.raises(UnisolatedRefused) as raised:
        make_local(isolation="none")
    assert "allow_unisolated=True" in str(raised.value)


def test_one_warning_names_what_is_open() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with make_local(isolation="landlock", quiet=False):
            pass
    (warning,) = [item for item in caught if "local sandbox" in str(item.message)]
    assert "Branches keep their files apart by convention alone" in str(warning.message)
    assert warning.filename == __file__


ORDINARY_USER = """
import json, sys
sys.path.insert(0, sys.argv[1])
from axpo_sandbox import make_sandbox
with make_sandbox("local", preload=(), quiet=True) as sandbox:
    with sandbox.session(files={"a": b"1"}, limits={"num_processes": 8}) as session:
        session.run("x = 1; f = open('a', 'r+')")
        with session.snapshot() as snapshot:
            left, right = snapshot.fork(2)
        left.run("x += 1; f.write('2'); f.flush()")
        bomb = "import os, time\\nfor _ in range(99):\\n    os.fork() or time.sleep(99)"
        print(json.dumps({
            "tier": sandbox.isolation.tier,
            "open": [name for name, holds in sandbox.isolation.layers.items() if not holds],
            "left": left.run("x, open('a').read()").text,
            "right": right.run("x, open('a').read()").text,
            "timeout": session.run("while True: pass", timeout_s=0.3).error.name,
            "bomb": session.run(bomb, timeout_s=30).error.name,
            "after": session.run("x").text,
        }))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_an_ordinary_user_gets_the_same_isolation(repository: Path, tmp_path: Path) -> None:
    check = "import sys; sys.exit(sys.version_info < (3, 11))"
    if subprocess.run(["/usr/bin/python3", "-c", check]).returncode != 0:
        pytest.skip("no python 3.11 that every user may run")
    package = Path(tempfile.mkdtemp(prefix="axpo-test-"))
    try:
        shutil.copytree(repository / "sandbox/axpo_sandbox", package / "axpo_sandbox")
        package.chmod(0o755)
        done = subprocess.run(
            ["/usr/bin/python3", "-B", "-c", ORDINARY_USER, str(package)],
            user=65534, group=65534, extra_groups=[], cwd="/", capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    finally:
        shutil.rmtree(package)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    if report.pop("tier") != "namespaces":
        pytest.skip("this machine lets ordinary users make no namespaces")
    assert set(report.pop("open")) <= {"total_memory", "total_processes"}
    assert report == {
        "left": "(2, '2')",
        "right": "(1, '1')",
        "timeout": "Timeout",
        "bomb": "BlockingIOError",
        "after": "1",
    }


def test_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fds_before = sorted(os.listdir("/proc/self/fd"))
    processes_before = descendants_of(os.getpid())
    for isolation in ("auto", "landlock"):
        made = make_local(isolation=isolation)
        sessions: list[Session] = [made.session(files={"a": bytes(1000)}) for _ in range(3)]
        snapshots = [session.snapshot() for session in sessions]
        sessions += snapshots[0].fork(3)
        sessions[0].run("while True: pass", timeout_s=0.2)
        sessions[1].run("import os; os._exit(1)")
        sessions[2].close()
        snapshots[0].release()
        assert os.listdir(tmp_path) != []
        made.close()
        made.close()
        with pytest.raises(SandboxClosed):
            made.session()
        with pytest.raises(SessionClosed):
            sessions[0].run("1")
        del made, sessions, snapshots
    assert os.listdir(tmp_path) == []
    assert sorted(os.listdir("/proc/self/fd")) == fds_before
    assert descendants_of(os.getpid()) == processes_before


def test_closed_and_forgotten_sessions_end_their_processes(sandbox: LocalSandbox) -> None:
    session = sandbox.session()
    (branch,) = session.snapshot().fork()  # the snapshot is forgotten at once
    assert isinstance(branch, LocalSession)
    pids = [session.process_id, branch.process_id]
    session.close()
    assert eventually(lambda: not is_running(pids[0]))
    assert branch.run("1 + 1").text == "2"
    assert is_running(pids[1])
    del branch
    assert eventually(lambda: not is_running(pids[1]))


TRAINER = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from axpo_sandbox import make_sandbox
from axpo_sandbox.local.processes import descendants_of
sandbox = make_sandbox("local", preload=(), quiet=True, isolation=sys.argv[2])
session = sandbox.session()
session.run("import subprocess; subprocess.Popen(['sleep', '1000'], start_new_session=True) and None")
branch, = session.snapshot().fork()
pids = descendants_of(os.getpid())
worker = os.fork()
if worker == 0:  # one that holds copies of all descriptors
    os.close(1)
    time.sleep(1000)
print(worker, *pids, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("isolation", ["auto", "landlock"])
def test_all_ends_with_the_process_that_made_it(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isolation: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-B", "-c", TRAINER, str(repository), isolation],
        env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    worker, *pids = [int(word) for word in done.stdout.split()]
    try:
        assert len(pids) >= 6
        assert eventually(lambda: not any(map(is_running, pids)))
        assert is_running(worker)
        assert len(os.listdir(tmp_path)) == 1
    finally:
        os.kill(worker, signal.SIGKILL)
    assert eventually(lambda: not is_running(worker))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with make_local():
        assert len(os.listdir(tmp_path)) == 1  # its own: what the other left was swept away
    assert os.listdir(tmp_path) == []


def test_replay_is_a_fallback_that_costs_nothing_before(sandbox: LocalSandbox) -> None:
    with make_local(fallback="replay") as replaying, replaying.session(files={"a": b"1"}, seed=3) as session:
        session.run("import random; x = [random.random()]; open('b', 'w').write('2')")
        draws = session.run("x.append(random.random()); x").text
        pids = [session.process_id]
        assert error_name(session.run("x = 0; import os; os._exit(1)")) == "Exited"
        pids.append(session.process_id)
        assert session.run("x").text == draws
        assert session.run("open('a').read() + open('b').read()").text == "'12'"
        assert len(set(pids)) == 2


def test_replay_that_diverges_is_reported() -> None:
    with make_local(fallback="replay") as replaying, replaying.session() as session:
        session.run("import os; os.urandom(8).hex()")
        assert session.run("os._exit(1)").warnings == ("replayed cell 0 gave another text",)
        assert session.run("1").warnings == ()


def test_a_lost_snapshot_is_replayed(sandbox: LocalSandbox) -> None:
    with sandbox.session() as session:
        session.run("x = 41")
        snapshot = session.snapshot()
        parent = session.process_id
        (frozen,) = descendants_of(parent)
        os.kill(frozen, signal.SIGKILL)
        (branch,) = snapshot.fork()
        result = branch.run("x + 1")
        assert result.text == "42"
        assert "its cells were replayed" in result.warnings[0]
        assert session.run("x").text == "41"


def test_a_dead_zygote_is_started_again_and_sessions_come_back() -> None:
    with make_local() as made:
        session = made.session()
        session.run("x = 41")
        pid = session.process_id
        os.kill(made.zygote_pid, signal.SIGKILL)
        assert eventually(lambda: not is_running(pid))
        result = session.run("x + 1")
        assert (result.text, len(result.warnings)) == ("42", 1)
        assert made.session().run("1").text == "1"


def test_a_snapshot_warns_of_what_a_fork_does_not_carry(sandbox: LocalSandbox) -> None:
    with sandbox.session() as session:
        assert session.snapshot().warnings == ()
        session.run(
            "import subprocess, threading\nstop = threading.Event()\n"
            "threading.Thread(target=stop.wait, daemon=True).start()\n"
            "child = subprocess.Popen(['sleep', '1000'])\nimport os; pipe = os.pipe()"
        )
        assert session.snapshot().warnings == (
            "1 threads of the session do not exist in its branches",
            "1 child processes of the session do not exist in its branches",
            "2 pipes or sockets of the session do not exist in its branches",
        )


def test_closing_ends_a_cell_that_another_thread_waits_for(sandbox: LocalSandbox) -> None:
    session = sandbox.session()
    outcome: list[type[BaseException] | str] = []

    def wait() -> None:
        try:
            session.run("print('begun', flush=True)\nwhile True: pass", timeout_s=100)
            outcome.append("returned")
        except SessionClosed:
            outcome.append(SessionClosed)

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert eventually(session.is_busy)
    session.close()
    waiter.join(timeout=30)
    assert outcome == [SessionClosed]


def test_a_forked_process_is_refused(sandbox: LocalSandbox) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            sandbox.session()
        except SandboxUnavailable as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as file:
        assert file.read() == "a sandbox cannot be used in a process forked from the one that made it"
    os.waitpid(child, 0)
    with sandbox.session() as session:
        assert session.run("1").text == "1"


def test_an_interpreter_that_cannot_start_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(SandboxUnavailable, match="cannot start"):
        make_local(python=str(tmp_path / "python"))
    with pytest.raises(SandboxUnavailable, match="does not answer"):
        make_local(python="/bin/false")


def test_preloaded_packages_are_there_and_missing_ones_skipped() -> None:
    with make_local(preload=("json", "no_such_package")) as made, made.session() as session:
        assert session.run("import sys; 'json' in sys.modules").text == "True"
        assert made.missing == {"no_such_package": "ModuleNotFoundError: No module named 'no_such_package'"}


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        ({"workdir_bytes": 1 << 20}, f"{os.strerror(errno.ENOSPC)} (limits.workdir_bytes is 1048576)"),
        ({"file_bytes": 1 << 19}, f"{os.strerror(errno.EFBIG)} (limits.file_bytes is 524288)"),
    ],
)
def test_files_that_are_refused_name_the_limit(
    sandbox: LocalSandbox, limits: dict[str, int], why: str
) -> None:
    if sandbox.isolation.tier != "namespaces":
        pytest.skip("working folders are not limited here")
    with pytest.raises(FilesRefused) as raised:
        sandbox.session(files={"big": bytes(2 << 20)}, limits=limits)
    assert str(raised.value).startswith("could not write big: [Errno ") and str(raised.value).endswith(why)


def test_open_files_follow_into_branches_with_their_flags(sandbox: LocalSandbox) -> None:
    with sandbox.session(files={"a": b"0123456789", "log": b"x"}) as session:
        session.run("reader = open('a'); reader.seek(3); same = open('a'); same.seek(7)")
        session.run("log = open('log', 'a')")
        (branch,) = session.snapshot().fork()
        session.run("open('a', 'w').write('changed'); log.write('session'); log.flush()")
        branch.run("log.write('branch'); log.flush()")
        seen = branch.run("reader.read(2), same.read(2), open('log').read()").text
        assert seen == "('34', '78', 'xbranch')"
        assert session.run("open('log').read()").text == "'xsession'"


def test_an_interpreter_installed_below_tmp_can_be_used() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)  # sessions are nobody
        venv.create(folder, symlinks=True)
        with make_sandbox("local", python=f"{folder}/bin/python", preload=(), quiet=True) as sandbox:
            if sandbox.isolation.tier != "namespaces":
                pytest.skip("only namespaces give code a /tmp of its own")
            session = sandbox.session()
            run = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(6 * 7)'], check=True)"
            assert session.run(run).stdout == "42\n"
            session.run("import tempfile; file = tempfile.NamedTemporaryFile()")
            assert session.run("file.write(b'x'), tempfile.gettempdir()").text == "(1, '/dev/shm')"


def test_a_strict_snapshot_is_refused_where_branches_would_lack_something(sandbox: LocalSandbox) -> None:
    with sandbox.session() as session:
        session.snapshot(strict=True).release()
        session.run("import threading\nstop = threading.Event(); threading.Thread(target=stop.wait).start()")
        with pytest.raises(SnapshotRefused, match="1 threads of the session do not exist"):
            session.snapshot(strict=True)
        assert len(session.snapshot().warnings) == 1
        session.run("import subprocess\nchild = subprocess.Popen(['sleep', '60']); stop.set()")
        with pytest.raises(SnapshotRefused, match="1 child processes"):
            session.snapshot(strict=True)
        session.run("child.kill(); child.wait(); ends = __import__('os').pipe()")
        with pytest.raises(SnapshotRefused, match="2 pipes or sockets"):
            session.snapshot(strict=True)
        session.run("[__import__('os').close(end) for end in ends]")
        session.snapshot(strict=True).release()


def test_a_soak_in_small_leaves_nothing() -> None:
    report = soak(make_local, num_sessions=24, branches_per_session=3, kill_share=0.15, server_kills=1)
    assert (report.wrong, report.num_branches) == ([], 72)
    assert not report.after.exceeds(report.before), report.after
    assert sum(report.kills.values()) > 5


@pytest.mark.parametrize(
    ("free_mb", "limit_mb", "blamed"),
    [(250, 1000, True), (100, 1000, False), (120, 160, True), (40, 160, False), (None, None, True)],
)
def test_a_session_is_blamed_for_memory_only_if_it_used_its_own(
    sandbox: LocalSandbox, free_mb: int | None, limit_mb: int | None, blamed: bool
) -> None:
    states = iter([0, 1])

    def memory() -> MemoryState:
        sizes = [None if size is None else size << 20 for size in (free_mb, limit_mb)]
        return MemoryState(next(states), *sizes)

    live = sandbox.start(0, Limits(memory_bytes=256 << 20))
    live._memory = memory
    try:
        if blamed:
            assert error_name(live.run("import os; os.kill(os.getpid(), 9)")) == "OutOfMemory"
        else:
            with pytest.raises(Starved, match=f"{free_mb} MB were left for this one, which may have 256 MB"):
                live.run("import os; os.kill(os.getpid(), 9)")
    finally:
        live.close()


def test_a_cell_that_others_memory_ended_is_run_again_then_an_outage(
    sandbox: LocalSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaths = [Starved("12 MB were left"), None, Starved("12 MB were left"), Starved("11 MB were left")]
    run = Live.run

    def starved(live: Live, code: str, **more: Any) -> Execution:
        death = deaths.pop(0) if code == "x + 1" else None
        if death is not None:
            live.kill()
            raise death
        return run(live, code, **more)

    with sandbox.session() as session:
        session.run("x = 41")
        monkeypatch.setattr(Live, "run", starved)
        result = session.run("x + 1")
        told = ("the interpreter was killed for memory that others use (12 MB were left)",)
        assert (result.text, result.warnings, result.incidents) == ("42", told, told)
        with pytest.raises(SandboxUnavailable, match="11 MB were left"):
            session.run("x + 1")


def test_missing_packages_that_images_need_are_an_outage_at_the_start(bare_python: str) -> None:
    with pytest.raises(SandboxUnavailable) as raised:
        make_sandbox("local", python=bare_python)
    missing = [
        f"{name} (ModuleNotFoundError: No module named {name!r})" for name in ("numpy", "matplotlib", "PIL")
    ]
    assert str(raised.value) == (
        f"images need packages that {bare_python} cannot import: {', '.join(missing)}. Install them ({bare_python} -m "
        "pip install numpy matplotlib pillow), give python= another interpreter, or leave them out of preload to do "
        "without images"
    )


def test_missing_packages_that_images_do_without_are_a_warning(bare_python: str) -> None:
    preload = ("json", "scipy", "sympy")
    told = "cannot import scipy .*scipy.*, sympy .*sympy"
    with (
        pytest.warns(UserWarning, match=f"local sandbox: code in {bare_python} {told}"),
        make_sandbox("local", python=bare_python, preload=preload) as made,
        made.session() as session,
    ):
        assert session.run("import sys; 'json' in sys.modules").text == "True"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_local(python=bare_python, preload=preload).close()


def test_a_package_that_imports_but_does_not_work_is_missing() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        venv.create(folder, symlinks=True)
        (site,) = Path(folder).glob("lib/python3*/site-packages")
        (site / "PIL").mkdir()
        (site / "PIL" / "__init__.py").write_text("")
        (site / "PIL" / "Image.py").write_text("raise ImportError('no libjpeg')")
        options = {"python": f"{folder}/bin/python", "preload": ("PIL",)}
        with pytest.raises(SandboxUnavailable, match=r"PIL \(ImportError: no libjpeg\)\. .*install pillow\)"):
            make_local(**options)


@pytest.mark.skipif(os.getuid() != 0, reason="only root's sessions run as another user")
def test_packages_that_sessions_cannot_read_are_an_outage_at_the_start(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        venv.create(folder, symlinks=True)
        (site,) = Path(folder).glob("lib/python3*/site-packages")
        package = site / "axpo_test_package"
        package.mkdir(mode=0o700)
        (package / "__init__.py").write_text("")
        options = {"python": f"{folder}/bin/python", "preload": ("axpo_test_package",)}
        with pytest.raises(SandboxUnavailable, match=r"cannot read installed packages.*axpo_test_package"):
            make_local(**options)
        package.chmod(0o755)
        with make_local(**options) as made:
            assert made.missing == {}
