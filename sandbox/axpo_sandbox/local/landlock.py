"""Landlock: which files a process may reach, that it may not use TCP, and whom it may signal.

Each call adds a layer that can only take away; the kernel allows sixteen, and says E2BIG after that.
"""

import os
import struct
from collections.abc import Iterable

from axpo_sandbox.local.syscalls import PR_SET_NO_NEW_PRIVS, prctl, syscall

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL = 1 << 14, 1 << 15
_READ_ONLY = _EXECUTE | _READ_FILE | _READ_DIR
_OF_A_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE
_SCOPES = 0b11  # abstract unix sockets, signals
_NET = 0b11  # bind and connect TCP


def abi() -> int:
    """The kernel's Landlock version; 0 if it has none or it is turned off."""
    try:
        return syscall("landlock_create_ruleset", None, 0, 1)
    except OSError:
        return 0


def scope() -> None:
    """A layer without file rules: no TCP, and signals and abstract sockets stay within this process and its
    own.

    Processes forked later belong to it too, unless they add a layer. Raises OSError where there is no
    Landlock.
    """
    _restrict(_ruleset(files=False))


def files(*, read_only: Iterable[str], read_write: Iterable[str]) -> None:
    """The same with file rules: nothing but these paths and what is below them can be opened.

    No file system can be mounted from then on. Raises OSError where there is no Landlock.
    """
    version = abi()
    everything = _all_file_rights(version)
    ruleset = _ruleset(files=True)
    for paths, rights in ((read_only, _READ_ONLY), (read_write, everything)):
        for path in paths:
            if os.path.exists(path):
                _allow(ruleset, path, rights, version)
    _restrict(ruleset)


def _all_file_rights(version: int) -> int:
    num_rights = 13 + (version >= 2) + (version >= 3) + (version >= 5)
    return (1 << num_rights) - 1


def _ruleset(*, files: bool) -> int:
    version = abi()
    if version < 1:
        raise OSError(38, "this kernel has no Landlock")
    handled = _all_file_rights(version) if files else 0
    attribute = struct.pack("QQQ", handled, _NET if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    return syscall("landlock_create_ruleset", attribute, size, 0)


def _allow(ruleset: int, path: str, rights: int, version: int) -> None:
    if not os.path.isdir(path):
        rights &= _OF_A_FILE | (_TRUNCATE if version >= 3 else 0) | (_IOCTL if version >= 5 else 0)
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        syscall("landlock_add_rule", ruleset, 1, struct.pack("=Qi", rights, fd), 0)
    finally:
        os.close(fd)


def _restrict(ruleset: int) -> None:
    try:
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        syscall("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)
