"""Moving this process's memory into huge pages, so that a fork copies one table entry in place of 512.

A write after the fork still copies 4 KiB: the kernel splits the huge page for the process that writes.
"""

import ctypes

from axpo_sandbox.local.syscalls import libc

_HUGE_BYTES = 2 << 20
_MADV_COLLAPSE = 25  # Linux 6.1; an older kernel refuses it, and nothing changes


def collapse() -> None:
    """Collapse the heap and anonymous memory, as far as this kernel can. Takes some milliseconds."""
    libc.malloc_trim(0)
    with open("/proc/self/maps") as file:
        lines = [line.split() for line in file]
    for addresses, rights, _, _, _, *name in lines:
        if rights == "rw-p" and (not name or name == ["[heap]"]):
            start, end = (int(address, 16) for address in addresses.split("-"))
            start = -(-start // _HUGE_BYTES) * _HUGE_BYTES
            if start + _HUGE_BYTES <= end:
                length = (end - start) // _HUGE_BYTES * _HUGE_BYTES
                libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _MADV_COLLAPSE)
