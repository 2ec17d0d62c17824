"""The e2b backend beyond the contract, through the real SDK: outages, limits on requests, lost machines, lies."""

import base64
import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import e2b_server
import gymnasium as gym
import httpx
import pytest
from e2b_server import KEY, FakeClock, Machine, Rules, Server
from pyqwest.httpx._transport import convert_timeout

import axpo_env  # registers the environments
from axpo_sandbox import (
    Execution,
    FilesRefused,
    Isolation,
    RateLimited,
    SandboxClosed,
    SandboxUnavailable,
    Session,
    make_sandbox,
)
from axpo_sandbox.backend import Dead, Lost, LostInCell
from axpo_sandbox.base import KILLED, OUTPUT_LIMIT, PROTOCOL, TIMEOUT
from axpo_sandbox.e2b import reaper
from axpo_sandbox.e2b.client import E2BSandbox
from axpo_sandbox.e2b.cloud import MAX_FORKS
from axpo_sandbox.e2b.config import E2BConfig
from axpo_sandbox.e2b.live import E2BLive
from axpo_sandbox.e2b.machine import _Watch
from axpo_sandbox.e2b.owner import owner_has_ended, owner_of_this_process
from axpo_sandbox.e2b.replies import Outputs
from tests.patience import eventually

assert axpo_env.IDS
EXECUTE = "POST /execute"
CREATE = "POST /v2/sandboxes"
FORK = "POST /sandboxes/{id}/fork"
SNAPSHOT = "POST /sandboxes/{id}/snapshots"
INFO = "GET /sandboxes/{id}"
NOW = {"Retry-After": "0"}


@pytest.fixture(scope="module")
def serving() -> Iterator[Server]:
    with e2b_server.serving(preload=("numpy",)) as server:
        yield server


@pytest.fixture
def server(serving: Server) -> Iterator[Server]:
    yield serving
    serving.mend()
    serving.rules = Rules()


def make_e2b(**options: Any) -> E2BSandbox:
    config = E2BConfig.of({**e2b_server.options(), "preload": (), "grace_s": 0.5, **options})
    return E2BSandbox(config, clock=FakeClock())


@pytest.fixture(scope="module")
def shared(serving: Server) -> Iterator[E2BSandbox]:
    with make_e2b() as made:
        yield made


@pytest.fixture
def sandbox(shared: E2BSandbox, server: Server) -> Iterator[E2BSandbox]:
    yield shared
    shared.can_fork = shared.can_snapshot = True


def machine_of(server: Server, session: Session) -> Machine:
    with session.ready() as live:  # type: ignore[attr-defined]
        return server.machines[live.machine.id]


def name_of(execution: Execution) -> str | None:
    return None if execution.error is None else execution.error.name


def text(session: Session, code: str) -> str | None:
    execution = session.run(code, timeout_s=30)
    assert execution.error is None
    return execution.text


# Starting.


def test_without_the_sdk_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "e2b_code_interpreter", None)
    for name in ("client", "cloud", "keeper", "live", "machine", "probe", "replies"):
        monkeypatch.delitem(sys.modules, f"axpo_sandbox.e2b.{name}", raising=False)
    with pytest.raises(SandboxUnavailable, match=r"pip install 'axpo\[e2b\]'"):
        make_sandbox("e2b")


@pytest.mark.parametrize("key", [None, "e2b_wrong"])
def test_a_missing_or_wrong_key_is_an_outage_that_names_the_variable(
    server: Server, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    monkeypatch.delenv("E2B_API_KEY")
    if key is not None:
        monkeypatch.setenv("E2B_API_KEY", key)
    with pytest.raises(SandboxUnavailable, match="E2B_API_KEY"):
        make_e2b()


def test_the_key_may_be_an_option_and_is_not_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("E2B_API_KEY")
    with make_e2b(api_key=KEY) as sandbox, sandbox.session() as session:
        assert text(session, "6 * 7") == "42"
        assert KEY not in repr(sandbox.config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"templat": "x"}, "unknown option of the e2b sandbox 'templat'"),
        ({"fallback": "replays"}, "nearest: replay"),
        ({"lifetime_s": 0}, "lifetime_s must be a positive whole number, not 0"),
        ({"lifetime_s": 0.5}, "lifetime_s must be a positive whole number, not 0.5"),
        ({"max_retry_s": -1}, "max_retry_s must be a positive number, not -1"),
        ({"creations_per_s": "5"}, "creations_per_s must be a positive number, not '5'"),
        ({"limits": {"memory": 1}}, "nearest: memory_bytes"),
    ],
)
def test_wrong_options_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as raised:
        make_sandbox("e2b", **options)
    assert message in str(raised.value)


def test_a_template_that_does_not_exist_is_an_outage(server: Server) -> None:
    with pytest.raises(SandboxUnavailable, match=r"template none not found.*The option template names"):
        make_e2b(template="none")


def test_a_template_without_the_packages_that_images_need_is_an_outage(bare_python: str) -> None:
    with e2b_server.serving(python=bare_python, preload=()) as server:
        with pytest.raises(SandboxUnavailable) as raised:
            make_e2b(preload=("json", "PIL", "scipy"), folder="/dev/shm/box")
        assert str(raised.value) == (
            "images need packages that template 'code-interpreter-v1' cannot import: PIL (ModuleNotFoundError: No "
            "module named 'PIL'). Set template to one that has them, or leave them out of preload to do without images"
        )
        assert (server.machines, server.snapshots) == ({}, {})
        with pytest.warns(
            UserWarning, match=r"code in template 'code-interpreter-v1' cannot import scipy \("
        ):
            make_e2b(preload=("scipy",), folder="/dev/shm/box", quiet=False).close()


def test_a_machine_that_cannot_run_our_package_is_an_outage(server: Server) -> None:
    old = {"type": "error", "name": "SyntaxError", "value": "invalid syntax", "traceback": ""}
    server.fail(EXECUTE, status=200, body=json.dumps(old).encode() + b"\n")
    with pytest.raises(SandboxUnavailable, match="does not take our package: SyntaxError: invalid syntax"):
        make_e2b()
    assert eventually(lambda: not server.machines)


@pytest.mark.parametrize("fault", [{"reset": True}, {"cut": True}], ids=str)
def test_a_connection_that_is_lost_does_not_keep_it_from_starting(
    server: Server, fault: dict[str, Any]
) -> None:
    server.fail(EXECUTE, times=2, **fault)
    with make_e2b() as sandbox, sandbox.session() as session:
        assert text(session, "1") == "1"


def test_what_holds_is_tried_from_inside(sandbox: E2BSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sandbox.isolation == Isolation(
        tier="e2b",
        layers={"files": True, "environment": True, "network": True},
        open=sandbox.isolation.open,
    )
    assert len(sandbox.isolation.open) == 1 and "workdir_bytes" in sandbox.isolation.open[0]


def test_the_probe_reports_attacks_that_succeed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    # As if code of the machine had the variable: one whose name is a secret's, and that every process has.
    monkeypatch.setattr("axpo_sandbox.e2b.probe._SECRET_NAME", __import__("re").compile("^PATH$"))
    with pytest.warns(UserWarning, match="Code finds variables of this process's environment"):
        with make_e2b() as sandbox:
            assert sandbox.isolation.layers == {"files": True, "environment": False, "network": True}


def test_machines_are_marked_and_have_no_internet_unless_wanted(server: Server) -> None:
    for wanted in (False, True):
        with make_e2b(allow_internet_access=wanted) as sandbox, sandbox.session() as session:
            machine = machine_of(server, session)
            assert machine.options["allow_internet_access"] is wanted
            assert machine.metadata == {
                "axpo": "sandbox",
                "axpo-owner": owner_of_this_process(),
                "axpo-sandbox": sandbox._cloud.mark,
            }


def test_sessions_start_from_a_machine_that_has_booted(sandbox: E2BSandbox, server: Server) -> None:
    sandbox.session().close()
    before = server.requests.copy()
    with sandbox.session() as session:
        assert text(session, "1") == "1"
    asked = server.requests - before
    assert (asked[CREATE], asked["POST /files"], asked[EXECUTE]) == (1, 0, 2)


def test_a_base_that_someone_deleted_is_made_again(server: Server) -> None:
    with make_e2b() as sandbox:
        server.lose_snapshots()
        with sandbox.session() as session:
            assert text(session, "1") == "1"
        assert len(server.snapshots) == 1


# Too many requests.


def test_a_request_that_was_one_too_many_is_repeated(sandbox: E2BSandbox, server: Server) -> None:
    sandbox.session().close()  # so that the base is there
    before = server.requests.copy()
    for route in (CREATE, EXECUTE, SNAPSHOT, "POST /files"):
        server.fail(route, times=2, status=429, headers=NOW, body={"code": 429, "message": "slow down"})
    with sandbox.session(files={"a": b"1"}) as session:
        assert text(session, "open('a').read()") == "'1'"
        session.snapshot().release()
    asked = server.requests - before
    assert (asked[CREATE], asked[EXECUTE], asked[SNAPSHOT], asked["POST /files"]) == (3, 6, 3, 3)


def test_the_wait_is_the_servers_wish(sandbox: E2BSandbox, server: Server) -> None:
    clock = sandbox._cloud.clock
    assert isinstance(clock, FakeClock)
    with sandbox.session() as session:
        for route in (EXECUTE, SNAPSHOT):
            server.fail(
                route, status=429, headers={"Retry-After": "7"}, body={"code": 429, "message": "slow"}
            )
        clock.waits.clear()
        assert text(session, "1") == "1"
        session.snapshot().release()
        assert clock.waits == [7, 7]


@pytest.mark.parametrize("headers", [NOW, {}, {"Retry-After": "999"}])
def test_repeating_ends_with_a_typed_error_and_costs_nothing(
    sandbox: E2BSandbox, server: Server, headers: dict[str, str]
) -> None:
    with sandbox.session() as session:
        text(session, "x = 1")
        sandbox.keeps_threads = True  # or it would be asked for them
        for route in (EXECUTE, CREATE, SNAPSHOT):
            server.fail(route, times=100, status=429, headers=headers, body={"code": 429, "message": "slow"})
        before = server.requests.copy()
        for call in (lambda: session.run("x += 1"), sandbox.session, session.snapshot):
            with pytest.raises(RateLimited):
                call()
        asked = server.requests - before
        # The first, then after 0.2, 0.4, ... 6.4 and 10 s each, up to a minute.
        most = 1 if headers.get("Retry-After") == "999" else 11
        assert [asked[route] for route in (EXECUTE, CREATE, SNAPSHOT)] == [most] * 3
        server.mend()
        assert text(session, "x") == "1"


# Machines that are lost.


def test_a_machine_lost_between_cells_is_replaced(sandbox: E2BSandbox, server: Server) -> None:
    with sandbox.session(files={"a": b"1"}, seed=3) as session:
        first = text(session, "import random\nx = [random.random()]; x")
        server.vanish(machine_of(server, session))
        result = session.run("x, open('a').read()")
        assert result.text == f"({first}, '1')"
        assert result.warnings == (f"the interpreter {Dead.how} (its machine is gone)",)
        server.vanish(machine_of(server, session))
        session.write_files({"b": b"2"})
        assert text(session, "open('b').read()") == "'2'"


FAULTS = [{"status": 404}, {"status": 500}, {"status": 502}, {"reset": True}, {"cut": True}]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_cell_whose_connection_is_lost_is_done_once(
    sandbox: E2BSandbox, server: Server, fault: dict[str, Any]
) -> None:
    with sandbox.session() as session:
        text(session, "x = 1")
        machine = machine_of(server, session)
        server.fail(EXECUTE, times=2, **fault)
        result = session.run("x += 1; print('ü', x)\nimport sys; print('err', file=sys.stderr)\nx")
        assert (result.text, result.stdout, result.stderr) == ("2", "ü 2\n", "err\n")
        assert result.warnings == ()
        assert machine_of(server, session) is machine


@pytest.mark.parametrize("fault", FAULTS[:4], ids=str)
def test_files_whose_connection_is_lost_are_sent_again(
    sandbox: E2BSandbox, server: Server, fault: dict[str, Any]
) -> None:
    with sandbox.session() as session:
        machine = machine_of(server, session)
        server.fail("POST /files", times=2, **fault)
        session.write_files({"a": b"1"})
        assert (text(session, "open('a').read()"), machine_of(server, session)) == ("'1'", machine)


@pytest.mark.parametrize("fault", FAULTS[2:], ids=str)
def test_a_machine_that_cannot_be_reached_any_more_is_replaced(
    sandbox: E2BSandbox, server: Server, fault: dict[str, Any]
) -> None:
    with sandbox.session() as session:
        text(session, "x = 1")
        machine = machine_of(server, session)
        server.fail(EXECUTE, times=4, **fault)
        result = session.run("x += 1; x")
        lost = LostInCell.how if "cut" in fault else Lost.how
        told = (f"the interpreter {lost} (the connection to its machine was lost)",)
        assert (result.text, result.warnings, result.incidents) == ("2", told, told)
        assert eventually(lambda: machine.id not in server.machines)


@pytest.mark.parametrize(
    ("fault", "how"),
    [
        ({"cut": True}, LostInCell.how),
        ({"kernel": "UnexpectedEndOfExecution"}, LostInCell.how),
        ({"reset": True}, Lost.how),
        ({"status": 502}, Dead.how),
    ],
    ids=str,
)
def test_when_an_interpreter_was_lost_is_told_as_far_as_it_is_known(
    sandbox: E2BSandbox, server: Server, fault: dict[str, Any], how: str
) -> None:
    with sandbox.session() as session:
        text(session, "x = 1")
        server.fail(EXECUTE, **fault)
        server.fail(EXECUTE, before=server.restart_kernel)
        result = session.run("x += 1; x")
        assert (result.text, result.error) == ("2", None)
        assert result.incidents == (f"the interpreter {how} (its interpreter was another one)",)


def test_cells_before_are_not_taken_back_for_one_that_ends_as_it_is_repeated(
    sandbox: E2BSandbox, server: Server
) -> None:
    with sandbox.session() as session:
        text(session, "x = 1")
        server.fail(EXECUTE, cut=True)
        server.fail(EXECUTE, before=server.restart_kernel)
        result = session.run("import os; os._exit(1)")
        assert name_of(result) == KILLED
        assert result.incidents == (f"the interpreter {LostInCell.how} (its interpreter was another one)",)
        assert text(session, "x") == "1"


def test_a_cell_that_is_interrupted_as_its_connection_is_lost_is_done_again(
    sandbox: E2BSandbox, server: Server
) -> None:
    """Jupyter's server may interrupt the kernel when nobody listens any more."""
    with sandbox.session() as session:
        text(session, "x = 1")
        machine = machine_of(server, session)

        def interrupt() -> None:
            os.kill(machine.live.process.pid, signal.SIGINT)

        server.fail(EXECUTE, cut=True, before=lambda _: threading.Timer(0.5, interrupt).start())
        result = session.run("import time; time.sleep(1.5); x += 1; x", timeout_s=30)
        (told,) = result.incidents
        assert (result.text, told.startswith(f"the interpreter {LostInCell.how} (")) == ("2", True)
        assert machine_of(server, session) is not machine


def test_an_interrupt_leaves_no_cell_running(sandbox: E2BSandbox, server: Server) -> None:
    with sandbox.session() as session:
        text(session, "x = 1")
        machine = machine_of(server, session)

        class Interrupted(Outputs):
            def take(self, index: int, text: str) -> None:
                raise KeyboardInterrupt

        with session.ready() as live:
            assert isinstance(live, E2BLive)
            with pytest.raises(KeyboardInterrupt):
                live._execute("print(1)\nimport time; time.sleep(60)", 60, outputs=Interrupted(9))
        assert eventually(lambda: machine.id not in server.machines)
        assert text(session, "x") == "1"


def test_a_machine_that_ends_in_a_cell_costs_that_cell(sandbox: E2BSandbox, server: Server) -> None:
    with sandbox.session() as session:
        text(session, "x = 1")
        machine = machine_of(server, session)
        server.fail(EXECUTE, before=lambda _: threading.Timer(0.3, server.vanish, [machine]).start())
        result = session.run("x = 2; print('begun')\nimport time; time.sleep(60)", timeout_s=60)
        assert (name_of(result), result.stdout) == (KILLED, "begun\n")
        assert result.duration_s < 30
        assert text(session, "x") == "1"


def test_a_machine_that_ends_in_a_cell_before_the_cloud_knows_costs_that_cell(
    sandbox: E2BSandbox, server: Server
) -> None:
    with sandbox.session() as session:
        text(session, "x = 1")
        machine = machine_of(server, session)
        server.fail(EXECUTE, before=lambda _: threading.Timer(0.3, server.vanish, [machine]).start())
        server.fail(INFO, status=200, body={"state": "running"})
        error = session.run("x = 2\nimport time; time.sleep(60)", timeout_s=60).error
        assert error is not None
        assert (error.name, error.value) == (KILLED, "the machine ended while the cell ran")
        assert text(session, "x") == "1"


def test_a_cell_that_nobody_can_tell_about_is_an_outage(sandbox: E2BSandbox, server: Server) -> None:
    with sandbox.session() as session:
        text(session, "x = 1")
        server.fail(EXECUTE, times=4, reset=True)
        server.fail(INFO, times=100, status=500, body={"code": 500, "message": "database"})
        with pytest.raises(SandboxUnavailable, match="does not say how machine"):
            session.run("x += 1")
        server.mend()
        assert text(session, "x") == "1"


def test_a_control_plane_that_is_away_is_an_outage(sandbox: E2BSandbox, server: Server) -> None:
    server.fail(CREATE, times=100, reset=True)
    with pytest.raises(SandboxUnavailable, match="no machine could be made"):
        sandbox.session()


def test_a_timeout_keeps_what_was_printed_and_ends_the_machine(sandbox: E2BSandbox, server: Server) -> None:
    with sandbox.session() as session:
        text(session, "x = 1")
        machine = machine_of(server, session)
        result = session.run("x = 2; print('begun')\nimport time; time.sleep(60)", timeout_s=0.3)
        assert (name_of(result), result.stdout) == (TIMEOUT, "begun\n")
        assert result.duration_s < 15
        assert eventually(lambda: machine.id not in server.machines)
        assert text(session, "x") == "1"


def test_the_transport_is_given_the_time_of_the_cell_once() -> None:
    """It takes the sum of what the SDK sets for reading and for writing."""
    watch = _Watch(max_bytes=1, timeout_s=2.5)
    request = httpx.Request("POST", "http://localhost", extensions={"timeout": httpx.Timeout(2.5).as_dict()})
    assert convert_timeout(request.extensions) == 5
    watch.send(request)
    assert convert_timeout(request.extensions) == 2.5


def test_a_reply_that_trickles_does_not_outlive_its_cell(sandbox: E2BSandbox) -> None:
    with sandbox.session() as session:
        result = session.run(
            "import time\nfor _ in range(300): print('.', flush=True); time.sleep(0.1)", timeout_s=0.5
        )
        assert name_of(result) == TIMEOUT
        assert result.duration_s < 15


def test_an_interpreter_of_another_machine_is_noticed(sandbox: E2BSandbox, server: Server) -> None:
    """The kernel restarts by itself, empty: the cell must not run in it."""
    with sandbox.session() as session:
        text(session, "x = 1")
        server.restart_kernel(machine_of(server, session))
        assert text(session, "x += 1; x") == "2"


def test_closing_a_session_ends_its_cell(sandbox: E2BSandbox) -> None:
    session = sandbox.session()
    raised: list[BaseException] = []

    def run() -> None:
        try:
            session.run("import time; time.sleep(60)", timeout_s=60)
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert eventually(session.is_busy)
    time.sleep(0.1)
    session.close()
    thread.join(30)
    assert [type(error).__name__ for error in raised] == ["SessionClosed"]


def test_files_that_do_not_fit_are_refused(sandbox: E2BSandbox, server: Server) -> None:
    with sandbox.session(limits={"file_bytes": 1000}) as session:
        with pytest.raises(FilesRefused, match=r"File too large \(limits.file_bytes is 1000\)"):
            session.write_files({"a": bytes(2000)})
        server.fail("POST /files", status=507, body={"code": 507, "message": "disk full"})
        with pytest.raises(FilesRefused, match="disk full"):
            session.write_files({"a": b"1"})
        assert text(session, "1") == "1"


# Snapshots and branches.


def test_branches_of_a_session_that_stands_still_are_one_request(sandbox: E2BSandbox, server: Server) -> None:
    with sandbox.session() as session:
        text(session, "x = 1")
        with session.snapshot() as snapshot:
            before = server.requests.copy()
            branches = snapshot.fork(4)
            asked = server.requests - before
            assert (asked[FORK], asked[CREATE]) == (1, 0)
            text(session, "x = 2")  # it moves on: from now on they are made of the snapshot
            before = server.requests.copy()
            branches += snapshot.fork(2)
            asked = server.requests - before
            assert (asked[FORK], asked[CREATE]) == (0, 2)
        assert [text(branch, "x += 1; x") for branch in branches] == ["2"] * 6
        for branch in branches:
            branch.close()


def test_more_branches_than_one_request_may_ask_for(sandbox: E2BSandbox, server: Server) -> None:
    with sandbox.session() as session, session.snapshot() as snapshot:
        before = server.requests.copy()
        branches = snapshot.fork(MAX_FORKS + 2)
        assert (server.requests - before)[FORK] == 2
        assert len({machine_of(server, branch).id for branch in branches}) == MAX_FORKS + 2
        for branch in branches:
            branch.close()


def test_branches_that_could_not_be_forked_are_made_of_the_snapshot(
    sandbox: E2BSandbox, server: Server
) -> None:
    with sandbox.session() as session:
        text(session, "x = 1")
        with session.snapshot() as snapshot:
            server.fail("fork result", times=2, status=429)
            before = server.requests.copy()
            branches = snapshot.fork(4)
            assert (server.requests - before)[CREATE] == 2
        assert [text(branch, "x += 1; x") for branch in branches] == ["2"] * 4
        for branch in branches:
            branch.close()


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_cluster_that_cannot_fork_is_remembered(sandbox: E2BSandbox, server: Server, status: int) -> None:
    server.fail(FORK, times=10, status=status, body=b"no such route")
    with sandbox.session() as session, session.snapshot() as snapshot:
        before = server.requests.copy()
        for number in range(2):
            told = pytest.warns(UserWarning, match="does not fork machines") if number == 0 else nullcontext()
            with told:
                (branch,) = snapshot.fork()
            assert text(branch, "1") == "1"
            branch.close()
        asked = server.requests - before
        assert (asked[FORK], asked[CREATE], sandbox.can_fork) == (1, 2, False)


def test_a_paused_source_is_not_taken_for_a_cluster_that_cannot_fork(
    sandbox: E2BSandbox, server: Server
) -> None:
    with sandbox.session() as session:
        text(session, "x = 1")
        with session.snapshot() as snapshot:
            machine_of(server, session).state = "paused"
            (branch,) = snapshot.fork()
            assert (text(branch, "x"), sandbox.can_fork) == ("1", True)
            branch.close()
        assert text(session, "x") == "1"  # in another machine


def test_a_cluster_without_snapshots_still_forks_and_replays(sandbox: E2BSandbox, server: Server) -> None:
    server.fail(SNAPSHOT, times=10, status=501, body={"code": 501, "message": "not here"})
    with sandbox.session(seed=1) as session:
        first = text(session, "import random\nx = random.random(); x")
        with pytest.warns(UserWarning, match="takes no snapshots"):
            snapshot = session.snapshot()
        with snapshot:
            (branch,) = snapshot.fork()
            assert (text(branch, "x"), sandbox.can_snapshot) == (first, False)
            branch.close()
            text(session, "x = 2")
            (branch,) = snapshot.fork()
            result = branch.run("x")
            assert result.text == first
            assert "its cells were replayed" in result.warnings[0]
            branch.close()


def test_a_lost_snapshot_is_replayed(sandbox: E2BSandbox, server: Server) -> None:
    with sandbox.session() as session:
        text(session, "x = 1")
        with session.snapshot() as snapshot:
            text(session, "x = 2")
            server.lose_snapshots()
            (branch,) = snapshot.fork()
            result = branch.run("x")
            assert (result.text, "its cells were replayed" in result.warnings[0]) == ("1", True)
            branch.close()


def test_all_branches_or_none(sandbox: E2BSandbox, server: Server) -> None:
    with sandbox.session() as session:
        text(session, "x = 1")
        with session.snapshot() as snapshot:
            text(session, "x = 2")
            own = len(server.machines)
            server.fail(CREATE, status=500, times=100, body={"code": 500, "message": "no room"})
            with pytest.raises(SandboxUnavailable, match="no room"):
                snapshot.fork(3)
            assert eventually(lambda: len(server.machines) == own)


def test_a_source_that_runs_a_cell_is_not_forked_in_the_middle_of_it(
    sandbox: E2BSandbox, server: Server
) -> None:
    with sandbox.session() as session:
        text(session, "x = 1")
        with session.snapshot() as snapshot:
            begun = threading.Event()
            server.fail(EXECUTE, before=lambda _: begun.set())
            code = "x = 2; import time; time.sleep(1); x = 3"
            thread = threading.Thread(target=session.run, args=(code,), kwargs={"timeout_s": 30})
            thread.start()
            assert begun.wait(20)
            (branch,) = snapshot.fork()
            assert text(branch, "x") == "1"
            branch.close()
            thread.join()


def test_that_threads_are_not_kept_is_found_out(sandbox: E2BSandbox) -> None:
    """The server's machines are forked processes; real ones keep all of their memory and threads."""
    with sandbox.session() as session:
        assert sandbox.keeps_threads is False
        assert session.snapshot().warnings == ()
        session.run("import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()")
        told = ("1 threads of the session do not exist in its branches",)
        assert session.snapshot().warnings == told
        sandbox.keeps_threads = True
        session.run("1")
        assert session.snapshot().warnings == ()


def test_falling_back_to_snapshots_is_exact(server: Server) -> None:
    with make_e2b(fallback="snapshot") as sandbox, sandbox.session(files={"a": b"0123"}) as session:
        text(session, "import os; f = open('a'); f.read(2); t = os.urandom(8)")
        expected = text(session, "t, f.tell()")
        assert name_of(session.run("import os; os._exit(1)")) == KILLED
        assert text(session, "t, f.tell()") == expected


# What machines say is not believed.


def png(width: int, height: int) -> str:
    head = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return base64.b64encode(head + bytes(20)).decode()


@pytest.mark.parametrize(
    "lie",
    [
        {"text": 5},
        {"text": "x" * 2000},
        {"images": "x"},
        {"images": [png(1, 1)] * 17},
        {"images": ["no base64"]},
        {"images": [base64.b64encode(b"GIF89a" * 9).decode()]},
        {"images": [png(1 << 16, 1 << 16)]},
        {"error": {"name": "X"}},
        {"warnings": [1]},
        {"dropped": [0, -1]},
        {"dropped": [1, "2"]},
        {"dropped": None},
    ],
    ids=lambda lie: next(iter(lie)),
)
def test_answers_are_checked_field_by_field(sandbox: E2BSandbox, lie: dict[str, Any]) -> None:
    with sandbox.session(limits={"output_bytes": 1000}) as session:
        text(session, "x = 1")
        honest = {"text": None, "images": [], "error": None, "warnings": [], "dropped": [0, 0], **lie}
        forge = f"import sys\nsys.modules['_axpo_runner']._OPERATIONS['run'] = lambda message: {honest!r}"
        assert name_of(session.run(forge)) is None
        result = session.run("x = 2")
        assert name_of(result) == PROTOCOL
        assert (result.text, result.images) == (None, ())


@pytest.mark.parametrize(
    ("body", "headers", "name"),
    [
        (b"not json\n", {}, PROTOCOL),
        (b"[" * 100_000 + b"\n", {}, PROTOCOL),
        (b'{"type": "stdout", "text": 5, "timestamp": 1}\n', {}, PROTOCOL),
        (b'{"type": "stdout", "text": "x"}\n', {}, PROTOCOL),
        (b'{"type": "result", "is_main_result": true, "text": 5, "never": 1}\n', {}, KILLED),
        (b'{"type": "result", "is_main_result": true, "text": 5}\n', {}, KILLED),
        (b'{"type": "error", "name": 1, "value": [], "traceback": 0}\n', {}, KILLED),
        (b"", {}, KILLED),
        (b"x" * (150 << 20), {}, OUTPUT_LIMIT),
        (gzip.compress(bytes(150 << 20), 1), {"Content-Encoding": "gzip"}, OUTPUT_LIMIT),
    ],
    ids=["text", "nested", "output", "fields", "unknown", "result", "error", "empty", "endless", "packed"],
)
def test_replies_that_make_no_sense_cost_one_cell(
    sandbox: E2BSandbox, server: Server, body: bytes, headers: dict[str, str], name: str
) -> None:
    with sandbox.session(limits={"output_bytes": 1000}) as session:
        text(session, "x = 1")
        server.fail(EXECUTE, status=200, body=body, headers=headers)
        assert name_of(session.run("x = 2")) == name
        assert text(session, "x") == "1"


def test_output_is_cut_here_too(sandbox: E2BSandbox, server: Server) -> None:
    """Where the machine does not hold the limit: code may have changed its interpreter."""
    line = json.dumps({"type": "stdout", "text": "y" * 900, "timestamp": 1}).encode() + b"\n"
    with sandbox.session(limits={"output_bytes": 1000}) as session:
        server.fail(EXECUTE, status=200, body=line * 3)
        result = session.run("1")
        assert (result.stdout, name_of(result)) == ("y" * 1000, KILLED)
        assert result.warnings[0] == "stdout was cut at 1000 bytes; 1700 more were dropped"


# Lifetimes.


def test_machines_in_use_are_renewed_and_others_end(server: Server) -> None:
    with make_e2b(lifetime_s=2) as sandbox, sandbox.session() as session:
        machine = machine_of(server, session)
        text(session, "x = 1")
        before = server.requests["POST /sandboxes/{id}/timeout"]
        assert eventually(lambda: server.requests["POST /sandboxes/{id}/timeout"] >= before + 6)
        assert text(session, "x") == "1"
        assert machine_of(server, session) is machine


def test_closing_ends_machines_and_deletes_snapshots(server: Server) -> None:
    machines, snapshots = set(server.machines), set(server.snapshots)
    before = threading.active_count()
    sandbox = make_e2b()
    sessions = [sandbox.session() for _ in range(3)]
    kept = sessions[0].snapshot()
    server.fail("DELETE /sandboxes/{id}", status=500, times=2)
    server.fail("DELETE /templates/{id}", reset=True)
    sandbox.close()
    assert (set(server.machines), set(server.snapshots)) == (machines, snapshots)
    assert threading.active_count() <= before + 1  # the server's own
    with pytest.raises(SandboxClosed):
        sandbox.session()
    kept.release()


def test_what_cannot_be_ended_does_not_keep_the_rest(server: Server) -> None:
    machines, snapshots = set(server.machines), set(server.snapshots)
    sandbox = make_e2b()
    sessions = [sandbox.session() for _ in range(3)]
    stuck = machine_of(server, sessions[1])
    refuse = server.fail(f"DELETE /sandboxes/{stuck.id}", status=500, times=99)
    with pytest.warns(UserWarning, match="1 machines could not be ended and 1 snapshots not deleted"):
        sandbox.close()
    assert set(server.machines) - machines == {stuck.id}
    assert refuse.times < 99
    server.vanish(stuck)
    (base,) = set(server.snapshots) - snapshots
    server.snapshots.pop(base).release()


@pytest.mark.parametrize("base_is_lost", [False, True])
def test_a_session_that_is_forgotten_ends_its_machine(
    sandbox: E2BSandbox, server: Server, base_is_lost: bool
) -> None:
    if base_is_lost:  # errors that were caught on the way must not keep it
        server.lose_snapshots()
    session = sandbox.session()
    machine = machine_of(server, session)
    del session
    assert eventually(lambda: machine.id not in server.machines)


LEAVE = """
import json, os, signal, sys
from axpo_sandbox import make_sandbox
sandbox = make_sandbox("e2b", preload=(), **json.loads(sys.argv[2]))
sessions = [sandbox.session() for _ in range(2)]
snapshot = sessions[0].snapshot()
if sys.argv[1] == "fork":
    child = os.fork()
    if child == 0:
        try:
            sandbox.session()
        except Exception as error:
            print(type(error).__name__, flush=True)
        sys.exit()
    os.waitpid(child, 0)
    print(sessions[0].run("42").text, flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


def leave(repository: Path, how: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", LEAVE, how, json.dumps(e2b_server.options())]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=120).stdout


def test_an_interpreter_that_ends_takes_its_machines_along(server: Server, repository: Path) -> None:
    machines, snapshots = set(server.machines), set(server.snapshots)
    leave(repository, "normally")
    assert (set(server.machines), set(server.snapshots)) == (machines, snapshots)


def test_a_forked_process_neither_uses_nor_ends_machines(server: Server, repository: Path) -> None:
    assert leave(repository, "fork").split() == ["SandboxUnavailable", "42"]


def test_the_reaper_ends_what_a_killed_trainer_left(
    sandbox: E2BSandbox, server: Server, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with sandbox.session() as session:
        machines, snapshots = set(server.machines), set(server.snapshots)
        leave(repository, "killed")
        left = set(server.machines) - machines
        assert (len(left), len(set(server.snapshots) - snapshots)) == (2, 2)
        assert all(owner_has_ended(server.machines[name].metadata["axpo-owner"]) for name in left)
        reaped = reaper.reap()
        assert set(reaped.machines) == left
        assert (set(server.machines), set(server.snapshots)) == (machines, snapshots)
        assert text(session, "1") == "1"  # its owner lives
    assert reaper.main([]) == 0
    assert capsys.readouterr().out == "ended 0 machines, deleted 0 snapshots\n"


def test_the_reaper_takes_one_owner_or_all(server: Server) -> None:
    other = make_e2b()
    other._cloud.owner = "0badcafe-1-1"  # another host's process: nobody here knows whether it runs
    session = other.session()
    mine = machine_of(server, session)
    assert mine.id not in reaper.reap().machines
    assert reaper.reap(E2BConfig(), owner="0badcafe-1-1").machines == (mine.id,)
    assert mine.id not in server.machines
    other.close()


def test_the_reaper_says_what_is_wrong(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("E2B_API_KEY", "e2b_wrong")
    assert reaper.main(["--all"]) == 1
    assert "E2B_API_KEY" in capsys.readouterr().err


# Environments.


def test_environments_keep_the_snapshot_law(sandbox: E2BSandbox) -> None:
    from axpo_env.contract import check_forks, check_snapshots

    def make() -> Any:
        options = {"source": "synthetic", "split": "test", "difficulty": "nano", "sandbox": sandbox}
        return gym.make(sorted(axpo_env.IDS)[0], **options).unwrapped

    check_snapshots(make, num_episodes=1)
    check_forks(make)


def test_an_environment_tells_its_user_when_an_interpreter_was_lost(
    sandbox: E2BSandbox, server: Server
) -> None:
    from axpo_env.messages import format_action, format_call

    def step(code: str) -> tuple[Any, dict[str, Any]]:
        observation, *_, info = env.step(format_action("", format_call("python", {"code": code})))
        return observation["text"], info

    env = gym.make(sorted(axpo_env.IDS)[0], difficulty="nano", sandbox=sandbox, max_turns=8).unwrapped
    try:
        env.reset(options={"index": 0})
        step("x = 41")
        server.vanish(machine_of(server, env._interpreter._session))
        text_, info = step("x + 1")
        gone = "the interpreter died between two cells (its machine is gone)"
        assert (text_, info["sandbox_warnings"]) == ("42", [gone])
        server.fail(EXECUTE, cut=True)
        server.fail(EXECUTE, before=server.restart_kernel)
        text_, info = step("x + 2")
        lost = "the interpreter was lost while the cell ran (its interpreter was another one)"
        assert (text_, info["sandbox_warnings"]) == ("43", [lost])
        text_, info = step("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
        assert (text_.startswith("Killed: "), info["sandbox_warnings"]) == (True, [])
    finally:
        env.close()


def test_no_variable_of_ours_reaches_a_machine(sandbox: E2BSandbox) -> None:
    with sandbox.session() as session:
        assert text(session, "import os; [name for name in os.environ if name.startswith('E2B_')]") == "[]"
    assert os.environ["E2B_API_KEY"] == KEY
