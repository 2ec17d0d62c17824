"""What the container is allowed: nothing but to run the relay, as an ordinary user, without a network.

`nested` differs from the engine's default in what the relay may do, not in what code may: it lets the relay
make namespaces inside, so that sessions of one container are kept apart, and code runs behind a filter of its
own that refuses just that. Both sets hold against code in a session.
"""

import json
from typing import Any

USER = "65534:65534"  # nobody, in every image

# What Docker's own profile refuses to a container without capabilities, less what namespaces take: clone,
# unshare, setns, mount, umount2, pivot_root, sethostname. More than Docker refuses: the newer mount calls,
# ptrace and the like, which nothing here needs.
_REFUSED = (
    "_sysctl", "acct", "add_key", "adjtimex", "afs_syscall", "bdflush", "bpf", "break", "chroot",
    "clock_adjtime", "clock_adjtime64", "clock_settime", "clock_settime64", "create_module", "delete_module",
    "fanotify_init", "fanotify_mark", "finit_module", "fsconfig", "fsmount", "fsopen", "fspick", "ftime",
    "get_kernel_syms", "get_mempolicy", "getpmsg", "gtty", "init_module", "io_uring_enter",
    "io_uring_register", "io_uring_setup", "ioperm", "iopl", "kcmp", "kexec_file_load", "kexec_load", "keyctl",
    "lock", "lookup_dcookie", "mbind", "migrate_pages", "mknod", "mknodat", "modify_ldt", "mount_setattr",
    "move_mount", "move_pages", "mpx", "name_to_handle_at", "nfsservctl", "open_by_handle_at", "open_tree",
    "open_tree_attr", "perf_event_open", "personality", "pidfd_getfd", "prof", "profil", "process_madvise",
    "process_vm_readv", "process_vm_writev", "ptrace", "putpmsg", "query_module", "quotactl", "quotactl_fd",
    "reboot", "request_key", "security", "set_mempolicy", "set_mempolicy_home_node", "setdomainname",
    "settimeofday", "stime", "stty", "swapoff", "swapon", "sysfs", "syslog", "tuxcall", "ulimit", "umount",
    "uselib", "userfaultfd", "ustat", "vhangup", "vm86", "vm86old", "vserver",
)  # fmt: skip
_AF_ALG, _AF_VSOCK = 38, 40  # kernel crypto, and a socket past every namespace to whoever runs a machine


def nested_seccomp() -> str:
    """The filter of profile `nested`, as JSON for `security_opt`. Machines other than the native are refused."""
    rules: list[dict[str, Any]] = [{"names": list(_REFUSED), "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]
    for family in (_AF_ALG, _AF_VSOCK):
        match = {"index": 0, "value": family, "valueTwo": 0, "op": "SCMP_CMP_EQ"}
        rules.append({"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 97, "args": [match]})
    # A session would make itself dumpable to read and write the processes frozen and branched off it.
    dumpable = [{"index": 0, "value": 4, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 0, "op": "SCMP_CMP_NE"}]
    rules.append({"names": ["prctl"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": dumpable})
    native: list[dict[str, Any]] = [
        {"architecture": f"SCMP_ARCH_{name}", "subArchitectures": []} for name in ("X86_64", "AARCH64")
    ]
    return json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "archMap": native, "syscalls": rules})


def host_options(
    profile: str, *, memory_bytes: int, num_processes: int, num_cpus: float | None
) -> dict[str, Any]:
    """Arguments for docker's `create_host_config`."""
    security = ["no-new-privileges"]
    if profile == "nested":
        # AppArmor's profile for containers, where there is one, refuses every mount.
        security += [f"seccomp={nested_seccomp()}", "apparmor=unconfined"]
    options: dict[str, Any] = {
        "network_mode": "none",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": security,
        "pids_limit": num_processes,
        "mem_limit": memory_bytes,
        "memswap_limit": memory_bytes,  # none beyond memory
        "tmpfs": {"/tmp": f"rw,exec,nosuid,nodev,mode=1777,size={memory_bytes // 2}"},
        "auto_remove": True,
        "log_config": {"type": "none"},  # or the engine would write every answer to its disk, too
        "ipc_mode": "private",
    }
    if num_cpus is not None:
        options["nano_cpus"] = int(num_cpus * 1e9)
    return options


def open_paths(profile: str) -> dict[str, Any]:
    """Keys for the host configuration that the docker package has no argument for."""
    # A process file system can only be mounted inside where no part of the outer one is covered. What that
    # bares takes root to read or write; and code sees a process file system of its own, without it.
    return {"MaskedPaths": [], "ReadonlyPaths": []} if profile == "nested" else {}
