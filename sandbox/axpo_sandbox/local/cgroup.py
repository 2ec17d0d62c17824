"""A control group around all sessions, where one can be made: what memory and processes they may have.

Versions 1 and 2. What a single session may have is left to resource limits.
"""

import contextlib
import itertools
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/sys/fs/cgroup")
_REMOVE_TIMEOUT_S = 2.0
_PREFIX = "axpo-sandbox-"
_PHYSICAL_BYTES = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
_counter = itertools.count()
_MEMORY_USED = ("memory.current", "memory.usage_in_bytes")
_FULL_SHARE = 0.98  # of a limit: what needs more than is left fails before all is gone
# What a sandbox's sessions have together: (files of use, files of the limit, unit, bytes or pieces in it, options).
_TOTALS = (
    (("pids.current",), ("pids.max",), "processes and threads", 1, "total_processes", "limits.num_processes"),
    (
        _MEMORY_USED,
        ("memory.max", "memory.limit_in_bytes"),
        "MiB of memory",
        1 << 20,
        "total_memory_bytes",
        "limits.memory_bytes",
    ),
)


class MemoryState(NamedTuple):
    """Of all sessions together, or of the group that the machine put us in."""

    num_kills: int
    """processes the kernel has killed for memory"""
    free_bytes: int | None
    """None where it is not counted or not limited"""
    limit_bytes: int | None


class Cgroup:
    """One group per controller; `memory` and `processes` say which of the two limits hold."""

    def __init__(self, *, total_bytes: int, total_processes: int) -> None:
        name = f"{_PREFIX}{os.getpid()}-{next(_counter)}"
        self._folders: list[Path] = []
        self.memory = self.processes = False
        self._events = -1  # open file that counts out-of-memory kills
        self._watched = ROOT  # the group whose they are
        own = _own_groups()
        if "" in own and (ROOT / "cgroup.controllers").exists():
            self._make_second_version(ROOT / own[""].lstrip("/") / name, total_bytes, total_processes)
        else:
            self._make_first_version(own, name, total_bytes, total_processes)
        if self._events < 0:  # then the group we are in may count, a container's for one
            for folder in (
                ROOT / "memory" / own.get("memory", "").lstrip("/"),
                ROOT / "memory",
                ROOT / own.get("", "").lstrip("/"),
                ROOT,
            ):
                self._watch(folder)

    def _make_first_version(
        self, own: dict[str, str], name: str, total_bytes: int, total_processes: int
    ) -> None:
        for controller, file, value in (
            ("memory", "memory.limit_in_bytes", total_bytes),
            ("pids", "pids.max", total_processes),
        ):
            if controller in own:
                folder = ROOT / controller / own[controller].lstrip("/") / name
                if self._make(folder, {file: value}):
                    self.memory |= controller == "memory"
                    self.processes |= controller == "pids"

    def add(self, pid: int) -> None:
        """Put a process, and all it will start, into the group."""
        for folder in list(self._folders):
            try:
                (folder / "cgroup.procs").write_text(str(pid))
            except OSError:
                self._forget(folder)

    def num_oom_kills(self) -> int:
        """How many processes the kernel has killed for memory, in this group or, where none could be made,
        in the one we are in; 0 where it does not count.
        """
        if self._events < 0:
            return 0
        for line in os.pread(self._events, 4096, 0).splitlines():
            key, _, number = line.partition(b" ")
            if key == b"oom_kill":
                return int(number)
        return 0

    def memory_state(self) -> MemoryState:
        """How the group stands whose kills are counted."""
        for used, most in (
            ("memory.current", "memory.max"),
            ("memory.usage_in_bytes", "memory.limit_in_bytes"),
        ):
            with contextlib.suppress(OSError, ValueError):  # "max" is no number
                limit = int((self._watched / most).read_text())
                if limit <= _PHYSICAL_BYTES:
                    free = limit - int((self._watched / used).read_text())
                    return MemoryState(self.num_oom_kills(), free, limit)
        return MemoryState(self.num_oom_kills(), None, None)

    def memory_bytes(self) -> int | None:
        """Memory its processes and their files in memory take; None where it is not counted."""
        return _number(self._folders, _MEMORY_USED)

    def what_is_full(self) -> str:
        """See the function of this name."""
        return what_is_full(*self._folders)

    def remove(self) -> None:
        """Remove it once its processes are gone."""
        events, self._events = self._events, -1
        if events >= 0:
            os.close(events)
        deadline = time.monotonic() + _REMOVE_TIMEOUT_S
        while self._folders and time.monotonic() < deadline:
            for folder in list(self._folders):
                with contextlib.suppress(OSError):
                    folder.rmdir()
                if not folder.exists():
                    self._folders.remove(folder)
            if self._folders:
                time.sleep(0.005)

    def _make_second_version(self, folder: Path, total_bytes: int, total_processes: int) -> None:
        with contextlib.suppress(OSError):
            (folder.parent / "cgroup.subtree_control").write_text("+memory +pids")
        self.memory = self.processes = self._make(
            folder, {"memory.max": total_bytes, "memory.swap.max": 0, "pids.max": total_processes}
        )

    def _make(self, folder: Path, values: dict[str, int]) -> bool:
        _sweep(folder.parent)
        try:
            folder.mkdir()
        except OSError:
            return False
        self._folders.append(folder)
        try:
            for file, value in values.items():
                if (folder / file).exists() or file != "memory.swap.max":  # absent without swap accounting
                    (folder / file).write_text(str(value))
        except OSError:
            self._forget(folder)
            return False
        self._watch(folder)
        return True

    def _watch(self, folder: Path) -> None:
        """Count out-of-memory kills of the group at `folder`, if it counts any and no other is watched."""
        for name in ("memory.oom_control", "memory.events"):
            with contextlib.suppress(OSError):
                if self._events < 0:
                    self._events = os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC)
                    self._watched = folder

    def _forget(self, folder: Path) -> None:
        self._folders.remove(folder)
        with contextlib.suppress(OSError):
            folder.rmdir()
        self.memory = self.memory and folder.parts[3] == "pids"
        self.processes = self.processes and folder.parts[3] == "memory"


def what_is_full(*folders: Path) -> str:
    """Which limits of a group in `folders` are reached, and which options raise them: sentences to go behind others.

    "" where none is.
    """
    said = ""
    for used_names, limit_names, unit, size, total, single in _TOTALS:
        used, limit = _number(folders, used_names), _number(folders, limit_names)
        if used is not None and limit is not None and used >= _FULL_SHARE * limit:
            said += (
                f". All sessions together use {used // size} of {limit // size} {unit}: raise {total}, lower {single}, "
                "or let fewer sessions run"
            )
    return said


def _number(folders: Iterable[Path], names: Iterable[str]) -> int | None:
    """What the first of these files says that is there and holds a number; "max" is none."""
    for folder in folders:
        for name in names:
            with contextlib.suppress(OSError, ValueError):
                return int((folder / name).read_text())
    return None


def _sweep(parent: Path) -> None:
    """Remove groups that killed processes left. One that is in use cannot be removed."""
    for folder in parent.glob(_PREFIX + "*"):
        if not Path(f"/proc/{folder.name.split('-')[2]}").exists():
            with contextlib.suppress(OSError):
                folder.rmdir()


def _own_groups() -> dict[str, str]:
    """Controller -> path of the group we are in; "" is version 2."""
    found = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                found[controller] = path
    return found
