"""What do sessions, snapshots and branches cost, beside what one would do without forks?

    python benchmarks/branching.py [--repeats 20] [--held-mb 0,200,1000] [--backends local,docker] [--json PATH]

Times are wall-clock milliseconds, median and 99th percentile. `fresh / this` compares medians with an interpreter
started for the purpose with the same imports, `kernel / this` with a Jupyter kernel (where ipykernel and
jupyter-client are installed), in the same run. Memory of a branch is what it has for itself: private pages and page
tables. A machine that is busy with something else moves the times; the ratios move less.
"""

import argparse
import contextlib
import importlib.util
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from axpo_algo.run.tables import markdown_table, write_json
from axpo_sandbox import Sandbox, Session, Snapshot, make_sandbox
from axpo_sandbox.local.client import LocalSession
from axpo_sandbox.options import PRELOAD

COLUMNS = ("what", "median", "p99", "unit", "num", "fresh / this", "kernel / this")
KERNEL = "Jupyter kernel, same imports"
GROUP = 8  # branches made at once, as AXPO does


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
    """Divides the medians of the first row, a fresh interpreter, and of the kernel by that of every row in ms."""
    kernel = next((line["median"] for line in rows if line["what"] == KERNEL), None)
    for line in rows:
        if line["unit"] == "ms" and line["median"]:
            line["fresh / this"] = rows[0]["median"] / line["median"]
            if kernel is not None:
                line["kernel / this"] = kernel / line["median"]


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


def same_imports() -> str:
    """Code that imports what the sandbox preloads."""
    modules = [name for name in PRELOAD if importlib.util.find_spec(name)]
    return "import " + ", ".join(modules) if modules else "pass"


def fresh_interpreter(repeats: int) -> list[float]:
    """A new interpreter that imports what the sandbox preloads, and ends."""
    command = [sys.executable, "-c", same_imports()]
    return [timed_ms(lambda: subprocess.run(command, check=True))[0] for _ in range(repeats)]


def jupyter(num_starts: int, num_cells: int) -> tuple[list[float], list[float]]:
    """Milliseconds from nothing to a kernel with the imports done; of a small cell. Both empty without Jupyter."""
    try:
        from jupyter_client.manager import start_new_kernel
    except ImportError:
        return [], []
    starts: list[float] = []
    cells: list[float] = []
    for _ in range(num_starts):
        start_s = time.perf_counter()
        manager, client = start_new_kernel(startup_timeout=120)
        try:
            client.execute_interactive(same_imports(), timeout=120, output_hook=lambda message: None)
            starts.append((time.perf_counter() - start_s) * 1e3)
            for _ in range(num_cells if len(starts) == num_starts else 0):
                start_s = time.perf_counter()
                client.execute_interactive("1", output_hook=lambda message: None)
                cells.append((time.perf_counter() - start_s) * 1e3)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
    return starts, cells


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


def private_mb(pid: int) -> float:
    """What a process has for itself in MB: private pages and page tables. Raises PermissionError."""
    total_kb = 0
    for name, keys in (("smaps_rollup", ("Private_Clean:", "Private_Dirty:")), ("status", ("VmPTE:",))):
        lines = Path(f"/proc/{pid}/{name}").read_text().splitlines()
        total_kb += sum(int(line.split()[1]) for line in lines if line.startswith(keys))
    return total_kb / 1024


def branches(
    sandbox: Sandbox, folder_mb: int, repeats: int, at_once: int = 1
) -> tuple[list[float], list[float]]:
    """Milliseconds of a branch and its first cell; MB of each branch while all of them live, where readable.

    at_once: branches made by one fork; the time of each is then its part of the whole.
    """
    times: list[float] = []
    memory: list[float] = []
    living: list[Session] = []

    def branch_and_run(snapshot: Snapshot) -> list[Session]:
        return [run_ok(branch, "x += 1") for branch in snapshot.fork(at_once)]

    with sandbox.session(files={"data.bin": b"x" * (folder_mb << 20)}) as session:
        with run_ok(session, "x = 1").snapshot() as snapshot:
            while len(times) < repeats:
                time_ms, made = timed_ms(lambda: branch_and_run(snapshot))
                times += [time_ms / at_once] * at_once
                living += made
            for branch in living:
                if isinstance(branch, LocalSession):
                    with contextlib.suppress(PermissionError):
                        memory.append(private_mb(branch.process_id))
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


def measure(backend: str, repeats: int, held_mb: Sequence[int]) -> tuple[str, list[dict[str, Any]]]:
    """The tier of isolation, and the rows of one backend's table."""
    rows = [row("fresh interpreter, same imports", fresh_interpreter(max(3, repeats // 5)))]
    starts, cells = jupyter(3, repeats)
    if starts:
        rows.append(row(KERNEL, starts))
        rows.append(row("round trip of a Jupyter kernel", cells))
    with quiet_sandbox(backend) as sandbox:
        tier = sandbox.isolation.tier
        first_cells(sandbox, 3)  # warm
        rows.append(row("session and first cell", first_cells(sandbox, repeats)))
        for held in held_mb:
            array = (
                f"numpy.ones({held} << 17)"  # float64, 8 bytes each; in huge pages where the machine has them
            )
            rows.append(row(f"snapshot, {held} MB array held", snapshots(sandbox, array, held, repeats)))
        plain = f"bytearray(b'x') * ({max(held_mb)} << 20)"
        rows.append(
            row(f"snapshot, {max(held_mb)} MB of bytes", snapshots(sandbox, plain, max(held_mb), repeats))
        )
        small, memory = branches(sandbox, 0, repeats)
        rows.append(row("branch and first cell, small folder", small))
        rows.append(row("branch and first cell, 5 MB folder", branches(sandbox, 5, repeats)[0]))
        grouped, grouped_memory = branches(sandbox, 0, repeats, GROUP)
        rows.append(row(f"the same, {GROUP} at once, each", grouped))
        rows.append(row("the same by replay of a small journal", replays(sandbox, repeats)))
        rows.append(row("round trip, kept safe by a snapshot", round_trips(sandbox, repeats)))
        rows.append(row("killed cell and the next one", recoveries(sandbox, repeats)))
    with quiet_sandbox(backend, fallback="replay") as sandbox:
        rows.append(row('round trip, fallback="replay"', round_trips(sandbox, 10 * repeats)))
    add_ratios(rows)
    rows.append(row("branches, one after another", [1e3 / time_ms for time_ms in small], "per second"))
    rows.append(row(f"branches, {GROUP} at once", [1e3 / time_ms for time_ms in grouped], "per second"))
    if memory:
        rows.append(row("memory of a branch", memory, "MB"))
        rows.append(row(f"memory of a branch, {GROUP} at once", grouped_memory, "MB"))
    return tier, rows


def quiet_sandbox(backend: str, **options: Any) -> Sandbox:
    """A sandbox that does not warn: its tier is printed."""
    return make_sandbox(backend, **options, **({"quiet": True} if backend == "local" else {}))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--held-mb", default="0,200,1000", help="comma-separated MB")
    parser.add_argument("--backends", default="local", help="comma-separated names")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    held_mb = [int(held) for held in options.held_mb.split(",")]
    found = {}
    for backend in options.backends.split(","):
        tier, rows = measure(backend, options.repeats, held_mb)
        found[backend] = {"tier": tier, "rows": rows}
        print(f"{backend} sandbox, isolation {tier}\n")
        print(markdown_table(rows, columns=COLUMNS), flush=True)
    if options.json:
        write_json(options.json, found)


if __name__ == "__main__":
    main()
