"""The docker backend's parts without an engine: frames, a relay that lies, whose containers are orphans."""

import base64
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axpo_sandbox import (
    Execution,
    FilesRefused,
    Isolation,
    Limits,
    SandboxClosed,
    SandboxUnavailable,
    contract,
    make_sandbox,
)
from axpo_sandbox.backend import Dead, HostDied, LostInCell, Stalled, Starved, patience, within
from axpo_sandbox.docker import image, profiles, reaper, remote
from axpo_sandbox.docker.bundle import bundle
from axpo_sandbox.docker.client import DockerSandbox
from axpo_sandbox.docker.config import DockerConfig
from axpo_sandbox.docker.engine import split_name
from axpo_sandbox.docker.frames import (
    HEADER,
    MAX_ANSWER_BYTES,
    STDERR,
    STDOUT,
    Decoder,
    StreamError,
    Unwrapper,
    encode,
)
from axpo_sandbox.docker.link import Link
from axpo_sandbox.docker.probe import checked_findings, probe
from axpo_sandbox.docker.relay import Held, Relay, to_wire
from axpo_sandbox.docker.remote import RemoteLive, checked_execution
from axpo_sandbox.local import seccomp
from axpo_sandbox.scripted import ScriptedSandbox
from tests.docker_fakes import IMAGE_ID, PYTHON, FakeEngine, wrapped

PIXEL = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\0\0\0\0:~\x9bU\0\0\0\nIDATx\x9cc`\0\0\0\2\0\1H\xaf\xa4q"
    b"\0\0\0\0IEND\xaeB`\x82"
)


def pieces(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    """`data` cut into pieces of these sizes, over and over."""
    position = index = 0
    while position < len(data):
        size = sizes[index % len(sizes)]
        yield data[position : position + size]
        position, index = position + size, index + 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(
    st.lists(st.dictionaries(st.text(), JSON), max_size=5),
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
)
@settings(max_examples=20, deadline=None)
def test_messages_arrive_however_they_are_cut(messages: list[dict[str, Any]], sizes: list[int]) -> None:
    decoder, unwrapper = Decoder(1 << 20), Unwrapper()
    sent = b"".join(encode(message, 1 << 20) for message in messages)
    stream = b"".join(wrapped(STDOUT, part) + wrapped(STDERR, b"word") for part in pieces(sent, sizes))
    received, words = [], b""
    for data in pieces(stream, sizes[::-1]):
        for kind, chunk in unwrapper.feed(data):
            if kind == STDOUT:
                received += list(decoder.feed(chunk))
            else:
                words += chunk
    assert received == messages
    assert words == b"word" * sum(1 for _ in pieces(sent, sizes))


def test_lone_surrogates_travel() -> None:
    (message,) = Decoder(100).feed(encode({"a": "\ud800ü"}, 100))
    assert message == {"a": "\ud800ü"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (HEADER.pack(101) + b"x", "a frame of 101 bytes; at most 100"),
        (HEADER.pack(2) + b"[]", "not a JSON object"),
        (HEADER.pack(2) + b"{x", "not JSON: JSONDecodeError"),
        (HEADER.pack(2) + b"\xff\xfe", "not JSON: UnicodeDecodeError"),
        (HEADER.pack(100) + b"[" * 100, "not JSON"),
    ],
)
def test_what_is_no_message_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(StreamError, match=message):
        list(Decoder(100).feed(data))


def test_nesting_without_end_is_refused() -> None:
    deep = b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    with pytest.raises(StreamError, match="RecursionError"):
        list(Decoder(1 << 20).feed(HEADER.pack(len(deep)) + deep))


@pytest.mark.parametrize(
    "header", [b"\3\0\0\0\0\0\0\1", b"\1\0\0\1\0\0\0\1", b"\1\0\0\0\xff\0\0\1", b"HTTP/1.1"]
)
def test_what_no_engine_sends_is_refused(header: bytes) -> None:
    with pytest.raises(StreamError, match="multiplexed"):
        list(Unwrapper().feed(header))


def test_too_long_a_message_is_not_sent() -> None:
    with pytest.raises(ValueError, match="a message of 103 bytes; at most 100"):
        encode({"a": "x" * 95}, 100)


class Liar:
    """The other end of a link: answers each request with whatever `reply` makes of it."""

    def __init__(self, reply: Callable[[dict[str, Any]], bytes]) -> None:
        ours, self._theirs = socket.socketpair()
        self.link = Link(ours)
        self.heard: list[dict[str, Any]] = []
        self._reply = reply
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        decoder = Decoder(1 << 20)
        while data := self._theirs.recv(1 << 16):
            for request in decoder.feed(data):
                self.heard.append(request)
                self._theirs.sendall(self._reply(request))

    def hang_up(self) -> None:
        self._theirs.shutdown(socket.SHUT_RDWR)


def saying(**answer: Any) -> Callable[[dict[str, Any]], bytes]:
    return lambda request: wrapped(STDOUT, encode({"id": request["id"], **answer}, MAX_ANSWER_BYTES))


def always(data: bytes) -> Callable[[dict[str, Any]], bytes]:
    return lambda request: data


GOOD = {"ok": True, "stdout": "a", "stderr": "", "text": "1", "images": [], "error": None, "warnings": []}


def test_an_answer_reaches_who_asked() -> None:
    liar = Liar(lambda request: saying(**GOOD, survived=True)(request))
    live = RemoteLive(liar.link, 7, Limits())
    execution = live.run("x", timeout_s=5)
    assert (execution.stdout, execution.text, execution.error) == ("a", "1", None)
    assert {key: value for key, value in liar.heard[0].items() if key != "id"} == {
        "op": "run",
        "live": 7,
        "code": "x",
        "timeout_s": 5,
    }
    liar.link.close()


def test_the_callers_deadline_goes_with_what_code_can_hold_up() -> None:
    liar = Liar(saying(**GOOD, survived=True))
    live = RemoteLive(liar.link, 7, Limits())
    point = remote.freeze(live, 8)
    with within(50):
        live.run("x", timeout_s=5)
        live.write_files({})
        live.reseed(1)
        live.check()
        remote.freeze(live, 9)
        remote.thaw(point, Limits(), [1, 2])
        remote.start(liar.link, 3, 0, Limits(), 10)
    heard = {request["op"]: request.get("within_s", 0) for request in liar.heard}
    assert [op for op, within_s in heard.items() if 40 < within_s <= 50] == [
        "freeze",
        "run",
        "files",
        "seed",
        "check",
        "thaw",
    ]
    assert heard["start"] == 0
    liar.link.close()


def test_a_relay_that_keeps_no_deadline_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_SLACK_S", 0.05)
    liar = Liar(always(b""))
    with within(0), pytest.raises(HostDied, match=r"did not answer within 0\.05 s"):
        RemoteLive(liar.link, 7, Limits()).run("x", timeout_s=600)


def test_answers_may_come_in_any_order() -> None:
    held: list[dict[str, Any]] = []

    def reply(request: dict[str, Any]) -> bytes:
        held.append(request)
        if len(held) < 2:
            return b""
        return b"".join(saying(ok=True, echo=item["n"])(item) for item in reversed(held))

    liar = Liar(reply)
    answers: dict[int, Any] = {}
    workers = [
        threading.Thread(target=lambda n=n: answers.update({n: liar.link.ask({"n": n}, 20)["echo"]}))
        for n in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert answers == {0: 0, 1: 1}
    liar.link.close()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (wrapped(STDOUT, encode({"id": 10**9, "ok": True}, 100)), "an answer nobody waits for"),
        (wrapped(STDOUT, encode({"ok": True}, 100)), "an answer nobody waits for"),
        (wrapped(STDOUT, encode({"id": [1], "ok": True}, 100)), "an answer nobody waits for"),
        (wrapped(STDOUT, HEADER.pack(MAX_ANSWER_BYTES + 1)), "a frame of 268435457 bytes"),
        (wrapped(STDOUT, HEADER.pack(1) + b"1"), "not a JSON object"),
        (b"\7" * 8, "something else than multiplexed output"),
    ],
)
def test_a_relay_that_breaks_the_protocol_is_dead(data: bytes, message: str) -> None:
    liar = Liar(always(data))
    with pytest.raises(Dead, match=message):
        liar.link.ask({"op": "x"}, 20)
    assert not liar.link.is_alive
    with pytest.raises(Dead, match=message):
        liar.link.ask({"op": "x"}, 20)


def test_a_relay_that_is_silent_is_dead() -> None:
    liar = Liar(always(b""))
    with pytest.raises(Dead, match=r"did not answer within 0\.05 s"):
        liar.link.ask({"op": "x"}, 0.05)
    assert not liar.link.is_alive


def test_a_relay_that_does_not_listen_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("axpo_sandbox.docker.link._SEND_TIMEOUT_S", 0.2)
    ours, theirs = socket.socketpair()
    with theirs, pytest.raises(Dead, match="the container does not listen"):
        Link(ours).ask({"op": "x", "much": "x" * (4 << 20)}, 20)


def test_a_relay_that_ends_says_its_last_words() -> None:
    liar = Liar(always(wrapped(STDERR, b"x" * 9000 + b" out of luck\n")))
    threading.Timer(0.2, liar.hang_up).start()
    with pytest.raises(Dead, match=r"the container ended; its last words: x+ out of luck$") as raised:
        liar.link.ask({"op": "x"}, 20)
    assert len(str(raised.value)) < 8300


def test_last_words_are_heard_by_who_cannot_send_any_more() -> None:
    ours, theirs = socket.socketpair()
    link = Link(ours)
    with theirs:
        theirs.shutdown(socket.SHUT_RD)  # it takes no more, and has not been read yet
        heard = threading.Timer(0.2, lambda: (theirs.sendall(wrapped(STDERR, b"too old")), theirs.close()))
        heard.start()
        with pytest.raises(Dead, match=r"^the container ended; its last words: too old$"):
            link.ask({"op": "x"}, 20)
        heard.join()
    link.close()


def test_a_broken_link_wakes_everyone_who_waits() -> None:
    liar = Liar(always(b""))
    deaths: list[str] = []

    def wait() -> None:
        try:
            liar.link.ask({}, 60)
        except Dead as death:
            deaths.append(str(death))

    workers = [threading.Thread(target=wait) for _ in range(3)]
    for worker in workers:
        worker.start()
    while len(liar.heard) < 3:
        time.sleep(0.01)
    liar.link.break_off("enough")
    for worker in workers:
        worker.join(20)
    assert deaths == ["enough"] * 3


def test_a_request_that_is_too_long_breaks_nothing() -> None:
    liar = Liar(saying(ok=True))
    live = RemoteLive(liar.link, 1, Limits())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("axpo_sandbox.docker.link.MAX_REQUEST_BYTES", 1000)
        with pytest.raises(FilesRefused, match="could not write a: a message of"):
            live.write_files({"a": b"x" * 2000})
    live.write_files({"a": b"x"})
    liar.link.close()


def test_what_is_closed_is_told_without_waiting() -> None:
    liar = Liar(always(b""))
    live = RemoteLive(liar.link, 3, Limits())
    live.kill()
    live.close()
    live.close()
    live.kill()
    remote.RemotePoint(liar.link, 4, ()).release()
    deadline = time.monotonic() + 20
    while len(liar.heard) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert liar.heard == [
        {"op": "kill", "live": 3},
        {"op": "close", "live": 3},
        {"op": "release", "point": 4},
    ]
    liar.link.close()


ERROR = {"name": "Timeout", "value": "v", "traceback": ""}


@pytest.mark.parametrize(
    ("change", "trouble"),
    [
        ({"stdout": 1}, "an output is not a string"),
        ({"stderr": "x" * 11}, "an output is not a string within the limit"),
        ({"text": "x" * 11}, "text is not a string within the limit"),
        ({"images": ["x", "y", "z"]}, "images is not a list within the limit"),
        ({"images": ["????"]}, "an image is not base64"),
        ({"images": [base64.b64encode(b"GIF89a" + b"\0" * 40).decode()]}, "an image is not a PNG"),
        (
            {"images": [base64.b64encode(PIXEL[:16] + struct.pack("!II", 9, 9) + PIXEL[24:]).decode()]},
            "9 x 9 px",
        ),
        ({"warnings": [1]}, "warnings is not a list of strings"),
        ({"error": "x"}, "error is not a name"),
        ({"survived": False}, "ended in an unknown way"),
        ({"survived": 1}, "ended in an unknown way"),
        ({"survived": False, "error": {**ERROR, "name": "Tired"}}, "ended in an unknown way"),
    ],
)
def test_a_malformed_result_is_a_protocol_error(change: dict[str, Any], trouble: str) -> None:
    limits = Limits(output_bytes=10, num_images=2, image_pixels=80)
    execution = checked_execution({**GOOD, "survived": True, **change}, limits, 0.0)
    assert execution.error is not None
    assert (execution.error.name, execution.error.traceback) == ("ProtocolError", "")
    assert trouble in execution.error.value


def test_a_result_comes_through_whole() -> None:
    given_error = {"name": "E", "value": "v", "traceback": "t"}
    answer = {**GOOD, "images": [base64.b64encode(PIXEL).decode()], "error": given_error, "warnings": ["w"]}
    execution = checked_execution({**answer, "survived": True}, Limits(), 0.0)
    wire = to_wire(execution)
    assert {key: wire[key] for key in answer if key != "ok"} == {
        key: answer[key] for key in answer if key != "ok"
    }
    assert wire["survived"] is True


def test_only_the_relay_can_tell_of_a_death() -> None:
    forged = checked_execution({**GOOD, "error": ERROR, "survived": True}, Limits(), 0.0)
    assert forged.error is not None
    assert forged.error.traceback == "Timeout: v\n"  # so the session does not take the process for dead
    true = checked_execution({**GOOD, "error": ERROR, "survived": False}, Limits(), 0.0)
    assert true.error is not None
    assert (true.error.name, true.error.traceback) == ("Timeout", "")
    assert to_wire(true)["survived"] is False


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ({"failed": "dead", "message": "m"}, Dead),
        ({"failed": "files", "message": "m"}, FilesRefused),
        ({"failed": "unavailable", "message": "m"}, SandboxUnavailable),
        ({"failed": "host", "message": "m"}, HostDied),
        ({"failed": "starved", "message": "m"}, Starved),
        ({"failed": "stalled", "message": "m"}, Stalled),
        ({"failed": "in cell", "message": "m"}, LostInCell),
        ({"failed": "gone", "message": "m"}, Dead),
        ({"failed": ["x"], "message": "m"}, Dead),
        ({"ok": 1, "message": "m" * 5000}, Dead),
        ({}, Dead),
    ],
)
def test_what_the_relay_cannot_do_is_an_error(answer: dict[str, Any], kind: type[Exception]) -> None:
    liar = Liar(saying(**answer))
    with pytest.raises(kind) as raised:
        remote.ask(liar.link, {"op": "x"}, 20)
    assert type(raised.value) is kind
    assert len(str(raised.value)) <= 1000
    liar.link.close()


class Refusing:
    """A local sandbox whose every operation fails so."""

    isolation = Isolation(tier="namespaces")

    def __init__(self, error: Exception) -> None:
        self._error = error

    def start(self, seed: int, limits: Limits) -> None:
        raise self._error


START = {"op": "start", "live": 1, "seed": 1, "limits": {}, "num_processes": 9}


@pytest.mark.parametrize(
    ("error", "failed"),
    [
        (HostDied("m"), "host"),
        (Starved("m"), "starved"),
        (Stalled("m"), "stalled"),
        (LostInCell("m"), "in cell"),
        (Dead("m"), "dead"),
        (FilesRefused("m"), "files"),
        (SandboxUnavailable("m"), "unavailable"),
        (SandboxClosed("m"), "unavailable"),
    ],
)
def test_whose_fault_it_was_is_told_apart(error: Exception, failed: str) -> None:
    relay = Relay()
    relay._lives[1] = Held(Checked(error), threading.Lock())  # type: ignore[arg-type]
    assert relay.answer({"op": "check", "live": 1}) == {"failed": failed, "message": "m"}


class Checked:
    """A live process that says how long it would wait."""

    def __init__(self, error: Exception | None = None) -> None:
        self.patience_s = 0.0
        self._error = error

    def check(self) -> None:
        self.patience_s = patience(30)
        if self._error is not None:
            raise self._error


def test_the_relay_keeps_the_deadline_it_is_given() -> None:
    relay, live = Relay(), Checked()
    relay._lives[1] = Held(live, threading.Lock())  # type: ignore[arg-type]
    assert relay.answer({"op": "check", "live": 1, "within_s": 5.0}) == {"ok": True}
    assert 4 < live.patience_s <= 5
    assert relay.answer({"op": "check", "live": 1}) == {"ok": True}
    assert live.patience_s == 30


def test_a_process_that_another_request_holds_is_not_waited_for_beyond_the_deadline() -> None:
    relay, lock = Relay(), threading.Lock()
    relay._lives[1] = Held(Checked(), lock)  # type: ignore[arg-type]
    with lock:
        answer = relay.answer({"op": "check", "live": 1, "within_s": 0.01})
    assert answer == {"failed": "stalled", "message": "another request is still at it"}
    assert relay.answer({"op": "check", "live": 1, "within_s": 0.01}) == {"ok": True}


PROCESSES = (
    ". All sessions together use {} of 4096 processes and threads: raise total_processes, lower limits.num_processes, "
    "or let fewer sessions run"
)
MEMORY = (
    ". All sessions together use {} of 700 MiB of memory: raise total_memory_bytes, lower limits.memory_bytes, or let "
    "fewer sessions run"
)


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({"pids/pids.current": "4096", "pids/pids.max": "4096"}, PROCESSES.format(4096)),
        ({"pids.current": "4090", "pids.max": "4096"}, PROCESSES.format(4090)),
        ({"pids.current": "4000", "pids.max": "4096"}, ""),
        ({"pids.current": "4096", "pids.max": "max"}, ""),
        (
            {"memory/memory.usage_in_bytes": str(690 << 20), "memory/memory.limit_in_bytes": str(700 << 20)},
            MEMORY.format(690),
        ),
        ({"memory.current": str(100 << 20), "memory.max": str(700 << 20)}, ""),
        ({}, ""),
    ],
)
def test_a_container_that_is_full_says_which_option_raises_its_limit(
    files: dict[str, str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    monkeypatch.setattr("axpo_sandbox.docker.relay._GROUP", tmp_path)
    relay = Relay()
    error = SandboxUnavailable("it could not fork: [Errno 11] Resource temporarily unavailable")
    relay._sandbox = Refusing(error)  # type: ignore[assignment]
    assert relay.answer(START) == {"failed": "unavailable", "message": f"{error}{text}"}


@pytest.mark.parametrize(
    ("said", "kept"),
    [(["a", "b"], ("a", "b")), ("abc", ()), (["x" * 2000, 1, None], ("x" * 1000,)), (["a"] * 50, ("a",) * 8)],
)
def test_what_a_point_lacks_is_checked(said: Any, kept: tuple[str, ...]) -> None:
    liar = Liar(saying(ok=True, lacking=said))
    assert remote.freeze(RemoteLive(liar.link, 1, Limits()), 2).lacking == kept
    liar.link.close()


FOUND = {"tier": "landlock", "layers": {"files": True, "network": 1}, "python": "3.11", "memory_limit": True}


def test_findings_are_checked() -> None:
    found = checked_findings({**FOUND, "missing": {"numpy": "no" * 2000}, "process_limit": 5})
    assert found.layers["files"] is True
    assert not any(holds for name, holds in found.layers.items() if name != "files")
    assert (found.memory_limit, found.process_limit, len(found.missing["numpy"])) == (None, 5, 1000)
    for change in ({"tier": "best"}, {"tier": []}, {"layers": []}, {"python": 3}):
        with pytest.raises(ValueError, match="did not say"):
            checked_findings({**FOUND, **change})


def test_an_attack_that_is_not_reported_counts_as_won() -> None:
    report = json.dumps({"files": False, "network": False, "environment": True})
    with (
        ScriptedSandbox(lambda code, moment: Execution(stdout=report)) as scripted,
        scripted.session() as session,
    ):
        isolation = probe(session, checked_findings(FOUND), 100, 10, {"nested": "no luck"})
    assert isolation.layers["files"] is True
    assert isolation.layers["environment"] is False
    assert (isolation.layers["container_files"], isolation.layers["total_memory"]) == (True, False)
    assert isolation.open[-1] == "Profile nested was not taken: no luck."
    assert isolation.tier == "docker+landlock"


OWN = {"place": reaper.place(), "pid": str(os.getpid()), "started": reaper.start_time(os.getpid()) or ""}


def labels(**change: str) -> dict[str, str]:
    return {
        "axpo.sandbox": "session",
        **{f"axpo.sandbox.{key}": text for key, text in {**OWN, **change}.items()},
    }


def test_a_container_is_an_orphan_only_if_its_owner_certainly_ended() -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as process:
        process.wait()
    gone = str(process.pid)
    containers = {
        "ours": labels(),
        "gone": labels(pid=gone),
        "number taken by another": labels(started="1"),
        "elsewhere": labels(pid=gone, place="other 1 pid:[1]"),
        "no number": labels(pid="x"),
        "strange digits": labels(pid="²"),
        "image of a snapshot": {key: "" for key in labels()},
        "not one of ours": {key: text for key, text in labels(pid=gone).items() if key != "axpo.sandbox"},
    }
    assert reaper.orphans(containers.items()) == ["gone", "number taken by another"]
    assert reaper.owner_labels() == labels()


def test_where_processes_cannot_be_looked_up_nothing_is_an_orphan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper, "_BOOT_ID", Path("/nowhere/boot_id"))
    gone = labels(place=reaper.place(), started="1")
    assert gone["axpo.sandbox.place"].endswith(" unknown unknown")
    assert reaper.orphans([("gone", gone)]) == []


def test_a_zombie_has_ended() -> None:
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    deadline = time.monotonic() + 20
    while reaper.start_time(process.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert reaper.start_time(process.pid) is None
    process.wait()


def test_reap_removes_orphans_alone() -> None:
    engine = FakeEngine()
    engine.labels = {"ours": labels(), "orphan": labels(started="1"), "other": {}}
    assert reaper.reap(engine) == ["orphan"]  # type: ignore[arg-type]
    assert set(engine.labels) == {"ours", "other"}


def test_the_bundle_holds_every_module() -> None:
    data = bundle()
    (length,) = HEADER.unpack(data[: HEADER.size])
    names = zipfile.ZipFile(io.BytesIO(data[HEADER.size : HEADER.size + length])).namelist()
    assert len(data) == HEADER.size + length < 1 << 20
    assert {
        "axpo_sandbox/__init__.py",
        "axpo_sandbox/docker/relay.py",
        "axpo_sandbox/local/zygote.py",
    } <= set(names)


def test_the_nested_filter_refuses_what_the_default_one_does() -> None:
    rules = json.loads(profiles.nested_seccomp())
    assert rules["defaultAction"] == "SCMP_ACT_ALLOW"
    refused = set(rules["syscalls"][0]["names"])
    for_namespaces = {
        "setns",
        "pivot_root",
        "sethostname",
        "capset",
    }  # the relay's, which code does not get at
    for_code = {  # Docker allows them
        *("shmget", "msgget", "semget", "mq_open", "memfd_create", "memfd_secret"),
        *("io_setup", "inotify_init", "inotify_init1", "timer_create", "seccomp"),
        *(
            "pidfd_send_signal",
            "rt_sigqueueinfo",
            "rt_tgsigqueueinfo",
        ),  # the first is how the relay ends code
    }
    dumpable = [rule["args"] for rule in rules["syscalls"] if rule["names"] == ["prctl"]]
    assert [[(item["index"], item["value"], item["op"]) for item in args] for args in dumpable] == [
        [(0, 4, "SCMP_CMP_EQ"), (1, 0, "SCMP_CMP_NE")]
    ]
    assert set(seccomp.DENIED) - for_namespaces - for_code <= refused
    assert {"clone", "unshare", "mount", "umount2", *for_namespaces} & refused == set()


def test_containers_get_no_rights() -> None:
    options = profiles.host_options("nested", memory_bytes=1 << 30, num_processes=9, num_cpus=1.5)
    kept = ("network_mode", "read_only", "cap_drop", "pids_limit", "mem_limit", "memswap_limit", "nano_cpus")
    assert [options[key] for key in kept] == ["none", True, ["ALL"], 9, 1 << 30, 1 << 30, 1_500_000_000]
    default = profiles.host_options("default", memory_bytes=1, num_processes=1, num_cpus=None)
    assert default["security_opt"] == ["no-new-privileges"]
    assert profiles.open_paths("default") == {}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a", ("a", "latest")),
        ("a:1", ("a", "1")),
        ("host:5000/a", ("host:5000/a", "latest")),
        ("host:5000/a/b:1", ("host:5000/a/b", "1")),
    ],
)
def test_names_of_images_have_tags(name: str, parts: tuple[str, str]) -> None:
    assert split_name(name) == parts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"imag": "x"}, "nearest: image"),
        ({"profile": "nestd"}, "nearest: nested"),
        ({"fallback": "x"}, "known: replay, snapshot"),
        ({"limits": {"timeout": 1}}, "nearest: timeout_s"),
        ({"memory": 1 << 30}, "nearest: total_memory_bytes"),
        ({"num_cpus": 0}, "num_cpus must be a positive number or null, not 0"),
        (
            {"total_memory_bytes": 8e9},
            "total_memory_bytes must be a positive whole number or null, not 8000000000.0",
        ),
        ({"image": " "}, "image must be a text that is not empty, not ' '"),
    ],
)
def test_wrong_options_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as raised:
        make_sandbox("docker", **options)
    assert message in str(raised.value)


def test_without_an_engine_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(SandboxUnavailable, match=r"at unix:///nowhere/docker\.sock: .* set DOCKER_HOST"):
        make_sandbox("docker")
    for main in (reaper.main, lambda: image.main([]), lambda: contract.main(["docker"]) - 2):
        assert main() == 1
        assert "no Docker engine answers at unix:///nowhere/docker.sock" in capsys.readouterr().err


def test_without_the_package_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "docker", None)
    with pytest.raises(SandboxUnavailable, match=r"pip install 'axpo\[docker\]'"):
        make_sandbox("docker")


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="module")
def sandbox(engine: FakeEngine) -> Iterator[DockerSandbox]:
    config = DockerConfig(python=PYTHON, preload=(), profile="default", quiet=True)
    with DockerSandbox(config, engine) as made:  # type: ignore[arg-type]
        yield made


@pytest.mark.parametrize(
    "name", ["state", "streams", "files", "timeouts", "deaths", "snapshots", "threads", "journal"]
)
def test_a_relay_without_a_container_keeps_the_contract(sandbox: DockerSandbox, name: str) -> None:
    (check,) = [check for check in contract.CHECKS if check.name == name]
    check.run(sandbox)


def test_a_container_is_made_as_asked(sandbox: DockerSandbox, engine: FakeEngine) -> None:
    made = engine.options[sandbox.container_id]
    assert (made["image"], made["user"], made["network_disabled"]) == (IMAGE_ID, "65534:65534", True)
    assert made["labels"] == reaper.owner_labels()
    assert made["host"]["mem_limit"] == 3 << 30
    assert sandbox.origin()["image_id"] == IMAGE_ID


def test_sessions_outlive_their_container(sandbox: DockerSandbox, engine: FakeEngine) -> None:
    with sandbox.session(files={"a": b"1"}, seed=1) as session:
        session.run("import random\nx = random.random()")
        with session.snapshot() as snapshot:
            before, first = session.run("x").text, sandbox.container_id
            engine.remove(first)
            after = session.run("x, open('a').read()")
            assert after.text == f"({before}, '1')"
            assert any("the container ended" in warning for warning in after.warnings)
            assert sandbox.container_id != first
            (branch,) = snapshot.fork()
            with branch:
                assert branch.run("x").text == before


def test_an_interrupted_cell_costs_that_cell_alone(sandbox: DockerSandbox, engine: FakeEngine) -> None:
    with sandbox.session() as session:
        session.run("import time\nx = 1")
        container = sandbox.container_id
        before = signal.signal(
            signal.SIGINT, signal.default_int_handler
        )  # a shell's background jobs ignore it
        try:
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
            with pytest.raises(KeyboardInterrupt):
                session.run("x = 2\ntime.sleep(60)\nx = 3", timeout_s=100)
        finally:
            signal.signal(signal.SIGINT, before)
        assert session.run("x").text == "1"
        assert sandbox.container_id == container


def test_the_end_of_a_container_is_not_blamed_on_code(sandbox: DockerSandbox, engine: FakeEngine) -> None:
    with sandbox.session() as session:
        session.run("x = 1")
        session.run("x += 1")
        engine.remove(sandbox.container_id)
        error = session.run("import os; os._exit(3)").error
        assert error is not None
        assert error.name == "Exited"
        assert session.run("x").text == "2"


def test_a_journal_is_replayed_past_the_end_of_a_container(
    sandbox: DockerSandbox, engine: FakeEngine
) -> None:
    with sandbox.session() as session:
        session.run("import time\ntime.sleep(0.6)\nx = 1")
        data = session.snapshot().to_bytes()
    threading.Timer(0.3, engine.remove, (sandbox.container_id,)).start()
    with sandbox.snapshot_from_bytes(data, strict=True) as snapshot:
        (branch,) = snapshot.fork()
        with branch:
            assert branch.run("x").text == "1"


def test_containers_that_end_again_and_again_are_an_outage(
    sandbox: DockerSandbox, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sandbox.session() as session:
        session.run("x = 1")
        with monkeypatch.context() as patch:

            def ended(live: RemoteLive, code: str, **_: Any) -> Execution:
                engine.remove(sandbox.container_id)
                raise HostDied("the container ended")

            patch.setattr(RemoteLive, "run", ended)
            with pytest.raises(SandboxUnavailable, match="again and again"):
                session.run("x")
        assert session.run("x").text == "1"


def test_an_engine_that_is_gone_is_an_outage(sandbox: DockerSandbox, engine: FakeEngine) -> None:
    with sandbox.session() as session:
        session.run("x = 1")
        engine.unavailable = "no Docker engine answers"
        engine.remove(sandbox.container_id)
        with pytest.raises(SandboxUnavailable, match="no Docker engine answers"):
            session.run("x")
        engine.unavailable = ""
        assert session.run("x").text == "1"


def test_closing_ends_the_container() -> None:
    engine = FakeEngine()
    config = DockerConfig(python=PYTHON, preload=(), profile="default", quiet=True)
    sandbox = DockerSandbox(config, engine)  # type: ignore[arg-type]
    (process,) = engine.running.values()
    sandbox.close()
    sandbox.close()
    assert process.poll() is not None
    assert engine.labels == {}


def test_an_interpreter_that_is_none_says_its_last_words() -> None:
    engine = FakeEngine()
    config = DockerConfig(python="/bin/false", preload=(), profile="default")
    with pytest.raises(
        SandboxUnavailable, match="the container of image 'axpo-sandbox:latest' does not work"
    ):
        DockerSandbox(config, engine)  # type: ignore[arg-type]
    assert engine.labels == {}


def test_auto_takes_the_default_profile_where_nesting_gains_nothing() -> None:
    class Refusing(FakeEngine):
        def create(self, image: str, **options: Any) -> str:
            if options["more_host"]:
                raise SandboxUnavailable("this engine knows no masked paths")
            return super().create(image, **options)

    engine = Refusing()
    config = DockerConfig(python=PYTHON, preload=(), quiet=True)
    with DockerSandbox(config, engine) as sandbox:  # type: ignore[arg-type]
        (made,) = engine.options.values()
        assert made["host"]["security_opt"] == ["no-new-privileges"]
        reason = "Profile nested was not taken: this engine knows no masked paths."
        assert reason in sandbox.isolation.open


def test_the_dockerfile_installs_what_is_preloaded(repository: Any) -> None:
    lines = (repository / "sandbox/axpo_sandbox/docker/Dockerfile").read_text().splitlines()
    (install,) = [line for line in lines if "pip install" in line]
    assert install.endswith(" ".join(image.PACKAGES))
    assert {"PIL" if name == "pillow" else name for name in image.PACKAGES} == set(DockerConfig().preload)
