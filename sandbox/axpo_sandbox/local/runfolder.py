"""The folder on disk that a running sandbox needs, and taking away those that killed processes left.

It is held by a lock, which ends with whoever holds it. What lies in it is left to `confine`.
"""

import contextlib
import fcntl
import os
import secrets
import stat
import tempfile
import time
from pathlib import Path

_PREFIX = "axpo-sandbox-"
_LOCK = "lock"
_REMOVE_TIMEOUT_S = 60.0  # what still runs could go on making files


class RunFolder:
    """A new folder; removed by `close`, or by a later sandbox's start if that was not to be."""

    def __init__(self) -> None:
        parent = tempfile.gettempdir()
        new = tempfile.mkdtemp(prefix=".axpo-new-", dir=parent)
        self._lock = os.open(f"{new}/{_LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.path = f"{parent}/{_PREFIX}{secrets.token_hex(6)}"
        os.rename(new, self.path)  # it is seen under this name only once it is locked

    def close(self) -> None:
        """Remove it. Idempotent."""
        remove_tree(self.path)
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


def sweep() -> None:
    """Remove our user's folders that nobody holds any more."""
    for folder in Path(tempfile.gettempdir()).glob(_PREFIX + "*"):
        with contextlib.suppress(OSError):  # another sandbox may be sweeping, too
            if folder.lstat().st_uid == os.geteuid():
                _remove_if_free(folder)


def _remove_if_free(folder: Path) -> None:
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove_tree(str(folder))
    finally:
        os.close(lock)


def remove_tree(path: str) -> None:
    """Remove a folder that untrusted code wrote to, as far as it goes: nested without end, without permissions.

    Links are removed, not followed. Neither the stack nor the length of a path grows with its depth: what lies in
    a folder is first moved up to the top.
    """
    try:
        top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        kept: set[str] = set()
        deadline = time.monotonic() + _REMOVE_TIMEOUT_S
        while names := [name for name in os.listdir(top) if name not in kept]:
            if time.monotonic() > deadline:
                break
            for name in names:
                try:
                    _remove_entry(top, name)
                except OSError:
                    kept.add(name)
    finally:
        os.close(top)
    with contextlib.suppress(OSError):
        os.rmdir(path)


def _remove_entry(top: int, name: str) -> None:
    if not stat.S_ISDIR(os.lstat(name, dir_fd=top).st_mode):
        os.unlink(name, dir_fd=top)
        return
    try:
        folder = _open_folder(top, name)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=top)
        folder = _open_folder(top, name)
    try:
        os.fchmod(folder, 0o700)
        for inner in os.listdir(folder):
            if stat.S_ISDIR(os.lstat(inner, dir_fd=folder).st_mode):
                _let_move(folder, inner)
                os.rename(inner, f"moved-{secrets.token_hex(8)}", src_dir_fd=folder, dst_dir_fd=top)
            else:
                os.unlink(inner, dir_fd=folder)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=top)


def _open_folder(parent: int, name: str) -> int:
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)


def _let_move(parent: int, name: str) -> None:
    # Moving a folder changes what its .. is: that takes the right to write to it.
    with contextlib.suppress(OSError):
        os.chmod(name, 0o700, dir_fd=parent)
