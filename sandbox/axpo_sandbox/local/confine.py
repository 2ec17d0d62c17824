"""The layers in the order they have to be put on, per tier: what the zygote enters once, then each session.

`namespaces`: a process tree and root folder of its own, locked, then Landlock scope, seccomp, rlimits.
`landlock`: the machine's files behind Landlock rules, then seccomp, rlimits. `none`: rlimits.
"""

import functools
import os
import sys
from dataclasses import dataclass
from typing import Any

from axpo_sandbox.local import landlock, namespaces, seccomp
from axpo_sandbox.local.agent import Folders, limit_resources
from axpo_sandbox.local.folders import PlainFolders
from axpo_sandbox.local.syscalls import PR_SET_CHILD_SUBREAPER, PR_SET_DUMPABLE, be_dumpable, prctl

TRIAL_LIMITS = {
    "memory_bytes": 1 << 30,
    "num_processes": 64,
    "num_others": 0,
    "num_open_files": 64,
    "file_bytes": 1 << 20,
    "workdir_bytes": 1 << 20,
}
_LIKELY_VICTIM = b"500"  # of the kernel, if memory runs out


@dataclass(frozen=True, kw_only=True)
class Confined:
    """What a session's process needs to know of its layers."""

    folders: Folders
    scoped: bool
    """whether Landlock keeps a branch from signalling others; what it branched off is left to `guard`"""
    listener: int = -1
    """descriptor of the filter's listener, -1 for none"""


def leave_machine(run_folder: str) -> None:
    """Tier `namespaces`, zygote: see `namespaces.enter`."""
    read_only = readable_paths()
    _shorten_path(read_only)
    root = run_folder + "/root"
    os.makedirs(root, exist_ok=True)
    namespaces.enter(root, read_only)


def leave_root(run_folder: str) -> None:
    """Other tiers, zygote: become an ordinary user if possible, and one without capabilities in any case."""
    _shorten_path(readable_paths())
    boxes = run_folder + "/boxes"
    os.makedirs(boxes, exist_ok=True)
    if os.getuid() != 0:
        return
    if _nobody_can_read(readable_paths()):
        os.chown(boxes, namespaces.NOBODY, namespaces.NOBODY)
        os.chmod(run_folder, 0o711)
        os.setgroups([])
        os.setresgid(*[namespaces.NOBODY] * 3)
        os.setresuid(*[namespaces.NOBODY] * 3)
    else:
        namespaces.drop_capabilities(keep=())


def confine(tier: str, run_folder: str, session: dict[str, Any]) -> Confined:
    """Put a session's process behind all layers of its tier. session: limits, key, family. Raises OSError."""
    limits, key = session["limits"], session.pop("key")
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    if tier == "namespaces":
        return _confine_namespaces(limits, key)
    be_dumpable()
    _volunteer()
    limit_resources(limits)
    base = f"{run_folder}/boxes/{session['family']}"
    os.mkdir(base)
    folders = PlainFolders(base=base, number=0)
    folders.first()
    listener = -1
    if tier == "landlock":
        devices = [f"/dev/{name}" for name in namespaces.DEVICES]
        landlock.files(read_only=readable_paths() + devices, read_write=[base, "/dev/null"])
        listener = seccomp.install(key, mounts=False)
    return Confined(folders=folders, scoped=tier == "landlock" and landlock.abi() >= 6, listener=listener)


def _confine_namespaces(limits: dict[str, Any], key: int) -> Confined:
    namespaces.lock_in()
    _volunteer()
    writable = _writable_folders()
    if os.environ.get("TMPDIR") not in writable:
        os.environ["TMPDIR"] = writable[-1]
    folders = namespaces.MountedFolders(size_bytes=int(limits["workdir_bytes"]), writable=writable)
    folders.first()
    namespaces.drop_capabilities(keep=(namespaces.CAP_SYS_ADMIN,))
    limit_resources(limits)
    scoped = landlock.abi() >= 6
    if scoped:
        landlock.scope()
    prctl(PR_SET_DUMPABLE, 0)
    listener = seccomp.install(key, mounts=True)
    return Confined(folders=folders, scoped=scoped, listener=listener)


@functools.cache  # forks inherit it
def readable_paths() -> list[str]:
    """What code may read: the system's programs and libraries, and this interpreter's own."""
    prefixes = [sys.base_prefix, sys.prefix, os.path.dirname(os.path.realpath(sys.executable))]
    found = list(namespaces.SYSTEM_PATHS)
    for path in map(os.path.abspath, prefixes):
        if path == "/" or os.path.dirname(path) == "/home" or path in ("/root", "/home"):
            continue  # an interpreter right there would open everything
        if not namespaces.is_inside(path, found):
            found.append(path)
    return found


def _writable_folders() -> tuple[str, ...]:
    """Folders to give a session: not one that would hide its own interpreter, installed below /tmp, say."""
    needed = readable_paths()
    return tuple(
        folder
        for folder in namespaces.WRITABLE
        if not any(namespaces.is_inside(path, [folder]) for path in needed)
    )


def _shorten_path(read_only: list[str]) -> None:
    """Forget import folders that will not be readable, such as that of this package in a source checkout."""
    sys.path[:] = [path for path in sys.path if namespaces.is_inside(path, read_only)]
    sys.path_importer_cache.clear()


def _nobody_can_read(paths: list[str]) -> bool:
    """Whether an ordinary user could list those folders and run this interpreter; tried in a child."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(*[namespaces.NOBODY] * 3)
            os.setresuid(*[namespaces.NOBODY] * 3)
            for path in (*paths, *sys.path):
                if os.path.isdir(path):
                    os.listdir(path)
            open(sys.executable, "rb").close()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def _volunteer() -> None:
    with open("/proc/self/oom_score_adj", "wb") as file:
        file.write(_LIKELY_VICTIM)
