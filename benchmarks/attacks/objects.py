"""Attacks by objects, and by bytes that come back: is anything of them run, unpickled or trusted outside?

Every attack is watched by an audit hook on the trusted side: unpickling there, or a file of the attack's opened there,
counts as a success.
"""

import base64
import json
import pickle
import secrets
import sys
from collections.abc import Callable
from typing import Any

from axpo_sandbox import SandboxError
from benchmarks.attacks.answers import faults
from benchmarks.attacks.arena import Arena
from benchmarks.attacks.corpus import Outcome, add, held, succeeded

FAMILY = "objects"
_seen: list[str] = []
_watching = False


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and (
        event == "pickle.find_class" or (event in ("open", "os.system") and "axpo-touch" in repr(arguments))
    ):
        _seen.append(f"{event} {arguments!r}"[:200])


def _start_watch() -> None:
    global _watching
    if not _watching:
        sys.addaudithook(_watch)  # for as long as this process lives
        _watching = True
    _seen.clear()


class _Touch:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return open, (self.path, "w")


def touching_pickle(path: str) -> bytes:
    """A pickle that makes a file when it is loaded."""
    return pickle.dumps(_Touch(path))


def _answering(name: str, goal: str, code: str) -> None:
    def run(arena: Arena) -> Outcome:
        _start_watch()
        touched = arena.folder / "data" / f"axpo-touch-{secrets.token_hex(4)}"
        values = {"PATH": str(touched), "PICKLE": touching_pickle(str(touched))}
        with arena.session() as session:
            session.run("kept = 1")
            execution, _ = arena.run(session, _PRELUDE + code, values)
            found = faults(execution)
            after = session.run("kept, 40 + 2", timeout_s=30)
            if after.text != "(1, 42)":
                found.append(f"the next cell gave {after.text!r}, {after.error}")
        trusted = list(_seen)
        if trusted:
            return succeeded(f"on the trusted side: {trusted[0]}")
        error = (
            f"{execution.error.name}: {execution.error.value[:80]}" if execution.error else "a bounded answer"
        )
        return succeeded("; ".join(found)) if found else held(error)

    add(name, FAMILY, goal, run)


_PRELUDE = """
def hide(path):
    open(path, "w").close()
class Text(str):
    def __len__(self):
        return 10 ** 9
    def encode(self, *_):
        return b"x" * 10
    def __reduce__(self):
        return open, (PATH, "w")
"""
_answering(
    "repr_subclass",
    "answer with another kind of text",
    "class A:\n    def __repr__(self):\n        return Text('x')\nA()",
)
_answering(
    "repr_raises",
    "raise from __repr__",
    "class A:\n    def __repr__(self):\n        raise SystemExit(3)\nA()",
)
_answering(
    "repr_recurses",
    "recurse from __repr__",
    "class A:\n    def __repr__(self):\n        return repr(self)\nA()",
)
_answering(
    "class_that_lies",
    "answer with an object that lies about its class",
    "class A:\n    @property\n    def __class__(self):\n        return str\nA()",
)
_answering(
    "reduced_value",
    "answer with an object that says how it is unpickled",
    "class A:\n    def __reduce__(self):\n        return open, (PATH, 'w')\nA()",
)
_answering(
    "error_raises",
    "raise from an error's __str__",
    "class E(Exception):\n    def __str__(self):\n        raise KeyboardInterrupt\nraise E()",
)
_answering(
    "error_subclass",
    "answer with another kind of message",
    "class E(Exception):\n    def __str__(self):\n        return Text('x')\nraise E()",
)
_answering(
    "error_with_attributes",
    "raise an error whose attributes lie",
    "class E(SyntaxError):\n    text = Text('x')\n    lineno = 10 ** 30\n    offset = -5\n    filename = '<cell 1>'\n"
    "    end_lineno = 'x'\nraise E('x')",
)
_answering(
    "error_with_notes",
    "raise an error with other kinds of notes",
    "e = ValueError('x')\ne.__notes__ = [Text('x' * 100), 5, object()] * 1000\nraise e",
)
_answering(
    "error_cycle",
    "raise errors that cause each other",
    "a, b = ValueError('a'), ValueError('b')\na.__cause__, b.__cause__ = b, a\nraise a",
)
_answering(
    "metaclass_name",
    "raise an error whose class lies about its name",
    "class M(type):\n    @property\n    def __name__(cls):\n        return {'not': 'text'}\n"
    "class E(Exception, metaclass=M):\n    pass\nraise E()",
)
_answering(
    "error_called_timeout",
    "raise an error called Timeout",
    "class Timeout(Exception):\n    pass\nraise Timeout('x')",
)
_answering(
    "exit_in_finalizer",
    "exit when an object goes",
    "class A:\n    def __del__(self):\n        raise SystemExit(3)\nA()\nNone",
)
_answering(
    "replaced_streams",
    "put other objects in the place of its streams",
    "class S:\n    def __getattr__(self, name):\n        raise MemoryError\nsys.stdout = sys.stderr = S()\n1",
)
_answering(
    "excepthook",
    "replace the hooks for errors",
    "import threading\nsys.excepthook = threading.excepthook = lambda *_: hide(PATH)\n1 / 0",
)
_answering(
    "planted_pickles",
    "plant pickles where a trusted program might look",
    "for name in ('state.pkl', 'snapshot', 'journal', 'checkpoint.pt', '.cache', '__pycache__'):\n"
    "    open(name, 'wb').write(PICKLE)\n1",
)
_answering("pickle_as_text", "answer with the bytes of a pickle", "PICKLE")
_answering("pickle_as_output", "write a pickle to its output", "os.write(1, PICKLE)\nos.write(2, PICKLE)")


def _journal(name: str, goal: str, forge: Callable[[dict[str, Any], str], Any]) -> None:
    """Register an attack by the bytes of a snapshot. forge: makes them of a real journal and a path to touch."""

    def run(arena: Arena) -> Outcome:
        _start_watch()
        touched = arena.folder / "data" / f"axpo-touch-{secrets.token_hex(4)}"
        with arena.session(timeout_s=2.0) as session:
            session.run("x = 1")
            with session.snapshot() as snapshot:
                real = json.loads(snapshot.to_bytes())
        data = forge(real, str(touched))
        try:
            made = arena.sandbox.snapshot_from_bytes(
                data if isinstance(data, bytes) else json.dumps(data).encode()
            )
        except (ValueError, SandboxError) as error:
            outcome = held(f"{type(error).__name__}: {error}")
        else:
            with made:
                outcome = held("it was replayed")
        if _seen or touched.exists():
            return succeeded(f"on the trusted side: {_seen or touched}")
        return outcome

    add(name, FAMILY, goal, run)


def _entry(**fields: Any) -> Callable[[dict[str, Any], str], Any]:
    """A journal whose first cell has other fields."""
    return lambda real, path: {**real, "entries": [{**real["entries"][0], **fields}]}


def _file(path: str) -> dict[str, Any]:
    return {"kind": "files", "base64": {path: base64.b64encode(b"x").decode()}}


_journal("journal_pickle", "have a pickle unpickled as a snapshot", lambda real, path: touching_pickle(path))
_journal("journal_deep", "nest a snapshot deeply", lambda real, path: b"[" * 1_000_000)
_journal(
    "journal_deep_entries",
    "nest a snapshot's entries deeply",
    lambda real, path: (
        json.dumps({**real, "entries": []}).replace("[]", "[" * 100_000 + "]" * 100_000).encode()
    ),
)
_journal("journal_not_text", "give bytes that are no text", lambda real, path: b"\xff\xfe\x00")
_journal("journal_endless_seed", "give a seed without end", lambda real, path: {**real, "seed": float("inf")})
_journal(
    "journal_seed_nan", "give a seed that is no number", lambda real, path: {**real, "seed": float("nan")}
)
_journal(
    "journal_huge_seed", "give a seed of a million digits", lambda real, path: {**real, "seed": 1 << 12_000}
)
_journal("journal_list_for_code", "give a list for code", _entry(code=["x"]))
_journal("journal_surrogate_code", "give code that cannot be encoded", _entry(code="x = '\ud800'"))
_journal("journal_endless_time", "give a cell time without end", _entry(timeout_s=float("inf")))
_journal("journal_no_time", "give a cell a time that is no number", _entry(timeout_s=float("nan")))
_journal("journal_negative_time", "give a cell less than no time", _entry(timeout_s=-1e9))
_journal("journal_huge_time", "give a cell more time than a clock holds", _entry(timeout_s=1e300))
_journal(
    "journal_path_up",
    "write an input file beside the working folder",
    lambda real, path: {**real, "entries": [_file("../../../../../../../.." + path)]},
)
_journal(
    "journal_absolute_path",
    "write an input file anywhere",
    lambda real, path: {**real, "entries": [_file(path)]},
)
_journal(
    "journal_null_path",
    "give a file name with a null",
    lambda real, path: {**real, "entries": [_file("a\0b")]},
)
_journal(
    "journal_surrogate_path",
    "give a file name that cannot be encoded",
    lambda real, path: {**real, "entries": [_file("a\ud800")]},
)
_journal(
    "journal_unknown_limits",
    "give limits that are not known",
    lambda real, path: {**real, "limits": {**real["limits"], "__class__": 1}},
)
_journal(
    "journal_wrong_limits",
    "give limits of other types",
    lambda real, path: {**real, "limits": [["timeout_s", 1]]},
)
_journal(
    "journal_endless_limits",
    "give limits without end",
    lambda real, path: {
        **real,
        "limits": {**real["limits"], "timeout_s": float("inf"), "memory_bytes": 1 << 70},
    },
)
_journal(
    "journal_unknown_kind",
    "give an entry of another kind",
    lambda real, path: {**real, "entries": [{"kind": "__reduce__", "code": path}]},
)
_journal("journal_wrong_entries", "give a number for entries", lambda real, path: {**real, "entries": 5})
_journal("journal_wrong_digests", "give numbers for digests", _entry(digests=5))
