"""The few Linux calls Python has no function for: numbers, and a checked way to make them."""

import ctypes
import os
import platform

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

MACHINE = platform.machine()

# Per machine: system call -> number. What is the same everywhere comes below.
_NUMBERS: dict[str, dict[str, int]] = {
    "x86_64": {
        "socket": 41, "clone": 56, "kill": 62, "prctl": 157, "mount": 165, "umount2": 166, "unshare": 272,
        "setns": 308, "pivot_root": 155, "chroot": 161, "ptrace": 101, "bpf": 321, "perf_event_open": 298,
        "process_vm_readv": 310, "process_vm_writev": 311, "keyctl": 250, "add_key": 248, "request_key": 249,
        "kexec_load": 246, "kexec_file_load": 320, "init_module": 175, "finit_module": 313,
        "delete_module": 176, "reboot": 169, "swapon": 167, "swapoff": 168, "userfaultfd": 323,
        "open_by_handle_at": 304, "name_to_handle_at": 303, "acct": 163, "settimeofday": 164,
        "clock_settime": 227, "clock_adjtime": 305, "adjtimex": 159, "sethostname": 170, "setdomainname": 171,
        "quotactl": 179, "kcmp": 312, "syslog": 103, "personality": 135, "fanotify_init": 300, "vhangup": 153,
        "shmget": 29, "msgget": 68, "semget": 64, "mq_open": 240, "memfd_create": 319, "mknod": 133,
        "mknodat": 259, "iopl": 172, "ioperm": 173, "modify_ldt": 154, "uselib": 134, "nfsservctl": 180,
        "capset": 126, "prlimit64": 302, "setrlimit": 160, "setpriority": 141, "ioprio_set": 251,
        "sched_setaffinity": 203, "sched_setscheduler": 144, "sched_setparam": 142, "sched_setattr": 314,
        "socketpair": 53, "io_setup": 206, "inotify_init": 253, "inotify_init1": 294, "timer_create": 222,
        "fcntl": 72, "ioctl": 16, "sync": 162, "syncfs": 306, "fsync": 74, "fdatasync": 75, "sync_file_range": 277,
        "seccomp": 317, "tkill": 200, "tgkill": 234, "setsid": 112, "setpgid": 109, "rt_sigqueueinfo": 129,
        "rt_tgsigqueueinfo": 297,
    },
    "aarch64": {
        "socket": 198, "clone": 220, "kill": 129, "prctl": 167, "mount": 40, "umount2": 39, "unshare": 97,
        "setns": 268, "pivot_root": 41, "chroot": 51, "ptrace": 117, "bpf": 280, "perf_event_open": 241,
        "process_vm_readv": 270, "process_vm_writev": 271, "keyctl": 219, "add_key": 217, "request_key": 218,
        "kexec_load": 104, "kexec_file_load": 294, "init_module": 105, "finit_module": 273,
        "delete_module": 106, "reboot": 142, "swapon": 224, "swapoff": 225, "userfaultfd": 282,
        "open_by_handle_at": 265, "name_to_handle_at": 264, "acct": 89, "settimeofday": 170,
        "clock_settime": 112, "clock_adjtime": 266, "adjtimex": 171, "sethostname": 161, "setdomainname": 162,
        "quotactl": 60, "kcmp": 272, "syslog": 116, "personality": 92, "fanotify_init": 262, "vhangup": 58,
        "shmget": 194, "msgget": 186, "semget": 190, "mq_open": 180, "memfd_create": 279, "mknodat": 33,
        "nfsservctl": 42, "capset": 91, "prlimit64": 261, "setrlimit": 164, "setpriority": 140, "ioprio_set": 30,
        "sched_setaffinity": 122, "sched_setscheduler": 119, "sched_setparam": 118, "sched_setattr": 274,
        "socketpair": 199, "io_setup": 0, "inotify_init1": 26, "timer_create": 107, "fcntl": 25, "ioctl": 29,
        "sync": 81, "syncfs": 267, "fsync": 82, "fdatasync": 83, "sync_file_range": 84, "seccomp": 277,
        "tkill": 130, "tgkill": 131, "setsid": 157, "setpgid": 154, "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240,
    },
}  # fmt: skip
_EVERYWHERE = {
    "pidfd_send_signal": 424,
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "clone3": 435,
    "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442, "quotactl_fd": 443,
    "landlock_create_ruleset": 444, "landlock_add_rule": 445, "landlock_restrict_self": 446,
    "memfd_secret": 447, "open_tree_attr": 467,
}  # fmt: skip

NUMBERS: dict[str, int] = {**_NUMBERS.get(MACHINE, {}), **_EVERYWHERE}

PR_GET_DUMPABLE, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP = 3, 4, 22, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38


def syscall(name: str, *arguments: int | bytes | ctypes.c_ulong | ctypes.Array | None) -> int:
    """Make system call `name`. Raises OSError naming it, or if this machine's number is not known."""
    number = NUMBERS.get(name)
    if number is None:
        raise OSError(38, f"no number for {name} on {MACHINE}")
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return checked(libc.syscall(ctypes.c_long(number), *wide), name)


def prctl(option: int, *values: int) -> int:
    """Make prctl(option, ...). Raises OSError."""
    wide = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    return checked(libc.prctl(option, *wide), f"prctl {option}")


def be_dumpable() -> None:
    """Make this process's files in /proc its own, if a change of user took them. Raises OSError."""
    if prctl(PR_GET_DUMPABLE) != 1:  # a container's filter may refuse what is needless
        prctl(PR_SET_DUMPABLE, 1)


def checked(result: int, what: str) -> int:
    """`result`, if it is not negative; else OSError with errno, naming `what`."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
