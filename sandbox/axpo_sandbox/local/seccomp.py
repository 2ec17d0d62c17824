"""A system call filter, written as raw BPF: what code in a sandbox has no use for is refused with EPERM.

`mount`, `umount2` and `unshare(CLONE_NEWNS)` stay possible for whoever passes a secret as the sixth
argument: a branch needs them for its private folders. So does a new limit on the number of processes. That
refuses them to code in a cell unless it takes over the agent it runs beside, and even then they act inside a user
namespace of its own; see the README. On signals and new sessions (setsid) it asks a listener, who is `guard`.
"""

import contextlib
import ctypes
import os
import re
import struct

from axpo_sandbox.local.syscalls import (
    MACHINE,
    NUMBERS,
    PR_SET_CHILD_SUBREAPER,
    PR_SET_DUMPABLE,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_SECCOMP,
    prctl,
    syscall,
)

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ASK, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x7FC00000, 0x80000000, 0x00050000
_EPERM, _ENOSYS, _EAFNOSUPPORT = 1, 38, 97
_AT_NUMBER, _AT_ARCH, _AT_ARGUMENTS = 0, 4, 16
_CLONE_NEWNS = 0x00020000
_CLONE_NEW_ANY = 0x7E020080
_CLONE_PARENT = 0x00008000  # a child of the caller's parent, which does not end with the caller
_DGRAM_BIT = 2  # of the kinds of sockets, datagrams (2) and raw ones (3) have it, streams (1) do not
_X32_BIT = 0x40000000
_SECCOMP_SET_MODE_FILTER = 1
_NEW_LISTENER = 1 << 3
_WAIT_KILLABLE = 1 << 5  # else a signal that comes meanwhile has the call fail, or made twice
_ASKING_SINCE = (5, 5)  # that a listener can let a call go on

# With the key alone.
KEYED = ("mount", "umount2", "unshare")
# `socket` is refused for every family: no network of any kind, and no abstract or named unix socket of
# others.
# socketpair stays, for subprocess, multiprocessing and asyncio; not of datagrams, which can be sent elsewhere.
DENIED = (
    "ptrace", "setns", "pivot_root", "chroot", "bpf", "perf_event_open", "process_vm_readv",
    "process_vm_writev", "keyctl", "add_key", "request_key", "kexec_load", "kexec_file_load", "init_module",
    "finit_module", "delete_module", "reboot", "swapon", "swapoff", "userfaultfd", "open_by_handle_at",
    "name_to_handle_at", "acct", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "sethostname",
    "setdomainname", "quotactl", "kcmp", "syslog", "personality", "fanotify_init", "vhangup", "shmget",
    "msgget", "semget", "mq_open", "memfd_create", "mknod", "mknodat", "iopl", "ioperm", "modify_ldt",
    "uselib", "nfsservctl",
    "capset", "io_uring_setup", "io_uring_enter", "io_uring_register", "open_tree", "move_mount", "fsopen",
    "fsconfig", "fsmount", "fspick", "pidfd_getfd", "process_madvise", "mount_setattr", "quotactl_fd",
    "memfd_secret", "open_tree_attr",
    # What of these there is, all of the machine's or the user's processes share.
    "io_setup", "inotify_init", "inotify_init1", "timer_create",
    "seccomp",  # a filter's listener would go on answering the calls of branches
    # A listener cannot tell whom the first means; code has kill for all of them.
    "pidfd_send_signal", "rt_sigqueueinfo", "rt_tgsigqueueinfo",
)  # fmt: skip
# `setsid` is asked about, too, but not with the key.
ASKED = ("tkill", "tgkill", "setpgid")
# Succeed and do nothing: all that code can write to lies in memory, while a loop of these would keep the disks of
# the machine busy.
PRETENDED = ("sync", "syncfs", "fsync", "fdatasync", "sync_file_range")
# Of fcntl and ioctl: who gets a descriptor's signals (F_SETOWN, F_SETOWN_EX; FIOSETOWN, SIOCSPGRP) is not kept within a
# branch; leases and watches (F_SETLEASE, F_NOTIFY, F_SETDELEG) are on files that others open, too.
_FCNTLS = (8, 15, 1024, 1026, 1040)
_IOCTLS = (0x8901, 0x8902)
# Call -> argument -> what it must be. Landlock does not keep these within a branch, so they may be made on the
# caller alone, which is 0.
ON_ITSELF = {
    "prlimit64": {0: 0}, "sched_setaffinity": {0: 0}, "sched_setscheduler": {0: 0}, "sched_setparam": {0: 0},
    "sched_setattr": {0: 0}, "setpriority": {0: 0, 1: 0}, "ioprio_set": {0: 1, 1: 0},
}  # fmt: skip
_RLIMIT_NPROC = 6


def program(key: int, *, mounts: bool, asks: bool) -> bytes:
    """The filter. key: 64-bit secret for process limits and, with `mounts`, for KEYED calls.

    Without `mounts`, those are refused to everybody. asks: whether there is a listener to decide on signals.
    """
    code = [
        _statement(_LOAD, _AT_ARCH),
        _jump(_EQUAL, _AUDIT_ARCH[MACHINE], 1, 0),
        _statement(_RETURN, _KILL_PROCESS),
        _statement(_LOAD, _AT_NUMBER),
    ]
    if MACHINE == "x86_64":
        code += [_jump(_AT_LEAST, _X32_BIT, 0, 1), _fail(_EPERM)]
    for name in (*DENIED, *(() if mounts else KEYED)):
        if name in NUMBERS:
            code += [_jump(_EQUAL, NUMBERS[name], 0, 1), _fail(_EPERM)]
    for name in PRETENDED:
        code += [_jump(_EQUAL, NUMBERS[name], 0, 1), _fail(0)]
    code += [_jump(_EQUAL, NUMBERS["socket"], 0, 1), _fail(_EAFNOSUPPORT)]
    code += _when("socketpair", [*_argument(1), _jump(_ANY_BIT, _DGRAM_BIT, 0, 1), _fail(_EPERM)])
    # clone3 hides its flags behind a pointer; without it the C library falls back to clone.
    code += [_jump(_EQUAL, NUMBERS["clone3"], 0, 1), _fail(_ENOSYS)]
    code += _when(
        "clone", [*_argument(0), _jump(_ANY_BIT, _CLONE_NEW_ANY | _CLONE_PARENT, 0, 1), _fail(_EPERM)]
    )
    # To everybody at once means to the frozen processes that this one would fall back to. Its own group, 0, has no
    # members in other branches.
    everybody = [*_argument(0), _jump(_EQUAL, 0xFFFFFFFF, 0, 1), _fail(_EPERM)]
    others = [_jump(_EQUAL, 0, 1, 0), _statement(_RETURN, _ASK)]
    code += _when("kill", everybody + others if asks else everybody)
    if asks:
        for name in ASKED:
            code += [_jump(_EQUAL, NUMBERS[name], 0, 1), _statement(_RETURN, _ASK)]
        code += _when("setsid", _with_key(key, only_flag=None, otherwise=_statement(_RETURN, _ASK)))
    # A branch must stay the reaper of everything below it, so that ending it ends all of that.
    code += _when(
        "prctl",
        [
            *_argument(0),
            _jump(_EQUAL, PR_SET_CHILD_SUBREAPER, 0, 3),
            *_argument(1),
            _jump(_EQUAL, 0, 0, 1),
            _fail(_EPERM),
        ],
    )
    # A process that is dumpable can be read and written by others of its user: its session, or a branch of it. And a
    # filter can only be added by `seccomp` or prctl.
    for option in (PR_SET_DUMPABLE, PR_SET_SECCOMP):
        code += _when("prctl", [*_argument(0), _jump(_EQUAL, option, 0, 1), _fail(_EPERM)])
    for name, commands in (("fcntl", _FCNTLS), ("ioctl", _IOCTLS)):
        body = _argument(1)
        for command in commands:
            body += [_jump(_EQUAL, command, 0, 1), _fail(_EPERM)]
        code += _when(name, body)
    for name, arguments in ON_ITSELF.items():
        for index, wanted in arguments.items():
            code += _when(name, [*_argument(index), _jump(_EQUAL, wanted, 1, 0), _fail(_EPERM)])
    # The number of processes is raised for a fork of ours, which the code must not do for itself.
    code += _when("setrlimit", [*_argument(0), _jump(_EQUAL, _RLIMIT_NPROC, 0, 1), _fail(_EPERM)])
    code += _when("prlimit64", _new_process_limit(_with_key(key, only_flag=None)))
    if mounts:
        for name in KEYED:
            code += _when(name, _with_key(key, only_flag=_CLONE_NEWNS if name == "unshare" else None))
    code.append(_statement(_RETURN, _ALLOW))
    return b"".join(code)


def install(key: int, *, mounts: bool) -> int:
    """Put the filter on this process and all it will start. Raises OSError, or KeyError on an unknown machine.

    Returns the descriptor of its listener, for `guard`; -1 where there can be none: before Linux 5.5, or if
    a filter around this process has one.
    """
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    if _kernel() >= _ASKING_SINCE:
        for flags in (_NEW_LISTENER | _WAIT_KILLABLE, _NEW_LISTENER):
            with contextlib.suppress(OSError):
                return _install(program(key, mounts=mounts, asks=True), flags)
    _install(program(key, mounts=mounts, asks=False), 0)
    return -1


def _install(data: bytes, flags: int) -> int:
    buffer = ctypes.create_string_buffer(data, len(data))
    header = struct.pack("HP", len(data) // 8, ctypes.addressof(buffer))
    return syscall("seccomp", _SECCOMP_SET_MODE_FILTER, flags, header)


def _kernel() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])


def _statement(code: int, value: int) -> bytes:
    return struct.pack("HBBI", code, 0, 0, value)


def _jump(code: int, value: int, if_true: int, if_false: int) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _fail(number: int) -> bytes:
    return _statement(_RETURN, _ERRNO | number)


def _argument(index: int, *, high: bool = False) -> list[bytes]:
    return [_statement(_LOAD, _AT_ARGUMENTS + 8 * index + (4 if high else 0))]


def _when(name: str, body: list[bytes]) -> list[bytes]:
    """`body` for system call `name`; afterwards the number is loaded again."""
    body = [*body, _statement(_LOAD, _AT_NUMBER)]
    return [_jump(_EQUAL, NUMBERS[name], 0, len(body)), *body]


def _new_process_limit(check: list[bytes]) -> list[bytes]:
    """`check` for a prlimit64 that sets the number of processes."""
    return [
        *_argument(1),
        _jump(_EQUAL, _RLIMIT_NPROC, 0, 4 + len(check)),
        *_argument(2),
        _jump(_EQUAL, 0, 0, 2),
        *_argument(2, high=True),
        _jump(_EQUAL, 0, len(check), 0),
        *check,
    ]


def _with_key(key: int, *, only_flag: int | None, otherwise: bytes | None = None) -> list[bytes]:
    """Go on with the key, and with no other flag; else `otherwise`, which is EPERM unless given."""
    otherwise = otherwise or _fail(_EPERM)
    body = [
        *_argument(5),
        _jump(_EQUAL, key & 0xFFFFFFFF, 1, 0),
        otherwise,
        *_argument(5, high=True),
        _jump(_EQUAL, key >> 32, 1, 0),
        otherwise,
    ]
    if only_flag is not None:
        body += [*_argument(0), _jump(_EQUAL, only_flag, 1, 0), otherwise]
    return body
