"""Attacks that use more than allowed: processes, memory, disk, descriptors.

Each stops as soon as it has gone a little past the limit it is after, so it does no harm where nothing holds.
"""

from collections.abc import Callable
from typing import Any

from benchmarks.attacks.arena import LIMITS, TOTAL_MEMORY_BYTES, Arena
from benchmarks.attacks.corpus import Outcome, add, attack, cell, held, succeeded
from benchmarks.attacks.signals import number

MB = 1 << 20


def _value(value: Any) -> Callable[[Arena], Any]:
    return lambda arena: value


_MANY = LIMITS.num_processes + 8
_BOMB = """
import signal, threading, time, subprocess
started = []
def count(start):
    try:
        for _ in range(MANY):
            started.append(start())
    except (OSError, RuntimeError) as error:
        print("stopped after", len(started), type(error).__name__, error, flush=True)
    else:
        won(f"{len(started)} started; {LIMIT} are allowed")
def forked():
    child = os.fork()
    if child == 0:
        time.sleep(20)
        os._exit(0)
    return child
def end():
    for child in started:
        os.kill(child, 9)
        os.waitpid(child, 0)
"""


def _bomb(name: str, goal: str, code: str) -> None:
    def run(arena: Arena) -> Outcome:
        values = {"MANY": _MANY, "LIMIT": LIMITS.num_processes, "CLONE": number("clone")}
        # Stacks of threads take room in the address space: that must not be what stops them.
        return arena.attack_cell(_BOMB + code, values, memory_bytes=16 << 30)

    add(name, "processes", goal, run, layer="session_processes")


_bomb("fork_bomb", "start more processes", "count(forked)\nend()")
_bomb(
    "thread_bomb",
    "start more threads",
    """
stop = threading.Event()
def thread():
    made = threading.Thread(target=stop.wait, args=(20,), daemon=True)
    made.start()
    return made
count(thread)
stop.set()
""",
)
_bomb(
    "program_bomb",
    "start more programs",
    "count(lambda: subprocess.Popen(['sleep', '20']).pid)\nend()",
)
_bomb(
    "fork_bomb_with_raised_limit",
    "start more processes after raising its own limit",
    """
import resource
_, hard = resource.getrlimit(resource.RLIMIT_NPROC)
try:
    resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
except OSError as error:
    print(error)
count(forked)
end()
""",
)
_bomb(
    "fork_bomb_by_syscall",
    "start more processes by clone",
    """
def cloned():
    child = syscall(CLONE, 17, 0, 0, 0, 0)
    if child == 0:
        time.sleep(20)
        os._exit(0)
    return child
count(cloned)
end()
""",
)
_bomb(
    "nested_fork_bomb",
    "start more processes, each by the one before",
    """
reader, writer = os.pipe()
for _ in range(MANY):
    try:
        child = os.fork()
    except OSError:
        break
    if child:
        break
    os.write(writer, b"x")
if os.getpid() != OWN:
    time.sleep(3)
    os._exit(0)
time.sleep(1)
num = len(os.read(reader, 10000))
if num >= MANY:
    won(f"{num} started")
else:
    print("stopped after", num)
""".replace("reader, writer", "OWN = os.getpid()\nreader, writer"),
)

_PAST = LIMITS.memory_bytes + 96 * MB


def _hog(name: str, goal: str, code: str, past: int = _PAST) -> None:
    """Register an attack that holds `past` bytes for a moment."""
    cell(name, "memory", goal, "import mmap\n" + code, PAST=_value(past), MB=_value(MB))


_hog("memory_by_bytes", "hold more in one object", "x = bytearray(b'x') * PAST\nwon(f'{len(x)} bytes')")
_hog(
    "memory_by_small_objects",
    "hold more in many objects",
    "x = []\nwhile len(x) * 65536 < PAST:\n    x.append(os.urandom(1) * 65536)\nwon(f'{len(x) * 65536} bytes')",
)
_hog(
    "memory_by_mmap",
    "map more",
    "x = mmap.mmap(-1, PAST, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
    "for at in range(0, PAST, 4096):\n    x[at] = 1\nwon(f'{PAST} bytes')",
)
_hog(
    "memory_by_shared_mmap",
    "map more, shared",
    "x = mmap.mmap(-1, PAST)\nfor at in range(0, PAST, 4096):\n    x[at] = 1\nwon(f'{PAST} bytes')",
)
_hog(
    "memory_by_malloc",
    "take more from the C library",
    "LIBC.malloc.restype = ctypes.c_void_p\nx = LIBC.malloc(ctypes.c_size_t(PAST))\n"
    "if x:\n    ctypes.memset(x, 1, PAST)\n    won(f'{PAST} bytes')\nelse:\n    print('refused')",
)
_hog(
    "memory_by_numpy",
    "hold more in an array",
    "try:\n    import numpy\nexcept ImportError:\n    print('not applicable: no numpy')\n"
    "else:\n    x = numpy.ones(PAST // 8)\n    won(f'{x.nbytes} bytes')",
)
_hog(
    "memory_with_raised_limit",
    "hold more after raising its own limit",
    "import resource\nfor kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):\n    try:\n"
    "        resource.setrlimit(kind, (resource.RLIM_INFINITY,) * 2)\n    except (OSError, ValueError) as error:\n"
    "        print(error)\nx = bytearray(b'x') * PAST\nwon(f'{len(x)} bytes')",
)
_hog(
    "memory_by_memfd",
    "hold more in a file without a name",
    """
fds = []
while len(fds) * 4 * MB < PAST:
    fds.append(os.memfd_create("x"))
    os.write(fds[-1], bytes(4 * MB))
won(f"{len(fds) * 4 * MB} bytes in {len(fds)} files")
""",
)
_hog(
    "memory_by_shared_segment",
    "hold more in a System V segment",
    "x = call(LIBC.shmget(0, ctypes.c_size_t(PAST), 0o1600))\ncall(LIBC.shmctl(x, 0, None))\nwon(f'{PAST} bytes')",
)
_hog(
    "memory_locked",
    "lock memory",
    "x = mmap.mmap(-1, MB)\nattempt(lambda: call(LIBC.mlock(ctypes.c_void_p("
    "ctypes.addressof(ctypes.c_char.from_buffer(x))), ctypes.c_size_t(MB))))",
)
_hog(
    "memory_in_pipes",
    "hold more in pipes",
    """
import fcntl
held, pipes = 0, []
try:
    while held < PAST:
        pipes.append(os.pipe())
        size = fcntl.fcntl(pipes[-1][1], 1031, MB)
        os.set_blocking(pipes[-1][1], False)
        held += os.write(pipes[-1][1], bytes(size))
    won(f"{held} bytes")
except OSError as error:
    print("stopped after", held, error)
""",
)


@attack("memory", "hold more than the whole sandbox may, in several processes", layer="total_memory")
def memory_of_children_together(arena: Arena) -> Outcome:
    share = 200 * MB
    code = """
import mmap, time
reader, writer = os.pipe()
children = []
for _ in range(NUM):
    child = os.fork()
    if child == 0:
        try:
            x = bytearray(b"x") * SHARE
            os.write(writer, b"x")
            time.sleep(8)
        finally:
            os._exit(0)
    children.append(child)
deadline, done = time.monotonic() + 8, b""
os.set_blocking(reader, False)
while time.monotonic() < deadline and len(done) < NUM:
    try:
        done += os.read(reader, 100)
    except BlockingIOError:
        time.sleep(0.05)
living = sum(os.waitpid(child, os.WNOHANG)[0] == 0 for child in children)
if len(done) == NUM == living:
    won(f"{NUM * SHARE} bytes in {NUM} processes")
else:
    print(len(done), "of", NUM, "got their share", living, "live")
for child in children:
    try:
        os.kill(child, 9)
    except ProcessLookupError:
        pass
"""
    num = TOTAL_MEMORY_BYTES // share + 1
    return arena.attack_cell(code, {"NUM": num, "SHARE": share}, timeout_s=30)


@attack("memory", "hold more than the whole sandbox may, in several sessions", layer="total_memory")
def memory_of_sessions_together(arena: Arena) -> Outcome:
    share = 220 * MB
    num = TOTAL_MEMORY_BYTES // share + 1
    sessions = [arena.session() for _ in range(num)]
    try:
        for session in sessions:
            session.run(f"x = bytearray(b'x') * {share}", timeout_s=30)
        results = [session.run("len(x)", timeout_s=30) for session in sessions for _ in range(2)]
    finally:
        for session in sessions:
            session.close()
    # One that was killed is put back, at the cost of another; it says so.
    holding = sum(result.text == str(share) and not result.warnings for result in results) // 2
    if holding == num:
        return succeeded(f"{num} sessions hold {num * share} bytes")
    return held(f"{holding} of {num} sessions hold {share} bytes")


def _store(name: str, goal: str, code: str) -> None:
    cell(
        name,
        "storage",
        goal,
        code,
        layer="session_files" if name.startswith(("fill", "many_files")) else "",
        WORKDIR=_value(LIMITS.workdir_bytes),
        FILE=_value(LIMITS.file_bytes),
        OPEN=_value(LIMITS.num_open_files),
        MB=_value(MB),
    )


_FILL = """
import itertools
written = 0
def fill(folder, past):
    global written
    try:
        for index in itertools.count():
            with open(f"{folder}/fill-{index}", "wb") as file:
                written += file.write(bytes(MB))
            if KEEP_OPEN:
                kept.append(open(file.name, "rb"))
                os.unlink(file.name)
            if written > past:
                return won(f"{written} bytes")
    except OSError as error:
        print("stopped after", written, error, flush=True)
KEEP_OPEN, kept = False, []
"""
_store("fill_working_folder", "write more to its working folder", _FILL + "fill('.', WORKDIR + 4 * MB)")
_store(
    "fill_all_folders",
    "write more to all folders together",
    _FILL
    + "for folder in ('.', os.environ.get('TMPDIR', '/tmp'), '/dev/shm'):\n    fill(folder, WORKDIR + 4 * MB)",
)
_store(
    "fill_with_deleted_files",
    "write more to files that it deletes and keeps open",
    _FILL + "KEEP_OPEN = True\nfill('.', WORKDIR + 4 * MB)",
)
_store(
    "fill_from_children",
    "write more from child processes",
    _FILL
    + """
for index in range(3):
    os.makedirs(str(index))
    if os.fork() == 0:
        written = sum(os.path.getsize(f"{a}/{c}") for a, _, b in os.walk(".") for c in b)
        fill(str(index), WORKDIR + 4 * MB)
        os._exit(0)
    os.wait()
""",
)
_store(
    "large_file",
    "write a larger file",
    "import signal\nsignal.signal(25, signal.SIG_IGN)\nwith open('large', 'wb') as file:\n"
    "    for _ in range(FILE // MB + 2):\n        file.write(bytes(MB))\nwon(f'{FILE + 2 * MB} bytes')",
)
_store(
    "sparse_file",
    "make a larger sparse file",
    "os.truncate(os.open('s', os.O_RDWR | os.O_CREAT), FILE * 64)\nwon()",
)
_store(
    "large_file_with_raised_limit",
    "write a larger file after raising its own limit",
    "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)\n"
    "with open('large', 'wb') as file:\n    for _ in range(FILE // MB + 2):\n        file.write(bytes(MB))\nwon()",
)
_store(
    "many_files",
    "make more files than its folder's size has room for",
    """
made = 0
try:
    for made in range(WORKDIR // 1024):
        os.close(os.open(f"n{made}", os.O_CREAT | os.O_WRONLY))
    won(f"{made + 1} files")
except OSError as error:
    print("stopped after", made, error)
""",
)
_store(
    "many_open_files",
    "open more files",
    """
files = []
try:
    while len(files) < OPEN + 8:
        files.append(os.open("/dev/null", os.O_RDONLY))
    won(f"{len(files)} open")
except OSError as error:
    print("stopped after", len(files), error)
""",
)
_store(
    "open_files_with_raised_limit",
    "open more files after raising its own limit",
    "import resource\ntry:\n    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))\n"
    "except (OSError, ValueError) as error:\n    print(error)\n"
    "files = [os.open('/dev/null', 0) for _ in range(OPEN + 8)]\nwon(f'{len(files)} open')",
)
_store(
    "parked_descriptors",
    "park more open files in sockets",
    """
import socket
parked, pairs = 0, []
fds = [os.open("/dev/null", 0) for _ in range(60)]
try:
    while parked < 8 * OPEN:
        pairs.append(socket.socketpair())
        for _ in range(3):
            socket.send_fds(pairs[-1][0], [b"x"], fds)
            parked += len(fds)
    won(f"{parked} parked")
except OSError as error:
    print("stopped after", parked, error)
""",
)


@attack(
    "storage",
    "write more to a file system that it mounts with the agent's own key",
    accepted="code that takes over its interpreter can find the key of its own mounts",
)
def fill_own_mount(arena: Arena) -> Outcome:
    watch = """
import axpo_sandbox.local.namespaces as spaces
stolen = []
original = spaces.MountedFolders.branch
def branch(self, keep, key, *rest):
    stolen.append((self, key))
    return original(self, keep, key, *rest)
spaces.MountedFolders.branch = branch
"""
    use = """
folders, key = stolen[0]
import axpo_sandbox.local.namespaces as spaces
spaces.unshare(spaces.NEWNS, key)
spaces.mount("tmpfs", "/box", "tmpfs", 0, "size=1g", key)
written = 0
while written <= LIMIT + (4 << 20):
    with open(f"/box/{written}", "wb") as file:
        written += file.write(bytes(1 << 20))
won(f"{written} bytes")
"""
    with arena.session() as session:
        if session.run(watch).error is not None:
            return held("there is no agent to take over")
        with session.snapshot() as snapshot:
            (branch,) = snapshot.fork()
            with branch:
                return arena.judge(*arena.run(branch, use, {"LIMIT": LIMITS.workdir_bytes}))


@attack("storage", "use up what all of this machine has of asynchronous I/O")
def machine_wide_aio(arena: Arena) -> Outcome:
    def used() -> int:
        with open("/proc/sys/fs/aio-nr") as file:
            return int(file.read())

    before = used()
    code = "context = ctypes.c_ulong()\nsyscall(CALL, 2000, ctypes.byref(context))\nprint('made')"
    with arena.session() as session:
        execution, won = arena.run(session, code, {"CALL": number("io_setup")})
        grown = used() - before
    return succeeded(f"{grown} of the machine's are taken") if grown >= 2000 else arena.judge(execution, won)


@attack("storage", "use up what another session has of inotify")
def inotify_of_another(arena: Arena) -> Outcome:
    code = """
made = 0
try:
    for made in range(120):
        syscall(CALL, 0)
except OSError as error:
    print(made, error)
"""
    use = "attempt(lambda: syscall(CALL, 0) >= 0)"
    values = {"CALL": number("inotify_init1")}
    with arena.session() as first, arena.session() as second, arena.session() as third:
        _, usable = arena.run(third, use, values)
        arena.run(first, code, values)
        arena.run(second, code, values)
        execution, still = arena.run(third, use, values)
    if not usable:
        return held("no session has any")
    return held("they are apart") if still else succeeded(f"there are none left: {execution.stdout.strip()}")
