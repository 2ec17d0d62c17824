"""A snapshot: an episode's state, its interpreter and its random state, to branch from.

In memory it shares the frozen state and a frozen interpreter. As bytes it is a record to replay: which task,
which actions, and digests of the messages they led to, as JSON. `ToolEnv.snapshot_from_bytes` does the
replaying.
"""

import copy
import hashlib
import json
import threading
import weakref
from collections.abc import Mapping
from typing import Any

from axpo_env.messages import NotText
from axpo_env.names import shorten
from axpo_env.state import EpisodeState, Message, Text
from axpo_env.tools.interpreter import Branch, FrozenInterpreter

FORMAT = "axpo_env.snapshot"
VERSION = 1
_PARTS = {"settings": dict, "task": dict, "actions": list, "random_state": dict, "digest": str}  # of a record


class ReplayDiverged(RuntimeError):
    """Replaying a snapshot's actions did not lead to the messages it recorded."""


class Snapshot:
    """One moment of an episode, frozen. Restore it any number of times.

    Release it when done (or let it be collected).
    """

    def __init__(
        self,
        *,
        state: EpisodeState,
        random_state: Mapping[str, Any],
        interpreter: FrozenInterpreter | None,
        settings: Mapping[str, Any],
    ) -> None:
        self.state = state
        self.random_state = copy.deepcopy(dict(random_state))  # of `ToolEnv.np_random`'s bit generator
        self.settings = dict(settings)  # of the environment, JSON
        self._interpreter = interpreter
        self._lock = threading.Lock()
        self._finalizer = None if interpreter is None else weakref.finalize(self, interpreter.release)
        if self._finalizer is not None:
            self._finalizer.atexit = False  # at exit the sandbox goes as a whole

    @property
    def warnings(self) -> tuple[str, ...]:
        """What branches will lack of the interpreter: its threads, its connections; () if there is nothing."""
        return () if self._interpreter is None else self._interpreter.warnings

    def batch_of_interpreters(self, num_branches: int) -> list[Branch] | list[None]:
        """Shares as of `share_interpreter`, whose sessions the sandbox forks at once; Nones if no code had run."""
        with self._lock:
            if self._finalizer is not None and not self._finalizer.alive:
                raise RuntimeError("the snapshot was released")
            if self._interpreter is None:
                return [None] * num_branches
            return self._interpreter.batch(num_branches)

    def share_interpreter(self) -> FrozenInterpreter | None:
        """A share in the frozen interpreter for the caller to release; None if no code had run."""
        with self._lock:
            if self._finalizer is not None and not self._finalizer.alive:
                raise RuntimeError("the snapshot was released")
            return None if self._interpreter is None else self._interpreter.share()

    def release(self) -> None:
        """Give the frozen interpreter back; branches already made keep theirs. Idempotent."""
        with self._lock:
            if self._finalizer is not None:
                self._finalizer()

    def to_bytes(self) -> bytes:
        """A JSON record that another process or machine replays; holds no images and no pickle."""
        record = {
            "format": FORMAT,
            "version": VERSION,
            "settings": self.settings,
            "task": {"id": self.state.task.id, "index": self.state.task.index},
            "actions": [_pack(action) for action in self.state.actions],
            "random_state": self.random_state,
            "digest": digest(self.state),
        }
        return json.dumps(record).encode()


def read_record(data: bytes) -> dict[str, Any]:
    """The record inside `to_bytes`' output, its actions unpacked.

    Raises TypeError for what are no bytes, ValueError for others and for a record with a part missing or spoilt.
    """
    if not isinstance(data, bytes | bytearray | str):
        raise TypeError(f"snapshot_from_bytes takes what to_bytes() gave, not {shorten(data)}")
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"these bytes are no environment snapshot: {error}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError("these bytes are no environment snapshot")
    if record.get("version") != VERSION:
        raise ValueError(f"snapshot version {shorten(record.get('version'))}; this reads version {VERSION}")
    for name, kind in _PARTS.items():
        if not isinstance(record.get(name), kind):
            raise ValueError(
                f"{name} of the snapshot is {shorten(record.get(name))}, must be a {kind.__name__}"
            )
    task = record["task"]
    if not isinstance(task.get("id"), str) or type(task.get("index")) is not int:
        raise ValueError(f"task of the snapshot is {shorten(task)}, must have an 'id' and an 'index'")
    record["actions"] = [_unpack(action) for action in record["actions"]]
    return record


def digest(state: EpisodeState) -> str:
    """SHA-256 over the whole conversation, images included, and how it ended."""
    total = hashlib.sha256()
    for message in state.messages:
        _add_message(total, message)
    total.update(repr((state.stop_reason, state.grade)).encode("utf-8", "surrogatepass"))
    return total.hexdigest()


def _add_message(total: Any, message: Message) -> None:
    total.update(f"\0{message.role}\0{message.name}".encode())
    for part in message.content:
        if isinstance(part, Text):
            total.update(b"\0text\0" + part.text.encode("utf-8", "surrogatepass"))
        else:
            total.update(f"\0image {part.image.shape}\0".encode() + part.image.tobytes())


def _unpack(action: Any) -> str | NotText:
    if isinstance(action, str):
        return action
    if (
        not isinstance(action, dict)
        or action.keys() != {"type_name"}
        or not isinstance(action["type_name"], str)
    ):
        raise ValueError(f"actions of the snapshot hold {shorten(action)}")
    return NotText(type_name=action["type_name"])


def _pack(action: str | NotText) -> str | dict[str, str]:
    return action if isinstance(action, str) else {"type_name": action.type_name}
