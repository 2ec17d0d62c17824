"""The control: an ordinary interpreter in the place of a sandbox, so that attacks can be seen to work at all.

It isolates nothing, limits nothing and knows no snapshots. Only for attacks that limit themselves.
"""

import contextlib
import json
import os
import secrets
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from axpo_sandbox.base import (
    EXITED,
    TIMEOUT,
    Closing,
    Execution,
    ExecutionError,
    Isolation,
    Limits,
    Session,
    Snapshot,
)

_LOOP = """
import ast, json, sys, traceback
namespace = {"__name__": "__main__"}
end = sys.argv[1]
for line in sys.stdin:
    answer = {"text": None, "error": None}
    try:
        tree = ast.parse(json.loads(line))
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "<cell>", "exec"), namespace)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), namespace)
            answer["text"] = None if value is None else repr(value)
    except BaseException as error:
        answer["error"] = [type(error).__name__, str(error), traceback.format_exc()]
    sys.stdout.flush()
    sys.stdout.write("\\n" + end + json.dumps(answer) + "\\n")
    sys.stdout.flush()
"""
_MAX_OUTPUT_BYTES = 64 << 20


class PlainSession(Closing):
    """An interpreter in a folder of its own."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="axpo-plain-", ignore_cleanup_errors=True)
        self.write_files(files)
        self._end = secrets.token_hex(12)
        # Descriptors that are inheritable go along, as they do for a child process that nobody thought about.
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LOOP, self._end],
            cwd=self._folder.name,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            close_fds=False,
        )

    def run(self, code: str, *, timeout_s: float | None = None) -> Execution:
        """See `axpo_sandbox.base.Session.run`; stderr comes in stdout."""
        assert self._process.stdin is not None and self._process.stdout is not None
        start_s = time.monotonic()
        try:
            self._process.stdin.write(json.dumps(code).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            return _failure(b"", EXITED)
        output = bytearray()
        reader = self._process.stdout.fileno()
        while time.monotonic() - start_s < (timeout_s or 20.0) and len(output) < _MAX_OUTPUT_BYTES:
            if not select.select([reader], [], [], 0.1)[0]:
                continue
            data = os.read(reader, 1 << 16)
            if not data:
                return _failure(bytes(output), EXITED)
            output += data
            _, found, after = bytes(output[-(1 << 20) :]).partition(b"\n" + self._end.encode())
            if found and after.endswith(b"\n"):
                whole = bytes(output)[: len(output) - len(found) - len(after)]
                return _answer(whole, json.loads(after))
        self._process.kill()
        return _failure(bytes(output), TIMEOUT)

    def write_files(self, files: Mapping[str, bytes]) -> None:
        """See `axpo_sandbox.base.Session.write_files`."""
        for name, content in files.items():
            path = Path(self._folder.name, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def snapshot(self, *, strict: bool = False) -> Snapshot:
        """An ordinary interpreter has none."""
        raise NotImplementedError("an ordinary interpreter has no snapshots")

    def close(self) -> None:
        """End it; what it started goes on."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._folder.cleanup()


class PlainSandbox(Closing):
    """Starts them."""

    isolation = Isolation(tier="plain")

    def session(
        self,
        *,
        files: Mapping[str, bytes] | None = None,
        seed: int | None = None,
        limits: Limits | Mapping[str, Any] | None = None,
    ) -> Session:
        """See `axpo_sandbox.base.Sandbox.session`; seed and limits count for nothing."""
        return PlainSession(files or {})

    def snapshot_from_bytes(self, data: bytes, *, strict: bool = False) -> Snapshot:
        """An ordinary interpreter has none."""
        raise NotImplementedError("an ordinary interpreter has no snapshots")

    def close(self) -> None:
        """Nothing is left to end."""


def _answer(output: bytes, raw: Mapping[str, Any]) -> Execution:
    error = None
    if raw["error"]:
        name, value, trace = raw["error"]
        error = ExecutionError(name=name, value=value, traceback=trace)
    return Execution(stdout=output.decode("utf-8", "replace"), text=raw["text"], error=error)


def _failure(output: bytes, name: str) -> Execution:
    error = ExecutionError(name=name, value="", traceback="")
    return Execution(stdout=output.decode("utf-8", "replace"), error=error)
