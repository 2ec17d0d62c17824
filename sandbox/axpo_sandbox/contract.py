"""What every backend promises, as checks that any sandbox can be put through.

    python -m axpo_sandbox.contract local
    python -m axpo_sandbox.contract docker --option profile=default

prints a table and exits with 1 if a promise is broken, 2 for a name it does not know, 3 if it cannot start.
Attacks on the isolation are left to each backend's own tests; what a backend says of itself is printed.
"""

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from axpo_sandbox import BACKENDS, make_sandbox
from axpo_sandbox import journal as journals
from axpo_sandbox.base import (
    EXITED,
    KILLED,
    TIMEOUT,
    ExecutionError,
    ReplayDiverged,
    Sandbox,
    SandboxError,
    Session,
    SessionClosed,
    SnapshotRefused,
    SnapshotReleased,
)
from axpo_sandbox.names import unknown_name

PNG_START = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One promise. `run` raises AssertionError if it is broken."""

    name: str
    promise: str
    run: Callable[[Sandbox], None]


CHECKS: list[Check] = []


def promise(text: str) -> Callable[[Callable[[Sandbox], None]], Callable[[Sandbox], None]]:
    """Register a check of the promise `text`."""

    def register(function: Callable[[Sandbox], None]) -> Callable[[Sandbox], None]:
        CHECKS.append(Check(name=function.__name__, promise=text, run=function))
        return function

    return register


def expect(found: object, wanted: object) -> None:
    """Raise AssertionError unless the two are equal. An assert statement would vanish under -O."""
    if found != wanted:
        raise AssertionError(f"found {found!r}, expected {wanted!r}")


def expect_raises(kind: type[BaseException], call: Callable[[], object]) -> BaseException:
    """Raise AssertionError unless `call` raises `kind`; returns what it raised."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


def value(session: Session, code: str) -> str | None:
    """The text of `code`, which must not fail."""
    execution = session.run(code)
    expect(execution.error, None)
    return execution.text


def failure(session: Session, code: str, timeout_s: float = 30.0) -> ExecutionError:
    """The error of `code`, which must fail."""
    error = session.run(code, timeout_s=timeout_s).error
    if error is None:
        raise AssertionError(f"{code!r} did not fail")
    return error


@promise("Variables live on; text is the repr of the last expression, or None.")
def state(sandbox: Sandbox) -> None:
    with sandbox.session() as session:
        expect(value(session, "x = 41; x + 1"), "42")
        expect(value(session, "y = x"), None)
        expect(value(session, "None"), None)
        expect(value(session, "def f(n):\n    return [n, 'ü']\nf(y)"), "[41, 'ü']")
        code = "import pickle\nclass A: pass\ntype(pickle.loads(pickle.dumps(A()))) is A"
        expect(value(session, code), "True")


@promise("stdout and stderr come back apart, those of child processes too.")
def streams(sandbox: Sandbox) -> None:
    with sandbox.session() as session:
        result = session.run(
            "import sys, subprocess\nprint('out')\nprint('err', file=sys.stderr)\n"
            "_ = subprocess.run([sys.executable, '-S', '-c', 'print(6 * 7)'], check=True)"
        )
        expect((result.stdout, result.stderr, result.text, result.error), ("out\n42\n", "err\n", None, None))
        expect(session.run("pass").stdout, "")


@promise(
    "An exception is data, with a traceback of the cell's own frames; so are a syntax error and sys.exit."
)
def errors(sandbox: Sandbox) -> None:
    with sandbox.session() as session:
        error = failure(session, "def f():\n    return 1 / 0\nf()")
        expect((error.name, error.value), ("ZeroDivisionError", "division by zero"))
        files = [line.split('"')[1] for line in error.traceback.splitlines() if line.startswith("  File")]
        expect(files, ["<cell 1>", "<cell 1>"])
        expect("return 1 / 0" in error.traceback, True)
        expect(failure(session, "x = (").name, "SyntaxError")
        expect(failure(session, "import sys; sys.exit(3)").name, "SystemExit")
        expect(value(session, "f.__name__"), "'f'")


@promise("Input files stand in the working folder, relative names in folders too; other names are refused.")
def files(sandbox: Sandbox) -> None:
    with sandbox.session(files={"a.csv": b"1,2", "b/c.bin": bytes(range(256))}) as session:
        expect(value(session, "open('a.csv').read()"), "'1,2'")
        expect(value(session, "open('b/c.bin', 'rb').read() == bytes(range(256))"), "True")
        session.write_files({"a.csv": b"3"})
        expect(value(session, "open('a.csv').read()"), "'3'")
        for name in ("/etc/x", "../x", "a/../../x", "", "a//b", "."):
            expect_raises(ValueError, lambda name=name: session.write_files({name: b""}))  # type: ignore[misc]


@promise(
    "Figures shown or left open, and an image as the last expression, come back as PNG, in order, each once."
)
def images(sandbox: Sandbox) -> None:
    with sandbox.session(limits={"image_pixels": 90_000}) as session:
        figures = (
            "import matplotlib.pyplot as plt\n"
            "plt.figure(figsize=(2, 1), dpi=100); plt.plot([1, 2]); plt.show()\n"
            "plt.figure(figsize=(1, 2), dpi=100); None"
        )
        picture = "import PIL.Image\nPIL.Image.new('RGB', (30, 20), 'red')"
        sizes = [_png_size(image) for image in session.run(figures, timeout_s=60).images]
        expect(sizes, [(200, 100), (100, 200)])
        last = session.run("plt.figure(figsize=(2, 1), dpi=100)", timeout_s=60)  # open, and the last value
        expect(([_png_size(image) for image in last.images], last.text), ([(200, 100)], None))
        shown = session.run(picture, timeout_s=60)
        expect(([_png_size(image) for image in shown.images], shown.text), ([(30, 20)], None))
        large = session.run("PIL.Image.new('L', (301, 300))", timeout_s=60)
        expect((large.images, len(large.warnings), large.error), ((), 1, None))
        expect(session.run("1").images, ())


@promise(
    "A cell that takes too long is stopped and costs that cell alone: variables and files are as before."
)
def timeouts(sandbox: Sandbox) -> None:
    with sandbox.session(files={"a": b"1"}) as session:
        expect(value(session, "x = 1; f = open('a'); f.read(0)"), "''")
        start_s = time.monotonic()
        code = "x = 2; open('a', 'w').write('2'); print('begun')\nwhile True: pass"
        result = session.run(code, timeout_s=0.5)
        expect(time.monotonic() - start_s < 20, True)
        expect((result.error and result.error.name, result.stdout), (TIMEOUT, "begun\n"))
        expect(value(session, "x, open('a').read(), f.read()"), "(1, '1', '1')")
        expect(failure(session, "sum(range(10**11))", timeout_s=0.3).name, TIMEOUT)
        expect(value(session, "x"), "1")


@promise(
    "A cell that ends or crashes its interpreter costs that cell alone, and that is told as its error alone."
)
def deaths(sandbox: Sandbox) -> None:
    with sandbox.session() as session:
        expect(failure(session, "import os; os._exit(3)").name in (EXITED, KILLED), True)
        expect(value(session, "x = [1]; x"), "[1]")
        expect(failure(session, "x.append(2); import ctypes; ctypes.string_at(0)").name, KILLED)
        expect(value(session, "x"), "[1]")
        result = session.run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", timeout_s=30.0)
        expect((result.error and result.error.name, result.incidents), (KILLED, ()))
        after = session.run("x")
        expect((after.text, after.error, after.incidents), ("[1]", None, ()))


@promise("Memory is limited: a MemoryError in the cell or its end, and the session goes on.")
def memory(sandbox: Sandbox) -> None:
    with sandbox.session(limits={"memory_bytes": 200 << 20}) as session:
        expect(value(session, "len(bytearray(50 << 20))"), str(50 << 20))
        expect(failure(session, "x = bytearray(1 << 30)").name in ("MemoryError", "OutOfMemory"), True)
        expect(value(session, "1"), "1")


@promise("Output is cut at its limit, and says so.")
def output_limits(sandbox: Sandbox) -> None:
    with sandbox.session(limits={"output_bytes": 1000}) as session:
        result = session.run("print('x' * 5000)")
        expect((result.stdout, len(result.warnings), result.error), ("x" * 1000, 1, None))
        result = session.run("'y' * 5000")
        expect((result.text, len(result.warnings)), ("'" + "y" * 999, 1))


@promise("A snapshot is frozen: the session goes on without it, and it without the session.")
def snapshots(sandbox: Sandbox) -> None:
    with sandbox.session(files={"a": b"1"}) as session:
        value(session, "x = 1")
        snapshot = session.snapshot()
        value(session, "x = 2; open('a', 'w').write('2')")
        (branch,) = snapshot.fork()
        expect(value(branch, "x, open('a').read()"), "(1, '1')")
        expect(value(session, "x, open('a').read()"), "(2, '2')")
    expect(value(branch, "x"), "1")
    (later,) = snapshot.fork()
    expect(value(later, "x"), "1")
    branch.close()
    snapshot.release()
    expect(value(later, "x + 1"), "2")
    later.close()


@promise("Branches are identical: variables, files, open files, random states.")
def identical_branches(sandbox: Sandbox) -> None:
    setup = "import os, random\nf = open('log', 'w+'); f.write('abc'); f.flush(); f.seek(1)"
    probe = "random.random(), f.read(), sorted(os.listdir())"
    with sandbox.session(seed=5, files={"a": b""}) as session:
        expect(value(session, setup), "1")
        with session.snapshot() as snapshot:
            branches = [*snapshot.fork(2), *snapshot.fork(1), session]
        texts = {value(branch, probe) for branch in branches}
        expect(len(texts), 1)
        draws = {value(branch, "import numpy\nnumpy.random.rand(), random.random()") for branch in branches}
        expect(len(draws), 1)
        for branch in branches:
            branch.close()


@promise("No branch sees another's changes: variables, files, open files, random states.")
def separate_branches(sandbox: Sandbox) -> None:
    with sandbox.session(files={"a": b"1"}) as session:
        value(session, "import os, random\nx = []; f = open('a', 'r+'); f.read(1)")
        left, right = session.snapshot().fork(2)
        value(left, "x.append(1); f.write('left'); f.flush(); open('new', 'w').close(); random.random()")
        value(left, "os.environ['A'] = 'left'; os.makedirs('sub'); os.chdir('sub')")
        probe = "x, open('a').read(), f.tell(), sorted(os.listdir()), os.environ.get('A')"
        expect(value(right, probe), "([], '1', 1, ['a'], None)")
        expect(value(session, probe), "([], '1', 1, ['a'], None)")
        expect(value(left, "x, open('../a').read(), f.tell()"), "([1], '1left', 5)")
        left.close()
        right.close()


@promise("A branch's working folder has the path its session's had, unless the isolation says it has not.")
def same_folder(sandbox: Sandbox) -> None:
    with sandbox.session(files={"a": b"1"}) as session:
        path = value(session, "import os; path = os.path.abspath('a'); path")
        with session.snapshot() as snapshot:
            (branch,) = snapshot.fork()
        with branch:
            value(branch, "open('a', 'w').write('2')")
            same = value(branch, "os.path.abspath('a')") == path
            expect(same or sandbox.isolation.layers.get("branch_files") is False, True)
            expect(value(branch, "open(path).read()"), "'2'" if same else "'1'")
        expect(value(session, "open(path).read()"), "'1'")


@promise(
    "What a branch lacks of its session is in the snapshot's warnings; a strict snapshot is then refused."
)
def lacking(sandbox: Sandbox) -> None:
    with sandbox.session() as session:
        session.snapshot(strict=True).release()
        count = "threading.active_count() - before"
        value(session, "import threading\nbefore = threading.active_count(); stop = threading.Event()")
        value(session, "threading.Thread(target=stop.wait).start()")
        expect(value(session, count), "1")
        with session.snapshot() as snapshot:
            (branch,) = snapshot.fork()
        with branch:
            if value(branch, count) != "1":
                expect(bool(snapshot.warnings), True)
                expect_raises(SnapshotRefused, lambda: session.snapshot(strict=True))
        value(session, "stop.set()")


@promise("A seed makes branches differ, and the same seed alike; sessions too.")
def seeds(sandbox: Sandbox) -> None:
    draw = "import random, numpy\nrandom.random(), numpy.random.rand()"
    with (
        sandbox.session(seed=1) as session,
        sandbox.session(seed=1) as same,
        sandbox.session(seed=2) as other,
    ):
        first = value(session, draw)
        expect(value(same, draw), first)
        expect(value(other, draw) != first, True)
        with session.snapshot() as snapshot:
            branches = [*snapshot.fork(2, seed=7), *snapshot.fork(2, seed=7), *snapshot.fork(2, seed=[3, 3])]
            expect_raises(ValueError, lambda: snapshot.fork(2, seed=[1]))
            expect_raises(ValueError, lambda: snapshot.fork(0))
        draws = [value(branch, draw) for branch in branches]
        expect(draws[:2], draws[2:4])
        expect(draws[0] != draws[1], True)
        expect(draws[4], draws[5])
        for branch in branches:
            branch.close()


@promise("Branches can be snapshot and branched again, to any depth.")
def deep_branches(sandbox: Sandbox) -> None:
    session: Session = sandbox.session(files={"a": b"0"})
    value(session, "depth = 0")
    for depth in range(1, 21):
        value(session, f"depth += 1; open('a', 'w').write('{depth}')")
        with session, session.snapshot() as snapshot:
            (session,) = snapshot.fork()
    expect(value(session, "depth, open('a').read()"), "(20, '20')")
    session.close()


@promise("A journal brings a session back elsewhere, and says where it went another way.")
def journal(sandbox: Sandbox) -> None:
    with sandbox.session(files={"a": b"41"}, seed=9) as session:
        value(session, "import random\nx = int(open('a').read())")
        failure(session, "x += 1; 1 / 0")
        expect(failure(session, "x = 0\nwhile True: pass", timeout_s=0.3).name, TIMEOUT)
        expected = value(session, "x, random.random()")
        snapshot = session.snapshot()
        after = value(session, "x += 1; x, random.random()")
    copy = sandbox.snapshot_from_bytes(snapshot.to_bytes(), strict=True)
    expect(copy.divergences, ())
    (branch,) = copy.fork()
    expect(value(branch, "x += 1; x, random.random()"), after)
    expect(expected is not None, True)
    branch.close()
    copy.release()
    wrong = _with_wrong_digest(snapshot.to_bytes())
    with sandbox.snapshot_from_bytes(wrong) as diverged:
        expect([(item.cell, item.fields) for item in diverged.divergences], [(2, ("text",))])
    error = expect_raises(ReplayDiverged, lambda: sandbox.snapshot_from_bytes(wrong, strict=True))
    expect(len(getattr(error, "divergences", ())), 1)
    expect_raises(ValueError, lambda: sandbox.snapshot_from_bytes(b"{}"))
    snapshot.release()


@promise("What is closed says so; closing twice is no mistake; unknown limits are refused by name.")
def closing(sandbox: Sandbox) -> None:
    session = sandbox.session()
    snapshot = session.snapshot()
    for _ in range(2):
        session.close()
        snapshot.release()
    expect_raises(SessionClosed, lambda: session.run("1"))
    expect_raises(SessionClosed, lambda: session.write_files({"a": b""}))
    expect_raises(SessionClosed, session.snapshot)
    expect_raises(SnapshotReleased, snapshot.fork)
    error = expect_raises(ValueError, lambda: sandbox.session(limits={"memory": 1}))
    expect("memory_bytes" in str(error), True)


@promise("Threads may use sessions, snapshots and one session at once.")
def threads(sandbox: Sandbox) -> None:
    with sandbox.session() as session:
        value(session, "x = 0")
        snapshot = session.snapshot()
        results: list[str | None] = []

        def work(number: int) -> None:
            (branch,) = snapshot.fork()
            value(session, "x += 1")
            with branch:
                results.append(value(branch, f"x += {number}; x"))

        workers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        expect(sorted(map(str, results)), [str(number) for number in range(8)])
        expect(value(session, "x"), "8")
        snapshot.release()


@promise("It says what its isolation holds.")
def isolation(sandbox: Sandbox) -> None:
    found = sandbox.isolation
    expect(bool(found.tier), True)
    expect(all(isinstance(holds, bool) for holds in found.layers.values()), True)
    expect(all(found.layers.values()) or bool(found.open), True)


def _png_size(image: bytes) -> tuple[int, int]:
    expect(image[:8], PNG_START)
    return int.from_bytes(image[16:20], "big"), int.from_bytes(image[20:24], "big")


def _with_wrong_digest(data: bytes) -> bytes:
    """The journal with the text of its last cell denied."""
    given = journals.from_bytes(data)
    last = given.entries[-1]
    if not isinstance(last, journals.Cell):
        raise AssertionError(f"the last entry is no cell: {last}")
    wrong = replace(last, digests={**last.digests, "text": "0" * 32})
    return journals.to_bytes(replace(given, entries=(*given.entries[:-1], wrong)))


def run_checks(sandbox: Sandbox) -> list[tuple[Check, str, float]]:
    """Run all checks: (check, what went wrong or "", seconds)."""
    results = []
    for check in CHECKS:
        start_s = time.monotonic()
        try:
            check.run(sandbox)
            trouble = ""
        except Exception as error:
            trouble = f"{type(error).__name__}: {error}"
        results.append((check, trouble, time.monotonic() - start_s))
    return results


def _option(text: str) -> tuple[str, Any]:
    """("key", value) of "key=value". Raises ValueError."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"option {text!r} is not of the form key=value")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table for a backend. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m axpo_sandbox.contract", description=__doc__.splitlines()[0]
    )
    parser.add_argument("name", help=f"a backend: {', '.join(BACKENDS)}")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of the backend; JSON or plain text",
    )
    given = parser.parse_args(arguments)
    if given.name not in BACKENDS:
        print(unknown_name("sandbox", given.name, BACKENDS), file=sys.stderr)
        return 2
    try:
        sandbox = make_sandbox(given.name, **dict(map(_option, given.option)))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except SandboxError as error:
        print(error, file=sys.stderr)
        return 3
    with sandbox:
        results = run_checks(sandbox)
        found = sandbox.isolation
    for check, trouble, seconds in results:
        print(f"{'broken' if trouble else 'held':7} {seconds:6.2f} s  {check.name:20} {check.promise}")
        if trouble:
            print(f"{'':18} {trouble}")
    print(f"\nisolation: tier {found.tier}")
    for layer, holds in found.layers.items():
        print(f"{'held' if holds else 'open':7} {layer}")
    for sentence in found.open:
        print(f"{'':7} {sentence}")
    num_broken = sum(bool(trouble) for _, trouble, _ in results)
    print(f"\n{len(results) - num_broken} of {len(results)} promises held")
    return 1 if num_broken else 0


if __name__ == "__main__":
    sys.exit(main())
