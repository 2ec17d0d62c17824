"""The e2b backend by the rules of the services: routes, limits, waiting, lifetimes, and that nothing is left."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import e2b_server
import pytest
from e2b_server import Empty, FakeClock, Rules, Server

from axpo_sandbox import RateLimited, SandboxUnavailable, contract
from axpo_sandbox.base import KILLED
from axpo_sandbox.e2b import probe, reaper, runner
from axpo_sandbox.e2b.client import E2BSandbox
from axpo_sandbox.e2b.cloud import MAX_FORKS, Cloud
from axpo_sandbox.e2b.config import E2BConfig
from axpo_sandbox.e2b.keeper import Keeper
from axpo_sandbox.e2b.live import E2BLive
from axpo_sandbox.e2b.machine import Machine
from axpo_sandbox.e2b.rules import Gone, Pace, Refused, Waits

EXECUTE = "POST /execute"
CREATE, OLD_CREATE = "POST /v2/sandboxes", "POST /sandboxes"
FORK = "POST /sandboxes/{id}/fork"
SNAPSHOT = "POST /sandboxes/{id}/snapshots"
INFO = "GET /sandboxes/{id}"
RENEW = "POST /sandboxes/{id}/timeout"
KILL = "DELETE /sandboxes/{id}"
DELETE = "DELETE /templates/{id}"
MACHINES, SNAPSHOTS = "GET /v2/sandboxes", "GET /snapshots"
TEMPLATE = "code-interpreter-v1"
# What passes: limits of the team, a machine that is being snapshotted, too many requests, outages.
PASSING: list[dict[str, Any]] = [
    *(
        {"status": status, "body": {"code": status, "message": "for now"}}
        for status in (400, 409, 429, 500, 502, 503)
    ),
    {"status": 502, "body": b"<html>Bad Gateway</html>"},
    {"reset": True},
    {"lost": True},
]


def name_of(fault: dict[str, Any]) -> str:
    what = "html" if isinstance(fault.get("body"), bytes) else ""
    return f"{fault.get('status', next(iter(fault)))}{what}"


def eventually(condition: Callable[[], bool]) -> bool:
    for _ in range(3000):
        if condition():
            return True
        time.sleep(0.01)
    return False


# The control plane alone.


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server(Empty())
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield server
    server.close()


@pytest.fixture
def cloud(server: Server) -> Cloud:
    clock = FakeClock()
    server.rules.now = clock.now
    return Cloud(E2BConfig(), clock)


@pytest.fixture
def keeper(cloud: Cloud) -> Iterator[Keeper]:
    keeper = Keeper(cloud, lifetime_s=1e6)
    yield keeper
    keeper.close()


def kept(keeper: Keeper, machine: Machine) -> Machine:
    keeper.add(machine)
    return machine


def snapshot_of(cloud: Cloud, machine: Machine) -> str:
    return cloud.snapshot(machine, cloud.snapshot_name())


@pytest.mark.parametrize("status", [404, 405, 501])
def test_clusters_of_ones_own_are_asked_by_the_route_they_have(
    cloud: Cloud, server: Server, status: int
) -> None:
    server.rules.create_route, server.rules.missing_status = "/sandboxes", status
    machine = cloud.create(TEMPLATE)
    options = server.machines[machine.id].options
    assert (options["secure"], options["autoPause"]) == (True, False)
    cloud.create(TEMPLATE)
    assert (server.requests[CREATE], server.requests[OLD_CREATE]) == (1, 2)  # it remembers


def test_a_template_that_is_missing_is_not_taken_for_a_route(cloud: Cloud, server: Server) -> None:
    with pytest.raises(Gone, match="template none not found"):
        cloud.create("none")
    server.rules.create_route = "/sandboxes"
    with pytest.raises(Gone, match="template none not found"):
        cloud.create("none")
    server.rules.create_route = "/other"
    with pytest.raises(Refused, match="405: no such route"):
        cloud.create(TEMPLATE)


def test_machines_are_told_to_end_not_to_pause(cloud: Cloud, server: Server) -> None:
    server.rules.pauses = True
    machine = cloud.create(TEMPLATE)
    made = [machine, *cloud.fork(machine, 2)]
    assert len(cloud.machines()) == 3
    cloud.clock.sleep(601)
    assert [server.find(item.id) for item in made] == [None] * 3
    assert (cloud.is_running(machine), cloud.machines()) == (False, [])


def test_ids_with_a_slash_are_one_part_of_a_path(cloud: Cloud, server: Server) -> None:
    snapshot_id = snapshot_of(cloud, cloud.create(TEMPLATE))
    assert snapshot_id.startswith("team/axpo-") and snapshot_id.endswith(":default")
    assert cloud.snapshots() == {snapshot_id: cloud.owner}
    assert cloud.delete_snapshot(snapshot_id) is True
    assert (server.snapshots, cloud.delete_snapshot(snapshot_id)) == ({}, False)


def test_lists_are_read_to_their_end(cloud: Cloud, server: Server) -> None:
    cloud.clock.sleep(1)
    made = {cloud.create(TEMPLATE).id for _ in range(103)}
    before = server.requests[MACHINES]
    assert {item.id for item in cloud.machines()} == made
    assert server.requests[MACHINES] == before + 2
    server.fail(MACHINES, status=404, body=b"404 page not found")
    assert cloud.machines() == []  # a cluster without one


CALLS: dict[str, tuple[str, Callable[[Cloud, Machine, str], object]]] = {
    "create": (CREATE, lambda cloud, machine, snapshot: cloud.create(TEMPLATE).source == TEMPLATE),
    "create from a snapshot": (
        CREATE,
        lambda cloud, machine, snapshot: cloud.create(snapshot).source == snapshot,
    ),
    "fork": (FORK, lambda cloud, machine, snapshot: len(cloud.fork(machine, 3)) == 3),
    "snapshot": (
        SNAPSHOT,
        lambda cloud, machine, snapshot: snapshot_of(cloud, machine).startswith("team/axpo-"),
    ),
    "state": (INFO, lambda cloud, machine, snapshot: cloud.is_running(machine)),
    "kill": (KILL, lambda cloud, machine, snapshot: cloud.kill(machine.id) or True),
    "delete": (DELETE, lambda cloud, machine, snapshot: cloud.delete_snapshot(snapshot) or True),
    "machines": (
        MACHINES,
        lambda cloud, machine, snapshot: [item.id for item in cloud.machines()] == [machine.id],
    ),
    "snapshots": (SNAPSHOTS, lambda cloud, machine, snapshot: list(cloud.snapshots()) == [snapshot]),
}


@pytest.mark.parametrize("fault", PASSING, ids=name_of)
@pytest.mark.parametrize("call", CALLS)
def test_what_passes_is_waited_for(cloud: Cloud, server: Server, call: str, fault: dict[str, Any]) -> None:
    route, ask = CALLS[call]
    machine = cloud.create(TEMPLATE)
    snapshot = snapshot_of(cloud, machine)
    server.fail(route, times=2, **fault)
    before = server.requests[route]
    is_unknown = fault.get("status", 500) in (500, 502)
    if (
        call == "fork" and is_unknown
    ):  # asked again, it might be done twice; branches are made of snapshots then
        with pytest.raises(SandboxUnavailable, match="could not be forked"):
            ask(cloud, machine, snapshot)
        assert server.requests[route] == before + 1
        return
    assert ask(cloud, machine, snapshot)
    gives_in = "lost" in fault and call in ("create", "create from a snapshot", "kill", "delete")
    if gives_in and call in ("kill", "delete"):  # it was done, so the second time there is nothing
        assert server.requests[route] == before + 2
    elif not gives_in:
        assert server.requests[route] == before + (1 if "lost" in fault and call in READING else 3)


READING = ("state", "machines", "snapshots")


def test_what_does_not_pass_is_told_by_what_it_is(cloud: Cloud, server: Server) -> None:
    machine = cloud.create(TEMPLATE)
    for status, kind, for_good in [
        (400, Refused, False),
        (409, Refused, False),
        (405, Refused, True),
        (501, Refused, True),
        (404, Gone, None),
        (403, SandboxUnavailable, None),
        (429, RateLimited, None),
        (500, SandboxUnavailable, None),
        (503, SandboxUnavailable, None),
    ]:
        server.fail(SNAPSHOT, times=99, status=status, body={"code": status, "message": f"no {status}"})
        with pytest.raises(kind, match=f"{status}: no {status}") as raised:
            snapshot_of(cloud, machine)
        assert (type(raised.value), getattr(raised.value, "for_good", None)) == (kind, for_good)
        server.mend()


def test_an_address_that_nobody_answers_is_soon_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("E2B_API_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("E2B_API_KEY", e2b_server.KEY)
    clock = FakeClock()
    with pytest.raises(SandboxUnavailable, match="ConnectError"):
        Cloud(E2BConfig(), clock).create(TEMPLATE)
    assert sum(clock.waits) < 3


def test_replies_that_are_lost_leave_one_machine_and_one_snapshot(cloud: Cloud, server: Server) -> None:
    server.fail(CREATE, times=2, lost=True)
    machine = cloud.create(TEMPLATE)
    assert set(server.machines) == {machine.id}
    server.fail(SNAPSHOT, times=2, lost=True)
    snapshot_id = snapshot_of(cloud, machine)
    assert set(server.snapshots) == {snapshot_id}


def test_machines_that_nobody_heard_of_are_ended_at_the_end(
    cloud: Cloud, keeper: Keeper, server: Server
) -> None:
    server.rules.knows_keys = False
    server.fail(CREATE, lost=True)
    machine = kept(keeper, cloud.create(TEMPLATE))
    server.fail(FORK, lost=True)
    with pytest.raises(SandboxUnavailable):
        cloud.fork(machine, 3)
    other = Cloud(E2BConfig(), FakeClock()).create(TEMPLATE)  # another sandbox of this process
    assert len(server.machines) == 6
    keeper.close()
    assert set(server.machines) == {other.id}


# Limits.


def all_at_once(num_threads: int, work: Callable[[int], object]) -> list[BaseException]:
    raised: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(250)
    assert not any(thread.is_alive() for thread in threads)
    return raised


@pytest.mark.parametrize(("per_s", "at_once"), [(5, None), (1, None), (5, 20)])
def test_64_machines_are_wanted_at_once(server: Server, per_s: float, at_once: int | None) -> None:
    clock = FakeClock(64)
    cloud = Cloud(E2BConfig(), clock)
    server.rules = Rules(creations_per_s=per_s, max_machines=at_once, now=clock.now)
    made: list[str] = []

    def work(number: int) -> None:
        try:
            machine = cloud.create(TEMPLATE)
            made.append(machine.id)
            if at_once is not None:
                clock.sleep(6)  # what a session may take
                cloud.kill(machine.id)
        finally:
            clock.leave()

    assert all_at_once(64, work) == []
    assert len(set(made)) == 64
    if at_once is None:
        assert server.requests[CREATE] == 64 or per_s == 1  # paced: none was refused
        assert len(server.machines) == 64
    else:
        assert (server.most_machines, len(server.machines)) == (20, 0)


def test_a_place_that_never_comes_free_is_an_error_in_time(cloud: Cloud, server: Server) -> None:
    server.rules.max_machines = 1
    cloud.create(TEMPLATE)
    start_s = cloud.clock.now()
    with pytest.raises(RateLimited, match="maximum number of concurrent E2B sandboxes"):
        cloud.create(TEMPLATE)
    assert 45 < cloud.clock.now() - start_s < 80


def test_the_line_moves_at_its_pace_and_slower_where_there_were_too_many() -> None:
    clock = FakeClock()
    pace = Pace(clock, per_s=5)
    for _ in range(11):
        pace.wait_turn()
    assert clock.now() == pytest.approx(2.0)
    for _ in range(9):
        pace.learn(too_many=True)
    pace.wait_turn()
    start_s = clock.now()
    pace.wait_turn()
    assert clock.now() - start_s == pytest.approx(2.0)
    for _ in range(30):
        pace.learn(too_many=False)
    pace.wait_turn()
    start_s = clock.now()
    pace.wait_turn()
    assert clock.now() - start_s == pytest.approx(0.2)


def test_waits_grow_and_end_with_the_budget() -> None:
    clock = FakeClock()
    waits = Waits(clock, 10)
    while waits.wait():
        pass
    assert clock.waits == [0.2, 0.4, 0.8, 1.6, 3.2]
    assert waits.wait(3.0) is True
    assert waits.wait(30.0) is False
    waits.extend(30)
    assert waits.wait(30.0) is True


@pytest.mark.parametrize("max_forks", [16, 20])
def test_forks_are_asked_for_as_many_as_clusters_allow(cloud: Cloud, server: Server, max_forks: int) -> None:
    server.rules.max_forks = max_forks
    assert len(cloud.fork(cloud.create(TEMPLATE), MAX_FORKS + 2)) == MAX_FORKS + 2
    assert server.requests[FORK] == 2


# Snapshots and lifetimes.


def test_a_snapshot_is_deleted_after_the_machines_made_of_it(
    cloud: Cloud, keeper: Keeper, server: Server
) -> None:
    snapshot_id = snapshot_of(cloud, kept(keeper, cloud.create(TEMPLATE)))
    keeper.add_snapshot(snapshot_id)
    first = kept(keeper, cloud.create(snapshot_id))
    second = kept(keeper, cloud.fork(first, 1)[0])
    keeper.end_snapshot(snapshot_id)
    keeper.end(first)
    assert eventually(lambda: first.id not in server.machines)
    assert (server.requests[DELETE], list(server.snapshots)) == (0, [snapshot_id])
    keeper.end(second)
    assert eventually(lambda: not server.snapshots)
    assert server.requests[DELETE] == 1


def test_500_snapshots_made_and_dropped_leave_none(cloud: Cloud, keeper: Keeper, server: Server) -> None:
    source = kept(keeper, cloud.create(TEMPLATE))
    made = set()
    for number in range(500):
        snapshot_id = snapshot_of(cloud, source)
        made.add(snapshot_id)
        keeper.add_snapshot(snapshot_id)
        branch = kept(keeper, cloud.create(snapshot_id)) if number % 5 == 0 else None
        keeper.end_snapshot(snapshot_id)
        if branch is not None:
            keeper.end(branch)
    assert len(made) == 500
    assert eventually(lambda: not server.snapshots)
    assert set(server.machines) == {source.id}


def test_the_end_waits_for_machines_before_it_deletes(cloud: Cloud, server: Server) -> None:
    for _ in range(5):
        keeper = Keeper(cloud, lifetime_s=1e6)
        snapshot_id = snapshot_of(cloud, kept(keeper, cloud.create(TEMPLATE)))
        keeper.add_snapshot(snapshot_id)
        for _ in range(4):
            keeper.add(cloud.create(snapshot_id))
        server.fail(KILL, times=5, before=lambda machine: time.sleep(0.05))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            keeper.close()
        assert (server.machines, server.snapshots) == ({}, {})


def test_what_others_use_is_said_and_left_to_the_reaper(cloud: Cloud, server: Server) -> None:
    keeper = Keeper(cloud, lifetime_s=1e6)
    snapshot_id = snapshot_of(cloud, kept(keeper, cloud.create(TEMPLATE)))
    keeper.add_snapshot(snapshot_id)
    other = Cloud(E2BConfig(), cloud.clock).create(snapshot_id)
    with pytest.warns(UserWarning, match=r"0 machines could not be ended and 1 snapshots not deleted"):
        keeper.close()
    assert (set(server.machines), set(server.snapshots)) == ({other.id}, {snapshot_id})
    server.machines[other.id].state = "paused"
    reaped = reaper.reap(owner=cloud.owner)
    assert (reaped.machines, reaped.snapshots, reaped.left) == ((other.id,), (snapshot_id,), ())
    assert (server.machines, server.snapshots) == ({}, {})


def test_the_reaper_says_what_it_could_not_end(
    cloud: Cloud, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    snapshot_id = snapshot_of(cloud, cloud.create(TEMPLATE))
    machine = cloud.create(snapshot_id)
    server.machines[machine.id].metadata = {}  # a stranger's, of our snapshot
    assert reaper.main(["--owner", cloud.owner]) == 1
    out, err = capsys.readouterr()
    assert out == "ended 1 machines, deleted 0 snapshots\n"
    assert f"snapshot {snapshot_id} could not be deleted: 400: cannot delete template" in err


def test_when_the_cloud_will_end_a_machine_is_asked(cloud: Cloud, keeper: Keeper, server: Server) -> None:
    server.rules.max_length_s = 3600
    machine = kept(keeper, cloud.create(TEMPLATE))
    assert machine.ends_at == cloud.clock.now() + 600
    cloud.clock.sleep(500)
    cloud.renew(machine)
    keeper._look_when_they_end()
    assert machine.ends_at == pytest.approx(1100, abs=3)
    for _ in range(6):
        cloud.clock.sleep(500)
        cloud.renew(machine)
    keeper._look_when_they_end()
    assert machine.ends_at == pytest.approx(3600, abs=3)  # renewed at 3500, and no longer all the same
    assert not machine.has_expired
    cloud.clock.sleep(103)
    assert machine.has_expired and not cloud.is_running(machine)


# What the network holds is not told by a name that is not known.


def found_open(answer: bytes | None, host: str | None = None) -> bool:
    """Whether the probe's attack finds the network open, where a server closes without an answer, or gives one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        if connection.recv(100) and answer is not None:
                            connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        names = [host] if host is not None else []
        addresses = [(name, port) for name in [*names, "127.0.0.1"]]
        code = f"{probe._ATTACK}\n_attack('/nonexistent', [], {addresses}, b'GET /')"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
        )
        listener.shutdown(socket.SHUT_RDWR)
    return json.loads(done.stdout)["network"]


def test_the_network_is_open_where_bytes_come_back() -> None:
    assert found_open(b"HTTP/1.0 404") is True
    assert found_open(None) is False  # something takes connections, and passes nothing on
    assert (
        found_open(b"HTTP/1.0 404", host="no-such-host.invalid") is True
    )  # names are not known, numbers are


def test_the_control_plane_is_tried_by_name_and_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2B_API_URL", "http://localhost:3000")
    addresses, hello = probe.control_plane()
    assert addresses[0] == ("localhost", 3000) and ("127.0.0.1", 3000) in addresses
    assert hello == b"GET / HTTP/1.0\r\n\r\n"
    monkeypatch.setenv("E2B_API_URL", "https://localhost")
    addresses, hello = probe.control_plane()
    assert addresses[0] == ("localhost", 443)
    assert hello[:2] == b"\x16\x03" and b"localhost" in hello  # a TLS handshake


def test_memory_is_what_the_machine_has_left(tmp_path: Path) -> None:
    file = tmp_path / "meminfo"
    for available_mib, spare_mib in ((1500, 1308), (200, 100)):
        file.write_text(f"MemTotal: 2048000 kB\nMemAvailable: {available_mib << 10} kB\n")
        assert runner._spare_bytes(str(file)) == spare_mib << 20
    file.write_text("MemTotal: 2048000 kB\n")
    assert (runner._spare_bytes(str(file)), runner._spare_bytes(str(tmp_path / "none"))) == (None, None)


# With machines that run cells.


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with e2b_server.serving(preload=("numpy",)) as running:
        yield running


@pytest.fixture
def sandbox(running: Server) -> Iterator[E2BSandbox]:
    with make_e2b() as made:
        yield made
        running.mend()
        running.rules = Rules()
    assert (running.machines, running.snapshots) == ({}, {})  # whatever happened


def make_e2b(clock: FakeClock | None = None, **options: Any) -> E2BSandbox:
    config = E2BConfig.of({**e2b_server.options(), "preload": (), "grace_s": 0.5, **options})
    return E2BSandbox(config, clock=clock or FakeClock())


def text(session: Any, code: str) -> str | None:
    execution = session.run(code, timeout_s=60)
    assert execution.error is None
    return execution.text


def machine_of(running: Server, session: Any) -> Any:
    with session.ready() as live:
        return running.machines[live.machine.id]


@pytest.mark.parametrize("name", ["WebSocketError", "UnexpectedEndOfExecution", "ExecutionAborted"])
def test_a_kernel_that_the_server_lost_is_an_outage(sandbox: E2BSandbox, running: Server, name: str) -> None:
    with sandbox.session() as session:
        text(session, "x = 1")
        machine = machine_of(running, session)
        running.fail(EXECUTE, times=2, kernel=name)
        result = session.run("x += 1; x")
        assert (result.text, result.error, machine_of(running, session)) == ("2", None, machine)
        running.fail(EXECUTE, times=4, kernel=name)  # for good, in this machine
        result = session.run("x += 1; x")
        assert (result.text, result.error) == ("3", None)
        assert machine_of(running, session) is not machine


def test_a_machine_that_its_cell_left_paused_is_not_given_the_cell_again(
    sandbox: E2BSandbox, running: Server
) -> None:
    with sandbox.session() as session:
        text(session, "x = 1")
        machine = machine_of(running, session)
        running.fail(EXECUTE, cut=True)
        running.fail(INFO, before=lambda found: setattr(found, "state", "paused"))
        before = machine.num_executions
        result = session.run("x += 1; x")
        assert result.error is not None and result.error.name == KILLED
        assert machine.num_executions == before + 1
        assert text(session, "x") == "1"
        assert eventually(lambda: machine.id not in running.machines)  # paused machines are ended, too


def test_a_machine_at_the_end_of_its_lifetime_is_not_the_cells_doing(
    sandbox: E2BSandbox, running: Server
) -> None:
    with sandbox.session() as session:
        text(session, "x = 1")
        with session.ready() as live:
            live.machine.ends_at = sandbox._cloud.clock.now()
        running.fail(EXECUTE, cut=True)
        running.fail(INFO, before=running.vanish)
        result = session.run("x += 1; x")
        assert (result.text, result.error) == ("2", None)
        assert "reached the end of its lifetime" in result.warnings[0]


def test_memory_that_a_machine_lacks_is_said(running: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = E2BLive.begin
    small = 1300 << 20
    monkeypatch.setattr(E2BLive, "begin", lambda live, seed: begin(live, seed)._replace(memory_bytes=small))
    with make_e2b() as sandbox:
        assert sandbox.memory_bytes == small
        assert sandbox.isolation.open[0].startswith(
            "Machines have 1300 MiB for a process, less than the 2048 MiB of Limits.memory_bytes"
        )


def test_the_limit_on_memory_is_what_the_machine_has_left() -> None:
    code = (
        "import resource, sys\nfrom axpo_sandbox.e2b import runner\n"
        "runner._spare_bytes = lambda: 300 << 20\n"
        "limits = dict(memory_bytes=2 << 30, file_bytes=1 << 20, num_open_files=64)\n"
        "with open('/proc/self/statm') as file: pages = int(file.read().split()[0])\n"
        "print(runner._limit_resources(limits), file=sys.stderr)\n"
        "print(resource.getrlimit(resource.RLIMIT_AS)[0] - pages * resource.getpagesize())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(done.stderr) == 300 << 20
    assert 300 << 20 <= int(done.stdout) < 310 << 20


def test_a_cluster_of_ones_own_runs_sessions(running: Server) -> None:
    running.rules = Rules(create_route="/sandboxes", pauses=True, max_forks=16, knows_keys=False)
    with make_e2b() as sandbox, sandbox.session() as session:
        text(session, "x = 1")
        with session.snapshot() as snapshot:
            branches = snapshot.fork(2)
        assert [text(branch, "x += 1; x") for branch in branches] == ["2", "2"]
    running.rules = Rules()
    assert (running.machines, running.snapshots) == ({}, {})


def play(sandbox: E2BSandbox) -> None:
    """A session through everything it asks the cloud for."""
    with sandbox.session(files={"a": b"1"}, seed=1) as session:
        assert text(session, "x = int(open('a').read()); x") == "1"
        with session.snapshot() as snapshot:
            forked = snapshot.fork(2)
            assert text(session, "x += 10; x") == "11"
            forked += snapshot.fork(1)  # made of the snapshot
            assert [text(branch, "x += 1; x") for branch in forked] == ["2"] * 3
        for branch in forked:
            branch.close()
    sandbox._keeper._look_when_they_end()


ROUTES = (CREATE, FORK, SNAPSHOT, INFO, KILL, DELETE, MACHINES, EXECUTE, "POST /files")


@pytest.mark.slow
@pytest.mark.parametrize("route", ROUTES)
def test_no_feature_is_lost_by_what_passes(sandbox: E2BSandbox, running: Server, route: str) -> None:
    for fault in PASSING:
        if "lost" in fault and route in (EXECUTE, "POST /files", INFO, MACHINES):
            continue  # for what makes and ends things; EXECUTE has `cut`
        running.fail(route, times=2, **fault)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            play(sandbox)
        assert (sandbox.can_fork, sandbox.can_snapshot) == (True, True)
        running.mend()


def test_no_feature_is_lost_by_a_limit_or_a_busy_machine(sandbox: E2BSandbox, running: Server) -> None:
    for status in (400, 409):
        for route in (FORK, SNAPSHOT):
            running.fail(route, times=30, status=status, body={"code": status, "message": "for now"})
        with sandbox.session() as session:
            text(session, "x = 1")
            with session.snapshot() as snapshot:
                (branch,) = snapshot.fork()
                assert text(branch, "x") == "1"
                branch.close()
        assert (sandbox.can_fork, sandbox.can_snapshot) == (True, True)
        running.mend()
    before = running.requests.copy()
    play(sandbox)
    assert (running.requests - before)[FORK] == 1


@pytest.mark.slow
def test_64_sessions_at_once_under_the_limits_of_a_plan(running: Server) -> None:
    clock = FakeClock()
    with make_e2b(clock) as sandbox:
        sandbox.session().close()
        assert eventually(lambda: not running.machines)
        running.rules = Rules(creations_per_s=5, max_machines=20, now=clock.now)
        running.creations.clear()
        running.most_machines, clock.num_threads = 0, 64
        told: list[str | None] = []

        def work(number: int) -> None:
            try:
                with sandbox.session() as session:
                    told.append(text(session, f"{number} + 1"))
            finally:
                clock.leave()

        raised = all_at_once(64, work)
        clock.num_threads = 1
        running.rules = Rules()
        assert raised == []
        assert sorted(map(str, told)) == sorted(map(str, range(1, 65)))
        assert 1 < running.most_machines <= 20
    assert (running.machines, running.snapshots) == ({}, {})


@pytest.mark.slow
def test_500_snapshots_of_sessions_leave_none(sandbox: E2BSandbox, running: Server) -> None:
    with sandbox.session() as session:
        for number in range(500):
            assert text(session, f"x = {number}; x") == str(number)
            session.snapshot().release()
        machine = machine_of(running, session)
        assert set(running.machines) == {machine.id}
        assert eventually(lambda: len(running.snapshots) == 2)  # the base, and the session's own point


@pytest.mark.slow
def test_the_contract_command_holds_on_a_cluster_of_ones_own(
    running: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    running.rules = Rules(create_route="/sandboxes", pauses=True, max_forks=16)
    options = [f"--option={key}={value}" for key, value in e2b_server.options().items()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no feature is given up on the way
        assert contract.main(["e2b", *options]) == 0
    assert f"{len(contract.CHECKS)} of {len(contract.CHECKS)} promises held" in capsys.readouterr().out
    running.rules = Rules()
    assert (running.machines, running.snapshots) == ({}, {})


LEAVE = """
import json, os, signal, sys
from axpo_sandbox import make_sandbox
sandbox = make_sandbox("e2b", preload=(), **json.loads(sys.argv[1]))
session = sandbox.session()
snapshot = session.snapshot()
branches = snapshot.fork(2)
session.run("1")
branches += snapshot.fork(1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_trainer_leaves_no_machine_running_or_paused(running: Server, repository: Path) -> None:
    running.rules = Rules(create_route="/sandboxes", pauses=True)
    command = [sys.executable, "-W", "ignore", "-c", LEAVE, json.dumps(e2b_server.options())]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=240)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = list(running.machines)
    assert len(left) == 4 and len(running.snapshots) == 2
    running.rules.now = lambda: time.monotonic() + 601  # lifetime_s, and a second
    assert [running.find(name) for name in left] == [None] * 4
    reaped = reaper.reap()
    assert (reaped.machines, len(reaped.snapshots), running.snapshots) == ((), 2, {})
    running.rules = Rules()
    assert os.environ["E2B_API_KEY"] == e2b_server.KEY
