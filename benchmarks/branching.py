"""What do sessions, snapshots and branches of the local sandbox cost, beside what one would do without forks?

    python benchmarks/branching.py [--repeats 20] [--held-mb 0,200,1000] [--json PATH]

Times are wall-clock milliseconds, median and 99th percentile; `fresh / this` compares medians with an interpreter
started for the purpose with the same imports, in the same run. Memory is left to the table's last rows (PSS, which
counts a shared page in parts). A machine that is busy with something else moves the times; the ratios move less.
"""

import argparse
import importlib.util
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from axpo_algo.tables import markdown_table, write_json
from sandbox import Sandbox, Session, Snapshot, make_sandbox
from sandbox.local.client import LocalSession
from sandbox.local.config import PRELOAD

COLUMNS = ("what", "median", "p99", "unit", "num", "fresh / this")


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least `share` (0 to 1) of them do not exceed. Raises ValueError if empty."""
    if not values:
        raise ValueError("a percentile of no values")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def row(what: str, values: Sequence[float], unit: str = "ms") -> dict[str, Any]:
    """One line of the table from its samples."""
    return {
        "what": what,
        "median": statistics.median(values),
        "p99": percentile(values, 0.99),
        "unit": unit,
        "num": len(values),
    }


def add_ratios(rows: Sequence[dict[str, Any]]) -> None:
    """Divides the first row's median by that of every row in ms; the first row is the fresh interpreter."""
    fresh = rows[0]["median"]
    for line in rows:
        if line["unit"] == "ms" and line["median"]:
            line["fresh / this"] = fresh / line["median"]


def timed_ms(action: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds that `action` took, and what it returned."""
    start_s = time.perf_counter()
    result = action()
    return (time.perf_counter() - start_s) * 1e3, result


def run_ok(session: Session, code: str) -> Session:
    """Runs a cell that has to work. Raises RuntimeError where it does not."""
    error = session.run(code, timeout_s=60).error
    if error is not None:
        raise RuntimeError(f"cell failed: {error.name}: {error.value}")
    return session


def fresh_interpreter(repeats: int) -> list[float]:
    """A new interpreter that imports what the sandbox preloads, and ends."""
    modules = [name for name in PRELOAD if importlib.util.find_spec(name)]
    code = "import " + ", ".join(modules) if modules else "pass"
    return [
        timed_ms(lambda: subprocess.run([sys.executable, "-c", code], check=True))[0] for _ in range(repeats)
    ]


def first_cells(sandbox: Sandbox, repeats: int) -> list[float]:
    times = []
    for _ in range(repeats):
        time_ms, session = timed_ms(lambda: run_ok(sandbox.session(), "x = 1"))
        times.append(time_ms)
        session.close()
    return times


def snapshots(sandbox: Sandbox, held: str, held_mb: int, repeats: int) -> list[float]:
    """Milliseconds of a snapshot of a session that holds the value of the expression `held`."""
    times = []
    with sandbox.session(limits={"memory_bytes": (held_mb + 1024) << 20}) as session:
        run_ok(session, f"import numpy\nheld = {held}")
        for _ in range(repeats):
            run_ok(session, "changed = 1")  # otherwise it would hand out the same frozen process again
            time_ms, snapshot = timed_ms(session.snapshot)
            times.append(time_ms)
            snapshot.release()
    return times


def pss_mb(pid: int) -> float:
    """A process's proportional share of memory in MB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"process {pid} has no Pss line")


def branches(sandbox: Sandbox, folder_mb: int, repeats: int) -> tuple[list[float], list[float]]:
    """Milliseconds of a branch and its first cell; MB of each branch while all of them live, where readable."""
    times: list[float] = []
    living = []
    with sandbox.session(files={"data.bin": b"x" * (folder_mb << 20)}) as session:
        with run_ok(session, "x = 1").snapshot() as snapshot:
            for _ in range(repeats):
                time_ms, branch = timed_ms(lambda: run_ok(snapshot.fork(1)[0], "x += 1"))
                times.append(time_ms)
                living.append(branch)
            memory = []
            for branch in living:
                try:
                    if isinstance(branch, LocalSession):
                        memory.append(pss_mb(branch.process_id))
                except PermissionError:
                    continue
            for branch in living:
                branch.close()
    return times, memory


def replays(sandbox: Sandbox, repeats: int) -> list[float]:
    """A branch and its first cell by repeating a journal of one small cell."""
    with run_ok(sandbox.session(), "x = 1") as session, session.snapshot() as snapshot:
        data = snapshot.to_bytes()

    def go_on() -> tuple[Snapshot, Session]:
        again = sandbox.snapshot_from_bytes(data)
        return again, run_ok(again.fork(1)[0], "x += 1")

    times = []
    for _ in range(repeats):
        time_ms, (again, branch) = timed_ms(go_on)
        times.append(time_ms)
        branch.close()
        again.release()
    return times


def round_trips(sandbox: Sandbox, repeats: int) -> list[float]:
    with sandbox.session() as session:
        return [timed_ms(lambda: run_ok(session, "1"))[0] for _ in range(repeats)]


def recoveries(sandbox: Sandbox, repeats: int) -> list[float]:
    """From sending a cell that kills its interpreter to the answer of the next cell."""
    code = "import os; os._exit(1)"
    with run_ok(sandbox.session(), "x = 1") as session:
        return [timed_ms(lambda: (session.run(code), run_ok(session, "x")))[0] for _ in range(repeats)]


def measure(repeats: int, held_mb: Sequence[int]) -> tuple[str, list[dict[str, Any]]]:
    """The tier of isolation, and the rows of the table."""
    rows = [row("fresh interpreter, same imports", fresh_interpreter(max(2, repeats // 5)))]
    with make_sandbox("local", quiet=True) as sandbox:
        tier = sandbox.isolation.tier
        rows.append(row("session and first cell", first_cells(sandbox, repeats)))
        for held in held_mb:
            array = (
                f"numpy.ones({held} << 17)"  # float64, 8 bytes each; in huge pages where the machine has them
            )
            rows.append(row(f"snapshot, {held} MB array held", snapshots(sandbox, array, held, repeats)))
        plain = f"bytearray(b'x') * ({max(held_mb)} << 20)"  # in small pages, whose tables a fork copies
        rows.append(
            row(f"snapshot, {max(held_mb)} MB of bytes", snapshots(sandbox, plain, max(held_mb), repeats))
        )
        small, memory = branches(sandbox, 0, repeats)
        rows.append(row("branch and first cell, small folder", small))
        rows.append(row("branch and first cell, 5 MB folder", branches(sandbox, 5, repeats)[0]))
        rows.append(row("the same by replay of a small journal", replays(sandbox, repeats)))
        rows.append(row("round trip, kept safe by a snapshot", round_trips(sandbox, repeats)))
        rows.append(row("killed cell and the next one", recoveries(sandbox, repeats)))
    with make_sandbox("local", quiet=True, fallback="replay") as sandbox:
        rows.append(row('round trip, fallback="replay"', round_trips(sandbox, repeats)))
    add_ratios(rows)
    rows.append(row("branches, one after another", [1e3 / time_ms for time_ms in small], "per second"))
    if memory:
        rows.append(row("memory of a branch", memory, "MB"))
    return tier, rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--held-mb", default="0,200,1000", help="comma-separated MB")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    tier, rows = measure(options.repeats, [int(held) for held in options.held_mb.split(",")])
    if options.json:
        write_json(options.json, {"tier": tier, "rows": rows})
    print(f"local sandbox, isolation {tier}\n")
    print(markdown_table(rows, columns=COLUMNS))


if __name__ == "__main__":
    main()
