"""Attacks that write to the channel to the trusted side what the agent would not.

A forged answer is nothing but a wrong answer: what must not happen is that the trusted side fails, hangs, grows, or
takes an answer for that to another request.
"""

import time

from axpo_sandbox import SandboxError
from benchmarks.attacks.answers import faults
from benchmarks.attacks.arena import Arena
from benchmarks.attacks.corpus import Outcome, add, attack, held, skipped, succeeded

FAMILY = "protocol"
_TIMEOUT_S = 5.0
_SLACK_S = 20.0
_RECOVERY_S = 60.0  # an interpreter that says it is done and is not is waited for before it is given up

FORGE = """
import json, socket, stat, struct, time
def channels():
    for fd in range(3, 256):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                yield fd
        except OSError:
            pass
channel = next(channels(), -1)
def send(data):
    view = memoryview(data)
    while view:
        view = view[os.write(channel, view):]
def forge(body, length=None):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    send(struct.pack("!I", len(body) if length is None else length) + body)
def repeated(start, part, times, end):
    # Longer than what the cell may hold in memory.
    send(struct.pack("!I", len(start) + len(part) * times + len(end)) + start)
    many = max(1, (1 << 20) // len(part))
    for _ in range(times // many):
        send(part * many)
    send(part * (times % many) + end)
def request_id():
    frame = sys._getframe()
    while frame is not None:
        message = frame.f_locals.get("message")
        if isinstance(message, dict) and "id" in message:
            return message["id"]
        frame = frame.f_back
good = {"id": request_id(), "text": None, "error": None, "images": [], "warnings": []}
def filled(**changes):
    return json.dumps({**good, **changes}).encode()
if channel < 0 or good["id"] is None:
    print("not applicable: no channel is in sight")
"""


def _forging(name: str, goal: str, code: str, *, wait: bool = True) -> None:
    """Register an attack by frames. wait: the cell does not end, so that only the forged frame can answer."""

    def run(arena: Arena) -> Outcome:
        with arena.session() as session:
            session.run("kept = 1")
            start_s = time.monotonic()
            tail = "\nif channel >= 0:\n    time.sleep(100)" if wait else ""
            body = "if channel >= 0:\n" + "\n".join("    " + line for line in code.splitlines())
            execution, _ = arena.run(session, FORGE + body + tail, timeout_s=_TIMEOUT_S)
            took_s = time.monotonic() - start_s
            if "not applicable" in execution.stdout:
                return skipped("no channel is in sight")
            found = faults(execution)
            # What answers nobody may cost cells that follow; none may get another's answer, or take for ever.
            for value in (11, 22):
                start_s = time.monotonic()
                after = session.run(f"{value} + 0", timeout_s=_TIMEOUT_S)
                if after.error is None and after.text != str(value):
                    found.append(f"the cell after it answered {after.text!r} instead of {value}")
                if time.monotonic() - start_s > _TIMEOUT_S + _RECOVERY_S:
                    found.append(f"the cell after it took {time.monotonic() - start_s:.0f} s")
        if took_s > _TIMEOUT_S + _SLACK_S:
            found.append(f"it took {took_s:.0f} s")
        if found:
            return succeeded("; ".join(found))
        return held(
            f"{execution.error.name}: {execution.error.value}" if execution.error else "a bounded answer"
        )

    add(name, FAMILY, goal, run)


_forging("huge_length", "announce a frame of 4 GB", "forge(b'x', 0xFFFFFFFF)")
_forging("long_silence", "announce a frame and send nothing", "send(struct.pack('!I', 1 << 20))")
_forging(
    "slow_frame",
    "send a frame byte by byte",
    "send(struct.pack('!I', 1 << 20))\nwhile True:\n    send(b' ')\n    time.sleep(0.01)",
)
_forging("empty_frame", "send an empty frame", "forge(b'')")
_forging(
    "many_empty_texts",
    "send a frame of texts that are no list",
    "repeated(b'{\"id\":', b'\"\"', 45 << 20, b'}')",
)
_forging("many_escapes", "send a text of escapes", "repeated(b'{\"id\":\"', b'\\\\u0041,', 12 << 20, b'\"}')")
_forging("many_commas", "send a text of commas", "repeated(b'{\"id\":\"', b',', 90 << 20, b'\"}')")
_forging("deep_frame", "nest a frame deeply", "forge(b'[' * (40 << 20))")
_forging("deep_object", "nest objects deeply", "forge(b'{\"a\":' * (8 << 20))")
_forging("wrong_encoding", "send bytes that are no UTF-8", "forge(b'\\xff\\xfe\\x80' * 1000)")
_forging("not_an_object", "send a list", "forge([1, 2, 3])")
_forging(
    "pickled_frame",
    "send a pickle",
    "forge(b'\\x80\\x04\\x8c\\x05posix\\x8c\\x06system\\x93\\x8c\\x02id\\x85R.')",
)
_forging("not_a_number", "send NaN and infinities", 'forge(b\'{"id": NaN, "text": Infinity}\')')
_forging(
    "huge_whole_number",
    "send a number of millions of digits",
    "forge(b'{\"id\": ' + b'9' * (32 << 20) + b'}')",
)
_forging(
    "many_whole_numbers",
    "send many long numbers",
    "forge(b'{\"id\": [' + b','.join([b'9' * 4000] * 8000) + b']}')",
)
_forging(
    "duplicate_keys", "send one key many times", "forge(b'{' + b','.join([b'\"id\":1'] * 2_000_000) + b'}')"
)
_forging(
    "many_keys",
    "send millions of keys",
    "body = b','.join(b'\"%d\":0' % n for n in range(2_000_000))\nforge(b'{' + body + b'}')",
)
_forging(
    "many_empty_lists",
    "send a frame that unpacks to thirty times its size",
    "repeated(b'{\"id\":[', b'[],', 30 << 20, b'0]}')",
)
_forging(
    "many_empty_objects", "send a frame of empty objects", "repeated(b'{\"id\":[', b'{},', 30 << 20, b'0]}')"
)
_forging(
    "wide_text",
    "send text that takes four bytes a character",
    "forge(filled(text='x' * (20 << 20) + chr(0x1F600)))",
)
_forging("wrong_id", "answer another request", "forge({**good, 'id': 1})")
_forging("no_id", "answer no request", "forge({'text': 'x', 'error': None, 'images': [], 'warnings': []})")
_forging("true_for_id", "answer with a truth for a number", "forge({**good, 'id': True})")
_forging(
    "answer_for_the_next",
    "answer the next request, too",
    "forge(filled(text='forged'))\nforge(filled(text='forged'))\n"
    "forge({**good, 'id': good['id'] + 1, 'text': 'forged'})",
    wait=False,
)
_forging("answers_without_end", "answer without end", "while True:\n    forge(filled(text='forged'))")
_forging("answer_and_go_on", "answer and never end its cell", "forge(filled(text='forged'))")
_forging("half_a_frame", "send half a frame and exit", "send(struct.pack('!I', 1000) + b'{')\nos._exit(0)")
_forging("closed_channel", "close the channel", "os.close(channel)")
_forging(
    "shut_channel",
    "shut the channel down",
    "socket.socket(fileno=os.dup(channel)).shutdown(socket.SHUT_RDWR)",
)
_forging(
    "child_holds_channel",
    "exit while a child holds the channel",
    "if os.fork() == 0:\n    time.sleep(30)\n    os._exit(0)\nos._exit(0)",
)
_forging(
    "garbage_everywhere",
    "write garbage to every descriptor",
    "for fd in range(256):\n    try:\n        os.set_blocking(fd, False)\n        os.write(fd, b'\\xff' * 65536)\n"
    "    except OSError:\n        pass",
)
_forging(
    "wrong_types",
    "send fields of other types",
    "forge({**good, 'text': {'a': 1}, 'error': [1], 'images': {'a': 1}, 'warnings': 'x'})",
)
_forging(
    "error_of_numbers",
    "send an error of numbers",
    "forge({**good, 'error': {'name': 1, 'value': 2, 'traceback': 3}})",
)
_forging(
    "error_of_surrogates",
    "send an error that cannot be encoded",
    "bad = chr(0xD800)\nforge({**good, 'error': {'name': bad, 'value': bad, 'traceback': bad}})",
    wait=False,
)
_forging(
    "text_of_surrogates",
    "send text and warnings that cannot be encoded",
    "bad = chr(0xD800)\nforge({**good, 'text': bad, 'warnings': [bad]})",
    wait=False,
)
_forging(
    "fatal_error_name",
    "answer that it was killed, and live",
    "forge({**good, 'error': {'name': 'Killed', 'value': '', 'traceback': ''}})\nglobals()['kept'] = 2",
    wait=False,
)
_forging(
    "many_warnings",
    "send ninety thousand warnings",
    "forge(filled(warnings=['x' * 50] * 90_000))",
    wait=False,
)
_forging("many_images", "send many images", "forge(filled(images=['iVBORw0KGgo='] * 100_000))")
_forging("image_not_base64", "send images that are no base64", "forge(filled(images=['?' * 1000]))")
_forging(
    "send_descriptors",
    "send descriptors until the caller's table is full",
    "line = socket.socket(fileno=os.dup(channel))\nfor _ in range(100):\n"
    "    socket.send_fds(line, [struct.pack('!I', 0)[:1]], [0] * 200)",
)
_forging(
    "forged_credentials",
    "send as another process",
    "line = socket.socket(fileno=os.dup(channel))\nline.sendmsg([struct.pack('!I', 2) + b'{}'], "
    "[(socket.SOL_SOCKET, 2, struct.pack('3i', 1, 0, 0))])",
)


@attack(FAMILY, "have the caller take another process for a branch of it")
def forged_hello(arena: Arena) -> Outcome:
    code = """
import json, os, socket, struct
import axpo_sandbox.local.agent as agent
original = agent.Agent._become
def become(self, message, fds, *rest):
    answer = original(self, message, fds, *rest)
    body = json.dumps({"ok": True, "id": [], "threads": -5, "children": "x", "connections": 10 ** 400}).encode()
    for _ in range(50):
        self.channel.sendall(struct.pack("!I", len(body)) + body)
    return answer
agent.Agent._become = become
"""
    with arena.session() as session:
        if session.run(code).error is not None:
            return skipped("there is no agent to take over")
        start_s = time.monotonic()
        try:
            with session.snapshot() as snapshot:
                (branch,) = snapshot.fork()
                with branch:
                    answer = branch.run("1 + 1", timeout_s=20)
                    found = [f"it answered {answer.text!r}"] if answer.text not in ("2", None) else []
        except SandboxError as error:
            return held(f"{type(error).__name__}: {error}")
    if time.monotonic() - start_s > 60:
        found.append("it took more than a minute")
    return succeeded("; ".join(found)) if found else held(f"{answer.text} {answer.error}")
