"""A caller is not held: whatever a cell spoils or stops, calls come back within its time-out and two seconds."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from axpo_sandbox import Execution, ExecutionError, Limits, Sandbox, SandboxError, Session, make_sandbox
from axpo_sandbox import backend as backends
from axpo_sandbox.backend import Dead, Stalled, patience, within
from axpo_sandbox.base import EXITED
from axpo_sandbox.docker.client import DockerSandbox
from axpo_sandbox.docker.config import DockerConfig
from axpo_sandbox.journal import Journal
from axpo_sandbox.sessions import BackendSession
from tests.docker_fakes import PYTHON, FakeEngine

FIND = """
import gc, os, sys, time
agent = next(item for item in gc.get_objects() if type(item).__name__ == "Agent")
kind, module = type(agent), sys.modules[type(agent).__module__]
def hang(*_, **__):
    time.sleep(1000)
"""
STOP_ALL = """
import os, signal
for name in filter(str.isdigit, os.listdir("/proc")):
    if int(name) != os.getpid():
        try:
            os.kill(int(name), signal.SIGSTOP)
        except OSError:
            pass
"""
SPOILS = {
    "stop": STOP_ALL,
    "stop and exit": STOP_ALL + "os._exit(1)",
    "reap": FIND + "kind.reap = hang",
    "reap that spins": FIND + "def spin(*_):\n    while True: pass\nkind.reap = spin",
    "reap that exits": FIND + "kind.reap = lambda *_: os._exit(3)",
    "receive": FIND + "module.receive = hang",
    "fork": FIND + "module.fork_alike = hang",
    "role of a fork": FIND + "kind._take_role = hang",
    "open": FIND + "__import__('builtins').open = hang",
    "os.listdir": FIND + "os.listdir = hang",
    "os.stat": FIND + "os.stat = hang",
}


IN_CONTAINERS = ("stop and exit", "reap", "fork")


@pytest.fixture(scope="module")
def sandboxes() -> Iterator[dict[str, Sandbox]]:
    docker = DockerConfig(python=PYTHON, preload=(), profile="default", quiet=True)
    with (
        make_sandbox("local", preload=(), quiet=True) as local,
        DockerSandbox(docker, FakeEngine()) as relayed,  # type: ignore[arg-type]
    ):
        yield {"local": local, "docker": relayed}


@pytest.mark.parametrize(
    ("backend", "name"),
    [*(("local", name) for name in SPOILS), *(("docker", name) for name in IN_CONTAINERS)],
)
def test_a_session_goes_on_after_a_cell_that_spoils_or_stops_it(
    sandboxes: dict[str, Sandbox], backend: str, name: str
) -> None:
    # Nothing below gives up by itself within the test's own limit of time: where it hung before, it hangs again.
    with sandboxes[backend].session() as session:
        session.run("kept = 1")
        session.run(SPOILS[name], timeout_s=2)
        branches: list[Session] = []
        try:
            with session.snapshot() as snapshot:
                branches = snapshot.fork(2)
        except SandboxError as error:
            assert "could not be repeated" in str(error)  # it ends each branch: nobody waits for it
        for going in (session, *branches):
            results = [going.run("kept + 1", timeout_s=2) for _ in range(3)]
            assert results[-1].text == "2", results
        for branch in branches:
            branch.close()


class Clock:
    """Time that passes only where something waits."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s

    def wait(self, timeout_s: float) -> None:
        self.now_s += timeout_s


class Spoilt:
    """A process whose code hangs whatever is in `hangs`; a cell that is `deadly` ends it."""

    def __init__(self, clock: Clock, hangs: set[str]) -> None:
        self.clock, self.hangs = clock, hangs
        self.lacking: tuple[str, ...] = ()

    def wait(self, operation: str) -> None:
        if operation in self.hangs:
            self.clock.wait(patience(30))
            raise Stalled("it did not answer")

    def run(self, code: str, *, timeout_s: float | None = None) -> Execution:
        self.wait("run")
        self.clock.wait(timeout_s or 0)
        return Execution(error=ExecutionError(name=EXITED, value="", traceback="") if code == "die" else None)

    def check(self) -> None:
        self.wait("check")

    def reseed(self, seed: int) -> None:
        self.wait("reseed")

    def write_files(self, files: Any) -> None:
        self.wait("files")

    def kill(self) -> None: ...

    def close(self) -> None: ...

    def release(self) -> None: ...

    def share(self) -> "Spoilt":
        return self


class SlowBackend:
    """Every process of it is spoilt alike."""

    fallback = "snapshot"

    def __init__(self, clock: Clock, hangs: set[str]) -> None:
        self.clock, self.hangs = clock, hangs

    def start(self, seed: int, limits: Limits) -> Spoilt:
        return Spoilt(self.clock, self.hangs)

    def freeze(self, live: Spoilt) -> Spoilt:
        live.wait("freeze")
        return Spoilt(self.clock, self.hangs)

    def thaw(self, point: Spoilt, limits: Limits, num_branches: int) -> list[Spoilt]:
        point.wait("thaw")
        return [Spoilt(self.clock, self.hangs) for _ in range(num_branches)]

    def adopt(self, item: object) -> None: ...


@pytest.mark.parametrize("timeout_s", [0.5, 2.0, 12.0])
@pytest.mark.parametrize(
    "hangs",
    [{"freeze"}, {"thaw"}, {"check"}, {"reseed"}, {"files"}, {"freeze", "thaw"}, {"thaw", "check"},
     {"freeze", "thaw", "check", "reseed", "files"}, {"freeze", "thaw", "check", "run"}],
    ids=lambda hangs: "+".join(sorted(hangs)),
)  # fmt: skip
def test_no_call_takes_longer_than_its_time_out_and_two_seconds(
    monkeypatch: pytest.MonkeyPatch, hangs: set[str], timeout_s: float
) -> None:
    clock = Clock()
    monkeypatch.setattr(backends, "time", SimpleNamespace(monotonic=clock.monotonic))
    backend = SlowBackend(clock, set())
    limits = Limits(timeout_s=timeout_s)
    session = BackendSession(backend, backend.start(0, limits), Journal(seed=0, limits=limits))  # type: ignore[arg-type]
    longest_s = 0.0

    def call(what: Any) -> Any:
        nonlocal longest_s
        start_s = clock.now_s
        try:
            return what()
        except (SandboxError, Dead) as error:
            assert isinstance(error, SandboxError)
        finally:
            longest_s = max(longest_s, clock.now_s - start_s)

    call(lambda: session.run("x", timeout_s=timeout_s))
    snapshot = call(session.snapshot)
    backend.hangs |= hangs  # all that there is shares it
    for code in ("x", "die", "x", "die", "die"):
        call(lambda code=code: session.run(code, timeout_s=timeout_s))
    call(lambda: session.write_files({"a": b""}))
    call(session.snapshot)
    call(lambda: snapshot.fork(2, seed=3))
    assert timeout_s <= longest_s <= timeout_s + 2.0
    session.close()


def test_a_deadline_inside_another_is_the_earlier_of_the_two() -> None:
    assert patience(3.0) == 3.0
    with within(50):
        with within(100):
            assert 49 < patience() <= 50
        with within(1):
            assert 0 < patience(3.0) <= 1
        backends.lift_deadline()
        assert patience() == float("inf")
    with within(-1):
        assert patience() == 0.0
