"""Code signals its own processes, and none of its session, of what was frozen or branched off it, or of a sibling."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from axpo_sandbox import SandboxUnavailable, Session, make_sandbox
from axpo_sandbox.local import guard as guards
from axpo_sandbox.local.client import LocalSandbox
from axpo_sandbox.local.guard import MAX_SESSIONS, Guard
from axpo_sandbox.local.processes import Stat
from axpo_sandbox.local.syscalls import NUMBERS
from tests.patience import eventually

EPERM, ESRCH = 1, 3


@pytest.fixture(scope="module", params=["namespaces", "landlock"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[LocalSandbox]:
    try:
        with make_sandbox("local", preload=(), quiet=True, isolation=request.param) as made:
            assert isinstance(made, LocalSandbox)
            yield made
    except SandboxUnavailable as error:
        if "does not work here" not in str(error):  # any other outage is a fault
            raise
        pytest.skip(str(error))


def text(session: Session, code: str) -> str | None:
    execution = session.run(code, timeout_s=60)
    assert execution.error is None, execution.error
    assert not any("died" in warning for warning in execution.warnings), execution.warnings
    return execution.text


def number_in(session: Session, what: str = "os.getpid()") -> int:
    return int(text(session, f"import os; {what}") or 0)


OWN = """
import multiprocessing, os, signal, subprocess, threading, time
hits = []
signal.signal(signal.SIGUSR1, lambda *_: hits.append("hit"))
os.kill(os.getpid(), 0)
os.kill(os.getpid(), signal.SIGUSR1)
signal.raise_signal(signal.SIGUSR1)
signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
sleeping = threading.Thread(target=time.sleep, args=(0.2,))
sleeping.start()
signal.pthread_kill(sleeping.ident, signal.SIGUSR1)
sleeping.join()
os.kill(0, 0), os.killpg(os.getpgrp(), 0)
ends = []
for end in (subprocess.Popen.kill, subprocess.Popen.terminate, lambda child: child.send_signal(signal.SIGINT),
            lambda child: (child.send_signal(signal.SIGSTOP), child.send_signal(signal.SIGCONT), child.kill())):
    child = subprocess.Popen(["sleep", "1000"])
    end(child)
    ends.append(child.wait())
for options in ({"start_new_session": True}, {"process_group": 0}, {"preexec_fn": os.setpgrp}):
    try:
        child = subprocess.Popen(["sh", "-c", "sleep 1000 & wait"], **options)
    except TypeError:  # process_group came with Python 3.11
        continue
    os.killpg(child.pid, signal.SIGKILL)
    ends.append(child.wait())
ends.append(subprocess.run(["sh", "-c", "kill -ABRT $$"]).returncode)
ends.append(subprocess.run(["timeout", "0.1", "sleep", "1000"]).returncode)
child = os.fork()
if child == 0:
    os.abort()
ends.append(-os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
shell = subprocess.Popen(["sh", "-c", "sleep 1000 & echo $!; wait"], stdout=subprocess.PIPE)
grandchild = int(shell.stdout.readline())
os.kill(grandchild, signal.SIGKILL)
ends.append(shell.wait() in (0, 137))
try:
    os.kill(child, 0)
except ProcessLookupError:
    ends.append("gone")
try:
    multiprocessing.Lock()
except PermissionError:  # this tier has no place for what a pool shares
    ends.append([1, 2])
else:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        ends.append(pool.map(abs, [-1, 2]))
        pool.terminate()
hits, ends
"""


def test_code_signals_its_own_processes_wherever_it_runs(sandbox: LocalSandbox) -> None:
    expected = repr((["hit"] * 4, [-9, -15, -2, -9, -9, -9, -9, -6, 124, 6, True, "gone", [1, 2]]))
    with sandbox.session() as session:
        text(session, "kept = 1")
        with session.snapshot() as snapshot, snapshot.fork()[0] as branch:
            with branch.snapshot() as later, later.fork()[0] as further:
                for where in (session, branch, further):
                    assert text(where, OWN) == expected
            error = branch.run("os._exit(1)").error
            assert error is not None and error.name == "Exited"
            restored = branch.run("kept", timeout_s=60)
            assert restored.text == "1"
            assert text(branch, OWN) == expected


ATTACK = """
import ctypes, os, signal, struct
libc = ctypes.CDLL(None, use_errno=True)
def by_number(name, *arguments):
    wide = [ctypes.c_long(item) if isinstance(item, int) else item for item in arguments]
    if libc.syscall(ctypes.c_long(NUMBERS[name]), *wide) < 0:
        raise OSError(ctypes.get_errno(), name)
info = lambda number: struct.pack("iii", number, 0, -1) + bytes(116)
CALLS = {
    "kill": os.kill,
    "killpg": os.killpg,
    "kill of all": lambda pid, number: os.kill(-1, number),
    "tkill": lambda pid, number: by_number("tkill", pid, number),
    "tgkill": lambda pid, number: by_number("tgkill", pid, pid, number),
    "wide kill": lambda pid, number: by_number("kill", (1 << 32) + pid, number),
    "pidfd": lambda pid, number: signal.pidfd_send_signal(os.pidfd_open(pid), number),
    "queue": lambda pid, number: by_number("rt_sigqueueinfo", pid, number, info(number)),
    "thread queue": lambda pid, number: by_number("rt_tgsigqueueinfo", pid, pid, number, info(number)),
}
def sent(pid):
    for name, send in CALLS.items():
        for number in (0, signal.SIGCONT, signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL):
            try:
                send(pid, number)
                yield name, number
            except OSError as error:
                if error.errno != 1:
                    yield name, error.errno
"""
# In a process that was there before the snapshot, or in a session of its own: reads numbers, writes what came of it.
HELPER = """
import os
here, there = os.pipe(), os.pipe()
if os.fork() == 0:
    os.setsid()
    while True:
        pid = int(os.read(here[0], 20))
        os.write(there[1], repr(list(sent(pid))).encode())
def by_helper(pid):
    os.write(here[1], str(pid).encode())
    return os.read(there[0], 65536).decode()
"""


def test_code_signals_no_other_branch(sandbox: LocalSandbox) -> None:
    with sandbox.session() as session:
        text(session, f"kept = 1; NUMBERS = {NUMBERS!r}\n{ATTACK}{HELPER}")
        with session.snapshot() as snapshot:
            left, right = snapshot.fork(2)
            with left, right, left.snapshot() as later, later.fork()[0] as further:
                pids = [number_in(item) for item in (session, left, right, further)]
                frozen = [number_in(item, "os.getppid()") for item in (left, further)]
                for own, member in zip(pids, (session, left, right, further), strict=True):
                    for pid in {*pids, *frozen} - {own}:
                        assert (pid, text(member, f"list(sent({pid}))")) == (pid, "[]")
                for pid in {*pids[1:], *frozen}:
                    assert (pid, text(session, f"by_helper({pid})")) == (pid, "'[]'")
                assert [number_in(item) for item in (session, left, right, further)] == pids
                for point, parent in ((snapshot, frozen[0]), (later, frozen[1])):
                    with point.fork()[0] as again:
                        assert number_in(again, "os.getppid()") == parent
                        assert text(again, "kept") == "1"


def test_a_branch_opens_a_few_sessions_of_processes_at_a_time(sandbox: LocalSandbox) -> None:
    code = """
import os, signal, subprocess, time
started = []
def start(*command):
    try:
        started.append(subprocess.Popen(command or ["sleep", "1000"], start_new_session=True))
        return 1
    except PermissionError:
        return 0
def end():
    for child in started:
        child.kill()
        child.wait()
    started.clear()
"""
    with sandbox.session() as session:
        text(session, code)
        assert text(session, "sum(start() for _ in range(12))") == str(MAX_SESSIONS)
        with session.snapshot() as snapshot, snapshot.fork()[0] as branch:
            text(branch, "started.clear()")
            assert text(branch, "sum(start() for _ in range(12))") == str(MAX_SESSIONS)
            assert text(session, "start()") == "0"
        assert text(session, "started[0].kill(); started[0].wait(), start()") == "(-9, 1)"
        assert text(session, "end(); sum(start() for _ in range(3)), end(), start('true')") == "(3, None, 1)"
        assert text(session, "end(); [(start('true'), end())[0] for _ in range(12)]") == str([1] * 12)


def test_sessions_that_are_hard_to_see_count_too(sandbox: LocalSandbox) -> None:
    # Whoever made each is gone, and so is its group: what is left of it has a group of its own.
    code = """
import os, signal
reader, writer = os.pipe()
def hand_on():
    if os.fork():
        os._exit(0)
    os.setpgid(0, 0)
def attempt():
    if os.fork() == 0:
        try:
            os.setsid()
        except PermissionError:
            os.write(writer, b"0")
            os._exit(0)
        hand_on()
        hand_on()
        os.write(writer, b"1")
        signal.pause()
    made = os.read(reader, 1)
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return int(made)
        except ChildProcessError:
            return int(made)
[attempt() for _ in range(10)]
"""
    with sandbox.session() as session:
        assert text(session, code) == str([1] * MAX_SESSIONS + [0] * (10 - MAX_SESSIONS))


def test_a_fork_that_leads_no_session_is_none(sandbox: LocalSandbox) -> None:
    # Code that has taken over its agent would keep its forks in its own group, to stop them by it.
    spoil = """
import gc, os, sys
module = sys.modules["axpo_sandbox.local.agent"]
module._lead_session = lambda key: None
"""
    with sandbox.session() as session:
        text(session, "kept = 1")
        own = number_in(session)
        session.run(spoil)
        with session.snapshot() as snapshot, snapshot.fork()[0] as branch:
            assert branch.run("kept", timeout_s=60).text == "1"
            parent = number_in(branch, "os.getppid()")
            assert os.getpgid(0) != parent and parent != own
            assert number_in(branch, "os.getpgid(os.getppid())") == parent


UNDER_A_LISTENER = """
import ctypes, json, struct, sys
sys.path.insert(0, sys.argv[1])
from axpo_sandbox.local.syscalls import PR_SET_NO_NEW_PRIVS, prctl, syscall
prctl(PR_SET_NO_NEW_PRIVS, 1)
code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7FFF0000), 8)
listener = syscall("seccomp", 1, 8, struct.pack("HP", 1, ctypes.addressof(code)))
from axpo_sandbox import make_sandbox
with make_sandbox("local", preload=(), quiet=True, isolation=sys.argv[2]) as sandbox:
    with sandbox.session() as session:
        session.run("x = 1")
        with session.snapshot() as snapshot, snapshot.fork()[0] as branch:
            print(json.dumps([
                sandbox.isolation.layers["branch_signals"],
                [line for line in sandbox.isolation.open if "listener" in line] != [],
                branch.run("import os; os.kill(os.getpid(), 0), x").text,
                session.run("import subprocess as s; s.Popen(['true'], start_new_session=True).kill()").error,
            ]))
"""


@pytest.mark.parametrize("tier", ["namespaces", "landlock"])
def test_without_a_listener_it_works_and_says_what_is_open(repository: Path, tier: str) -> None:
    command = [sys.executable, "-c", UNDER_A_LISTENER, str(repository / "sandbox"), tier]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if "does not work here" in done.stderr:
        pytest.skip(done.stderr[-300:])
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == '[false, true, "(None, 1)", null]'


GROW = """
import json, os, signal, sys
def grow(name, below):
    if name.isupper():
        os.setsid()
    os.write(1, f"{name} {os.getpid()}\\n".encode())
    for item in below.items():
        if os.fork() == 0:
            grow(*item)
    signal.pause()
grow("top", json.loads(sys.argv[1]))
"""
SHAPE = {"A": {"a": {}, "F": {"f": {}, "B": {"b": {}}}}, "x": {}}


@pytest.fixture
def pids() -> Iterator[dict[str, int]]:
    """Processes by name. Those in capitals lead sessions; what they do is sleep."""
    found: dict[str, int] = {}
    command = [sys.executable, "-S", "-c", GROW, json.dumps(SHAPE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as top:
        assert top.stdout is not None
        while len(found) < 8:
            name, pid = top.stdout.readline().split()
            found[name] = int(pid)
        try:
            yield found
        finally:
            for pid in found.values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def guard_of(pids: dict[str, int]) -> Guard:
    guard = Guard()
    assert guard.register(pids["A"], frozen=False)
    assert guard.register(pids["F"], frozen=True)
    assert guard.register(pids["B"], frozen=False)
    return guard


def decide(guard: Guard, caller: int, name: str, *arguments: int) -> int:
    return guard.decide(caller, NUMBERS[name], [*arguments, 0, 0, 0][:6])


def test_only_the_own_branch_may_be_signalled(pids: dict[str, int]) -> None:
    guard = guard_of(pids)
    branches = {"A": "Aa", "a": "Aa", "F": "F", "f": "f", "B": "Bb", "b": "Bb", "x": "x"}
    for caller, own in branches.items():
        allowed = "".join(name for name in branches if not decide(guard, pids[caller], "kill", pids[name], 9))
        assert (caller, allowed) == (caller, own)
    assert decide(guard, pids["a"], "kill", os.getpid(), 9) == EPERM
    assert decide(guard, pids["a"], "kill", -pids["A"], 9) == 0
    assert decide(guard, pids["a"], "kill", -pids["B"], 9) == EPERM
    assert decide(guard, pids["a"], "kill", -os.getpgid(pids["x"]), 9) == EPERM
    assert decide(guard, pids["a"], "kill", -(1 << 31), 9) == ESRCH
    assert decide(guard, pids["a"], "kill", (1 << 31) - 1, 9) == ESRCH
    assert decide(guard, pids["a"], "reboot") == EPERM
    assert guard.decide(0, NUMBERS["kill"], [pids["a"], 9]) == EPERM


def test_what_a_branch_leaves_behind_signals_nothing(pids: dict[str, int]) -> None:
    guard = guard_of(pids)
    os.kill(pids["B"], signal.SIGKILL)
    assert eventually(lambda: decide(guard, pids["b"], "kill", pids["B"], 9) == EPERM)
    for name in "AaFf":
        assert decide(guard, pids["b"], "kill", pids[name], 9) == EPERM
    assert decide(guard, pids["b"], "setsid") == EPERM
    assert decide(guard, pids["b"], "kill", pids["b"], 9) == 0


def test_a_number_that_a_signal_may_be_under_way_to_leads_no_branch(
    pids: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    guard, clock = Guard(), SimpleNamespace(now_s=1000.0)
    monkeypatch.setattr(guards, "time", SimpleNamespace(monotonic=lambda: clock.now_s))
    assert guard.register(pids["A"], frozen=False)
    assert decide(guard, pids["a"], "kill", pids["F"], 0) == 0  # signal 0 does nothing
    assert decide(guard, pids["a"], "kill", pids["B"], signal.SIGSTOP) == 0
    assert guard.register(pids["F"], frozen=True)
    assert not guard.register(pids["B"], frozen=False)
    clock.now_s += 61
    assert guard.register(pids["B"], frozen=False)
    assert decide(guard, pids["a"], "kill", pids["B"], signal.SIGSTOP) == EPERM


def test_what_leads_no_session_or_has_ended_leads_no_branch(pids: dict[str, int]) -> None:
    guard = Guard()
    assert not guard.register(pids["a"], frozen=False)
    assert not guard.register((1 << 31) - 1, frozen=False)


def test_a_number_that_comes_again_is_another_process(
    pids: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = guard_of(pids)
    real = guards.stat_of

    def later(pid: int) -> Stat | None:
        found = real(pid)
        return replace(found, started=found.started + 1) if found and pid == pids["F"] else found

    monkeypatch.setattr(guards, "stat_of", later)
    assert decide(guard, pids["A"], "kill", pids["F"], 9) == 0  # so it is one of A's
    assert decide(guard, pids["A"], "kill", pids["b"], 9) == EPERM


def test_answers_do_not_depend_on_what_is_asked(
    pids: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, int]] = []
    asked = [pids["a"], NUMBERS["kill"], (1 << 32) + pids["F"], 9]

    def ioctl(_: int, request: int, buffer: bytearray) -> None:
        if request == guards._RECEIVE:
            buffer[:] = guards._NOTIFICATION.pack(7, asked[0], 0, asked[1], 0, 0, *asked[2:], 0, 0, 0, 0)
        else:
            number, _, error, flags = guards._RESPONSE.unpack(buffer)
            assert number == 7
            sent.append((error, flags))

    monkeypatch.setattr(guards, "fcntl", SimpleNamespace(ioctl=ioctl))
    guard = guard_of(pids)
    guard.answer(0)
    monkeypatch.setattr(guard, "decide", lambda *_: {}[0])
    guard.answer(0)
    monkeypatch.setattr(guard, "decide", lambda *_: 0)
    guard.answer(0)
    assert sent == [(-EPERM, 0), (-EPERM, 0), (0, 1)]
