"""The part of the contract about what a closed environment leaves behind, and what a used one holds on to.

Called by `contract`. Memory is what Python and numpy take; what a library in C takes is left to `fuzz`, which
looks at the whole process. Files are temporary ones made by this process.
"""

import contextlib
import ctypes
import functools
import gc
import itertools
import os
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from axpo_env.contract_play import SEED, MakeEnv, actions_for, play, release, takes_text, watch
from axpo_env.messages import format_action, format_call

_WAITS, _WAIT_S = 100, 0.1  # how often, and seconds each, for what ends on its own
_LIVES = 3  # environments that live and close while nothing may be left behind
_EPISODES, _ROUNDS = 5, 3  # a round's episodes; memory must grow in every round to be called a leak
MAX_BYTES = 8_192  # that an episode may leave behind: caches of small things
_SUBREAPER, _GET_SUBREAPER = 36, 37  # of prctl


def check_memory(make: MakeEnv) -> None:
    """An episode played again and again takes no more memory."""
    env = make()
    actions = actions_for(env, SEED)
    tracing = tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start()
    try:
        sizes = [_size_after(env, actions) for _ in range(_ROUNDS + 1)]
    finally:
        if not tracing:
            tracemalloc.stop()
    env.close()
    growth = min(after - before for before, after in itertools.pairwise(sizes)) // _EPISODES
    assert growth <= MAX_BYTES, f"every episode leaves {growth:,} bytes behind"


def _size_after(env: Any, actions: list[Any]) -> int:
    """Bytes in use after some episodes."""
    for _ in range(_EPISODES):
        env.reset(seed=SEED)
        _branch(env, actions[0])
        play(env, actions)
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def check_closing(make: MakeEnv) -> None:
    """Closing twice is fine; a closed environment leaves no thread, open file, process or temporary file behind."""
    _live_and_close(make)  # what is started once and kept, such as a sandbox for all environments
    with _noting_temporary_files() as made:
        _check_left(make, lambda: _held(made))
    with _adopting_orphans():
        _check_left(make, lambda: {"orphaned processes": len(_children(alive=True))})


def _check_left(make: MakeEnv, count: Callable[[], dict[str, int]]) -> None:
    """Raise AssertionError if there is more of something after environments have lived and closed."""
    gc.collect()
    before = count()
    for _ in range(_LIVES):
        _live_and_close(make)
    for _ in range(_WAITS):
        gc.collect()
        after = count()
        grown = {name: (before[name], after[name]) for name in before if after[name] > before[name]}
        if not grown:
            return
        time.sleep(_WAIT_S)  # a sandbox ends its processes beside us
    raise AssertionError(f"left behind, before and after: {grown}")


def _live_and_close(make: MakeEnv) -> None:
    env = make()
    actions = [format_action("", format_call("python", {"code": code})) for code in ("1", "2")]
    if not takes_text(env):
        actions = actions_for(env, SEED, 2)
    env.reset(seed=SEED)
    if not watch(env, actions[:1])[-1].ended:
        _branch(env, actions[1])
    env.close()
    env.close()


def _branch(env: Any, action: Any) -> None:
    """Take a snapshot and branches, as far as there are such, and let go of them."""
    snapshot = env.snapshot() if hasattr(env, "snapshot") else None
    for branch in env.fork(2) if hasattr(env, "fork") else ():
        branch.step(action)
        branch.close()
    release(snapshot)
    release(snapshot)


def _held(made: list[str]) -> dict[str, int]:
    """What this process holds of what a leak would hold more of."""
    held = {"threads": threading.active_count()}
    files = Path("/proc/self/fd")
    if files.is_dir():
        held["open files"] = len(list(files.iterdir()))
    held["child processes"] = len(_children())
    held["temporary files"] = sum(os.path.lexists(path) for path in made)
    return held


def _children(*, alive: bool = False) -> list[int]:
    """The process ids of children of any thread; `alive`: without those that only wait to be reaped."""
    children: list[int] = []
    for thread in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended
            children += map(int, thread.read_text().split())
    return [child for child in children if not (alive and _has_ended(child))]


def _has_ended(process_id: int) -> bool:
    try:
        status = Path(f"/proc/{process_id}/stat").read_text()
    except OSError:
        return True
    return status.rpartition(")")[2].split()[0] in "ZX"


@contextlib.contextmanager
def _adopting_orphans() -> Iterator[None]:
    """On Linux, a process whose parent ends becomes this one's child meanwhile, so that it is not lost sight of."""
    if sys.platform != "linux":
        yield
        return
    prctl, earlier = ctypes.CDLL(None).prctl, ctypes.c_int()
    prctl(_GET_SUBREAPER, ctypes.byref(earlier), 0, 0, 0)
    known = set(_children())
    prctl(_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(_SUBREAPER, earlier.value, 0, 0, 0)
        for child in set(_children()) - known:
            if _has_ended(child):
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(child, os.WNOHANG)  # nobody else knows of an adopted one


_noted: list[str] | None = None  # paths of temporary files and folders made meanwhile


@contextlib.contextmanager
def _noting_temporary_files() -> Iterator[list[str]]:
    """A list that fills with the temporary files and folders this process makes."""
    global _noted
    _install_hook()
    noted: list[str] = []
    _noted = noted
    try:
        yield noted
    finally:
        _noted = None


@functools.cache
def _install_hook() -> None:
    """Once per process: an audit hook cannot be taken away again."""
    sys.addaudithook(_note)


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    noted = _noted
    if noted is not None and event in ("tempfile.mkdtemp", "tempfile.mkstemp"):
        noted.append(os.path.abspath(arguments[0]))
