"""What a session was given and what came of it, so that any backend can bring it back by doing it again.

A journal holds cells, input files and seeds in order, and digests of each cell's output. Running them is left
to backends; `replay` drives any session and reports where it went another way. The bytes form is JSON.
"""

import base64
import binascii
import dataclasses
import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Protocol

from axpo_sandbox.backend import OutOfTime, patience, survived
from axpo_sandbox.base import MAX_SECONDS, TIMEOUT, Divergence, Execution, Limits

FORMAT = "axpo-sandbox-journal"
VERSION = 1
# A cell that finished in time once may be slower elsewhere.
REPLAY_SLACK_FACTOR = 3.0
REPLAY_SLACK_S = 5.0

_ADDRESS = re.compile(r"\b0x[0-9a-f]{6,16}\b")
_FIELDS = ("stdout", "stderr", "text", "images", "error")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Code that ran, with the digests of what came back."""

    code: str
    timeout_s: float
    digests: Mapping[str, str]
    """output field -> hexadecimal SHA-256, cut to 32 digits"""


@dataclass(frozen=True, kw_only=True)
class Files:
    """Input files written into the working folder."""

    files: Mapping[str, bytes]


@dataclass(frozen=True, kw_only=True)
class Seed:
    """The random states set anew."""

    seed: int


Entry = Cell | Files | Seed


@dataclass(frozen=True, kw_only=True)
class Journal:
    """Everything needed to do a session again. A cell that left nothing, as it timed out, is not in it."""

    seed: int
    limits: Limits
    entries: tuple[Entry, ...] = ()
    origin: Mapping[str, str] = field(default_factory=dict)
    """where it was made, for whoever reads it: backend, python"""

    @property
    def last_timeout_s(self) -> float:
        """What the latest cell was given, or a cell is by default."""
        cells = (entry.timeout_s for entry in reversed(self.entries) if isinstance(entry, Cell))
        return next(cells, self.limits.timeout_s)

    def add(self, entry: Entry) -> "Journal":
        """A journal with one more entry."""
        return dataclasses.replace(self, entries=(*self.entries, entry))


class Replayable(Protocol):
    """What a replay needs of a session."""

    def run(self, code: str, *, timeout_s: float | None = None) -> Execution: ...

    def write_files(self, files: Mapping[str, bytes]) -> None: ...

    def reseed(self, seed: int) -> None: ...


def digests(execution: Execution) -> dict[str, str]:
    """Field -> digest. Memory addresses in text count as equal; durations and tracebacks do not count."""
    error = "" if execution.error is None else f"{execution.error.name}: {execution.error.value}"
    parts: dict[str, list[bytes]] = {
        "stdout": [_plain(execution.stdout)],
        "stderr": [_plain(execution.stderr)],
        "text": [_plain("" if execution.text is None else "=" + execution.text)],
        "images": [hashlib.sha256(image).digest() for image in execution.images],
        "error": [_plain(error)],
    }
    return {name: hashlib.sha256(b"".join(parts[name])).hexdigest()[:32] for name in _FIELDS}


def replay(session: Replayable, entries: tuple[Entry, ...]) -> tuple[Divergence, ...]:
    """Do `entries` again in a session and return where its outputs differ.

    A cell that times out this time is reported and the rest still runs. Raises OutOfTime at the deadline.
    """
    found = []
    cell_index = 0
    for entry in entries:
        if isinstance(entry, Files):
            session.write_files(entry.files)
        elif isinstance(entry, Seed):
            session.reseed(entry.seed)
        else:
            timeout_s = entry.timeout_s * REPLAY_SLACK_FACTOR + REPLAY_SLACK_S
            if patience() <= 0:
                raise OutOfTime(f"there was no time to repeat cell {cell_index}")
            execution = session.run(entry.code, timeout_s=patience(timeout_s))
            if patience() <= 0 and not survived(execution.error):
                raise OutOfTime(f"there was no time to repeat cell {cell_index} to its end")
            now = digests(execution)
            fields = tuple(name for name in _FIELDS if now[name] != entry.digests.get(name))
            if fields or (execution.error is not None and execution.error.name == TIMEOUT):
                found.append(Divergence(cell=cell_index, fields=fields))
            cell_index += 1
    return tuple(found)


def branch_seeds(num_branches: int, seed: int | Sequence[int] | None) -> list[int | None]:
    """One seed per branch; None for a branch that is to be identical. Raises ValueError."""
    if num_branches < 1:
        raise ValueError(f"num_branches must be at least 1, not {num_branches}")
    if seed is None:
        return [None] * num_branches
    if isinstance(seed, int):
        # Hashed, so that neighbouring seeds and branches have nothing in common.
        texts = [f"{seed}:{branch}".encode() for branch in range(num_branches)]
        return [int.from_bytes(hashlib.sha256(text).digest()[:4], "big") for text in texts]
    if len(seed) != num_branches:
        raise ValueError(f"{len(seed)} seeds for {num_branches} branches")
    return [int(item) for item in seed]


def check_names(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """A copy of `files`. Raises ValueError for a name that is not a plain path inside the working folder."""
    checked = {}
    for name, content in files.items():
        path = PurePosixPath(name)
        if not path.parts or path.is_absolute() or ".." in path.parts or str(path) != name or "\0" in name:
            raise ValueError(f"file name {name!r} is not a plain relative path inside the working folder")
        if not isinstance(content, (bytes, bytearray, memoryview)):
            raise ValueError(f"the content of {name!r} must be bytes, not {type(content).__name__}")
        checked[name] = bytes(content)
    return checked


def to_bytes(journal: Journal) -> bytes:
    """The journal as JSON in UTF-8."""
    data = {
        "format": FORMAT,
        "version": VERSION,
        "origin": {"python": ".".join(map(str, sys.version_info[:3])), **journal.origin},
        "seed": journal.seed,
        "limits": dataclasses.asdict(journal.limits),
        "entries": [_entry_to_json(entry) for entry in journal.entries],
    }
    return json.dumps(data, ensure_ascii=True, indent=1).encode()


def from_bytes(data: bytes) -> Journal:
    """The journal that `to_bytes` wrote. Raises ValueError for anything else, saying what is wrong."""
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:  # JSON that is none, or not UTF-8, or nested without end
        raise ValueError(f"not a sandbox journal: {error}") from error
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise ValueError(f"not a sandbox journal: no format {FORMAT!r}")
    if raw.get("version") != VERSION:
        raise ValueError(f"journal version {raw.get('version')!r} is not {VERSION}, the one known here")
    try:
        return Journal(
            seed=int(raw["seed"]),
            limits=Limits.of(raw["limits"]),
            entries=tuple(_entry_from_json(entry) for entry in raw["entries"]),
            origin={str(key): str(value) for key, value in raw["origin"].items()},
        )
    except (KeyError, TypeError, AttributeError, OverflowError, binascii.Error) as error:
        raise ValueError(f"broken sandbox journal: {type(error).__name__}: {error}") from error


def _entry_to_json(entry: Entry) -> dict[str, Any]:
    if isinstance(entry, Cell):
        return {
            "kind": "cell",
            "code": entry.code,
            "timeout_s": entry.timeout_s,
            "digests": dict(entry.digests),
        }
    if isinstance(entry, Files):
        encoded = {name: base64.b64encode(content).decode() for name, content in entry.files.items()}
        return {"kind": "files", "base64": encoded}
    return {"kind": "seed", "seed": entry.seed}


def _entry_from_json(raw: Mapping[str, Any]) -> Entry:
    kind = raw["kind"]
    if kind == "cell":
        found = {str(name): str(digest) for name, digest in raw["digests"].items()}
        timeout_s = float(raw["timeout_s"])
        if not 0 < timeout_s <= MAX_SECONDS:
            raise ValueError(
                f"a cell's timeout_s must be positive and at most {MAX_SECONDS:g}, not {timeout_s}"
            )
        return Cell(code=str(raw["code"]), timeout_s=timeout_s, digests=found)
    if kind == "files":
        decoded = {name: base64.b64decode(text, validate=True) for name, text in raw["base64"].items()}
        return Files(files=check_names(decoded))
    if kind == "seed":
        return Seed(seed=int(raw["seed"]))
    raise ValueError(f"unknown journal entry kind {kind!r}; known: cell, files, seed")


def _plain(text: str) -> bytes:
    return _ADDRESS.sub("0x", text).encode("utf-8", "surrogatepass")
