"""Makes attacks one after the other, judges what they do to the trusted side itself, and keeps that from hurting.

    python -m benchmarks.attacks.run --backend local --tier none NAME ...

is the child that makes them and prints a line of JSON for each; `run_guarded` starts it in a control group of its own,
and starts it anew after an attack that hangs or ends it. Tables are left to `sandbox_isolation`.
"""

import argparse
import contextlib
import gc
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from axpo_sandbox import SandboxError
from axpo_sandbox.local.cgroup import Cgroup
from benchmarks.attacks.arena import Arena, open_arena
from benchmarks.attacks.corpus import SUCCEEDED, Attack, Outcome, held, load, skipped, succeeded

# What an attack may cost the trusted side. Tables of descriptors and memory are measured after it, at rest and at peak.
MAX_DESCRIPTORS = 8
MAX_GROWTH_BYTES = 700 << 20
MAX_SECONDS = 150.0

GUARD_MEMORY_BYTES = 5 << 30
GUARD_PROCESSES = 1200
GUARD_SILENCE_S = 240.0  # without a word from the child, the attack counts as one that hangs it
NOBODY = 65534


@dataclass(frozen=True, kw_only=True)
class Result:
    """One attack on one tier."""

    name: str
    family: str
    verdict: str
    why: str
    seconds: float
    accepted: str
    """why it may succeed: the README's words, or that the sandbox itself says that the layer is open"""
    beyond_s: float = 0.0
    """by how much the longest call so far exceeded its time-out"""


def make(arena: Arena, attack: Attack) -> Outcome:
    """Make one attack and judge it, by its own account and by what it did to this process and its sandbox."""
    gc.collect()
    num_open, base_bytes = _num_descriptors(), _restart_peak()
    start_s = time.monotonic()
    try:
        outcome = attack.run(arena)
    except NotImplementedError as error:
        outcome = skipped(str(error))
    except SandboxError as error:
        outcome = held(f"{type(error).__name__}: {error}")
    except Exception as error:
        outcome = succeeded(f"{type(error).__name__} was raised on the trusted side: {error}")
    took_s = time.monotonic() - start_s
    grown = _peak_bytes() - base_bytes
    trouble = arena.is_sound()
    gc.collect()
    left_open = _num_descriptors() - num_open
    if outcome.verdict == SUCCEEDED:
        return outcome
    if trouble:
        return succeeded(trouble)
    if took_s > MAX_SECONDS:
        return succeeded(f"it held the trusted side up for {took_s:.0f} s")
    if grown > MAX_GROWTH_BYTES:
        return succeeded(f"the trusted side grew by {grown >> 20} MB")
    if left_open > MAX_DESCRIPTORS:
        return succeeded(f"{left_open} descriptors stay open on the trusted side")
    return outcome


def make_all(arena: Arena, attacks: Sequence[Attack]) -> Iterator[Result]:
    """Make attacks in order."""
    for attack in attacks:
        start_s = time.monotonic()
        outcome = make(arena, attack)
        result = result_of(attack, outcome, time.monotonic() - start_s, arena.sandbox.isolation.layers)
        yield replace(result, beyond_s=round(arena.longest_beyond_s, 2))


def result_of(attack: Attack, outcome: Outcome, seconds: float, layers: Any) -> Result:
    """An outcome as a row. layers: what the sandbox says of itself."""
    accepted = attack.accepted
    if attack.layer and layers.get(attack.layer) is False:
        accepted = f"the sandbox says that its layer {attack.layer} is open here"
    return Result(
        name=attack.name,
        family=attack.family,
        verdict=outcome.verdict,
        why=outcome.why,
        seconds=round(seconds, 2),
        accepted=accepted,
    )


def run_guarded(
    backend: str, tier: str, names: Sequence[str], options: dict[str, Any], user: int | None = None
) -> Iterator[Result]:
    """The same in a child with limits of its own. An attack that ends or hangs the child succeeded.

    user: id to run as, where not this process's own. Raises RuntimeError if the sandbox does not start.
    """
    attacks = load()
    waiting = list(names)
    while waiting:
        with _Child(backend, tier, waiting, options, user) as child:
            current = ""
            for line in child.lines():
                if "started" in line:
                    current = line["started"]
                elif "refused" in line:
                    raise RuntimeError(f"{backend} {tier} does not start: {line['refused']}")
                else:
                    waiting.remove(line["name"])
                    current = ""
                    yield Result(**line)
        if waiting and not current:
            raise RuntimeError(f"{backend} {tier} ended between two attacks, before {waiting[0]}")
        if current:
            waiting.remove(current)
            why = "it hung the trusted side" if child.hung else "it ended the trusted side"
            yield result_of(attacks[current], succeeded(why), GUARD_SILENCE_S, {})


class _Child:
    """A process that makes attacks and prints lines of JSON."""

    def __init__(
        self, backend: str, tier: str, names: Sequence[str], options: dict[str, Any], user: int | None
    ) -> None:
        self.hung = False
        self._cgroup = Cgroup(total_bytes=GUARD_MEMORY_BYTES, total_processes=GUARD_PROCESSES)
        command = [sys.executable, "-m", "benchmarks.attacks.run", "--backend", backend, "--tier", tier]
        command += ["--options", json.dumps(options), *names]
        other = {} if user is None else {"user": user, "group": user, "extra_groups": []}
        home = {} if user is None else {"HOME": "/tmp"}
        self._process = subprocess.Popen(
            command,
            cwd=Path(__file__).resolve().parents[2],
            env={**os.environ, "OMP_NUM_THREADS": "1", **home},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            **other,  # type: ignore[call-overload]
        )
        self._cgroup.add(self._process.pid)
        self._process.stdin.write(b"go\n")  # not before it is in its group
        self._process.stdin.close()

    def lines(self) -> Iterator[dict[str, Any]]:
        """What it prints, until it ends or is silent for too long."""
        reader = self._process.stdout.fileno()
        buffer = b""
        while True:
            if not select.select([reader], [], [], GUARD_SILENCE_S)[0]:
                self.hung = True
                return
            data = os.read(reader, 1 << 16)
            if not data:
                return
            *whole, buffer = (buffer + data).split(b"\n")
            yield from (json.loads(line) for line in whole if line.startswith(b"{"))

    def __enter__(self) -> "_Child":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            if not self.hung:
                self._process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()
        self._cgroup.remove()


def _num_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _restart_peak() -> int:
    """Forget the highest memory use so far; bytes in use now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak_bytes() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) << 10
    raise ValueError(f"/proc/self/status has no {name}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", default="local")
    parser.add_argument("--tier", default="")
    parser.add_argument("--options", default="{}", help="of the backend, as JSON")
    parser.add_argument("names", nargs="*")
    given = parser.parse_args(argv)
    if not sys.stdin.isatty():
        sys.stdin.readline()
    attacks = load()
    lines = sys.stdout
    try:
        with open_arena(given.backend, given.tier, **json.loads(given.options)) as arena:
            for name in given.names or list(attacks):
                print(json.dumps({"started": name}), file=lines, flush=True)
                for result in make_all(arena, [attacks[name]]):
                    print(json.dumps(asdict(result)), file=lines, flush=True)
    except SandboxError as error:
        print(json.dumps({"refused": f"{type(error).__name__}: {error}"}), file=lines, flush=True)


if __name__ == "__main__":
    main()
