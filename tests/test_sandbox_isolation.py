"""Attacks from code in the local sandbox that must fail on its strongest tier; each is made for real."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from axpo_sandbox import Session, make_sandbox
from axpo_sandbox.local.client import LocalSandbox, LocalSession
from axpo_sandbox.local.processes import descendants_of
from tests.patience import eventually

SECRET = "a secret of the machine"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[LocalSandbox]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AXPO_TEST_SECRET", SECRET)
        with make_sandbox("local", preload=("numpy",), quiet=True) as made:
            assert isinstance(made, LocalSandbox)
            if made.isolation.tier != "namespaces":
                pytest.skip(f"the strongest tier here is {made.isolation.tier}: {made.isolation.open}")
            yield made


@pytest.fixture
def session(sandbox: LocalSandbox) -> Iterator[LocalSession]:
    with sandbox.session() as made:
        assert made.run("kept = 1").error is None
        yield made
        assert made.run("kept", timeout_s=30).text == "1"  # whatever was tried, the session goes on


def text(session: Session, code: str) -> str | None:
    execution = session.run(code, timeout_s=60)
    assert execution.error is None, execution.error
    return execution.text


def error_name(session: Session, code: str, timeout_s: float = 60.0) -> str:
    execution = session.run(code, timeout_s=timeout_s)
    assert execution.error is not None, execution
    return execution.error.name


def test_all_layers_hold_but_those_that_need_a_cgroup(sandbox: LocalSandbox) -> None:
    open_layers = {name for name, holds in sandbox.isolation.layers.items() if not holds}
    assert open_layers <= {"total_memory", "total_processes"}
    assert len(sandbox.isolation.layers) == 12


def test_files_of_the_machine_cannot_be_read(session: LocalSession, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    for folder in (tmp_path, *tmp_path.parents):
        if folder != Path("/") and folder.stat().st_uid == os.getuid():
            folder.chmod(folder.stat().st_mode | 0o055)
    for start in ("", "/proc/1/root", "/proc/self/root", "/proc/self/cwd/../.."):
        assert error_name(session, f"open({start + str(secret)!r})") in (
            "FileNotFoundError",
            "PermissionError",
        )
    for path in ("/etc/passwd", "/etc/shadow", "/home", "/var", "/sys", "/run", str(Path(__file__).parent)):
        assert text(session, f"import os; os.path.exists({path!r})") == "False"


def test_nothing_outside_the_working_folders_can_be_written(session: LocalSession) -> None:
    code = """
import os, sys
def writable(path):
    try:
        open(path + "/x", "w").close()
        return True
    except OSError:
        return False
paths = ["/", "/usr", "/usr/bin", "/dev", "/proc", "/etc", sys.prefix, sys.base_prefix]
list(filter(writable, paths))
"""
    assert text(session, code) == "[]"
    # An interpreter installed below /tmp takes that folder from its sessions.
    tmp = not any(prefix.startswith("/tmp/") for prefix in (sys.prefix, sys.base_prefix))
    found = text(session, "[writable(path) for path in ['/box', '/tmp', '/dev/shm', '.']]")
    assert found == f"[True, {tmp}, True, True]"


def test_no_network_not_even_loopback(session: LocalSession) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        port = listener.getsockname()[1]
        connect = f"import socket; socket.create_connection(('127.0.0.1', {port}), timeout=2)"
        assert error_name(session, connect) == "OSError"
        for family in ("AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK", "AF_PACKET"):
            assert error_name(session, f"socket.socket(socket.{family}, socket.SOCK_DGRAM)") == "OSError"
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert text(session, "a, b = socket.socketpair(); a.send(b'x'); b.recv(1)") == "b'x'"


def test_pairs_of_sockets_carry_streams_alone(session: LocalSession) -> None:
    assert (
        error_name(session, "import socket; socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)")
        == "PermissionError"
    )
    for kind in ("SOCK_STREAM", "SOCK_STREAM | socket.SOCK_NONBLOCK", "SOCK_SEQPACKET"):
        assert (
            text(session, f"a, b = socket.socketpair(socket.AF_UNIX, socket.{kind}); a.send(b'x'); b.recv(1)")
            == "b'x'"
        )


def test_no_secret_of_the_environment(session: LocalSession) -> None:
    assert os.environ["AXPO_TEST_SECRET"] == SECRET
    code = """
import glob, os
found = []
for path in ["/proc/self/environ", *glob.glob("/proc/[0-9]*/environ")]:
    try:
        found.append(open(path).read())
    except OSError:
        pass
sorted(os.environ), 'SECRET' in repr(found) + repr(os.environ)
"""
    names = (
        "GLIBC_TUNABLES HOME JE_ARROW_MALLOC_CONF LANG MKL_NUM_THREADS MPLBACKEND MPLCONFIGDIR NUMEXPR_NUM_THREADS "
        "OMP_NUM_THREADS OPENBLAS_NUM_THREADS PATH PYTHONDONTWRITEBYTECODE PYTHONHASHSEED TMPDIR "
        "VECLIB_MAXIMUM_NUM_THREADS"
    )
    assert text(session, code) == repr((names.split(), False))


def test_no_descriptor_is_inherited(sandbox: LocalSandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    with open(secret) as file:
        os.set_inheritable(file.fileno(), True)
        with make_sandbox("local", preload=(), quiet=True) as fresh, fresh.session() as session:
            text(session, "import os; paths = [f'/proc/self/fd/{fd}' for fd in range(64)]")
            code = "[os.readlink(path) for path in paths if os.path.lexists(path)]"
            kinds = [item.split(":")[0] for item in eval(text(session, code) or "")]
    assert kinds == ["/dev/null", "pipe", "pipe", "socket"]


def test_only_the_own_process_tree_is_seen_and_signalled(
    sandbox: LocalSandbox, session: LocalSession
) -> None:
    victim = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    try:
        code = f"""
import os, signal
outcomes = []
for pid in (-1, {victim.pid}, {os.getpid()}, {sandbox.zygote_pid}, os.getppid(), 1):
    try:
        os.kill(pid, signal.SIGKILL if pid > 1 else signal.SIGTERM)
        outcomes.append(f"sent to {{pid}}")
    except OSError as error:
        outcomes.append(type(error).__name__)
outcomes, sorted(int(name) for name in os.listdir('/proc') if name.isdigit())
"""
        outcomes, seen = eval(text(session, code) or "")
        assert set(outcomes) <= {"ProcessLookupError", "PermissionError"}
        assert len(seen) <= 4 and max(seen) < 50
        assert victim.poll() is None
    finally:
        victim.communicate(b"\n")


def test_branches_cannot_signal_each_other_or_their_session(session: LocalSession) -> None:
    snapshot = session.snapshot()
    left, right = snapshot.fork(2)
    with snapshot, left, right:
        assert isinstance(right, LocalSession)
        code = """
import os, signal
def attack():
    for pid in map(int, filter(str.isdigit, os.listdir('/proc'))):
        if pid != os.getpid():
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                yield pid
len(list(attack()))
"""
        assert (
            int(text(left, code) or "") >= 3
        )  # the first process, the session, its snapshot, the other branch
        pids = (session.process_id, right.process_id)
        assert text(right, "kept + 1") == "2"
        assert session.run("kept").warnings == ()
        assert (session.process_id, right.process_id) == pids


@pytest.mark.parametrize(
    "call",
    [
        "libc.unshare(0x20000)",
        "libc.unshare(0x10000000)",
        "libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)",
        "libc.mount(None, b'/usr', None, 32 | 4096, None)",
        "libc.umount2(b'/proc', 2)",
        "libc.syscall(165, b'none', b'/tmp', b'tmpfs', 0, None, 1)",
        "libc.ptrace(16, os.getppid(), 0, 0)",
        "libc.chroot(b'/tmp')",
        "libc.setns(os.open('/proc/self/ns/mnt', 0), 0)",
        "libc.setuid(0)",
        "libc.sethostname(b'x', 1)",
        "libc.syscall(101, 0, 0, 0, 0)",
        "libc.syscall(425, 8, None)",
        "libc.syscall(321, 0, None, 0)",
        "libc.syscall(250, 0, 0, 0, 0, 0)",
        "libc.syscall(319, b'x', 0)",
        "libc.prctl(36, 0, 0, 0, 0)",
        "libc.syscall(29, 0, 4096, 0o1600)",
    ],
)
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86_64")
def test_system_calls_are_refused(session: LocalSession, call: str) -> None:
    code = f"import ctypes, os; libc = ctypes.CDLL(None, use_errno=True); {call}, ctypes.get_errno()"
    result, number = eval(text(session, code) or "")
    assert (result, number in (1, 22)) == (-1, True)  # EPERM, or EINVAL for a user that does not exist inside


@pytest.mark.parametrize(
    "call",
    [
        "libc.syscall(56, 0x8000 | 17, 0, 0, 0, 0)",
        "libc.syscall(302, os.getpid(), 7, 0, 0)",
        "libc.syscall(302, 0, 6, b'\\xff' * 16, 0, 0, 0)",
        "libc.syscall(160, 6, b'\\xff' * 16)",
        "libc.setpriority(0, os.getpid(), 5)",
        "libc.setpriority(2, 0, 5)",
        "libc.syscall(251, 3, 0, 0)",
        "libc.sched_setaffinity(os.getpid(), 8, b'\\1' + bytes(7))",
        "libc.syscall(206, 1, ctypes.byref(ctypes.c_ulong()))",
        "libc.inotify_init1(0)",
        "libc.prctl(4, 1, 0, 0, 0)",
        "libc.prctl(22, 2, None, 0, 0)",
        "libc.syscall(317, 1, 8, None)",
        "libc.timer_create(0, None, ctypes.byref(ctypes.c_void_p()))",
        "libc.fcntl(os.open('.', 0), 1026, 1)",
        "libc.fcntl(os.open('/usr', 0), 1024, 0)",
        "libc.fcntl(0, 8, os.getppid())",
        "libc.ioctl(os.eventfd(0), 0x8901, ctypes.byref(ctypes.c_int(1)))",
    ],
)
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86_64")
def test_calls_on_others_and_on_what_all_share_are_refused(session: LocalSession, call: str) -> None:
    code = f"import ctypes, os; libc = ctypes.CDLL(None, use_errno=True); {call}, ctypes.get_errno()"
    assert text(session, code) == "(-1, 1)"


def test_sessions_and_branches_have_scheduler_groups_of_their_own(sandbox: LocalSandbox) -> None:
    show = "import os; os.popen('cat /proc/self/autogroup').read().split()"
    with sandbox.session() as one, sandbox.session() as two:
        text(one, "import os; os.system('echo 19 > /proc/self/autogroup')")
        with one.snapshot() as snapshot:
            left, right = snapshot.fork(2)
            with left, right:
                rows = [eval(text(item, show) or "") for item in (one, two, left, right)]
    if not rows[0]:
        pytest.skip("this kernel groups no processes for its scheduler")
    assert len({name for name, *_ in rows}) == 4
    assert [niceness for *_, niceness in rows] == ["19", "0", "0", "0"]


def test_a_session_cannot_reach_into_its_snapshots_and_branches(session: LocalSession) -> None:
    text(session, "import ctypes, os; ctypes.CDLL(None).prctl(4, 1, 0, 0, 0); kept = 1; here = id(kept)")
    code = """
def reach(pid, *names):
    for name in names:
        try:
            os.close(os.open(f"/proc/{pid}/{name}", os.O_RDWR if name == "mem" else os.O_RDONLY))
            yield name
        except OSError:
            pass
others = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if pid not in (1, os.getpid())]
len(others) >= 2, [list(reach(pid, "mem", "root", "fd/1", "cwd", "environ")) for pid in others]
"""
    with session.snapshot() as snapshot, snapshot.fork(1)[0] as branch:
        found, reached = eval(text(session, code) or "")
        assert found and not any(reached)
        assert text(branch, "kept + 1") == "2"


def test_queued_signals_are_few_and_synchronising_reaches_no_disk(session: LocalSession) -> None:
    code = """
import os, resource
with open("a", "w") as file:
    os.fsync(file.fileno()); os.fdatasync(file.fileno()); os.sync()
resource.getrlimit(resource.RLIMIT_SIGPENDING)
"""
    assert text(session, code) == "(64, 64)"


def test_what_code_asks_of_itself_stays_possible(session: LocalSession) -> None:
    code = """
import os, resource
soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))
niceness = min(os.nice(0) + 3, 19)  # only ever upwards, from wherever the tests were started
os.setpriority(os.PRIO_PROCESS, 0, niceness)
os.sched_setaffinity(0, os.sched_getaffinity(0))
0 < soft < hard, resource.getrlimit(resource.RLIMIT_NOFILE), os.nice(0) == niceness
"""
    assert text(session, code) == "(True, (100, 200), True)"


def test_code_cannot_raise_how_many_processes_it_may_have(sandbox: LocalSandbox) -> None:
    with sandbox.session(limits={"num_processes": 20}) as session:
        code = """
import os, resource, time
_, hard = resource.getrlimit(resource.RLIMIT_NPROC)
try:
    resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
except ValueError:
    print("refused")
started = 0
try:
    while started < 100:
        if os.fork() == 0:
            time.sleep(1000)
        started += 1
except BlockingIOError:
    print("bounded")
started
"""
        execution = session.run(code, timeout_s=60)
        assert execution.stdout == "refused\nbounded\n"
        assert 10 <= int(execution.text or "") <= 20


def test_a_fork_bomb_is_bounded_and_ends_with_its_cell(sandbox: LocalSandbox) -> None:
    with sandbox.session(limits={"num_processes": 20}) as session:
        bomb = """
import os, time
num_started = 0
try:
    for _ in range(1000):
        if os.fork() == 0:
            time.sleep(1000)
        num_started += 1
except BlockingIOError:
    print("bounded", flush=True)
print(num_started, flush=True)
time.sleep(1000)
"""
        result = session.run(bomb, timeout_s=5)
        assert result.error is not None and result.error.name == "Timeout"
        word, number = result.stdout.split()
        assert (word, 10 <= int(number) <= 20) == ("bounded", True)
        parent = session.process_id
        assert eventually(lambda: len(descendants_of(parent)) == 0)
        assert text(session, "import subprocess; subprocess.run(['true']).returncode") == "0"


def test_daemons_end_with_their_cell_and_with_their_session(sandbox: LocalSandbox) -> None:
    def is_running(seconds: str) -> bool:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if seconds.encode() in path.read_bytes().split(b"\0"):
                    return True
            except OSError:
                continue
        return False

    start = """
import os, subprocess, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "{seconds}"])
    os._exit(0)
os.wait()
"""
    with sandbox.session() as session:
        text(session, "x = 1")
        result = session.run(start.format(seconds="98761") + "time.sleep(1000)", timeout_s=3)
        assert result.error is not None and result.error.name == "Timeout"
        assert eventually(lambda: not is_running("98761"))
        assert session.run(start.format(seconds="98762")).error is None
        assert eventually(lambda: is_running("98762"))
    assert eventually(lambda: not is_running("98762"))


def test_memory_files_and_folders_are_bounded(sandbox: LocalSandbox) -> None:
    limits = {"memory_bytes": 300 << 20, "file_bytes": 10 << 20, "workdir_bytes": 20 << 20}
    with sandbox.session(limits=limits) as session:
        assert error_name(session, "x = bytearray(400 << 20)") == "MemoryError"
        assert error_name(session, "open('a', 'wb').write(bytes(11 << 20))") == "OSError"
        fill = """
written = 0
for index in range(10):
    for folder in (".", "/tmp", "/dev/shm"):
        with open(f"{folder}/{index}", "wb") as file:
            written += file.write(bytes(1 << 20))
"""
        assert error_name(session, fill) == "OSError"
        assert int(text(session, "written") or "") <= 20 << 20
        assert (
            error_name(session, "for index in range(1000000): open(f'/tmp/n{index}', 'w').close()")
            == "OSError"
        )
        assert error_name(session, "files = [open('/dev/null') for _ in range(1000)]") == "OSError"


def test_all_memory_together_is_bounded(sandbox: LocalSandbox) -> None:
    if not sandbox.isolation.layers["total_memory"]:
        pytest.skip("no memory cgroup can be made here")
    with make_sandbox("local", preload=(), total_memory_bytes=200 << 20, quiet=True) as small:
        with small.session() as session, small.session() as other:
            text(session, "kept = 1")
            text(other, "kept = 2")
            error = session.run("x = bytearray(b'x') * (1 << 30)", timeout_s=60).error
            assert error is not None and error.name == "OutOfMemory"
            assert text(session, "kept") == "1"
            assert text(other, "kept") == "2"


def test_an_output_flood_is_cut_and_ended(sandbox: LocalSandbox) -> None:
    with sandbox.session(limits={"output_bytes": 10_000}) as session:
        for stream in ("stdout", "stderr"):
            code = f"import sys, os\nwhile True: os.write(sys.{stream}.fileno(), b'x' * 65536)"
            result = session.run(code, timeout_s=60)
            assert result.error is not None and result.error.name == "OutputLimit"
            assert getattr(result, stream) == "x" * 10_000
            assert len(result.warnings) == 1
        result = session.run("raise ValueError('x' * 10_000_000)", timeout_s=60)
        assert result.error is not None and len(result.error.value) <= 4096


FORGE = """
import base64, json, os, struct
channel = next(fd for fd in range(3, 64) if os.path.lexists(f'/proc/self/fd/{fd}')
               and os.readlink(f'/proc/self/fd/{fd}').startswith('socket:'))
def forge(body, length=None):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    os.write(channel, struct.pack('!I', len(body) if length is None else length) + body)
sys = __import__("sys")
def request_id(frame):
    while frame is not None:
        if isinstance(frame.f_locals.get("message"), dict):
            return frame.f_locals["message"]["id"]
        frame = frame.f_back
good = {"id": request_id(sys._getframe()), "text": None, "error": None, "images": [], "warnings": []}
def png(width, height):
    header = b'\\x89PNG\\r\\n\\x1a\\n' + struct.pack('!I4sII', 13, b'IHDR', width, height)
    return base64.b64encode(header + bytes(17)).decode()
"""


@pytest.mark.parametrize(
    "forged",
    [
        "forge(b'')",
        "forge(b'x', 0xFFFFFFFF)",
        "forge(b'\\x80\\x04cos\\nsystem\\n')",
        "forge(b'[' * 100000)",
        "forge([1])",
        "forge({})",
        "forge({**good, 'text': 5})",
        "forge({**good, 'text': 'x' * (2 << 20)})",
        "forge({**good, 'error': {'name': 'x'}})",
        "forge({**good, 'warnings': [1]})",
        "forge({**good, 'images': ['?']})",
        "forge({**good, 'images': [png(1, 1)] * 100})",
        "forge({**good, 'images': [png(1 << 30, 1 << 30)]})",
        "forge({**good, 'images': [base64.b64encode(b'GIF89a').decode()]})",
    ],
)
def test_forged_answers_are_refused(session: LocalSession, forged: str) -> None:
    assert error_name(session, FORGE + forged + "\nwhile True: pass") == "ProtocolError"


def test_answers_to_no_request_are_refused(session: LocalSession) -> None:
    assert error_name(session, FORGE + "forge({**good, 'id': 1})") == "ProtocolError"


def test_answers_nobody_asked_for_do_not_shift_the_next(session: LocalSession) -> None:
    forged = "forge({**good, 'text': 'first'}); forge({**good, 'text': 'second'})"
    assert session.run(FORGE + forged, timeout_s=60).text == "first"
    # The cell left an answer behind, and would again when it is repeated: so it is taken back. If that answer comes
    # while the next cell runs, it costs that cell too.
    results = [session.run("kept + 1", timeout_s=60) for _ in range(3)]
    lost = [result.error.name for result in results if result.error is not None]
    assert len(lost) <= 1 and set(lost) <= {"Killed", "ProtocolError"}
    assert any("taken back" in warning for result in results for warning in result.warnings)
    assert [result.text for result in results[len(lost) :]] == ["2"] * (3 - len(lost))


def test_descriptors_sent_over_the_channel_are_closed(session: LocalSession) -> None:
    session.run(FORGE)
    session.run("kept")  # by now there is a frozen process to fall back to, and its descriptors
    num_open = len(os.listdir("/proc/self/fd"))
    code = "import socket; line = socket.socket(fileno=os.dup(channel))\n"
    code += "socket.send_fds(line, [b'\\0\\0\\0\\2'], [0] * 60); forge(b'')"
    assert error_name(session, FORGE + code) == "ProtocolError"
    assert len(os.listdir("/proc/self/fd")) == num_open


def test_code_that_breaks_its_interpreter_costs_a_cell(session: LocalSession) -> None:
    # Each may spoil the cell after it, too; the one after that is served again.
    attacks = [
        "import builtins; builtins.len = None",
        "import os; os.close(1); os.close(2)",
        "import sys; sys.modules.clear()",
        "import gc\nfor item in gc.get_objects():\n    if type(item).__name__ == 'Agent': item.limits = {}",
        "import os, threading; threading.Thread(target=lambda: os._exit(1)).start()",
        "import sys; sys.setrecursionlimit(10**9); f = lambda: f(); f()",
    ]
    for attack in attacks:
        session.run(attack, timeout_s=3)
        session.run("pass", timeout_s=20)
        assert text(session, "kept") == "1"
        (branch,) = session.snapshot().fork()
        branch.close()
