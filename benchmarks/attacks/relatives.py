"""Attacks of a session on what was frozen and branched off it, which runs below it."""

from typing import Any

from axpo_sandbox import Session
from benchmarks.attacks.arena import Arena
from benchmarks.attacks.corpus import Outcome, add, attack, succeeded
from benchmarks.attacks.signals import MORE_NUMBERS, number


def _on_own_branch(name: str, goal: str, code: str, accepted: str = "", before: str = "") -> None:
    """Register an attack from a session on a live branch of a snapshot of it, PID. before: what the branch runs."""

    def run(arena: Arena) -> Outcome:
        with arena.session() as session:
            arena.run(session, "LIBC.prctl(4, 1, 0, 0, 0); kept = 1; here = id(kept)")
            with session.snapshot() as snapshot, snapshot.fork(1)[0] as branch:
                pid = int(branch.run(f"{before}\nimport os; os.getpid()", timeout_s=20).text or 0)
                execution, won = arena.run(session, code, {"PID": pid})
                if won:
                    return succeeded("it says so")
                if branch.run("kept", timeout_s=5).text != "1":
                    return succeeded("the branch has other values")
        return arena.judge(execution, won)

    add(name, "neighbours", goal, run, layer="branch_signals", accepted=accepted)


_on_own_branch(
    "read_own_branch",
    "read the memory of a branch made of it after making itself traceable",
    "fd = os.open(f'/proc/{PID}/mem', os.O_RDONLY)\nattempt(lambda: len(os.pread(fd, 8, here)) == 8)",
)
_on_own_branch(
    "write_own_branch",
    "write the memory of a branch made of it after making itself traceable",
    "fd = os.open(f'/proc/{PID}/mem', os.O_RDWR)\nattempt(lambda: os.pwrite(fd, b'12345678', here) == 8)",
)
_on_own_branch(
    "enter_own_branch",
    "read the files of a branch made of it",
    "attempt(lambda: os.listdir(f'/proc/{PID}/root/box') is not None)",
)
_on_own_branch(
    "read_program_of_own_branch",
    "read the memory of a program that a branch made of it runs",
    """
child, = map(int, open(f"/proc/{PID}/task/{PID}/children").read().split())
fd = os.open(f"/proc/{child}/mem", os.O_RDWR)
start = int(open(f"/proc/{child}/maps").read().split("-")[0], 16)
attempt(lambda: len(os.pread(fd, 8, start)) == 8)
""",
    "a program that a branch runs is as readable to its session as the session's own are",
    before="import subprocess; program = subprocess.Popen(['sleep', '600'])",
)


# A process of the session that was there before the snapshot, and that makes what is asked of it later.
_HELPER = """
import os, signal
asked, said = os.pipe(), os.pipe()
if os.fork() == 0:
    while True:
        pid, sent = map(int, os.read(asked[0], 100).split())
        try:
            os.kill(pid, sent)
            os.write(said[1], b"sent")
        except OSError as error:
            os.write(said[1], str(error).encode())
def by_helper(pid, sent):
    os.write(asked[1], f"{pid} {sent}".encode())
    print(os.read(said[0], 100).decode())
"""
_NUMBERS = {name: number(name) for name in MORE_NUMBERS}


def _signalling(name: str, goal: str, code: str) -> None:
    """Register an attack on FROZEN, a snapshot of the session, and BRANCH, a live branch of that.

    The proof is that the branch, or the next one, is another process, holds other values or does not answer.
    """

    def state(session: Session) -> Any:
        return session.run("import os; drawn, os.getppid()", timeout_s=5).text

    def run(arena: Arena) -> Outcome:
        with arena.session() as session:
            session.run(f"{_HELPER}\ndrawn = os.urandom(8).hex()")
            with session.snapshot() as snapshot, snapshot.fork()[0] as branch:
                before = state(branch)
                pid, frozen = (int(branch.run(f"os.get{which}()").text or 0) for which in ("pid", "ppid"))
                values = {"FROZEN": frozen, "BRANCH": pid, "NUMBERS": _NUMBERS}
                execution, won = arena.run(session, "import signal, struct\n" + code, values)
                after = branch.run("import os; os.getpid()", timeout_s=5).text
                if won or after != str(pid):
                    return succeeded("it says so" if won else f"the branch answers {after!r}, not {pid}")
                with snapshot.fork()[0] as later:
                    if state(later) != before:
                        return succeeded(f"the next branch holds {state(later)!r}, not {before!r}")
                return arena.judge(execution, won)

    add(name, "neighbours", goal, run, layer="branch_signals")


for _what, _pid in (("snapshot", "FROZEN"), ("branch", "BRANCH")):
    _made = "a snapshot of it" if _what == "snapshot" else "a branch made of it"
    _signalling(f"kill_own_{_what}", f"kill {_made}", f"os.kill({_pid}, 9)")
    _signalling(f"stop_own_{_what}", f"stop {_made}", f"os.kill({_pid}, signal.SIGSTOP)")
    _signalling(f"kill_own_{_what}_by_group", f"kill {_made} by its group", f"os.killpg({_pid}, 9)")
    _signalling(
        f"stop_own_{_what}_by_child",
        f"stop {_made} from a process that was there before",
        f"by_helper({_pid}, signal.SIGSTOP)",
    )
    _signalling(
        f"kill_own_{_what}_by_pidfd",
        f"kill {_made} by a descriptor of it",
        f"signal.pidfd_send_signal(os.pidfd_open({_pid}), 9)",
    )
    _signalling(
        f"kill_own_{_what}_by_thread",
        f"kill {_made} by tgkill",
        f"syscall(NUMBERS['tgkill'], {_pid}, {_pid}, 9)",
    )
    _signalling(
        f"kill_own_{_what}_by_queue",
        f"kill {_made} by rt_sigqueueinfo",
        f"syscall(NUMBERS['rt_sigqueueinfo'], {_pid}, 9, struct.pack('iii', 9, 0, -1) + bytes(116))",
    )
_signalling(
    "signal_own_branch_with_all", "signal all at once, branches too", "attempt(lambda: os.kill(-1, 0))"
)

_NUM_SPINNERS, _MANY_GROUPS = 60, 8


@attack("neighbours", "take a share of the processors for each of 60 processes", layer="branch_signals")
def spin_in_many_sessions(arena: Arena) -> Outcome:
    code = """
import signal
reader, writer = os.pipe()
for _ in range(COUNT):
    if os.fork() == 0:
        signal.alarm(2)
        try:
            os.setsid()
            os.write(writer, b"1")
        except OSError as error:
            os.write(writer, b"0")
        while True:
            pass
said = b""
while len(said) < COUNT:
    said += os.read(reader, COUNT)
print(said.count(b"1"), "of", COUNT, "lead sessions of processes")
if said.count(b"1") > MANY:
    won()
"""
    values = {"COUNT": _NUM_SPINNERS, "MANY": _MANY_GROUPS}
    return arena.attack_cell(code, values, num_processes=_NUM_SPINNERS + 8)
