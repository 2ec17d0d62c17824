"""Attacks on other processes: signals, priorities, limits, and their memory. Victims are made here and only sleep.

Where a signal could reach anything else, it is signal 0, which asks and does nothing.
"""

import contextlib
import os
import resource
import time
from pathlib import Path

from axpo_sandbox import Session
from axpo_sandbox.local.syscalls import NUMBERS
from benchmarks.attacks.arena import Arena, eventually
from benchmarks.attacks.corpus import Outcome, add, attack, cell, held, skipped, succeeded

# x86_64, aarch64
MORE_NUMBERS = {
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "ioprio_set": (251, 30),
    "sched_setscheduler": (144, 119),
    "getpid": (39, 172),
    "io_setup": (206, 0),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
}


def number(name: str) -> int:
    """Of system call `name` on this machine; -1, which no kernel has, where it is not known."""
    if name in NUMBERS:
        return NUMBERS[name]
    known = MORE_NUMBERS.get(name, ())
    at = ("x86_64", "aarch64").index(os.uname().machine) if os.uname().machine in ("x86_64", "aarch64") else 2
    return known[at] if at < len(known) else -1


def _killing(name: str, goal: str, code: str) -> None:
    """Register an attack whose proof is that a process of ours ends."""

    def run(arena: Arena) -> Outcome:
        with arena.victim() as victim:
            values = {"PID": victim.pid, "NUMBERS": {key: number(key) for key in MORE_NUMBERS}}
            outcome = arena.attack_cell("import signal, struct\n" + code, values)
            died = eventually(lambda: victim.poll() is not None, 0.3)
        return succeeded("the process ended") if died else held(outcome.why)

    add(name, "signals", goal, run, layer="signals")


_killing("kill_process", "kill a process", "os.kill(PID, 9)")
_killing("kill_group", "kill a process group", "os.killpg(PID, 9)")
_killing("kill_from_program", "kill a process from a shell", "os.system(f'kill -9 {PID}')")
_killing("tkill_thread", "kill a thread by tkill", "syscall(NUMBERS['tkill'], PID, 9)")
_killing("tgkill_thread", "kill a thread by tgkill", "syscall(NUMBERS['tgkill'], PID, PID, 9)")
_killing("kill_by_pidfd", "kill a process by pidfd", "signal.pidfd_send_signal(os.pidfd_open(PID), 9)")
_killing(
    "kill_by_queue",
    "kill a process by rt_sigqueueinfo",
    "syscall(NUMBERS['rt_sigqueueinfo'], PID, 9, struct.pack('iii', 9, 0, -1) + bytes(116))",
)
_killing(
    "kill_by_thread_queue",
    "kill a process by rt_tgsigqueueinfo",
    "syscall(NUMBERS['rt_tgsigqueueinfo'], PID, PID, 9, struct.pack('iii', 9, 0, -1) + bytes(116))",
)
_killing(
    "kill_by_descriptor_owner",
    "kill a process as the owner of a descriptor",
    """
import fcntl, socket, time
ours, theirs = socket.socketpair()
fcntl.fcntl(ours, fcntl.F_SETOWN, PID)
fcntl.fcntl(ours, 10, 9)  # F_SETSIG
fcntl.fcntl(ours, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
theirs.send(b"x")
time.sleep(0.2)
""",
)

cell(
    "signal_caller",
    "signals",
    "signal the caller",
    "attempt(lambda: os.kill(PID, 0))",
    layer="signals",
    PID=lambda arena: os.getpid(),
)
cell(
    "signal_everybody",
    "signals",
    "signal every process it may",
    "attempt(lambda: os.kill(-1, 0))",
    layer="signals",
)
cell(
    "signal_parent",
    "signals",
    "signal the process that watches over it",
    "attempt(lambda: os.kill(os.getppid(), 0))",
    layer="branch_signals",
)


@attack("signals", "signal the fork server", layer="signals")
def signal_fork_server(arena: Arena) -> Outcome:
    pid = getattr(arena.sandbox, "zygote_pid", None)
    if pid is None:
        return skipped("this backend has none on this machine")
    return arena.attack_cell("attempt(lambda: os.kill(PID, 0))", {"PID": pid})


@attack("signals", "lower a process's priority", layer="signals")
def slow_process(arena: Arena) -> Outcome:
    with arena.victim() as victim:
        outcome = arena.attack_cell("os.setpriority(os.PRIO_PROCESS, PID, 19)", {"PID": victim.pid})
        slowed = os.getpriority(os.PRIO_PROCESS, victim.pid) == 19
    return succeeded("it has the lowest priority") if slowed else held(outcome.why)


@attack("signals", "change a process's limits", layer="signals")
def limit_process(arena: Arena) -> Outcome:
    with arena.victim() as victim:
        code = "import resource\nresource.prlimit(PID, resource.RLIMIT_NOFILE, (17, 17))"
        outcome = arena.attack_cell(code, {"PID": victim.pid})
        changed = resource.prlimit(victim.pid, resource.RLIMIT_NOFILE)[0] == 17
    return succeeded("it may open 17 files") if changed else held(outcome.why)


@attack("signals", "kill another session", layer="signals")
def kill_session(arena: Arena) -> Outcome:
    with arena.session() as session, arena.session() as other:
        other.run("kept = 1")
        there = getattr(other, "process_id", None) or int(other.run("import os; os.getpid()").text or 0)
        execution, won = arena.run(session, "os.kill(PID, 9)", {"PID": there})
        return _is_hurt(other) or arena.judge(execution, won)


def _is_hurt(session: Session) -> Outcome | None:
    """Whether a session that had kept = 1 lost it, or had to be put back."""
    result = session.run("kept", timeout_s=30)
    if result.text != "1" or any("died" in warning for warning in result.warnings):
        return succeeded(f"it answered {result.text!r} {result.warnings}")
    return None


# Only children of one process: without isolation /proc shows the whole machine.
_KILL_RELATIVES = """
for name in filter(str.isdigit, os.listdir("/proc")):
    try:
        parent = int(open(f"/proc/{{name}}/stat").read().rpartition(")")[2].split()[1])
        if parent == {mine} and parent > 1 and int(name) != os.getpid():
            os.kill(int(name), 9)
    except OSError as error:
        print(error)
"""


def on_sibling(name: str, goal: str, code: str, judge: str = "True", layer: str = "branch_signals") -> None:
    """Register an attack from one branch on its sibling, PID.

    The proof is that the sibling loses its variables or `judge`, an expression asked of it, is no longer true.
    """

    def run(arena: Arena) -> Outcome:
        with arena.session() as session:
            session.run("import os, resource; kept = 1")
            with session.snapshot() as snapshot:
                left, right = snapshot.fork(2)
                with left, right:
                    pid = int(right.run("os.getpid()").text or 0)
                    execution, won = arena.run(left, code, {"PID": pid})
                    time.sleep(0.1)
                    hurt = _is_hurt(right)
                    if hurt is None and right.run(judge).text != "True":
                        hurt = succeeded(f"in the sibling, {judge} is no longer true")
                    return hurt or (succeeded("it says so") if won else arena.judge(execution, won))

    add(name, "neighbours", goal, run, layer=layer)


on_sibling("kill_sibling", "kill a sibling branch", "os.kill(PID, 9)")
on_sibling(
    "kill_siblings_all",
    "kill all branches of its snapshot that it sees",
    _KILL_RELATIVES.format(mine="os.getppid()"),
)
on_sibling(
    "starve_sibling",
    "end a sibling branch by a limit on its processor time",
    "import resource\nresource.prlimit(PID, resource.RLIMIT_CPU, (0, 0))",
)
on_sibling(
    "limit_sibling",
    "take a sibling branch its open files",
    "import resource\nresource.prlimit(PID, resource.RLIMIT_NOFILE, (17, 17))",
    "resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 17",
)
on_sibling(
    "slow_sibling",
    "lower a sibling branch's priority",
    "os.setpriority(os.PRIO_PROCESS, PID, 19)",
    "os.getpriority(os.PRIO_PROCESS, 0) < 19",
)
on_sibling(
    "slow_siblings_user",
    "lower the priority of all of its user's processes",
    "os.setpriority(os.PRIO_USER, os.getuid(), 19)",
    "os.getpriority(os.PRIO_PROCESS, 0) < 19",
)
on_sibling(
    "schedule_sibling",
    "have a sibling branch run only when nothing else does",
    "os.sched_setscheduler(PID, os.SCHED_IDLE, os.sched_param(0))",
    "os.sched_getscheduler(0) != os.SCHED_IDLE",
)
on_sibling(
    "pin_sibling",
    "pin a sibling branch to one processor",
    "os.sched_setaffinity(PID, {0})",
    "os.cpu_count() == 1 or len(os.sched_getaffinity(0)) > 1",
)
on_sibling(
    "read_sibling_memory",
    "read a sibling branch's memory",
    "fd = os.open(f'/proc/{PID}/mem', 0)\naddress = id(os)\nattempt(lambda: len(os.pread(fd, 8, address)) == 8)",
)
on_sibling(
    "read_sibling_files",
    "read a sibling branch's files by /proc",
    "attempt(lambda: os.listdir(f'/proc/{PID}/root') is not None)",
)


@attack(
    "neighbours",
    "read its session's memory when the session has made itself traceable",
    layer="branch_signals",
)
def read_traceable_session(arena: Arena) -> Outcome:
    with arena.session() as session:
        session.run("import ctypes, os; ctypes.CDLL(None).prctl(4, 1, 0, 0, 0); kept = 1")
        pid = int(session.run("os.getpid()").text or 0)
        with session.snapshot() as snapshot:
            (branch,) = snapshot.fork()
            with branch:
                code = "fd = os.open(f'/proc/{PID}/mem', os.O_RDWR)\nattempt(lambda: len(os.pread(fd, 8, id(os))) == 8)"
                execution, won = arena.run(branch, code, {"PID": pid})
    return arena.judge(execution, won)


def _tracing(name: str, goal: str, code: str, layer: str = "signals") -> None:
    """Register an attack on a victim, PID, and on the caller, CALLER with its secret at ADDRESS."""

    def run(arena: Arena) -> Outcome:
        with arena.victim() as victim:
            values = {
                "PID": victim.pid,
                "CALLER": os.getpid(),
                "ADDRESS": arena.address,
                "HIDDEN": arena.hidden.fileno(),
                "LENGTH": len(arena.secret),
                "NUMBERS": NUMBERS,
            }
            return arena.attack_cell("import struct\n" + code, values)

    add(name, "tracing", goal, run, layer=layer)


_tracing(
    "attach_to_process",
    "attach to a process by ptrace",
    "attempt(lambda: call(LIBC.ptrace(16, PID, 0, 0)) == 0)",
)
_tracing(
    "seize_process",
    "attach to a process by PTRACE_SEIZE",
    "attempt(lambda: call(LIBC.ptrace(0x4206, PID, 0, 0)))",
)
_tracing(
    "traced_by_parent",
    "have itself traced",
    "in_child(lambda: call(LIBC.ptrace(0, 0, 0, 0)))",
    "system_calls",
)
_tracing(
    "read_memory_of_caller",
    "read the caller's memory by process_vm_readv",
    """
buffer = ctypes.create_string_buffer(LENGTH)
class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
ours, theirs = Vector(ctypes.addressof(buffer), LENGTH), Vector(ADDRESS, LENGTH)
syscall(NUMBERS["process_vm_readv"], CALLER, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0)
print(buffer.raw.decode())
""",
)
_tracing(
    "take_descriptor_of_caller",
    "take a descriptor of the caller's by pidfd_getfd",
    "fd = syscall(NUMBERS['pidfd_getfd'], os.pidfd_open(CALLER), HIDDEN, 0)\nprint(os.pread(fd, 64, 0).decode())",
)
_tracing(
    "compare_with_process",
    "compare kernel objects with a process's by kcmp",
    "attempt(lambda: syscall(NUMBERS['kcmp'], os.getpid(), PID, 1, 0, 0) >= 0)",
)
_tracing(
    "advise_process",
    "advise the kernel on a process's memory by process_madvise",
    """
def advise():
    vector = ctypes.create_string_buffer(struct.pack("QQ", ADDRESS & ~4095, 4096))
    try:
        syscall(NUMBERS["process_madvise"], os.pidfd_open(PID), vector, 1, 20, 0)
    except OSError as error:
        return error.errno == 12  # nothing of the victim's lies there, but it was looked for
attempt(advise)
""",
)


@attack("tracing", "write into a process's memory by /proc", layer="signals")
def write_process_memory(arena: Arena) -> Outcome:
    with arena.victim() as victim:
        place = _writable_address(victim.pid)
        if place is None:
            return skipped("the caller cannot see the victim's memory itself")
        code = "fd = os.open(f'/proc/{PID}/mem', os.O_RDWR)\nattempt(lambda: os.pwrite(fd, b'AXPO', ADDRESS) == 4)"
        return arena.attack_cell(code, {"PID": victim.pid, "ADDRESS": place})


def _writable_address(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            if " rw-p " in line:
                return int(line.split("-")[0], 16)
    return None
