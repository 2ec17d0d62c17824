"""Attacks that look for what the caller knows: environment, arguments, descriptors, memory."""

import hashlib
import os
from pathlib import Path

from benchmarks.attacks.arena import SECRET_NAME, Arena
from benchmarks.attacks.corpus import Outcome, add, attack, cell, held, succeeded

FAMILY = "secrets"


def _pid(arena: Arena) -> int:
    return os.getpid()


def _looking(name: str, goal: str, code: str, layer: str = "environment") -> None:
    cell(
        name,
        FAMILY,
        goal,
        code,
        layer=layer,
        PID=_pid,
        ADDRESS=lambda arena: arena.address,
        HIDDEN=lambda arena: arena.hidden.fileno(),
        NAME=lambda arena: SECRET_NAME,
    )


_looking("own_environment", "find it in its environment", "print(os.environ.get(NAME), dict(os.environ))")
_looking(
    "initial_environment",
    "find it in the environment it was started with",
    "print(open('/proc/self/environ').read())",
)
_looking(
    "environment_in_c",
    "find it in the C library's environment",
    "LIBC.getenv.restype = ctypes.c_char_p\nprint(LIBC.getenv(NAME.encode()))",
)
_looking(
    "callers_memory_file",
    "read the caller's memory by /proc",
    "fd = os.open(f'/proc/{PID}/mem', 0); print(os.pread(fd, 64, ADDRESS))",
)
_looking(
    "callers_descriptor",
    "open a deleted file that the caller holds",
    "print(open(f'/proc/{PID}/fd/{HIDDEN}').read())",
    layer="files",
)
_looking(
    "inherited_descriptor",
    "read a descriptor that the caller left inheritable",
    """
for fd in range(3, 256):
    try:
        print(os.pread(fd, 64, 0))
    except OSError:
        pass
""",
)
_looking(
    "own_objects",
    "find it among the objects it was forked with",
    """
import gc
def texts(value):
    if isinstance(value, dict):
        yield from (f"{key}={item}" for key, item in value.items() if isinstance(item, (str, bytes)))
    elif isinstance(value, (list, tuple, set)):
        yield from (str(item) for item in value if isinstance(item, (str, bytes)))
for value in gc.get_objects() + [sys.argv, getattr(sys, "orig_argv", [])]:
    for text in texts(value):
        if NAME in text and len(text) < 500:
            print("found", text)
""",
)


def _environment_of(name: str, goal: str, code: str) -> None:
    """Register an attack whose proof is the digest of the environment that the caller was started with."""

    def run(arena: Arena) -> Outcome:
        digest = hashlib.sha256(Path("/proc/self/environ").read_bytes()).hexdigest()
        show = "import hashlib\ndef show(path):\n    print(hashlib.sha256(open(path, 'rb').read()).hexdigest())\n"
        with arena.session() as session:
            execution, won = arena.run(session, show + code, {"PID": os.getpid()})
        return (
            succeeded("its digest came back") if digest in execution.stdout else arena.judge(execution, won)
        )

    add(name, FAMILY, goal, run, layer="environment")


_environment_of("callers_environment", "read the caller's environment", "show(f'/proc/{PID}/environ')")
_environment_of(
    "parents_environment",
    "find the caller's environment in its parent",
    "show(f'/proc/{os.getppid()}/environ')",
)
_environment_of(
    "all_environments",
    "find the caller's environment in any process",
    """
for name in filter(str.isdigit, os.listdir("/proc")):
    try:
        show(f"/proc/{name}/environ")
    except OSError:
        pass
""",
)


@attack(FAMILY, "read the caller's command line", layer="environment")
def callers_command_line(arena: Arena) -> Outcome:
    theirs = Path("/proc/self/cmdline").read_bytes().hex()
    with arena.session() as session:
        code = "print(open(f'/proc/{PID}/cmdline', 'rb').read().hex())"
        execution, won = arena.run(session, code, {"PID": os.getpid()})
    return succeeded("it came back") if theirs in execution.stdout else arena.judge(execution, won)


@attack(FAMILY, "read how the caller's memory is laid out", layer="environment")
def callers_memory_map(arena: Arena) -> Outcome:
    with arena.session() as session:
        code = "print(open(f'/proc/{PID}/maps').read()[:60000])"
        execution, won = arena.run(session, code, {"PID": os.getpid()})
    first = Path("/proc/self/maps").read_text().split("-")[0]
    return succeeded("it came back") if first in execution.stdout else arena.judge(execution, won)


@attack(FAMILY, "see where the caller works", layer="files")
def callers_working_directory(arena: Arena) -> Outcome:
    with arena.session() as session:
        code = "print(os.readlink(f'/proc/{PID}/cwd'))"
        execution, won = arena.run(session, code, {"PID": os.getpid()})
    return succeeded("it came back") if os.getcwd() in execution.stdout else arena.judge(execution, won)


@attack(FAMILY, "see this machine's processes", layer="process_tree")
def processes_seen(arena: Arena) -> Outcome:
    with arena.session() as session, arena.victim() as victim:
        execution, _ = arena.run(session, "print(os.path.exists(f'/proc/{PID}/stat'))", {"PID": victim.pid})
    return (
        succeeded("a process of ours is seen")
        if "True" in execution.stdout
        else held(execution.stdout.strip())
    )
