"""The folder on disk that a running sandbox needs, and taking away those that killed processes left.

It is held by a lock, which ends with whoever holds it. What lies in it is left to `confine`.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
from pathlib import Path

_PREFIX = "axpo-sandbox-"
_LOCK = "lock"


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
        shutil.rmtree(self.path, ignore_errors=True)
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
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)
