"""Does anything stay behind when sessions and branches come, are killed at random, and go, thousands of times?

    python benchmarks/sandbox_soak.py [--sessions 10000] [--branches 5] [--kills 0.1] [--backend local] [--json PATH]

Every session runs a cell, is frozen, and branches; every branch proves that it stands where its session stood.
A share of both is killed from inside (exit, signal, time-out, memory) or from outside, now and then the fork
server itself; what was killed must go on as if nothing had been. Processes, descriptors, mounts and temporary
files are counted before and after, the memory of this process after a tenth of the run and at its end.
Exits with 1 if anything stays, or memory grows by more than 5 %.
"""

import argparse
import gc
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from axpo_algo.run.tables import write_json
from axpo_sandbox import Sandbox, Session, make_sandbox
from axpo_sandbox.base import KILLED
from axpo_sandbox.local.client import LocalSandbox, LocalSession
from axpo_sandbox.local.processes import children_of, descendants_of

MAX_GROWTH = 0.05
FATAL_CELLS = {
    "exit": "x = None; import os; os._exit(1)",
    "signal": "x = None; import os; os.kill(os.getpid(), 9)",
    "crash": "x = None; import ctypes; ctypes.string_at(0)",
    "time-out": "x = None\nwhile True: pass",
    "memory": "x = [bytearray(1 << 26) for _ in range(64)]",
    "orphans": "import os\nfor _ in range(3):\n    if os.fork() == 0: os.setsid(); os.execlp('sleep', 'sleep', '600')",
}
_PATIENCE_S = 20.0


@dataclass
class Left:
    """What exists now, of the kinds that must not pile up."""

    processes: int = 0
    descriptors: int = 0
    mounts: int = 0
    temporary_files: int = 0

    @classmethod
    def now(cls, others: Collection[int] = ()) -> "Left":
        """others: processes that were there before, not to be counted, nor what is below them."""
        return cls(
            processes=len(descendants_of(os.getpid(), others)),
            descriptors=len(os.listdir("/proc/self/fd")),
            mounts=len(Path("/proc/self/mountinfo").read_text().splitlines()),
            temporary_files=sum(
                len(files) + len(folders) for _, folders, files in os.walk(tempfile.gettempdir())
            ),
        )

    def exceeds(self, other: "Left") -> bool:
        return any(number > asdict(other)[name] for name, number in asdict(self).items())


@dataclass
class Report:
    """What a run did and what it left."""

    num_sessions: int = 0
    num_branches: int = 0
    kills: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    """what did not go on as if nothing had been"""
    before: Left = field(default_factory=Left)
    after: Left = field(default_factory=Left)
    rss_early_bytes: int = 0
    rss_late_bytes: int = 0
    duration_s: float = 0.0

    @property
    def growth(self) -> float:
        """Of this process's memory, as a share."""
        return self.rss_late_bytes / self.rss_early_bytes - 1 if self.rss_early_bytes else 0.0

    @property
    def is_clean(self) -> bool:
        return not self.wrong and not self.after.exceeds(self.before) and self.growth <= MAX_GROWTH


def rss_bytes() -> int:
    """Memory of this process."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def settle(wanted: Left, others: Collection[int]) -> Left:
    """What is left once the kernel has cleared away what has ended; waits for that, within bounds."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        gc.collect()
        found = Left.now(others)
        if not found.exceeds(wanted) or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


class Soak:
    """The run. Same seed, same kills."""

    def __init__(self, sandbox: Sandbox, *, kill_share: float, seed: int) -> None:
        self.report = Report()
        self._sandbox = sandbox
        self._kill_share = kill_share
        self._random = random.Random(seed)
        self._num_in_doubt = 0  # cells that a kill from outside may still hit on its way

    def session(self, number: int, num_branches: int) -> None:
        """One session, its branches and their kills."""
        with self._sandbox.session(
            files={"a": str(number).encode()}, limits={"memory_bytes": 256 << 20}
        ) as session:
            self.report.num_sessions += 1
            self._cell(session, f"x = {number}; f = open('a'); f.read()", repr(str(number)))
            self._maybe_kill(session)
            self._cell(session, "x", str(number))
            with session.snapshot() as snapshot:
                branches = snapshot.fork(num_branches)
                for branch in branches:
                    self.report.num_branches += 1
                    self._maybe_kill(branch)
                    self._cell(
                        branch, "x, open('a').read(), f.tell()", f"({number}, '{number}', {len(str(number))})"
                    )
            for branch in branches:
                branch.close()

    def kill_fork_server(self) -> None:
        """What all sessions are forked from."""
        if isinstance(self._sandbox, LocalSandbox):
            self._count("fork server")
            os.kill(self._sandbox.zygote_pid, signal.SIGKILL)
            self._num_in_doubt = 10  # its children follow one after the other

    def _maybe_kill(self, session: Session) -> None:
        if self._random.random() >= self._kill_share:
            return
        kinds = [*FATAL_CELLS, *(["outside"] if isinstance(session, LocalSession) else [])]
        kind = self._random.choice(kinds)
        self._count(kind)
        if isinstance(session, LocalSession) and kind == "outside":
            os.kill(session.process_id, signal.SIGKILL)
            self._num_in_doubt = 1
            return
        error = session.run(FATAL_CELLS[kind], timeout_s=0.2 if kind == "time-out" else 30).error
        if error is None and kind != "orphans":
            self.report.wrong.append(f"a cell that dies by {kind} went well")

    def _count(self, kind: str) -> None:
        self.report.kills[kind] = self.report.kills.get(kind, 0) + 1

    def _cell(self, session: Session, code: str, wanted: str) -> None:
        execution = session.run(code, timeout_s=60)
        if self._num_in_doubt and execution.error is not None and execution.error.name == KILLED:
            execution = session.run(code, timeout_s=60)  # the kill came while this cell ran, and cost it
        self._num_in_doubt = max(0, self._num_in_doubt - 1)
        if execution.text != wanted:
            self.report.wrong.append(f"{code!r} gave {execution.text!r}, not {wanted!r}: {execution.error}")


def soak(
    make: Callable[[], Sandbox],
    *,
    num_sessions: int,
    branches_per_session: int,
    kill_share: float,
    seed: int = 0,
    server_kills: int = 0,
    log: Callable[[str], None] = lambda line: None,
) -> Report:
    """Run it all, sandbox included. server_kills: how often the fork server is killed on the way."""
    start_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="axpo-soak-") as folder:
        own, tempfile.tempdir = tempfile.tempdir, folder  # so that others' files are not counted
        try:
            others = children_of(os.getpid())
            before = Left.now(others)
            with make() as sandbox:
                run = Soak(sandbox, kill_share=kill_share, seed=seed)
                run.report.before = before
                every = max(1, num_sessions // (server_kills + 1))
                for number in range(num_sessions):
                    run.session(number, branches_per_session)
                    if number % every == every - 1 and number < num_sessions - 1 and server_kills:
                        run.kill_fork_server()
                    if number == num_sessions // 10:
                        run.report.rss_early_bytes = rss_bytes()
                    if number % max(1, num_sessions // 20) == 0:
                        log(f"{number} sessions, {time.monotonic() - start_s:.0f} s, {Left.now(others)}")
                run.report.rss_late_bytes = rss_bytes()
            run.report.after = settle(before, others)
        finally:
            tempfile.tempdir = own
    run.report.duration_s = time.monotonic() - start_s
    return run.report


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--branches", type=int, default=5, help="per session")
    parser.add_argument("--kills", type=float, default=0.1, help="share of sessions and branches")
    parser.add_argument("--server-kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", default="local")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    report = soak(
        lambda: make_sandbox(options.backend),
        num_sessions=options.sessions,
        branches_per_session=options.branches,
        kill_share=options.kills,
        seed=options.seed,
        server_kills=options.server_kills,
        log=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(f"{report.num_sessions} sessions, {report.num_branches} branches in {report.duration_s:.0f} s")
    print("killed: " + ", ".join(f"{number} by {kind}" for kind, number in sorted(report.kills.items())))
    print(f"before: {report.before}\nafter:  {report.after}")
    print(
        f"memory of this process: {report.rss_late_bytes >> 20} MB, {report.growth:+.1%} since a tenth of the run"
    )
    for sentence in report.wrong[:20]:
        print(f"wrong: {sentence}")
    if options.json:
        write_json(options.json, {**asdict(report), "growth": report.growth})
    print("clean" if report.is_clean else "NOT CLEAN")
    return 0 if report.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
