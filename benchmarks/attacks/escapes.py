"""Attacks that outlive what they belong to: a cell, a branch, a session, the sandbox. What escapes sleeps a minute."""

import secrets
import time
from pathlib import Path

from benchmarks.attacks.arena import DAEMON_S, Arena, outlives, processes_called
from benchmarks.attacks.corpus import Outcome, add, attack, held, skipped, succeeded
from benchmarks.attacks.signals import number

FAMILY = "escapes"
_SLEEP = f"""
import signal, time
def sleep():
    os.execv("/bin/sleep", [MARKER, "{DAEMON_S}"])
def fork(function):
    if os.fork() == 0:
        try:
            function()
        finally:
            os._exit(0)
def settle():
    time.sleep(0.3)
"""


def _escaping(name: str, goal: str, code: str, *, cell_dies: bool = False) -> None:
    """Register an attack whose proof is a process that is alive when its session is closed.

    cell_dies: the cell runs into its time-out, and its processes must end with it.
    """

    def run(arena: Arena) -> Outcome:
        values = {"MARKER": f"axpo-{secrets.token_hex(8)}", "CLONE": number("clone")}
        with arena.session() as session:
            session.run("kept = 1")
            tail = "\nsettle()\ntime.sleep(100)" if cell_dies else "\nsettle()"
            execution, _ = arena.run(session, _SLEEP + code + tail, values, timeout_s=3)
            started = bool(processes_called(str(values["MARKER"])))
            if cell_dies and outlives(str(values["MARKER"])):
                return succeeded("it outlived its cell")
            if session.run("kept", timeout_s=30).text != "1":
                return succeeded("the session was lost")
        if outlives(str(values["MARKER"])):
            return succeeded("it outlived its session")
        return held(
            "it ended" if started or cell_dies else f"it did not start: {execution.stdout} {execution.error}"
        )

    add(name, FAMILY, goal, run)


_TWIN = """
if syscall(CLONE, 0x8000 | 17, 0, 0, 0, 0) == 0:
    try:
        sleep()
    finally:
        os._exit(0)
"""
_DOUBLE = "def first():\n    os.setsid()\n    fork(sleep)\n"
_escaping("child_outlives_session", "leave a child process behind", "fork(sleep)")
_escaping("daemon_outlives_session", "leave a daemon behind", _DOUBLE + "fork(first)")
_escaping(
    "daemon_outlives_cell",
    "leave a daemon behind when its cell is stopped",
    _DOUBLE + "fork(first)",
    cell_dies=True,
)
_escaping(
    "stubborn_daemon",
    "leave a daemon behind that ignores signals and is stopped",
    "def first():\n    for item in range(1, 65):\n        try:\n            signal.signal(item, signal.SIG_IGN)\n"
    "        except (OSError, ValueError):\n            pass\n    os.setsid()\n    fork(sleep)\nfork(first)",
    cell_dies=True,
)
_escaping(
    "daemon_without_reaper",
    "leave a daemon behind after it is no longer the one who inherits orphans",
    "LIBC.prctl(36, 0, 0, 0, 0)\n" + _DOUBLE + "fork(first)",
    cell_dies=True,
)
_escaping(
    "program_daemon",
    "leave a program behind by setsid and nohup",
    "import subprocess\nsubprocess.run(['sh', '-c', f'exec 3>&-; (exec -a {MARKER} sleep 60) & exit'], "
    "start_new_session=True)\nsubprocess.run(['bash', '-c', f'(setsid bash -c \"exec -a {MARKER} sleep 60\") & exit'])",
)
_escaping(
    "twin_outlives_cell",
    "start a process that counts as its parent's child, not as its own",
    _TWIN,
    cell_dies=True,
)


@attack(FAMILY, "leave a process behind when its branch is closed")
def twin_outlives_branch(arena: Arena) -> Outcome:
    marker = f"axpo-{secrets.token_hex(8)}"
    with arena.session() as session:
        session.run("kept = 1")
        with session.snapshot() as snapshot:
            (branch,) = snapshot.fork()
            with branch:
                execution, _ = arena.run(
                    branch, _SLEEP + _TWIN + "\nsettle()", {"MARKER": marker, "CLONE": number("clone")}
                )
            if outlives(marker):
                return succeeded("it outlived its branch")
    return held(arena.judge(execution, False).why)


@attack(FAMILY, "leave a daemon behind when the sandbox is closed")
def daemon_outlives_sandbox(arena: Arena) -> Outcome:
    marker = f"axpo-{secrets.token_hex(8)}"
    arena.run(arena.session(), _SLEEP + _DOUBLE + "fork(first)\nsettle()", {"MARKER": marker})
    arena.sandbox.close()
    lives = outlives(marker)
    arena.sandbox = arena.make()
    return succeeded("it outlived its sandbox") if lives else held("it ended")


# Each process of the chain lives for less than it takes to look for it. The chain ends by itself.
_CHAIN = """
import signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # or the dead would soon count as too many
end = time.monotonic() + LIFE_S
for _ in range(NUM):
    if os.fork() == 0:
        os.setsid()
        while time.monotonic() < end:
            if os.fork():
                os._exit(0)
        os._exit(0)
"""


@attack(FAMILY, "keep whoever ends its cell busy with processes that are gone when they are found")
def chain_of_forks(arena: Arena) -> Outcome:
    life_s = 30
    with arena.session() as session:
        session.run("kept = 1")
        start_s = time.monotonic()
        arena.run(session, _CHAIN + "time.sleep(100)", {"LIFE_S": life_s, "NUM": 4}, timeout_s=2)
        took_s = time.monotonic() - start_s
        if session.run("kept", timeout_s=30).text != "1":
            return succeeded("the session was lost")
    if took_s > 12:
        return succeeded(f"stopping a cell after 2 s took {took_s:.0f} s")
    return held(f"the cell was stopped after {took_s:.1f} s")


@attack(FAMILY, "keep a processor busy when its cell was stopped and its session closed")
def cpu_after_session(arena: Arena) -> Outcome:
    marker = f"axpo-{secrets.token_hex(8)}"
    code = (
        _SLEEP
        + """
def burn():
    os.execv(sys.executable, [MARKER, "-S", "-c", "import time\\nend = time.monotonic() + 30\\n"
             f"while time.monotonic() < end: pass  # {MARKER}"])
def first():
    os.setsid()
    fork(burn)
fork(first)
time.sleep(100)
"""
    )
    with arena.session() as session:
        arena.run(session, code, {"MARKER": marker}, timeout_s=3)
    return succeeded("it still runs") if outlives(marker) else held("it ended")


@attack(
    FAMILY,
    "keep a processor busy between cells",
    accepted="use of the CPU is not covered: threads that a cell leaves behind go on",
)
def cpu_between_cells(arena: Arena) -> Outcome:
    code = """
import threading, time
end = time.monotonic() + 20
def burn():
    while time.monotonic() < end:
        pass
threading.Thread(target=burn, daemon=True).start()
"""
    with arena.session() as session:
        pid = getattr(session, "process_id", None)
        if pid is None:
            return skipped("this backend's processes are not this machine's")
        arena.run(session, code)
        before = _cpu_ticks(pid)
        time.sleep(1.0)
        used = _cpu_ticks(pid) - before
    return (
        succeeded(f"{used} of 100 ticks were used between cells")
        if used > 5
        else held(f"{used} ticks were used")
    )


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@attack(FAMILY, "leave its control group")
def leave_control_group(arena: Arena) -> Outcome:
    code = """
import glob
def leave():
    paths = glob.glob("/sys/fs/cgroup/*/cgroup.procs") + glob.glob("/sys/fs/cgroup/cgroup.procs")
    if not paths:
        raise OSError("no control groups are seen")
    for path in paths:
        with open(path, "w") as file:
            file.write("0")
in_child(leave)
"""
    return arena.attack_cell(code)
