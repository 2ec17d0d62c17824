"""Attacks on other sessions, sibling branches, snapshots, and on what later sessions are made of."""

import secrets
import sys
from collections.abc import Callable
from pathlib import Path

from axpo_sandbox import Session
from axpo_sandbox.local.syscalls import NUMBERS
from benchmarks.attacks.arena import Arena
from benchmarks.attacks.corpus import Outcome, add, held, succeeded
from benchmarks.attacks.signals import number

Pair = Callable[[Arena, Session, Session], Outcome]


def _values(arena: Arena) -> dict[str, object]:
    names = ("shmget", "msgget", "semget", "mq_open")
    return {
        "MARK": secrets.token_hex(8),
        "KEY": secrets.randbits(30) + 1,
        "NUMBERS": {
            **{name: NUMBERS.get(name, -1) for name in names},
            "inotify_init1": number("inotify_init1"),
        },
        "RUNTIME": sys.base_prefix,
    }


def _between_sessions(
    name: str, goal: str, first: str, second: str, family: str = "neighbours", again: str = ""
) -> None:
    """Register an attack from one session on another that lives beside it, or starts after it.

    The second one's cell says whether the first one's mark came through. again: a cell of the first in between.
    """

    def run(arena: Arena) -> Outcome:
        values = _values(arena)
        with arena.session() as one:
            before, _ = arena.run(one, first, values)
            with arena.session() as two:
                if again:
                    arena.run(two, "import os", values)
                    arena.run(one, again, values)
                execution, won = arena.run(two, second, values)
                if again and not won:
                    execution, won = arena.run(one, "pass", values)
                outcome = arena.judge(execution, won)
        if not won and before.error is not None:
            return held(f"{before.error.name}: {before.error.value}")
        return outcome

    add(name, family, goal, run)


_between_sessions(
    "shared_folder",
    "leave a file where another session finds it",
    """
for folder in ("/tmp", "/dev/shm", "/var/tmp", ".", "/"):
    try:
        open(f"{folder}/axpo-{MARK}", "w").close()
    except OSError as error:
        print(error)
""",
    """
for folder in ("/tmp", "/dev/shm", "/var/tmp", ".", "/"):
    if os.path.exists(f"{folder}/axpo-{MARK}"):
        os.unlink(f"{folder}/axpo-{MARK}")
        won(folder)
""",
)
_between_sessions(
    "other_sessions_folder",
    "read another session's working folder",
    "open('own', 'w').write(MARK)",
    """
import glob
for pattern in ("/tmp/*/boxes/*/*/box/own", "/proc/[0-9]*/cwd/own", "/proc/[0-9]*/root/box/own"):
    for path in glob.glob(pattern):
        try:
            if open(path).read() == MARK:
                won(pattern)
        except OSError as error:
            print(error)
""",
)
_between_sessions(
    "other_sessions_memory",
    "find another session's variable in its own memory",
    "kept = MARK * 3",
    "import gc\nfor item in gc.get_objects():\n"
    "    if isinstance(item, dict) and item.get('kept') == MARK * 3:\n        won()",
)
_between_sessions(
    "shared_segment",
    "share a System V segment with another session",
    "call(LIBC.shmget(KEY, ctypes.c_size_t(4096), 0o1666))",
    "call(LIBC.shmctl(call(LIBC.shmget(KEY, ctypes.c_size_t(4096), 0)), 0, None))\nwon()",
)
_between_sessions(
    "shared_message_queue",
    "share a System V message queue with another session",
    "call(LIBC.msgget(KEY, 0o1666))",
    "call(LIBC.msgctl(call(LIBC.msgget(KEY, 0)), 0, None))\nwon()",
)
_between_sessions(
    "shared_semaphore",
    "share a System V semaphore with another session",
    "call(LIBC.semget(KEY, 1, 0o1666))",
    "call(LIBC.semctl(call(LIBC.semget(KEY, 1, 0)), 0, 0))\nwon()",
)
_between_sessions(
    "shared_posix_queue",
    "share a POSIX message queue with another session",
    "syscall(NUMBERS['mq_open'], b'axpo' + MARK.encode(), 0o102, 0o666, 0)",
    "syscall(NUMBERS['mq_open'], b'axpo' + MARK.encode(), 0, 0, 0)\nwon()",
)
_between_sessions(
    "shared_abstract_socket",
    "send to another session by an abstract socket",
    "import socket\nears, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\nears.bind('\\0axpo' + MARK)\n"
    "print('bound')",
    "import socket\nmouth, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
    "attempt(lambda: mouth.sendto(b'x', '\\0axpo' + MARK))",
)
_between_sessions(
    "watch_of_system_files",
    "watch which system files another session opens",
    """
import glob
path = next(item for item in glob.glob(RUNTIME + "/lib/python3*/antigravity.py"))
watch = syscall(NUMBERS["inotify_init1"], 0o4000)
call(LIBC.inotify_add_watch(watch, path.encode(), 0x20 | 1))
""",
    """
import glob
for item in glob.glob(RUNTIME + "/lib/python3*/antigravity.py"):
    open(item).read()
""",
    again="pass",
)


def _poisoning(name: str, goal: str, first: str, second: str) -> None:
    """Register an attack on what sessions started later are made of."""

    def run(arena: Arena) -> Outcome:
        values = _values(arena)
        with arena.session() as one:
            one.run("kept = 1")
            before, _ = arena.run(one, first, values)
            with arena.session() as two:
                execution, won = arena.run(two, second, values)
                outcome = arena.judge(execution, won)
        for path in _SITES():
            (path / f"axpo_{values['MARK']}.py").unlink(missing_ok=True)
        if not won and before.error is not None:
            return held(f"{before.error.name}: {before.error.value}")
        return outcome

    add(name, "poison", goal, run)


def _SITES() -> list[Path]:
    return [Path(path) for path in sys.path if path.endswith("site-packages")]


_poisoning(
    "patch_builtins",
    "change the built-ins of later sessions",
    "import builtins\nbuiltins.axpo = MARK",
    "attempt(lambda: axpo == MARK)",
)
_poisoning(
    "patch_json",
    "change the json module of later sessions",
    "import json\njson.dumps = lambda *_, **__: MARK",
    "import json\nattempt(lambda: json.dumps(1) == MARK)",
)
_poisoning(
    "patch_numpy",
    "change numpy in later sessions",
    "import numpy\nnumpy.axpo = MARK",
    "import numpy\nattempt(lambda: numpy.axpo == MARK)",
)
_poisoning(
    "patch_random",
    "change random in later sessions",
    "import random\nrandom.random = lambda: MARK",
    "import random\nattempt(lambda: random.random() == MARK)",
)
_poisoning(
    "patch_modules",
    "plant a module in later sessions",
    "import types\nsys.modules['axpo'] = types.ModuleType(MARK)",
    "import axpo\nattempt(lambda: axpo.__name__ == MARK)",
)
_poisoning(
    "patch_environment",
    "change the environment of later sessions",
    "os.environ['AXPO'] = MARK",
    "attempt(lambda: os.environ['AXPO'] == MARK)",
)
_poisoning(
    "patch_audit",
    "listen to later sessions by an audit hook",
    "sys.addaudithook(lambda *_: setattr(sys, 'axpo', MARK))",
    "open('/dev/null').close()\nattempt(lambda: sys.axpo == MARK)",
)
_poisoning(
    "patch_agent",
    "change the agent of later sessions",
    "from axpo_sandbox.local import cell\nold = cell.run_cell\n"
    "from axpo_sandbox.local import agent\nagent.run_cell = lambda *_: {**old(*_), 'text': MARK}",
    "from axpo_sandbox.local import agent\nattempt(lambda: agent.run_cell.__module__ != 'axpo_sandbox.local.cell')",
)
_poisoning(
    "patch_zygote_memory",
    "write to the memory of the process that later sessions are forked from",
    "fd = os.open(f'/proc/{os.getppid()}/mem', os.O_RDWR)\nos.pwrite(fd, b'x', id(os))",
    "print('read')\nsys.exit(0)",
)
_poisoning(
    "write_site_packages",
    "plant a module among the installed packages",
    "for path in sys.path:\n    try:\n        open(f'{path}/axpo_{MARK}.py', 'w').write('x = 1')\n"
    "        print('wrote to', path)\n    except OSError as error:\n        print(error)",
    "import importlib\nattempt(lambda: importlib.import_module(f'axpo_{MARK}').x == 1)",
)
_poisoning(
    "write_user_packages",
    "plant a module in the user's packages",
    "import site\npath = site.getusersitepackages()\nos.makedirs(path, exist_ok=True)\n"
    "open(f'{path}/axpo_{MARK}.py', 'w').write('x = 1')",
    "import site, importlib\nsys.path.append(site.getusersitepackages())\n"
    "attempt(lambda: importlib.import_module(f'axpo_{MARK}').x == 1)",
)
_poisoning(
    "write_matplotlib_settings",
    "change matplotlib's settings of later sessions",
    "path = os.environ['MPLCONFIGDIR']\nos.makedirs(path, exist_ok=True)\n"
    "open(path + '/matplotlibrc', 'w').write('#' + MARK)",
    "path = os.environ['MPLCONFIGDIR'] + '/matplotlibrc'\nfound = open(path).read()\nos.unlink(path)\n"
    "attempt(lambda: MARK in found)",
)
_poisoning(
    "write_byte_code",
    "plant byte code beside an installed module",
    """
import json, py_compile
open("fake.py", "w").write("x = 1")
for folder in {os.path.dirname(json.__file__), os.path.dirname(os.__file__)}:
    try:
        py_compile.compile("fake.py", cfile=f"{folder}/__pycache__/axpo_{MARK}.pyc", doraise=True)
    except OSError as error:
        print(error)
""",
    """
import json
for folder in {os.path.dirname(json.__file__), os.path.dirname(os.__file__)}:
    path = f"{folder}/__pycache__/axpo_{MARK}.pyc"
    if os.path.exists(path):
        os.unlink(path)
        won(folder)
""",
)


def _between_branches(
    name: str, goal: str, before: str, left_code: str, right_code: str, accepted: str = ""
) -> None:
    """Register an attack by what a session made before its snapshot: left writes, right must not see it.

    The frozen snapshot and its session must not either: right_code is asked of a later branch and of the session too.
    """

    def run(arena: Arena) -> Outcome:
        values = _values(arena)
        with arena.session() as session:
            arena.run(session, before, values)
            with session.snapshot() as snapshot:
                left, right = snapshot.fork(2)
                with left, right:
                    written, _ = arena.run(left, left_code, values)
                    (later,) = snapshot.fork()
                    with later:
                        for who, where in (
                            ("the sibling", right),
                            ("a later branch", later),
                            ("the session", session),
                        ):
                            execution, won = arena.run(where, right_code, values)
                            if won:
                                return succeeded(f"{who} sees it")
        return held(f"{written.stdout.strip()} {written.error or ''}; {arena.judge(execution, False).why}")

    add(name, "neighbours", goal, run, layer="branch_files", accepted=accepted)


_between_branches(
    "branch_variable",
    "change a sibling branch's variables",
    "kept = []",
    "kept.append(MARK)",
    "attempt(lambda: kept == [MARK])",
)
_between_branches(
    "branch_file",
    "change a sibling branch's files",
    "open('a', 'w').write('old'); here = os.path.abspath('a')",
    "open(here, 'w').write(MARK)",
    "attempt(lambda: open(here).read() == MARK)",
)
_between_branches(
    "branch_open_file",
    "write to a sibling branch's open file",
    "f = open('a', 'w+')",
    "f.write(MARK); f.flush()",
    "f.seek(0)\nattempt(lambda: f.read() == MARK)",
)
_between_branches(
    "branch_folder_descriptor",
    "reach a sibling branch's files by a folder opened before",
    "fd = os.open('.', os.O_RDONLY)",
    "print(os.write(os.open('new', os.O_RDWR | os.O_CREAT, dir_fd=fd), MARK.encode()))",
    "attempt(lambda: os.read(os.open('new', os.O_RDONLY, dir_fd=fd), 99) == MARK.encode())",
)
_between_branches(
    "branch_deleted_file",
    "share a deleted file with a sibling branch",
    "f = open('a', 'w+b', buffering=0); os.unlink('a')",
    "f.write(MARK.encode())",
    "attempt(lambda: os.pread(f.fileno(), 99, 0) == MARK.encode())",
)
_between_branches(
    "branch_shared_memory",
    "share mapped memory with a sibling branch",
    "import mmap\nshared = mmap.mmap(-1, 4096)",
    "shared[:16] = MARK.encode()",
    "attempt(lambda: shared[:16] == MARK.encode())",
)
_between_branches(
    "branch_mapped_file",
    "share a mapped file with a sibling branch",
    "import mmap\nopen('a', 'wb').write(bytes(4096)); f = open('a', 'r+b'); shared = mmap.mmap(f.fileno(), 4096)",
    "shared[:16] = MARK.encode()",
    "attempt(lambda: shared[:16] == MARK.encode())",
)
_between_branches(
    "branch_multiprocessing_value",
    "share a multiprocessing value with a sibling branch",
    "import multiprocessing\nshared = multiprocessing.RawValue('i', 0)",
    "shared.value = 5",
    "attempt(lambda: shared.value == 5)",
)
_between_branches(
    "branch_pipe",
    "send to a sibling branch by a pipe",
    "reader, writer = os.pipe()\nos.set_blocking(reader, False)",
    "os.write(writer, MARK.encode() * 3)",
    "attempt(lambda: os.read(reader, 16) == MARK.encode())",
)
_between_branches(
    "branch_socket_pair",
    "send to a sibling branch by a socket pair",
    "import socket\nours, theirs = socket.socketpair()\ntheirs.setblocking(False)",
    "ours.send(MARK.encode() * 3)",
    "attempt(lambda: theirs.recv(16) == MARK.encode())",
)
_between_branches(
    "branch_event_counter",
    "signal a sibling branch by an event counter",
    "fd = os.eventfd(0, os.EFD_NONBLOCK)",
    "os.eventfd_write(fd, 5)",
    "attempt(lambda: os.eventfd_read(fd) == 5)",
)
_between_branches(
    "branch_abstract_socket",
    "send to a sibling branch by an abstract socket",
    "import socket\nears, mouth = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\nears.setblocking(False)\n"
    "ears.bind('\\0axpo' + MARK)",
    "mouth, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\nmouth.sendto(MARK.encode(), '\\0axpo' + MARK)",
    "attempt(lambda: ears.recv(16) == MARK.encode())",
)
_between_branches(
    "branch_by_path",
    "find a sibling branch's folder by its path",
    "here = os.getcwd()",
    "open('own', 'w').write(MARK)",
    """
import glob
for path in glob.glob(os.path.dirname(os.path.dirname(os.getcwd())) + "/*/box/own") + ["/box/own", here + "/own"]:
    if os.path.exists(path) and open(path).read() == MARK:
        won(path)
""",
)
