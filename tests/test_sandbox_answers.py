"""What untrusted answers and journals may cost whoever reads them."""

import json
import socket

import pytest

from axpo_sandbox.answers import checked_answer
from axpo_sandbox.base import Limits
from axpo_sandbox.journal import Journal, from_bytes, to_bytes
from axpo_sandbox.local.wire import HEADER, MAX_REPLY_ESCAPES, MAX_REPLY_VALUES, Receiver, WireError


def received(body: bytes) -> dict[str, object] | None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        receiver = Receiver(ours)
        frame = HEADER.pack(len(body)) + body
        while frame:
            theirs.setblocking(False)
            try:
                frame = frame[theirs.send(frame) :]
            except BlockingIOError:
                assert receiver.poll() is None
        return receiver.poll()


def test_a_frame_of_many_values_is_refused_before_it_is_unpacked() -> None:
    most = b'{"a":[' + b"[]," * (MAX_REPLY_VALUES - 1) + b"1]}"
    assert len(received(most)["a"]) == MAX_REPLY_VALUES  # type: ignore[index,arg-type]
    for part in (b"[],", b"{},", b"1,", b'"",'):
        with pytest.raises(WireError, match=f"more than {MAX_REPLY_VALUES} values"):
            received(b'{"a":[' + part * (MAX_REPLY_VALUES + 2) + b"1]}")
    with pytest.raises(WireError):
        received(b'""' * (5 * MAX_REPLY_VALUES) + b"," * (MAX_REPLY_VALUES + 1))


def test_a_text_of_escapes_is_refused_before_it_is_read() -> None:
    with pytest.raises(WireError, match=f"more than {MAX_REPLY_ESCAPES} escapes"):
        received(b'{"a":"' + b"\\n" * (MAX_REPLY_ESCAPES + 1) + b'"}')


def test_commas_in_a_text_do_not_count() -> None:
    text = ',"\\' * MAX_REPLY_VALUES
    assert received(json.dumps({"text": text}).encode()) == {"text": text}


def test_every_text_of_an_answer_can_be_encoded() -> None:
    half = "\ud800"
    error = {"name": half, "value": f"a{half}", "traceback": half}
    frame = {"text": f"ü{half}", "error": error, "images": [], "warnings": [half]}
    answer = checked_answer(frame, Limits())
    assert (answer.text, answer.warnings) == ("ü?", ["?"])
    assert answer.error is not None
    assert (answer.error.name, answer.error.value, answer.error.traceback) == ("?", "a?", "?")


CELL = {"kind": "cell", "code": "1", "timeout_s": 1.0, "digests": {}}


@pytest.mark.parametrize(
    "change",
    [
        {"seed": float("inf")},
        {"seed": float("nan")},
        {"entries": [{**CELL, "timeout_s": float("inf")}]},
        {"entries": [{**CELL, "timeout_s": float("nan")}]},
        {"entries": [{**CELL, "timeout_s": -1.0}]},
        {"entries": [{**CELL, "timeout_s": 1e300}]},
    ],
)
def test_a_journal_with_numbers_nobody_can_wait_for_is_refused(change: dict[str, object]) -> None:
    good = json.loads(to_bytes(Journal(seed=1, limits=Limits())))
    assert from_bytes(json.dumps({**good, "entries": [CELL]}).encode()).entries
    with pytest.raises(ValueError):
        from_bytes(json.dumps({**good, **change}).encode())


def test_a_journal_nested_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="not a sandbox journal"):
        from_bytes(b"[" * 1_000_000)
