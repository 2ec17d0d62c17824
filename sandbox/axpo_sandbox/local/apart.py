"""What a fork would go on sharing with its parent: mapped memory, and descriptors that no path leads to.

Each is replaced at the same place by a copy, or by nothing where there is none to make. Files found by their path are
left to `folders`.
"""

import contextlib
import ctypes
import fcntl
import os
import re
import stat
import struct
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from axpo_sandbox.local.syscalls import libc

_PROT_READ, _PROT_WRITE, _PROT_EXEC = 1, 2, 4
_MAP_SHARED, _MAP_FIXED, _MAP_ANONYMOUS = 0x01, 0x10, 0x20
_MREMAP_MAYMOVE, _MREMAP_FIXED = 1, 2
_FAILED = ctypes.c_void_p(-1).value
_DELETED = " (deleted)"  # what the kernel adds to the name of a file, and of memory, that has none
_COPY_BYTES = 1 << 20
_NOT_AGAIN = os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_NOFOLLOW | (os.O_TMPFILE & ~os.O_DIRECTORY)

# struct procmap_query: size, flags, address; start, end, flags, page size, offset, inode; device; sizes; addresses.
_QUERY = struct.Struct("=9Q4I2Q")
_PROCMAP_QUERY = 3 << 30 | _QUERY.size << 16 | ord("f") << 8 | 17
_NEXT, _SHARED_FLAG = 0x10, 0x08
_NAME_BYTES = 4096
# A line of /proc/self/maps: addresses, permissions, offset, device, inode, name.
_SHARED = re.compile(
    rb"^(?P<start>[0-9a-f]+)-(?P<end>[0-9a-f]+) (?P<permissions>[r-][w-][x-])s (?P<offset>[0-9a-f]+) \S+ \d+ *"
    rb"(?P<path>.*)$",
    re.MULTILINE,
)

libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """Memory that is shared with whoever maps the same."""

    start: int
    length: int
    protection: int
    offset: int
    path: str


def shared_mappings(folders: Collection[str]) -> list[Mapping]:
    """Those of this process, but for files outside `folders`, which nobody can write. [] without /proc."""
    try:
        with open("/proc/self/maps", "rb", buffering=0) as file:
            try:
                found = list(_asked(file.fileno()))
            except OSError:  # before Linux 6.11; writing all of it out takes milliseconds
                found = list(_listed(file.readall()))
    except OSError:
        return []
    return [
        mapping
        for mapping in found
        if mapping.path.endswith(_DELETED) or any(mapping.path.startswith(folder + "/") for folder in folders)
    ]


def _asked(maps: int) -> Iterator[Mapping]:
    """Shared mappings, one system call each. Raises OSError where the kernel does not know it."""
    name = ctypes.create_string_buffer(_NAME_BYTES)
    address = 0
    while True:
        query = bytearray(
            _QUERY.pack(
                _QUERY.size,
                _NEXT | _SHARED_FLAG,
                address,
                *[0] * 8,
                _NAME_BYTES,
                0,
                ctypes.addressof(name),
                0,
            )
        )
        try:
            fcntl.ioctl(maps, _PROCMAP_QUERY, query)
        except FileNotFoundError:
            return
        _, _, _, start, end, flags, _, offset, *_, name_size, _, _, _ = _QUERY.unpack(query)
        path = os.fsdecode(name.value) if name_size else ""
        yield Mapping(start=start, length=end - start, protection=flags & 7, offset=offset, path=path)
        address = end


def _listed(text: bytes) -> Iterator[Mapping]:
    """Shared mappings in what /proc says of all of them."""
    for line in _SHARED.finditer(text):
        start, end, offset = (int(line[part], 16) for part in ("start", "end", "offset"))
        bits = zip(b"rwx", (_PROT_READ, _PROT_WRITE, _PROT_EXEC), strict=True)
        protection = sum(bit for letter, bit in bits if letter in line["permissions"])
        path = os.fsdecode(line["path"])
        yield Mapping(start=start, length=end - start, protection=protection, offset=offset, path=path)


def part_memory(mappings: Iterable[Mapping]) -> None:
    """Map copies in their places: of a file the copy that has its path by now. Raises OSError."""
    for mapping in mappings:
        if mapping.path.endswith(_DELETED) or not _map_file(mapping):
            _map_copy(mapping)


def _map_file(mapping: Mapping) -> bool:
    try:
        fd = os.open(mapping.path, os.O_RDWR if mapping.protection & _PROT_WRITE else os.O_RDONLY)
    except OSError:
        return False
    try:
        flags = _MAP_SHARED | _MAP_FIXED
        return _mmap(mapping.start, mapping.length, mapping.protection, flags, fd, mapping.offset) != _FAILED
    finally:
        os.close(fd)


def _map_copy(mapping: Mapping) -> None:
    flags = _MAP_SHARED | _MAP_ANONYMOUS
    copy = _mmap(0, mapping.length, _PROT_READ | _PROT_WRITE, flags, -1, 0)
    if copy == _FAILED:
        raise OSError(ctypes.get_errno(), "there is no room for a copy of shared memory")
    if mapping.protection & _PROT_READ:
        ctypes.memmove(copy, mapping.start, mapping.length)
    size = ctypes.c_size_t(mapping.length)
    libc.mprotect(ctypes.c_void_p(copy), size, mapping.protection)
    how = _MREMAP_MAYMOVE | _MREMAP_FIXED
    if libc.mremap(ctypes.c_void_p(copy), size, size, how, ctypes.c_void_p(mapping.start)) != mapping.start:
        raise OSError(ctypes.get_errno(), "a copy of shared memory could not be moved to its place")


def _mmap(start: int, length: int, protection: int, flags: int, fd: int, offset: int) -> int:
    where = ctypes.c_void_p(start)
    return int(libc.mmap(where, ctypes.c_size_t(length), protection, flags, fd, ctypes.c_long(offset)) or 0)


def part_descriptors(fds: Collection[int], folder: str, left_device: int) -> int:
    """Make `fds` share nothing any more. Returns how many files and folders were lost: there was no copy to make.

    folder: takes copies of files that are deleted, or lie on the file system left behind, which is `left_device`.
    Others are opened again. Pipes, sockets and the like become descriptors on which every operation fails: their
    numbers stay taken, so that no other file gets them while objects that hold the old ones are still around.
    """
    num_lost = 0
    for fd in fds:
        status = os.fstat(fd)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFCHR:
            continue  # /dev/null and its like have nothing to share
        is_left = not status.st_nlink or status.st_dev == left_device
        try:
            if kind == stat.S_IFREG and is_left:
                _copy_file(fd, folder)
                continue
            if kind in (stat.S_IFREG, stat.S_IFDIR) and not is_left:
                with contextlib.suppress(
                    OSError
                ):  # without /proc it goes on sharing its place with its parent's
                    _open_again(fd, fd)
                continue
        except OSError:  # there is no room, or no /proc
            pass
        num_lost += kind in (stat.S_IFREG, stat.S_IFDIR)
        _put_in_place(os.open("/", os.O_PATH | os.O_CLOEXEC), fd)
    return num_lost


def _copy_file(fd: int, folder: str) -> None:
    writer = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            while os.sendfile(writer, reader, None, _COPY_BYTES):
                pass
        finally:
            os.close(reader)
        _open_again(fd, writer)
    finally:
        os.close(writer)


def _open_again(fd: int, source: int) -> None:
    """Put what `source` is at `fd`, with that one's flags and place, as an open file of its own."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL) & ~_NOT_AGAIN
    if stat.S_ISREG(os.fstat(fd).st_mode):  # of O_TMPFILE it is a part
        flags &= ~os.O_DIRECTORY
    place = 0 if flags & os.O_PATH else os.lseek(fd, 0, os.SEEK_CUR)
    again = os.open(f"/proc/self/fd/{source}", flags | os.O_CLOEXEC)
    if place:
        os.lseek(again, place, os.SEEK_SET)
    _put_in_place(again, fd)


def _put_in_place(new: int, fd: int) -> None:
    os.dup2(new, fd, inheritable=os.get_inheritable(fd))
    os.close(new)
