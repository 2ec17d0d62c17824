"""A session's writable folders: copying them for a branch, and open files that must follow.

`PlainFolders` is what is left where no file system can be mounted: each branch has its own folder, at
another path, kept apart by convention alone.
"""

import os
import shutil
import stat
from collections.abc import Iterable, Iterator

BOX = "/box"

_COPY_BYTES = 1 << 20
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


def reopen_files(folders: Iterable[str], keep_fds: set[int], moved: tuple[str, str] | None = None) -> int:
    """Open again, in the copies, every regular file this process holds open below `folders`.

    moved: (old prefix, new prefix) where the copies lie elsewhere. Returns how many. Files that were
    deleted, or that cannot be opened any more, keep pointing to the original.
    """
    prefixes = tuple(folder.rstrip("/") + "/" for folder in folders)
    num_reopened = 0
    for fd, path, flags, offset in _open_files():
        if fd <= 2 or fd in keep_fds or not path.startswith(prefixes):
            continue
        if moved is not None:
            path = moved[1] + path[len(moved[0]) :]
        try:
            again = os.open(path, flags & ~_NOT_AGAIN)
        except OSError:
            continue
        if flags & os.O_PATH == 0 and stat.S_ISREG(os.fstat(again).st_mode):
            os.lseek(again, offset, os.SEEK_SET)
        os.dup2(again, fd, inheritable=os.get_inheritable(fd))
        os.close(again)
        num_reopened += 1
    return num_reopened


def _open_files() -> Iterator[tuple[int, str, int, int]]:
    """(number, path, flags, offset) of each open file that has a path; nothing where /proc cannot be read."""
    try:
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        return
    for fd in numbers:
        try:
            path = os.readlink(f"/proc/self/fd/{fd}")
            with open(f"/proc/self/fdinfo/{fd}") as lines:
                info = dict(line.split(":", 1) for line in lines if ":" in line)
        except OSError:
            continue
        if path.startswith("/"):
            yield fd, path, int(info["flags"], 8), int(info["pos"])


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

    def branch(self, keep_fds: set[int], number: int) -> None:
        """Copies under another number; open files go on in them. Raises OSError."""
        old, new = f"{self._base}/{self._number}", f"{self._base}/{number}"
        cwd = os.getcwd()
        copy_tree(old, new)
        self._number = number
        self._move_in(new + cwd[len(old) :] if cwd.startswith(old + "/") else cwd)
        reopen_files((old,), keep_fds, (old, new))

    def remove(self) -> None:
        """Delete them."""
        shutil.rmtree(f"{self._base}/{self._number}", ignore_errors=True)

    def _move_in(self, cwd: str) -> None:
        os.chdir(cwd)
        os.environ["HOME"] = self.box
        os.environ["TMPDIR"] = f"{self._base}/{self._number}/tmp"
