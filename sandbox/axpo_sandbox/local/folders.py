"""A session's writable folders: copying them for a branch, and open files that must follow.

`PlainFolders` is what is left where no file system can be mounted: each branch has its own folder, at
another path, kept apart by convention alone.
"""

import dataclasses
import fcntl
import os
import resource
import select
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from axpo_sandbox.local.apart import part_descriptors, part_memory, shared_mappings

BOX = "/box"

_COPY_BYTES = 1 << 20
_MAX_FDS = 4096
_NOT_AGAIN = os.O_CREAT | os.O_EXCL | os.O_TRUNC


def copy_tree(source: str, target: str) -> None:
    """Copy folder `source` to `target`, which must not exist: files, folders, links; times and modes too.

    Sockets and devices are left out. Raises OSError.
    """
    status = os.lstat(source)
    os.mkdir(target)
    with os.scandir(source) as entries:
        for entry in entries:
            kind = entry.stat(follow_symlinks=False).st_mode
            there = f"{target}/{entry.name}"
            if stat.S_ISLNK(kind):
                os.symlink(os.readlink(entry.path), there)
            elif stat.S_ISDIR(kind):
                copy_tree(entry.path, there)
            elif stat.S_ISREG(kind):
                _copy_file(entry.path, there)
    os.chmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _copy_file(source: str, target: str) -> None:
    status = os.lstat(source)
    mode = stat.S_IMODE(status.st_mode)
    if not mode & stat.S_IRUSR:  # its owner may take away its own right to read
        os.chmod(source, mode | stat.S_IRUSR)
    reader = os.open(source, os.O_RDONLY)
    writer = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        while os.sendfile(writer, reader, None, _COPY_BYTES):
            pass
        os.fchmod(writer, mode)
        os.utime(writer, ns=(status.st_atime_ns, status.st_mtime_ns))
    finally:
        os.close(reader)
        os.close(writer)
    if not mode & stat.S_IRUSR:
        os.chmod(source, mode)


@dataclass(frozen=True, kw_only=True)
class OpenFile:
    """A regular file or folder this process holds open, found below one of the folders to be copied."""

    fd: int
    path: str
    flags: int
    offset: int


def find_open_files(folders: Iterable[str], keep_fds: set[int]) -> list[OpenFile]:
    """Open files and folders below `folders`, except `keep_fds`. Needs no /proc; deleted files are not found."""
    candidates: dict[tuple[int, int], list[int]] = {}
    for fd in open_fds():
        if fd > 2 and fd not in keep_fds:
            status = os.fstat(fd)
            if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
                candidates.setdefault((status.st_dev, status.st_ino), []).append(fd)
    if not candidates:
        return []
    found = []
    for path, status in (item for folder in folders for item in _files_below(folder)):
        for fd in candidates.pop((status.st_dev, status.st_ino), ()):
            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
            offset = 0 if flags & os.O_PATH else os.lseek(fd, 0, os.SEEK_CUR)
            found.append(OpenFile(fd=fd, path=path, flags=flags, offset=offset))
    return found


def open_fds() -> list[int]:
    """Descriptors of this process."""
    try:
        candidates = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        num_fds, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        candidates = list(range(min(num_fds, _MAX_FDS)))
    poller = select.poll()  # one system call tells which are; the listing's own is not any more
    for fd in candidates:
        poller.register(fd, 0)
    closed = {fd for fd, event in poller.poll(0) if event & select.POLLNVAL}
    return sorted(set(candidates) - closed)


def _files_below(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    yield folder, os.lstat(folder)
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files_below(entry.path)
            elif entry.is_file(follow_symlinks=False):
                yield entry.path, os.lstat(entry.path)


def reopen_files(files: Iterable[OpenFile], moved: tuple[str, str] = ("", "")) -> set[int]:
    """Make each descriptor point to the copy of its file: same number, flags and offset. Returns those that do.

    moved: (old prefix, new prefix) where the copies lie elsewhere. A file that cannot be opened again keeps
    pointing to the original.
    """
    old, new = moved
    done = set()
    for file in files:
        try:
            again = os.open(new + file.path[len(old) :], file.flags & ~_NOT_AGAIN)
        except OSError:
            continue
        if file.offset:
            os.lseek(again, file.offset, os.SEEK_SET)
        os.dup2(again, file.fd, inheritable=os.get_inheritable(file.fd))
        os.close(again)
        done.add(file.fd)
    return done


def leftover_fds(done: set[int]) -> list[int]:
    """Descriptors beside `done` and the output streams."""
    return [fd for fd in open_fds() if fd not in done and fd not in (1, 2)]


class PlainFolders:
    """Writable folders below `base`, a folder of the family: <base>/<number>/box and tmp."""

    def __init__(self, *, base: str, number: int) -> None:
        self._base = base
        self._number = number

    @property
    def box(self) -> str:
        """The working folder."""
        return f"{self._base}/{self._number}/box"

    def first(self) -> None:
        """Empty folders for a new session. Raises OSError."""
        for name in ("box", "tmp"):
            os.makedirs(f"{self._base}/{self._number}/{name}")
        self._move_in(self.box)

    def branch(self, keep_fds: set[int], number: int) -> int:
        """Copies under another number; open files go on in them, and nothing else is shared.

        Returns how many open files could not. Raises OSError.
        """
        old, new = f"{self._base}/{self._number}", f"{self._base}/{number}"
        cwd = os.getcwd()
        files = find_open_files((old,), keep_fds)
        mappings = shared_mappings((old,))
        copy_tree(old, new)
        self._number = number
        self._move_in(new + cwd[len(old) :] if cwd.startswith(old + "/") else cwd)
        num_lost = part_descriptors(leftover_fds(keep_fds | reopen_files(files, (old, new))), self.box, -1)
        part_memory(dataclasses.replace(item, path=new + item.path[len(old) :]) for item in mappings)
        return num_lost

    def _move_in(self, cwd: str) -> None:
        os.chdir(cwd)
        os.environ["HOME"] = self.box
        os.environ["TMPDIR"] = f"{self._base}/{self._number}/tmp"
