"""Attacks that read or change files of this machine. What they are after is planted."""

import fcntl
import hashlib
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.attacks.arena import Arena
from benchmarks.attacks.corpus import Outcome, add, attack, cell, held, skipped, succeeded


def _secret_file(arena: Arena) -> str:
    return str(arena.secret_file)


def _pid(arena: Arena) -> int:
    return os.getpid()


def _reading(name: str, goal: str, code: str, path: Callable[[Arena], str] = _secret_file) -> None:
    """Register an attack whose proof is that the planted secret comes back."""
    cell(name, "files", goal, "import subprocess\n" + code, layer="files", PATH=path, PID=_pid)


_reading("read_by_open", "read a file by its path", "print(open(PATH).read())")
_reading(
    "read_ssh_key", "read a key below .ssh", "print(open(PATH).read())", lambda arena: str(arena.ssh_key)
)
_reading(
    "read_callers_folder",
    "read the caller's working directory",
    "print(open(PATH).read())",
    lambda arena: str(arena.cwd_file),
)
for _name, _start in (
    ("first_root", "/proc/1/root"),
    ("own_root", "/proc/self/root"),
    ("thread_root", "/proc/thread-self/root"),
    ("parent_folder", "/proc/self/cwd/../../../../../../.."),
):
    _reading(f"read_by_{_name}", f"read a file by {_start}", f"print(open({_start!r} + PATH).read())")
_reading(
    "read_by_callers_root",
    "read a file by the caller's /proc",
    "print(open(f'/proc/{PID}/root{PATH}').read())",
)
_reading(
    "read_by_callers_cwd",
    "read the caller's working directory by its /proc",
    "print(open(f'/proc/{PID}/cwd/secret.txt').read())",
)
_reading("read_by_dots", "read a file by way of ..", "print(open('../' * 30 + PATH[1:]).read())")
_reading(
    "read_by_symlink",
    "read a file by a symbolic link",
    "os.symlink(PATH, 'link'); print(open('link').read())",
)
_reading(
    "read_by_hard_link", "read a file by a hard link", "os.link(PATH, 'hard'); print(open('hard').read())"
)
_reading(
    "read_by_openat",
    "read a file relative to an open folder",
    "fd = os.open('/', os.O_RDONLY); print(os.read(os.open(PATH[1:], os.O_RDONLY, dir_fd=fd), 99))",
)
_reading(
    "read_by_openat2",
    "read a file by openat2",
    "import struct\nfd = syscall(437, -100, PATH.encode(), struct.pack('QQQ', 0, 0, 0), 24)\nprint(os.read(fd, 99))",
)
_reading(
    "read_by_descriptor_path",
    "read a file by way of an open folder's /proc entry",
    "fd = os.open('/usr', os.O_PATH); print(open(f'/proc/self/fd/{fd}/..{PATH}').read())",
)
_reading(
    "read_by_inherited_folder",
    "read a file by a folder that came open",
    """
for fd in range(64):
    try:
        print(os.read(os.open(os.path.basename(PATH), os.O_RDONLY, dir_fd=fd), 99))
    except OSError as error:
        print(error)
""",
)
_reading("read_by_program", "read a file by a program", "subprocess.run(['cat', PATH], timeout=10)")
_reading(
    "read_by_shell_script", "have a shell read a file as its script", "subprocess.run(['sh', '-x', PATH])"
)
_reading(
    "read_by_mmap",
    "map a file",
    "import mmap\nprint(mmap.mmap(os.open(PATH, 0), 0, prot=mmap.PROT_READ)[:99])",
)
_reading(
    "read_by_sendfile",
    "copy a file in the kernel",
    "out = os.open('copy', os.O_RDWR | os.O_CREAT)\nos.sendfile(out, os.open(PATH, 0), 0, 99)\n"
    "print(open('copy').read())",
)
_reading(
    "read_by_handle",
    "open a file by its handle",
    """
handle = ctypes.create_string_buffer((128).to_bytes(4, "little") + bytes(132))
mount = ctypes.c_int()
def by_handle(path):
    call(LIBC.name_to_handle_at(-100, path.encode(), handle, ctypes.byref(mount), 0))
    return call(LIBC.open_by_handle_at(os.open("/", 0), handle, 0))
print(os.read(by_handle(PATH), 99))
""",
)
_reading(
    "read_by_loader",
    "have the dynamic linker show a file",
    "subprocess.run(['/bin/true'], env={'LD_PRELOAD': PATH, 'LD_LIBRARY_PATH': PATH})\n"
    "subprocess.run(['/lib64/ld-linux-x86-64.so.2', PATH])\nprint(open(PATH).read())",
)


@attack("files", "read this machine's password hashes", layer="files")
def read_shadow(arena: Arena) -> Outcome:
    try:
        digest = hashlib.sha256(Path("/etc/shadow").read_bytes()).hexdigest()
    except OSError as error:
        return skipped(f"the caller cannot read it either: {error}")
    code = "import hashlib\nprint(hashlib.sha256(open('/etc/shadow', 'rb').read()).hexdigest())"
    with arena.session() as session:
        execution, won = arena.run(session, code)
    return succeeded("their digest came back") if digest in execution.stdout else arena.judge(execution, won)


@attack("files", "read this program's own source", layer="files")
def read_own_source(arena: Arena) -> Outcome:
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    code = "import hashlib\nprint(hashlib.sha256(open(PATH, 'rb').read()).hexdigest())"
    with arena.session() as session:
        execution, won = arena.run(session, code, {"PATH": str(Path(__file__).resolve())})
    return succeeded("its digest came back") if digest in execution.stdout else arena.judge(execution, won)


def _changing(name: str, goal: str, code: str) -> None:
    """Register an attack whose proof is that a folder of ours is no longer what it was."""

    def run(arena: Arena) -> Outcome:
        target = arena.folder / "data" / f"target-{secrets.token_hex(4)}"
        target.write_text("as it was")
        target.chmod(0o666)
        before = _state(target.parent)
        outcome = arena.attack_cell("import subprocess\n" + code, {"PATH": str(target)})
        changed = _state(target.parent) != before
        for path in target.parent.glob("target-*"):
            path.unlink()
        return succeeded("it was changed") if changed else held(outcome.why)

    add(name, "files", goal, run, layer="files")


def _state(folder: Path) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    for path in sorted(folder.iterdir()):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found.append((path.name, content, status.st_mode, status.st_mtime_ns, status.st_nlink, status.st_uid))
    return found


_changing("write_over", "overwrite a file", "open(PATH, 'w').write('x')")
_changing("write_beside", "make a file", "open(PATH + '-new', 'w').close()")
_changing("truncate_file", "truncate a file", "os.truncate(PATH, 0)")
_changing("change_mode", "change a file's mode", "os.chmod(PATH, 0o777)")
_changing("change_times", "change a file's times", "os.utime(PATH, (1, 1))")
_changing("rename_file", "rename a file", "os.rename(PATH, PATH + '-moved')")
_changing("remove_file", "remove a file", "os.unlink(PATH)")
_changing("link_to_file", "make a hard link to a file", "os.link(PATH, PATH + '-hard')")
_changing("set_attribute", "rename a file from a shell", "subprocess.run(['mv', PATH, PATH + '-moved'])")


@attack("files", "lead the caller's input files elsewhere by a link", layer="files")
def input_files_through_link(arena: Arena) -> Outcome:
    name = f"led-{secrets.token_hex(4)}"
    with arena.session() as session:
        arena.run(session, "os.symlink(PATH, 'out')", {"PATH": str(arena.folder / "data")})
        try:
            session.write_files({f"out/{name}": b"x"})
            why = "written inside"
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
    led = arena.folder / "data" / name
    if not led.exists():
        return held(why)
    led.unlink()
    return succeeded("an input file was written to a folder of this machine")


@attack("files", "have the caller remove other folders when it cleans up")
def removal_through_link(arena: Arena) -> Outcome:
    target = arena.folder / f"kept-{secrets.token_hex(4)}"
    target.mkdir()
    (target / "file").write_text("kept")
    target.chmod(0o777)
    with arena.session() as session:
        code = "import shutil\nos.symlink(PATH, 'link')\nos.symlink('/proc/self/cwd/../../..', 'up')"
        arena.run(session, code, {"PATH": str(target)})
    return held("it is still there") if (target / "file").exists() else succeeded("the folder was emptied")


@attack("files", "leave files on this machine's disk when the session has ended")
def files_left_behind(arena: Arena) -> Outcome:
    name = f"left-{secrets.token_hex(6)}"
    code = """
for folder in (".", "/tmp", "/dev/shm", "/var/tmp", "/run", os.path.expanduser("~")):
    try:
        open(f"{folder}/{NAME}", "w").close()
        print("wrote to", folder)
    except OSError as error:
        print(error)
"""
    with arena.session() as session:
        arena.run(session, code, {"NAME": name})
    folders = [path for path in ("/tmp", "/dev/shm", "/var/tmp", "/run", "/root") if os.access(path, os.X_OK)]
    left = [folder for folder in folders if Path(folder, name).exists()]
    for folder in left:
        Path(folder, name).unlink()
    return succeeded(f"in {', '.join(left)}") if left else held("nothing was left")


@attack("files", "leave folders that the caller cannot remove, nested without end")
def folders_too_deep_to_remove(arena: Arena) -> Outcome:
    code = """
for _ in range(3000):
    os.mkdir("d")
    os.chdir("d")
os.chdir("/")
"""
    session = arena.session()
    arena.run(session, code)
    session.close()  # an error here is the caller's, and is judged by whoever called us
    return held("the session was closed")


@attack(
    "files",
    "take a lock on a system file that programs outside see",
    accepted="advisory locks on files that can be read are seen outside",
)
def lock_on_system_file(arena: Arena) -> Outcome:
    path = os.path.realpath(sys.executable)
    code = "import fcntl\nfd = os.open(PATH, os.O_RDONLY)\nfcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)"
    with arena.session() as session:
        execution, won = arena.run(session, code, {"PATH": path})
        with open(path, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return succeeded("the caller cannot lock its interpreter's file")
            fcntl.flock(file, fcntl.LOCK_UN)
    return arena.judge(execution, won)


def _fixed(value: object) -> Callable[[Arena], object]:
    return lambda arena: value


def _opens(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


for _name, _path in (
    ("memory_device", "/dev/mem"),
    ("kernel_log_device", "/dev/kmsg"),
    ("virtual_machine_device", "/dev/kvm"),
    ("terminal_device", "/dev/tty"),
    ("terminals", "/dev/ptmx"),
    ("fuse_device", "/dev/fuse"),
    ("disk_device", "/dev/vda"),
):
    cell(
        f"open_{_name}",
        "files",
        f"open {_path}",
        "if not PRESENT:\n    print('not applicable: the caller has no such device')\n"
        "else:\n    attempt(lambda: os.close(os.open(PATH, os.O_RDONLY | os.O_NOCTTY)))",
        layer="files",
        PATH=_fixed(_path),
        PRESENT=_fixed(_opens(_path)),
    )
cell(
    "make_device",
    "files",
    "make a device file of this machine's disk",
    "import stat\nattempt(lambda: os.mknod('disk', stat.S_IFBLK | 0o600, os.makedev(8, 0)))",
)
