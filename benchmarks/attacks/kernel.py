"""Attacks by system calls that code has no use for. Each is made so that it changes nothing where it is allowed.

That is: in a child, in namespaces of its own, with arguments that say "no permission" and "no such thing" apart.
"""

from axpo_sandbox.local.syscalls import NUMBERS
from benchmarks.attacks.arena import Arena
from benchmarks.attacks.corpus import Outcome, attack, cell, held, succeeded
from benchmarks.attacks.signals import number

FAMILY = "kernel"
_PRELUDE = """
import errno, struct
def sys_(name, *arguments):
    if NUMBERS.get(name, -1) < 0:
        raise OSError(38, f"no number for {name}")
    return syscall(NUMBERS[name], *arguments)
def permitted(name, *arguments, refusals=(errno.EPERM, errno.ENOSYS, errno.EACCES)):
    # Allowed if the kernel finds fault with anything but the caller.
    try:
        sys_(name, *arguments)
    except OSError as error:
        if error.errno in refusals:
            raise
        print(error)
def unshared():
    call(LIBC.unshare(0x20000))
    call(LIBC.mount(None, b"/", None, 16384 | (1 << 18), None))
def private():
    # A mount namespace of its own if it may have one; if not, what follows is tried all the same.
    try:
        unshared()
    except OSError:
        try:
            call(LIBC.unshare(0x10000000 | 0x20000))
        except OSError as error:
            print(error)
"""
_EXTRA = ("io_setup", "inotify_init1", "getpid", "fanotify_init")


def _calling(name: str, goal: str, code: str, layer: str = "system_calls") -> None:
    cell(
        name,
        FAMILY,
        goal,
        _PRELUDE + code,
        layer=layer,
        NUMBERS=lambda arena: {**NUMBERS, **{key: number(key) for key in _EXTRA}},
    )


for _name, _flag in (
    ("user", 0x10000000),
    ("mount", 0x20000),
    ("network", 0x40000000),
    ("process", 0x20000000),
    ("ipc", 0x8000000),
    ("host_name", 0x4000000),
    ("cgroup", 0x2000000),
    ("time", 0x80),
):
    _calling(
        f"{_name}_namespace",
        f"make a {_name.replace('_', ' ')} namespace",
        f"in_child(lambda: call(LIBC.unshare({_flag})) and False)",
    )
_calling(
    "user_namespace_by_clone",
    "make a user namespace by clone",
    """
def make():
    child = sys_("clone", 0x10000000 | 17, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
in_child(make)
""",
)
_calling(
    "user_namespace_by_clone3",
    "make a user namespace by clone3",
    """
def make():
    child = sys_("clone3", struct.pack("11Q", 0x10000000, 0, 0, 0, 17, *[0] * 6), 88)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
in_child(make)
""",
)
_calling(
    "mount_tmpfs",
    "mount a file system",
    "in_child(lambda: (private(), call(LIBC.mount(b'none', b'/tmp', b'tmpfs', 0, None))) and None)",
)
_calling(
    "mount_proc",
    "mount another /proc",
    "in_child(lambda: (private(), call(LIBC.mount(b'proc', b'/tmp', b'proc', 0, None))) and None)",
)
_calling(
    "bind_mount",
    "mount a folder elsewhere",
    "in_child(lambda: (private(), call(LIBC.mount(b'/usr', b'/tmp', None, 4096, None))) and None)",
)
_calling(
    "remount_writable",
    "make a read-only mount writable",
    "in_child(lambda: (private(), call(LIBC.mount(None, b'/usr', None, 32 | 4096, None))) and None)",
)
_calling(
    "unmount_proc",
    "take away /proc, and see what is below",
    "in_child(lambda: (private(), call(LIBC.umount2(b'/proc', 2))) and None)",
)
_calling("new_mount_api", "open a file system by fsopen", "attempt(lambda: sys_('fsopen', b'tmpfs', 0) >= 0)")
_calling(
    "open_tree",
    "copy a mount by open_tree",
    "in_child(lambda: (private(), sys_('open_tree', -100, b'/usr', 1)) and None)",
)
_calling(
    "move_mount",
    "move a mount",
    "in_child(lambda: (private(), permitted('move_mount', -100, b'/nowhere', -100, b'/nowhere', 0)) and None)",
)
_calling(
    "mount_setattr",
    "change a mount by mount_setattr",
    "in_child(lambda: (private(), sys_('mount_setattr', -100, "
    "b'/usr', 0, struct.pack('4Q', 0, 1, 0, 0), 32)) and None)",
)
_calling(
    "pivot_root",
    "change the root by pivot_root",
    "in_child(lambda: (private(), permitted('pivot_root', b'/nowhere', b'/nowhere')) and None)",
)
_calling("chroot", "change the root by chroot", "in_child(lambda: os.chroot('/tmp'))")
_calling(
    "enter_namespace",
    "enter a namespace of the process that watches over it",
    "in_child(lambda: permitted('setns', os.open(f'/proc/{os.getppid()}/ns/mnt', 0), 0))",
)
_calling(
    "enter_by_pidfd",
    "enter another process's namespaces by pidfd",
    "in_child(lambda: permitted('setns', os.pidfd_open(os.getppid()), 0x20000))",
)
_calling("keyring", "use the kernel's keyrings", "attempt(lambda: sys_('keyctl', 0, -3, 1) > 0)")
_calling(
    "add_key", "add a key to a keyring", "attempt(lambda: sys_('add_key', b'user', b'axpo', b'x', 1, -2) > 0)"
)
_calling("request_key", "ask for a key", "attempt(lambda: permitted('request_key', b'user', b'axpo', 0, 0))")
_calling("io_uring", "use io_uring", "attempt(lambda: sys_('io_uring_setup', 1, bytes(120)) >= 0)")
_calling(
    "bpf", "load BPF", "attempt(lambda: permitted('bpf', 0, struct.pack('16I', 2, 4, 4, 1, *[0] * 12), 64))"
)
_calling(
    "performance_events",
    "count performance events",
    "attempt(lambda: sys_('perf_event_open', struct.pack('II', 1, 112) + bytes(104), 0, -1, -1, 0) >= 0)",
)
_calling("userfaultfd", "handle page faults", "attempt(lambda: sys_('userfaultfd', 1) >= 0)")
_calling(
    "secret_memory", "take memory that the kernel cannot see", "attempt(lambda: sys_('memfd_secret', 0) >= 0)"
)
_calling(
    "personality",
    "turn off address randomisation",
    "in_child(lambda: sys_('personality', 0x0040000) and None)",
)
_calling("load_kernel", "load another kernel", "attempt(lambda: permitted('kexec_load', 0, 1 << 40, 0, 0))")
_calling("load_module", "load a kernel module", "attempt(lambda: permitted('init_module', 0, 0, b''))")
_calling(
    "remove_module", "remove a kernel module", "attempt(lambda: permitted('delete_module', b'axpo-none', 0))"
)
_calling(
    "host_name",
    "set the host name",
    "attempt(lambda: call(LIBC.sethostname(NAME := os.uname()[1].encode(), len(NAME))))",
)
_calling("domain_name", "set the domain name", "attempt(lambda: permitted('setdomainname', b'', -1))")
_calling("set_clock", "set the clock", "attempt(lambda: permitted('settimeofday', 0, 0))")
_calling(
    "adjust_clock",
    "adjust the clock",
    "attempt(lambda: permitted('adjtimex', struct.pack('I', 0x4000) + bytes(204)))",
)
_calling(
    "quota", "change disk quotas", "attempt(lambda: permitted('quotactl', 0x800002 << 8, b'/nowhere', 0, 0))"
)
_calling("accounting", "turn on process accounting", "attempt(lambda: permitted('acct', b'/nowhere/axpo'))")
_calling("swap_on", "turn on swap", "attempt(lambda: permitted('swapon', b'/nowhere/axpo', 0))")
_calling("swap_off", "turn off swap", "attempt(lambda: permitted('swapoff', b'/nowhere/axpo'))")
_calling("restart", "restart the machine", "attempt(lambda: permitted('reboot', 0, 0, 0, 0))")
_calling("kernel_log", "read the kernel's log", "attempt(lambda: sys_('syslog', 10, 0, 0) >= 0)")
_calling("file_events", "watch all file accesses", "attempt(lambda: sys_('fanotify_init', 0x200, 0) >= 0)")
_calling(
    "aio_context",
    "use the kernel's asynchronous I/O",
    "context = ctypes.c_ulong()\nattempt(lambda: sys_('io_setup', 1, ctypes.byref(context)) >= 0)",
)
_calling("io_ports", "use I/O ports", "in_child(lambda: sys_('iopl', 3) and None)")
_calling(
    "segment_table", "change its segment table", "in_child(lambda: permitted('modify_ldt', 1, bytes(16), 16))"
)
_calling(
    "become_root", "become root", "in_child(lambda: os.getuid() == 0 or os.setuid(0))", "session_processes"
)
_calling("become_other", "become another user", "in_child(lambda: (os.setresuid(4321, 4321, 4321)) or None)")
_calling(
    "take_capabilities",
    "take capabilities",
    "in_child(lambda: sys_('capset', struct.pack('Ii', 0x20080522, 0), struct.pack('6I', 1, 1, 1, 0, 0, 0)) and None)",
)
_calling(
    "keep_capabilities",
    "keep capabilities over a program's start",
    "in_child(lambda: call(LIBC.prctl(47, 2, 21, 0, 0)) and None)",
)
_calling(
    "security_bits",
    "change how root is treated",
    "in_child(lambda: call(LIBC.prctl(28, 1, 0, 0, 0)) and None)",
)
_calling(
    "gain_by_program",
    "gain rights by a setuid program",
    "status = open('/proc/self/status').read()\nattempt(lambda: 'NoNewPrivs:\\t0' in status)",
)
_calling(
    "remove_filter",
    "turn off the system call filter",
    "def off():\n    call(LIBC.prctl(22, 0, 0, 0, 0))\n    call(LIBC.ptrace(0, 0, 0, 0))\nin_child(off)",
)
_calling(
    "other_filter",
    "put a filter that allows all over the one there is",
    """
def over():
    program = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7FFF0000), 8)
    header = struct.pack("HxxxxxxQ", 1, ctypes.addressof(program))
    call(LIBC.prctl(38, 1, 0, 0, 0))
    call(LIBC.prctl(22, 2, header, 0, 0))
    call(LIBC.ptrace(0, 0, 0, 0))
in_child(over)
""",
)
_calling(
    "calls_of_32_bits",
    "make system calls of another architecture",
    """
import mmap
def other():
    if os.uname().machine != "x86_64":
        raise OSError("another machine")
    page = mmap.mmap(-1, 4096, prot=7)
    page.write(b"\\x53\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\x5b\\xc3")  # getpid, by int 0x80
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    return function() == os.getpid()
in_child(other)
""",
)
_calling(
    "calls_of_x32",
    "make system calls by their x32 numbers",
    "attempt(lambda: syscall(0x40000000 + NUMBERS['getpid']) == os.getpid())",
)
_calling(
    "no_more_limits",
    "raise a limit above what it was given",
    "import resource\nsoft, hard = resource.getrlimit(resource.RLIMIT_CORE)\n"
    "attempt(lambda: resource.setrlimit(resource.RLIMIT_CORE, (1 << 30, 1 << 30)))",
    "session_processes",
)
_calling(
    "priority_above_all",
    "run before everything else",
    "in_child(lambda: os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1)))",
    "session_processes",
)
_calling(
    "nice_below_zero",
    "raise its priority",
    "in_child(lambda: os.setpriority(os.PRIO_PROCESS, 0, -5))",
    "session_processes",
)
_calling(
    "spare_from_oom",
    "be spared when memory runs out",
    "def spare():\n    with open('/proc/self/oom_score_adj', 'w') as file:\n        file.write('-900')\nattempt(spare)",
    "session_processes",
)
_calling(
    "message_queue",
    "make a POSIX message queue",
    "attempt(lambda: sys_('mq_open', b'axpo', 0o102, 0o600, 0) >= 0 and LIBC.mq_unlink(b'/axpo') or None)",
)


@attack(FAMILY, "write to the kernel's settings", layer="files")
def kernel_settings(arena: Arena) -> Outcome:
    code = """
def write():
    with open("/proc/sys/vm/overcommit_ratio", "r+") as file:
        value = file.read()
        file.seek(0)
        file.write(value)
attempt(write)
"""
    return arena.attack_cell(code)


@attack(FAMILY, "type into the caller's terminal", layer="files")
def type_into_terminal(arena: Arena) -> Outcome:
    import os
    import select

    master, slave = os.openpty()
    try:
        name = os.ttyname(slave)
        os.chmod(name, 0o666)
        code = "fd = os.open(PATH, os.O_RDWR | os.O_NOCTTY)\nos.write(fd, b'typed')\nprint('typed')"
        outcome = arena.attack_cell(code, {"PATH": name})
        if select.select([master], [], [], 0.3)[0]:
            return succeeded("the terminal showed it")
        return held(outcome.why)
    finally:
        os.close(master)
        os.close(slave)
