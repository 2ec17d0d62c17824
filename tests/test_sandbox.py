"""Every backend through the contract; names, limits, journals and the scripted sandbox."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import e2b_server
import pytest

import axpo_sandbox.contract as contract
from axpo_sandbox import (
    BACKENDS,
    Execution,
    Limits,
    Sandbox,
    SessionClosed,
    SnapshotReleased,
    check_options,
    journal,
    make_sandbox,
)
from axpo_sandbox.base import Divergence, ExecutionError, Session, Snapshot
from axpo_sandbox.contract import CHECKS, Check
from axpo_sandbox.journal import Cell, Files, Journal, Seed
from axpo_sandbox.scripted import Moment, ScriptedSandbox

# Docker's needs an engine, which this machine may not have.
PARAMS = [pytest.param(name, marks=pytest.mark.docker if name == "docker" else ()) for name in BACKENDS]


@pytest.fixture(scope="module", params=PARAMS)
def backend(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with contextlib.ExitStack() as stack:
        if request.param == "e2b":
            stack.enter_context(e2b_server.serving())
        options = e2b_server.options() if request.param == "e2b" else {}
        yield stack.enter_context(make_sandbox(request.param, **options))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_backend_keeps_the_contract(backend: Sandbox, check: Check) -> None:
    check.run(backend)


def test_backends_follow_the_protocols(backend: Sandbox) -> None:
    assert isinstance(backend, Sandbox)
    with backend.session() as session, session.snapshot() as snapshot:
        assert isinstance(session, Session)
        assert isinstance(snapshot, Snapshot)


def test_the_contract_notices_what_is_broken() -> None:
    with ScriptedSandbox(lambda code, moment: "wrong") as sandbox:
        results = contract.run_checks(sandbox)
    held = [check.name for check, trouble, _ in results if not trouble]
    assert held == ["closing", "isolation"]
    troubles = {check.name: trouble for check, trouble, _ in results}
    assert troubles["state"] == "AssertionError: found 'wrong', expected '42'"


def test_contract_command_refuses_unknown_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert contract.main(["locale"]) == 2
    assert (
        capsys.readouterr().err
        == f"unknown sandbox 'locale'; known: {', '.join(sorted(BACKENDS))}; nearest: local\n"
    )


def test_contract_command_fails_if_a_promise_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[object] = []

    def broken(sandbox: Sandbox) -> None:
        contract.expect(1, 2)

    monkeypatch.setattr(
        contract, "make_sandbox", lambda name, **options: made.append(options) or ScriptedSandbox({})
    )
    monkeypatch.setattr(contract, "CHECKS", [Check(name="one", promise="One.", run=lambda sandbox: None)])
    assert contract.main(["local", "--option", "a=1", "--option", "b=c"]) == 0
    assert made == [{"a": 1, "b": "c"}]
    contract.CHECKS.append(Check(name="two", promise="Two.", run=broken))
    assert contract.main(["local"]) == 1
    printed = capsys.readouterr().out
    assert "found 1, expected 2" in printed
    assert printed.endswith("1 of 2 promises held\n")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: make_sandbox("locl"),
            f"unknown sandbox 'locl'; known: {', '.join(sorted(BACKENDS))}; nearest: local",
        ),
        (lambda: make_sandbox("local", preloads=()), "nearest: preload"),
        (lambda: make_sandbox("local", isolation="landlok"), "nearest: landlock"),
        (lambda: make_sandbox("local", fallback="snap"), "nearest: snapshot"),
        (lambda: make_sandbox("local", limits={"timeout": 1}), "nearest: timeout_s"),
        (lambda: Limits(num_images=0), "limit num_images must be a positive whole number, not 0"),
        (
            lambda: Limits(timeout_s=float("inf")),
            "limit timeout_s must be a positive number of at most 1e+06, not inf",
        ),
        (
            lambda: make_sandbox("local", limits=5),
            "limits must be Limits or a mapping of single ones, not 5",
        ),
    ],
)
def test_wrong_options_are_refused_by_name(call: object, message: str) -> None:
    with pytest.raises(ValueError) as raised:
        call()  # type: ignore[operator]
    assert message in str(raised.value)


NUMBERS = {
    "local": ("total_memory_bytes", "total_processes", "start_timeout_s"),
    "docker": ("total_memory_bytes", "total_processes", "start_timeout_s", "num_cpus"),
    "e2b": ("lifetime_s", "max_retry_s", "grace_s", "start_timeout_s"),
}


@pytest.mark.parametrize(("name", "option"), [(name, option) for name in NUMBERS for option in NUMBERS[name]])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "1", True])
def test_numbers_of_every_backend_are_positive_and_finite(name: str, option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{option} must be a positive .*number.*, not ") as raised:
        make_sandbox(name, **{option: value})
    assert str(raised.value).endswith(f", not {value!r}")


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("start_timeout_s", 1e7, "start_timeout_s must be at most 1e+06 s, not 10000000.0"),
        ("quiet", "yes", "quiet must be true or false, not 'yes'"),
        ("preload", "numpy", "preload must be a sequence of names, not 'numpy'"),
        ("preload", [1], "preload must be a sequence of names, not (1,)"),
        ("fallback", 1, "fallback must be a text that is not empty, not 1"),
    ],
)
def test_options_of_every_backend_have_the_type_they_say(
    name: str, option: str, value: Any, message: str
) -> None:
    with pytest.raises(ValueError) as raised:
        make_sandbox(name, **{option: value})
    assert str(raised.value) == message


@pytest.mark.parametrize("name", BACKENDS)
def test_a_config_can_be_told_from_another(name: str) -> None:
    default = check_options(name, {})
    same = check_options(
        name, {"limits": {"timeout_s": default.limits.timeout_s}, "preload": list(default.preload)}
    )
    assert (default, hash(default)) == (same, hash(same))
    assert check_options(name, {"quiet": True}) != default


def test_limits_change_single_fields() -> None:
    default = Limits(timeout_s=3.0, num_images=2)
    assert Limits.of({"num_images": 5}, default) == Limits(timeout_s=3.0, num_images=5)
    assert Limits.of(None, default) == default
    assert Limits.of(None) == Limits()


JOURNAL = Journal(
    seed=7,
    limits=Limits(timeout_s=2.5),
    entries=(
        Files(files={"a/b": b"\x00\xff"}),
        Cell(code="x", timeout_s=1.5, digests={"text": "ab"}),
        Seed(seed=3),
    ),
    origin={"backend": "test", "python": "3"},
)


def test_journal_bytes_round_trip_as_plain_json() -> None:
    data = journal.to_bytes(JOURNAL)
    assert journal.from_bytes(data) == JOURNAL
    raw = json.loads(data)
    assert (raw["format"], raw["version"], raw["seed"]) == ("axpo-sandbox-journal", 1, 7)
    assert raw["entries"][0] == {"kind": "files", "base64": {"a/b": "AP8="}}
    assert raw["entries"][2] == {"kind": "seed", "seed": 3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "x"}, "no format"),
        ({"version": 2}, "version 2"),
        ({"entries": [{"kind": "file"}]}, "unknown journal entry kind 'file'"),
        ({"entries": [{"kind": "files", "base64": {"../a": "AA=="}}]}, "'../a' is not a plain relative path"),
        ({"entries": [{"kind": "files", "base64": {"a": "?"}}]}, "broken sandbox journal"),
        ({"entries": [{"kind": "cell"}]}, "broken sandbox journal: KeyError"),
        ({"limits": {"memory": 1}}, "unknown limit 'memory'"),
    ],
)
def test_broken_journals_say_what_is_wrong(change: dict[str, object], message: str) -> None:
    raw = {**json.loads(journal.to_bytes(JOURNAL)), **change}
    with pytest.raises(ValueError) as raised:
        journal.from_bytes(json.dumps(raw).encode())
    assert message in str(raised.value)


def test_bytes_that_are_not_json_are_not_a_journal() -> None:
    with pytest.raises(ValueError, match="not a sandbox journal"):
        journal.from_bytes(b"\x80\x04pickle")


def test_digests_overlook_addresses_and_durations_and_nothing_else() -> None:
    def digests(**fields: object) -> dict[str, str]:
        return journal.digests(Execution(**fields))  # type: ignore[arg-type]

    def error(value: str, traceback: str = "") -> ExecutionError:
        return ExecutionError(name="E", value=value, traceback=traceback)

    plain = digests(text="<A at 0x7f00deadbeef>", duration_s=1.0)
    assert digests(text="<A at 0x7f00deadbee0>", duration_s=2.0) == plain
    assert digests(text="<A at 17>") != plain
    assert digests(text="") != digests(text=None)
    assert digests(error=error("v", "line 1")) == digests(error=error("v", "line 2"))
    assert digests(error=error("v")) != digests(error=error("w"))
    changed = digests(stdout="a", images=(b"1",))
    assert [name for name in plain if changed[name] != digests()[name]] == ["stdout", "images"]


def test_branch_seeds_differ_and_repeat() -> None:
    drawn = journal.branch_seeds(3, 11)
    assert len(set(drawn)) == 3
    assert journal.branch_seeds(2, 11) == drawn[:2]
    assert set(journal.branch_seeds(3, 12)) & set(drawn) == set()
    assert journal.branch_seeds(2, None) == [None, None]
    assert journal.branch_seeds(2, [5, 6]) == [5, 6]


def count(code: str, moment: Moment) -> str:
    return f"{code}:{len(moment.cells)}:{sorted(moment.files)}:{moment.seed}"


def test_scripted_sessions_know_their_moment() -> None:
    with ScriptedSandbox(count) as sandbox:
        session = sandbox.session(files={"a": b"1"}, seed=4)
        assert session.run("x") == Execution(text="x:0:['a']:4")
        with session.snapshot() as snapshot:
            left, right = snapshot.fork(2)
            (other,) = snapshot.fork(seed=[9])
        session.write_files({"b": b"2"})
        left.run("y")
        texts = [one.run("z").text for one in (session, left, right, other)]
        assert texts == ["z:1:['a', 'b']:4", "z:2:['a']:4", "z:1:['a']:4", "z:1:['a']:9"]
        assert sandbox.runs == ["x", "y", "z", "z", "z", "z"]
        assert sandbox.num_open_sessions == 4
        left.close()
        assert sandbox.num_open_sessions == 3
        with pytest.raises(SessionClosed):
            left.run("x")
        with pytest.raises(SnapshotReleased):
            snapshot.fork()


def test_scripted_journals_replay_and_diverge() -> None:
    with ScriptedSandbox({"x": "1", "y": "2"}) as sandbox:
        session = sandbox.session()
        session.run("x")
        session.run("y")
        data = session.snapshot().to_bytes()
        assert sandbox.snapshot_from_bytes(data, strict=True).divergences == ()
    with ScriptedSandbox({"x": "1", "y": "3"}) as other:
        assert other.snapshot_from_bytes(data).divergences == (Divergence(cell=1, fields=("text",)),)


def test_scripted_outages_are_raised() -> None:
    def down(code: str, moment: Moment) -> str:
        raise ConnectionError("down")

    with ScriptedSandbox(down) as sandbox, sandbox.session() as session:
        with pytest.raises(ConnectionError):
            session.run("x")
