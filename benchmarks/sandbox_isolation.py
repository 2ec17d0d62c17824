"""What can code in a sandbox break? Attacks in families, made for real on each tier; the table says what is open.

    python benchmarks/sandbox_isolation.py [--backend local docker] [--tier namespaces landlock none] [--family files]
        [--attack NAME] [--user nobody] [--json PATH] [--write]

Exits with 1 if an attack succeeded on the strongest tier, or on a backend that has none, that is not known to. Backend
`plain` is the control: an ordinary interpreter, on which attacks are seen to work. Targets are made here: planted
files, sleeping victims, listeners on loopback. The attacks themselves are in `benchmarks/attacks`.
"""

import argparse
import os
import pwd
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from axpo_sandbox.names import unknown_name
from benchmarks.attacks.corpus import FAMILIES, HELD, SKIPPED, SUCCEEDED, load
from benchmarks.attacks.run import Result, run_guarded

TIERS = ("namespaces", "landlock", "none")
README = Path(__file__).resolve().parent.parent / "sandbox" / "README.md"
MAX_GOALS = 5  # that are named per family
# Where nothing succeeds although nothing isolates, what holds is not the tier's.
SAME_EVERYWHERE = {
    "memory": "resource limits, which every tier has",
    "output": "caps where output is read, and fields that are checked",
    "images": "sizes that are checked before anything is drawn, and again outside",
    "protocol": "frames that are capped and checked outside",
    "objects": "JSON, never pickle, and journals that are checked",
}
BEGIN, END = "<!-- isolation table: begin -->", "<!-- isolation table: end -->"


def standing(results: Sequence[Result]) -> str:
    """How a family fared: "held", or how many of how many are open."""
    tried = [result for result in results if result.verdict != SKIPPED]
    num_open = sum(result.verdict == SUCCEEDED for result in tried)
    if not tried:
        return "-"
    return f"{num_open} of {len(tried)} open" if num_open else f"held ({len(tried)})"


def table(columns: Mapping[str, Sequence[Result]]) -> str:
    """Families down, tiers across, as Markdown."""
    lines = [
        f"| code tries to | {' | '.join(f'`{name}`' for name in columns)} |",
        "|" + "---|" * (len(columns) + 1),
    ]
    for family, what in FAMILIES.items():
        cells = [
            standing([item for item in results if item.family == family]) for results in columns.values()
        ]
        if any(text != "-" for text in cells):
            lines.append(f"| {what} | {' | '.join(cells)} |")
    cells = [standing(results) for results in columns.values()]
    lines.append(f"| all | {' | '.join(cells)} |")
    return "\n".join(lines)


def in_words(columns: Mapping[str, Sequence[Result]]) -> str:
    """What is open, per column: what code can do there, by family."""
    attacks = load()
    lines = []
    for column, results in columns.items():
        broken = [item for item in results if item.verdict == SUCCEEDED]
        if not broken:
            lines.append(f"- `{column}`: nothing of this is open.")
            continue
        parts = []
        for family in FAMILIES:
            goals = [attacks[item.name].goal for item in broken if item.family == family]
            if goals:
                more = [f"{len(goals) - MAX_GOALS} more"] if len(goals) > MAX_GOALS else []
                parts.append(f"{family}: {'; '.join(goals[:MAX_GOALS] + more)}")
        lines.append(f"- `{column}` lets code ({len(broken)}): " + ". ".join(parts) + ".")
    return "\n".join([*lines, *known(columns), *held_anyway(columns)])


def known(columns: Mapping[str, Sequence[Result]]) -> list[str]:
    """A line on what is open on every tier by choice, with why."""
    reasons = {
        attack.accepted: None
        for results in columns.values()
        for item in results
        if item.verdict == SUCCEEDED and (attack := load()[item.name]).accepted
    }
    return [f"- Known, and open on purpose or for want of a way: {'; '.join(reasons)}."] if reasons else []


def held_anyway(columns: Mapping[str, Sequence[Result]]) -> list[str]:
    """A line on families in which nothing succeeds even without isolation, with what holds there."""
    bare = [item for item in columns.get("none", ()) if item.verdict != SKIPPED]
    families = [name for name in SAME_EVERYWHERE if any(item.family == name for item in bare)]
    held_ones = [
        f"{name} by {SAME_EVERYWHERE[name]}"
        for name in families
        if not any(item.family == name and item.verdict == SUCCEEDED for item in bare)
    ]
    return [f"- Held without isolation, too: {'; '.join(held_ones)}."] if held_ones else []


def surprises(results: Sequence[Result]) -> list[Result]:
    """What succeeded and is not known to."""
    return [item for item in results if item.verdict == SUCCEEDED and not item.accepted]


def block(columns: Mapping[str, Sequence[Result]], who: str) -> str:
    """The text between the markers in sandbox/README.md."""
    num = max(len(results) for results in columns.values())
    longest = ", ".join(
        f"`{name}` {max((item.beyond_s for item in results), default=0.0):.1f} s"
        for name, results in columns.items()
    )
    return (
        f"{BEGIN}\n{num} attacks made by `python benchmarks/sandbox_isolation.py --write`, as {who}:\n\n"
        f"{table(columns)}\n\n{in_words(columns)}\n"
        f"- The longest call beyond its time-out: {longest}.\n{END}"
    )


def with_block(text: str, new: str) -> str:
    """`text` with `new` in place of its marked block, or at the end of its section Isolation."""
    if BEGIN in text:
        before, _, rest = text.partition(BEGIN)
        return before + new + rest.partition(END)[2]
    head, found, rest = text.partition("\n## Isolation\n")
    if not found:
        raise ValueError("the README has no section Isolation")
    section, found, after = rest.partition("\n## ")
    return head + "\n## Isolation\n" + section.rstrip() + "\n\n" + new + "\n" + found + after


def user_id(name: str) -> int:
    """Of user `name`, who must be able to run this interpreter. Raises SystemExit saying what is in the way."""
    number = pwd.getpwnam(name).pw_uid
    tried = (
        subprocess.run(
            [sys.executable, "-c", "import benchmarks.attacks.run"],
            cwd=Path(__file__).resolve().parent.parent,
            user=number,
            group=number,
            extra_groups=[],
            capture_output=True,
            text=True,
        )
        if os.getuid() == 0
        else None
    )
    if tried is None:
        raise SystemExit("--user needs root")
    if tried.returncode:
        raise SystemExit(f"{name} cannot run {sys.executable}: {tried.stderr.strip().splitlines()[-1:]}")
    return number


def chosen(families: Sequence[str], names: Sequence[str]) -> list[str]:
    """Names of attacks. Raises SystemExit for what is not known."""
    attacks = load()
    for known, given, what in ((FAMILIES, families, "family"), (attacks, names, "attack")):
        for item in given:
            if item not in known:
                raise SystemExit(unknown_name(what, item, known))
    return [
        name
        for name, item in attacks.items()
        if (not families or item.family in families) and (not names or name in names)
    ]


def progress(column: str, result: Result) -> None:
    """One line on the error stream."""
    word = {HELD: "held", SUCCEEDED: "OPEN" if not result.accepted else "open", SKIPPED: "-"}[result.verdict]
    why = result.why.replace("\n", " ")[:120]
    print(
        f"{column:11} {word:5} {result.name:32} {result.seconds:6.2f} s  {why}", file=sys.stderr, flush=True
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", nargs="*", default=["local"])
    parser.add_argument("--tier", nargs="*", default=list(TIERS), choices=TIERS, help="of the local backend")
    parser.add_argument("--family", nargs="*", default=[])
    parser.add_argument("--attack", nargs="*", default=[])
    parser.add_argument("--user", help="run as this user; needs root and an interpreter that user can read")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", action="store_true", help="put the table into sandbox/README.md")
    options = parser.parse_args(argv)
    names = chosen(options.family, options.attack)
    number = user_id(options.user) if options.user else None
    start_s = time.monotonic()
    columns: dict[str, list[Result]] = {}
    for backend in options.backend:
        for tier in options.tier if backend == "local" else ("",):
            column = tier or backend
            columns[column] = []
            for result in run_guarded(backend, tier, names, {}, number):
                columns[column].append(result)
                progress(column, result)
    who = options.user or pwd.getpwuid(os.getuid()).pw_name
    print(block(columns, who))
    print(f"{len(names)} attacks, {time.monotonic() - start_s:.0f} s", file=sys.stderr)
    if options.json:
        import json

        rows = {column: [asdict(item) for item in results] for column, results in columns.items()}
        options.json.write_text(json.dumps(rows, indent=1))
    if options.write:
        README.write_text(with_block(README.read_text(), block(columns, who)))
    strict = [column for column in columns if column not in ("landlock", "none", "plain")]
    broken = [item for column in strict for item in surprises(columns[column])]
    for item in broken:
        print(f"{item.name} succeeded: {item.why}", file=sys.stderr)
    if broken:
        sys.exit(1)


if __name__ == "__main__":
    main()
