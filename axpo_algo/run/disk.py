"""Writes that survive a kill or a power cut, and a lock that gives a folder to one process.

What is written appears under its name whole and on disk, or not at all. What is written is left to `folder` and
`checkpoint`.
"""

import fcntl
import os
import shutil
import socket
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import IO


class RunFolderError(ValueError):
    """A run folder that cannot be used: in use, damaged, or written by another version. The text says what to do."""


def write_whole(path: Path, text: str) -> None:
    """Writes a file, replacing an old one only once the new one is on disk."""
    draft = path.with_name(f".{path.name}.partial")
    draft.write_text(text, encoding="utf-8")
    sync(draft)
    os.replace(draft, path)
    sync(path.parent)


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Makes the folder `path`, replacing an old one only once `fill(draft)` has written the new one and it is on disk.

    The draft lies beside it as `.NAME.partial`; it is removed if `fill` raises.
    """
    draft = path.with_name(f".{path.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    make_folder(draft)
    try:
        fill(draft)
        for folder, _, files in os.walk(draft):
            for name in files:
                sync(Path(folder, name))
            sync(Path(folder))
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    replaced = path.with_name(f".{path.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if path.exists():
        os.replace(path, replaced)
    os.replace(draft, path)
    sync(path.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def make_folder(path: Path) -> None:
    """Makes a folder and those above it; they are on disk when it returns. An existing one is fine."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def sync(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_held: weakref.WeakSet[IO[str]] = weakref.WeakSet()


def lock_folder(folder: Path) -> IO[str]:
    """Takes `folder` for this process, until the returned file is closed or the process ends, however it ends.

    Raises RunFolderError naming the process that has it.
    """
    file = (folder / ".lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise RunFolderError(
            f"{folder} is in use by {holder}: wait until it has ended, or name another folder"
        ) from None
    except OSError as error:
        file.close()
        raise RunFolderError(
            f"{folder} cannot be locked ({error.strerror}): its file system has no locks; name a folder on another"
        ) from error
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    _held.add(file)
    return file


def _let_go() -> None:
    """A forked child would keep its parent's locks beyond the parent's end."""
    for file in list(_held):
        file.close()


os.register_at_fork(after_in_child=_let_go)
