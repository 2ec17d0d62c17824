"""Attacks on the time of others: calls that do not come back, shares of the machine, and branches that are stopped."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from axpo_sandbox import SandboxError
from axpo_sandbox.local.syscalls import NUMBERS
from benchmarks.attacks.arena import Arena
from benchmarks.attacks.corpus import Outcome, add, attack, cell, held, skipped, succeeded

_TIMEOUT_S = 2.0
_MAX_BEYOND_S = 2.0
# One attack a line reads as a table.
# ruff: noqa: E501
_FIND = """
import gc, os, signal, sys, time
found = [item for item in gc.get_objects() if type(item).__name__ == "Agent"]
if not found:
    print("not applicable: there is no agent here", flush=True)
    raise SystemExit
agent, = found
kind, module = type(agent), sys.modules[type(agent).__module__]
def hang(*_, **__):
    time.sleep(1000)
"""
_STOP_ALL = """
import os, signal
for name in filter(str.isdigit, os.listdir("/proc")):
    try:
        parent = int(open(f"/proc/{name}/stat").read().rpartition(")")[2].split()[1])
        if parent == os.getpid() and os.readlink("/proc/self") == str(os.getpid()):
            os.kill(int(name), signal.SIGSTOP)
    except OSError as error:
        print(error)
"""


def _stalling(name: str, goal: str, code: str) -> None:
    """Register an attack whose proof is a later call that takes longer than its time-out and two seconds."""

    def run(arena: Arena) -> Outcome:
        longest_s = 0.0

        def call(what: Callable[[], Any]) -> Any:
            nonlocal longest_s
            start_s = time.monotonic()
            try:
                return what()
            except SandboxError:
                return None
            finally:
                longest_s = max(longest_s, time.monotonic() - start_s)

        with arena.session() as session:
            arena.run(session, "kept = 1", timeout_s=_TIMEOUT_S)
            call(lambda: arena.run(session, code, timeout_s=_TIMEOUT_S))
            snapshot = call(session.snapshot)
            branches = (call(lambda: snapshot.fork(2)) if snapshot is not None else None) or []
            for where in (session, *branches):
                for _ in range(2):
                    call(partial(where.run, "kept", timeout_s=_TIMEOUT_S))
            for branch in branches:
                branch.close()
        arena.longest_beyond_s = max(arena.longest_beyond_s, longest_s - _TIMEOUT_S)
        if longest_s > _TIMEOUT_S + _MAX_BEYOND_S:
            return succeeded(f"a call with {_TIMEOUT_S:g} s took {longest_s:.1f} s")
        return held(f"no call took longer than {longest_s:.1f} s")

    add(name, "neighbours", goal, run)


_stalling("hold_by_stops", "hold its caller by stopping what it forked", _STOP_ALL)
_stalling(
    "hold_by_stops_and_exit",
    "hold its caller by stopping what it forked and ending itself",
    _STOP_ALL + "os._exit(1)",
)
_stalling(
    "hold_by_signals",
    "hold its caller by signals without end, each of which is decided on",
    """
import signal
for _ in range(12):
    if os.fork() == 0:
        signal.alarm(60)
        while True:
            os.kill(os.getppid(), 0)
""",
)
_stalling("hold_by_reaping", "hold its caller by how its agent reaps", _FIND + "kind.reap = hang")
_stalling(
    "hold_by_spinning",
    "hold its caller by an agent that spins",
    _FIND + "def spin(*_):\n    while True: pass\nkind.reap = spin",
)
_stalling("hold_by_receiving", "hold its caller by how its agent receives", _FIND + "module.receive = hang")
_stalling("hold_by_sending", "hold its caller by how its agent sends", _FIND + "module.send = hang")
_stalling("hold_by_forking", "hold its caller by how its agent forks", _FIND + "module.fork_alike = hang")
_stalling("hold_by_forks", "hold its caller by what its agent's forks do", _FIND + "kind._become = hang")
_stalling(
    "hold_by_roles",
    "hold its caller by forks that never say they are there",
    _FIND + "kind._take_role = hang",
)
_stalling("hold_by_seeds", "hold its caller by how its agent seeds", _FIND + "module.reseed = hang")
_stalling(
    "hold_by_builtins",
    "hold its caller by a replaced built-in",
    "import builtins, time\nbuiltins.open = lambda *_, **__: time.sleep(1000)",
)
_stalling(
    "hold_by_system",
    "hold its caller by a replaced function of os",
    "import time\nos.listdir = lambda *_: time.sleep(1000)",
)


@attack("neighbours", "slow other sessions by the scheduler group it is in")
def slow_scheduler_group(arena: Arena) -> Outcome:
    show = "import os\nprint(os.popen('cat /proc/self/autogroup').read())"
    with arena.session() as one, arena.session() as other:
        before = other.run(show, timeout_s=20).stdout.split()
        if not before:
            return skipped("sessions see no scheduler groups here")
        arena.run(one, "os.system('echo 19 > /proc/self/autogroup')")
        after = other.run(show, timeout_s=20).stdout.split()
    return succeeded("its neighbour is at 19") if after != before else held(" ".join(after))


def _call(name: str, goal: str, code: str) -> None:
    cell(name, "kernel", goal, code, layer="system_calls", NUMBERS=lambda arena: NUMBERS)


_call("make_dumpable", "make itself dumpable", "attempt(lambda: call(LIBC.prctl(4, 1, 0, 0, 0)))")
_call(
    "make_timer",
    "take from the timers and signals that all of a user's processes share",
    "timer = ctypes.c_void_p()\nattempt(lambda: call(LIBC.timer_create(0, None, ctypes.byref(timer))))",
)
_call(
    "listen_by_filter",
    "listen to the system calls of its branches",
    "program = (ctypes.c_uint64 * 1)(0x7fff000000000006)\nclass P(ctypes.Structure):\n    _fields_ = [('n', ctypes.c_ushort), ('p', ctypes.c_void_p)]\nheader = P(1, ctypes.addressof(program))\nLIBC.prctl(38, 1, 0, 0, 0)\nin_child(lambda: syscall(NUMBERS['seccomp'], 1, 8, ctypes.byref(header)))",
)
_call(
    "watch_by_dnotify",
    "watch which system files others open by dnotify",
    "import fcntl\nattempt(lambda: fcntl.fcntl(os.open(os.path.dirname(os.__file__), os.O_RDONLY), 1026, 1))",
)
_call(
    "lease_on_file",
    "have others wait for a file by a lease",
    "import fcntl\nattempt(lambda: fcntl.fcntl(os.open(os.__file__, os.O_RDONLY), 1024, 0))",
)
