"""The pool: fair lines, bounds, snapshots that become journals, and an end that leaves nothing."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from axpo_sandbox import SandboxClosed, SandboxUnavailable, Session, contract
from axpo_sandbox.fair import FairGate
from axpo_sandbox.local.processes import descendants_of
from axpo_sandbox.pool import PooledSnapshot, SandboxPool
from axpo_sandbox.scripted import ScriptedSandbox


def eventually(holds: Callable[[], bool], patience_s: float = 30.0) -> bool:
    deadline = time.monotonic() + patience_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def in_background(call: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


class Measured(ScriptedSandbox):
    """Says how much memory it uses, so that tests can choose."""

    def __init__(self) -> None:
        super().__init__(lambda code, moment: f"{len(moment.cells)}: {code}")
        self.num_bytes = 0

    def memory_bytes(self) -> int:
        return self.num_bytes


@pytest.fixture
def parts() -> list[Measured]:
    return []


def scripted_pool(parts: list[Measured], **bounds: Any) -> SandboxPool:
    def make() -> Measured:
        parts.append(Measured())
        return parts[-1]

    return SandboxPool(make, **{"close_on_sigterm": False, **bounds})


def test_who_comes_first_is_served_first_even_with_a_large_wish() -> None:
    gate = FairGate(4)
    assert gate.enter(3, 1)
    order: list[str] = []

    def want(name: str, num_places: int) -> None:
        assert gate.enter(num_places, 30)
        order.append(name)

    large = in_background(lambda: want("large", 4))
    assert eventually(lambda: gate.num_waiting == 1)
    small = in_background(lambda: want("small", 1))  # there is a place, but it has to wait
    assert eventually(lambda: gate.num_waiting == 2)
    assert order == []
    gate.leave(3)
    large.join(30)
    assert order == ["large"]
    gate.leave(4)
    small.join(30)
    assert (order, gate.num_taken) == (["large", "small"], 1)


def test_a_line_ends_by_its_time_and_by_closing() -> None:
    gate = FairGate(1)
    assert gate.enter(1, 1)
    assert not gate.enter(1, 0.01)
    with pytest.raises(ValueError, match="2 places wanted; from 1 to 1"):
        gate.enter(2, 1)
    answers: list[bool] = []
    waiting = in_background(lambda: answers.append(gate.enter(1, 60)))
    assert eventually(lambda: gate.num_waiting == 1)
    gate.close()
    waiting.join(30)
    assert answers == [False]


def test_sessions_wait_for_a_place_and_spread_over_the_sandboxes(parts: list[Measured]) -> None:
    with scripted_pool(parts, num_sandboxes=3, max_sessions=6) as pool:
        sessions = [pool.session() for _ in range(6)]
        assert [part.num_open_sessions for part in parts] == [2, 2, 2]
        later: list[Session] = []
        waiting = in_background(lambda: later.append(pool.session()))
        assert eventually(lambda: pool._places.num_waiting == 1)
        sessions[4].close()
        sessions[4].close()  # twice is no mistake, and gives one place
        waiting.join(30)
        assert len(later) == 1
        assert [part.num_open_sessions for part in parts] == [2, 2, 2]


def test_waiting_too_long_says_what_is_full(parts: list[Measured]) -> None:
    with scripted_pool(parts, max_sessions=2, max_wait_s=0.01) as pool:
        kept = [pool.session(), pool.session()]
        with pytest.raises(SandboxUnavailable, match=r"2 of 2 are open.*max_sessions"):
            pool.session()
        kept[0].close()
        with pool.session() as session, pytest.raises(SandboxUnavailable, match="2 more sessions"):
            session.snapshot().fork(2)
        with pytest.raises(ValueError, match="3 places wanted"):
            kept[1].snapshot().fork(3)
        assert pool._places.num_taken == 1


def test_a_collected_session_gives_its_place_back(parts: list[Measured]) -> None:
    with scripted_pool(parts, max_sessions=1, max_wait_s=5) as pool:
        for _ in range(3):
            assert pool.session().run("x").text == "0: x"


def test_the_snapshot_used_least_recently_becomes_a_journal_and_comes_back(parts: list[Measured]) -> None:
    with scripted_pool(parts, num_sandboxes=2, max_snapshots=2) as pool, pool.session() as session:
        snapshots: list[PooledSnapshot] = []
        for number in range(3):
            session.run(f"cell {number}")
            snapshots.append(session.snapshot())
        assert [snapshot.is_frozen for snapshot in snapshots] == [False, True, True]
        snapshots[1].fork()  # so that the last is now the one not used for longest
        branch = snapshots[0].fork()[0]
        assert branch.run("again").text == "1: again"
        assert [snapshot.is_frozen for snapshot in snapshots] == [True, True, False]
        assert pool.num_frozen == 2
        assert snapshots[2].to_bytes().count(b'"code"') == 3
        for snapshot in snapshots:
            snapshot.release()
        assert pool.num_frozen == 0


def test_memory_makes_snapshots_journals_and_then_sessions_wait(parts: list[Measured]) -> None:
    with scripted_pool(parts, num_sandboxes=1, max_memory_bytes=100, max_wait_s=0.2) as pool:
        session = pool.session()
        snapshot = session.snapshot()
        parts[0].num_bytes = 101
        with pytest.raises(SandboxUnavailable, match="max_memory_bytes"):
            pool.session()
        assert not snapshot.is_frozen
        parts[0].num_bytes = 100
        assert pool.session().run("x").text == "0: x"
        parts[0].num_bytes = 101
        session.close()
        pool.session().close()  # with nobody inside, waiting would not help


def test_bad_bounds_are_named() -> None:
    with pytest.raises(ValueError, match="max_sessions must be positive, not 0"):
        SandboxPool(Measured, max_sessions=0)
    with pytest.raises(ValueError, match=r"'max_session'; known: .*nearest: max_sessions"):
        SandboxPool.of("local", max_session=3)


def test_closing_ends_the_wait(parts: list[Measured]) -> None:
    pool = scripted_pool(parts, max_sessions=1)
    kept = pool.session()
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            pool.session()
        except SandboxClosed as error:
            errors.append(error)

    waiting = in_background(wait)
    assert eventually(lambda: pool._places.num_waiting == 1)
    pool.close()
    waiting.join(30)
    assert [type(error) for error in errors] == [SandboxClosed]
    with pytest.raises(SandboxClosed):
        pool.session()
    kept.close()


@pytest.fixture(scope="module")
def local_pool() -> Iterator[SandboxPool]:
    options = {"quiet": True, "allow_unisolated": True}
    with SandboxPool.of("local", options, num_sandboxes=2, close_on_sigterm=False) as pool:
        yield pool


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.name)
def test_a_pool_of_local_sandboxes_keeps_every_promise(
    local_pool: SandboxPool, check: contract.Check
) -> None:
    check.run(local_pool)


def test_a_demoted_snapshot_holds_no_process(local_pool: SandboxPool) -> None:
    pids = [part.zygote_pid for part in local_pool._sandboxes]  # type: ignore[attr-defined]

    def num_processes() -> int:
        return sum(len(descendants_of(pid)) for pid in pids)

    gc.collect()
    num_idle = 2 * len(pids)  # in each, the one all are forked from and a spare
    assert eventually(lambda: num_processes() <= num_idle)
    with local_pool.session(files={"a": b"1"}) as session:
        session.run("x = open('a').read()")
        snapshot = session.snapshot()
    assert num_processes() > num_idle - len(pids)
    assert snapshot.is_frozen
    assert snapshot.demote()
    assert not snapshot.demote()
    assert eventually(lambda: num_processes() <= num_idle)
    left, right = snapshot.fork(2)
    assert (left.run("x").text, right.run("open('a').read()").text) == ("'1'", "'1'")
    left.close()
    right.close()
    snapshot.release()
    assert local_pool.memory_bytes() > 0


ENDS = {
    "sigterm": ("os.kill(os.getpid(), 15); time.sleep(60)", 143),
    "exit": ("sys.exit(3)", 3),
    "sigkill": ("os.kill(os.getpid(), 9)", -9),
}


@pytest.mark.parametrize("how", ENDS)
def test_however_the_trainer_ends_nothing_survives(how: str, tmp_path: Path) -> None:
    code, status = ENDS[how]
    program = f"""
import os, sys, threading, time
from axpo_sandbox.local.processes import descendants_of
from axpo_sandbox.pool import SandboxPool
pool = SandboxPool.of("local", {{"quiet": True, "allow_unisolated": True, "preload": []}}, num_sandboxes=2)
sessions = [pool.session() for _ in range(3)]
snapshot = sessions[0].snapshot()
branches = snapshot.fork(2)
def work():
    try:
        branches[0].run("import os; os.setsid(); print(1)\\nwhile True: pass", timeout_s=120)
    except Exception:
        pass
threading.Thread(target=work).start()
while len(descendants_of(os.getpid())) < 12:
    time.sleep(0.01)
print(*descendants_of(os.getpid()), flush=True)
{code}
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == status, done.stderr
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) >= 12
    assert eventually(lambda: not any(map(is_running, pids)))
    if how != "sigkill":  # what that leaves on disk, the next start sweeps away
        assert os.listdir(tmp_path) == []


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_program_that_handles_sigterm_itself_keeps_its_handler() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def own(*_: object) -> None:
        raise AssertionError("not called")

    signal.signal(signal.SIGTERM, own)
    try:
        with SandboxPool(Measured, num_sandboxes=1):
            assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)
