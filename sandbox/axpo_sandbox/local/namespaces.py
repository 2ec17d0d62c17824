"""Namespaces: a root folder of read-only system files, a process tree of its own, private folders per branch.

`enter` is done once, by the zygote, as root or in a user namespace; `start_tree` once per session by its
first process; `lock_in` by the process that will run code: a user namespace inside, in which every mount
made so far is locked. `MountedFolders` gives each branch its own copy of the writable folders at the same
paths.
"""

import errno
import os
import signal
import struct

from axpo_sandbox.local.apart import part_descriptors, part_memory, shared_mappings
from axpo_sandbox.local.folders import BOX, copy_tree, find_open_files, leftover_fds, reopen_files
from axpo_sandbox.local.syscalls import PR_CAPBSET_DROP, be_dumpable, prctl, syscall

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x20000,
    0x4000000,
    0x8000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
_DETACH = 2
_PDEATHSIG = 1
CAP_SYS_ADMIN = 21  # what private folders take
_NUM_CAPS = 64
_CAPABILITY_VERSION_3 = 0x20080522
NOBODY = 65534

_STAGE = "/stage"
WRITABLE = (BOX, "/tmp", "/dev/shm")
_SYSTEM = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/sbin")
_SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/localtime", "/etc/fonts", "/etc/alternatives")
SYSTEM_PATHS = (*_SYSTEM, *_SYSTEM_FILES)
DEVICES = ("null", "zero", "full", "random", "urandom")


def mount(
    source: str | None, target: str, kind: str | None, flags: int, data: str = "", key: int = 0
) -> None:
    """mount(2), with the seccomp key. Raises OSError."""
    encoded = [text.encode() if text else None for text in (source, target, kind)]
    syscall("mount", encoded[0], encoded[1], encoded[2], flags, data.encode() or None, key)


def unmount(target: str, key: int = 0) -> None:
    """Take the topmost mount off `target`; what is open there stays open. Raises OSError."""
    syscall("umount2", target.encode(), _DETACH, 0, 0, 0, key)


def unshare(flags: int, key: int = 0) -> None:
    """unshare(2), with the seccomp key. Raises OSError."""
    syscall("unshare", flags, 0, 0, 0, 0, key)


def enter(root: str, read_only: list[str]) -> None:
    """Leave the machine behind: from here on `/` holds `read_only` and empty folders, and no process is
    visible.

    Returns in a forked child, the first process of a new tree; the caller's own process waits for it and
    exits as it did. root: an empty folder of the machine to build on. Raises OSError.
    """
    uid, gid = os.getuid(), os.getgid()
    unshare(NEWNS | NEWUTS | NEWIPC | NEWNET | NEWPID | (0 if uid == 0 else NEWUSER))
    if uid != 0:
        _map_ids(uid, gid)
    child = os.fork()
    if child:
        _wait_and_exit(child)
    prctl(_PDEATHSIG, signal.SIGKILL)
    syscall("sethostname", b"sandbox", 7)
    _build_root(root, read_only)
    os.chdir(root)
    syscall("pivot_root", b".", b"old")
    os.chdir("/")
    unmount("/old")
    os.rmdir("/old")
    mount(None, "/", None, _REMOUNT | _BIND | _RDONLY | _NOSUID)


def start_tree() -> None:
    """Called by the first process of a session's process tree: see that tree in /proc, and no longer be
    root.
    """
    unshare(NEWNS)
    mount("proc", "/proc", "proc", _NOSUID | _NODEV | _NOEXEC, "subset=pid")
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)


def lock_in() -> None:
    """A user namespace of one user in which mounts made before cannot be changed. Raises OSError."""
    uid, gid = os.getuid(), os.getgid()
    be_dumpable()
    unshare(NEWUSER | NEWNS)
    _map_ids(uid, gid)


def drop_capabilities(keep: tuple[int, ...]) -> None:
    """Keep these capabilities, in the innermost user namespace, and no other. Raises OSError."""
    for capability in range(_NUM_CAPS):
        if capability not in keep:
            try:
                prctl(PR_CAPBSET_DROP, capability)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EPERM):
                    raise
                break  # past the last one this kernel has, or it may not be dropped
    mask = sum(1 << capability for capability in keep)
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    syscall("capset", header, struct.pack("6I", mask, mask, 0, 0, 0, 0))


class MountedFolders:
    """The writable folders: one size-capped tmpfs, seen at BOX, /tmp and /dev/shm, private to each branch.

    writable: of these, the ones that hide nothing code must read, such as an interpreter below /tmp.
    """

    box = BOX

    def __init__(self, *, size_bytes: int, writable: tuple[str, ...] = WRITABLE) -> None:
        self._writable = writable
        self._options = f"size={size_bytes},nr_inodes={max(1024, size_bytes // 4096)},mode=755"

    def first(self) -> None:
        """Empty folders for a new session. Raises OSError."""
        self._replace(copy=False, key=0)
        os.chdir(BOX)

    def branch(self, keep_fds: set[int], key: int) -> int:
        """Copies of what is there; open files go on at the same number and offset, and nothing else is shared.

        Returns how many open files could not. Raises OSError.
        """
        cwd = os.getcwd()
        files = find_open_files(self._writable, keep_fds)
        mappings = shared_mappings(self._writable)
        left_device = os.stat(BOX).st_dev
        unshare(NEWNS, key)
        self._replace(copy=True, key=key)
        os.chdir(cwd)
        num_lost = part_descriptors(leftover_fds(keep_fds | reopen_files(files)), BOX, left_device)
        part_memory(mappings)
        return num_lost

    def _replace(self, *, copy: bool, key: int) -> None:
        mount("tmpfs", _STAGE, "tmpfs", _NOSUID | _NODEV, self._options, key)
        for target in self._writable:
            part = _STAGE + "/" + os.path.basename(target)
            if copy:
                copy_tree(target, part)
                unmount(target, key)
            else:
                os.mkdir(part)
            mount(part, target, None, _BIND, key=key)
        unmount(_STAGE, key)


def _map_ids(uid: int, gid: int) -> None:
    for name, content in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY)
        try:
            os.write(fd, content.encode())
        finally:
            os.close(fd)


def _build_root(root: str, read_only: list[str]) -> None:
    mount(None, "/", None, _REC | _PRIVATE)
    mount("tmpfs", root, "tmpfs", _NOSUID | _NODEV, "size=1m,mode=755")
    for path in read_only:
        if os.path.islink(path):
            os.makedirs(os.path.dirname(root + path), exist_ok=True)
            if not os.path.lexists(root + path):
                os.symlink(os.readlink(path), root + path)
        elif os.path.exists(path):
            _place(path, root + path)
            mount(path, root + path, None, _BIND | _REC)
            mount(None, root + path, None, _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV)
    for folder in ("proc", "tmp", "dev/shm", "old", BOX[1:], _STAGE[1:]):
        os.makedirs(f"{root}/{folder}", exist_ok=True)
    for device in DEVICES:
        _place(f"/dev/{device}", f"{root}/dev/{device}")
        mount(f"/dev/{device}", f"{root}/dev/{device}", None, _BIND)
    mount("proc", root + "/proc", "proc", _NOSUID | _NODEV | _NOEXEC)


def _place(path: str, target: str) -> None:
    """An empty folder or file to mount `path` on."""
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if not os.path.exists(target):
            with open(target, "w"):
                pass


def _wait_and_exit(child: int) -> None:
    _, status = os.waitpid(child, 0)
    os._exit(min(255, abs(os.waitstatus_to_exitcode(status))))


def is_inside(path: str, folders: list[str]) -> bool:
    """Whether `path` is one of `folders` or below one."""
    return any(path == folder or path.startswith(folder.rstrip("/") + "/") for folder in folders)
