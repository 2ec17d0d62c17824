"""Run one cell in a namespace and say what came of it. Runs inside the sandbox, on the untrusted side.

Output streams and processes are left to `agent`, time to the trusted side.
"""

import ast
import linecache
import sys
import traceback
import types
from typing import Any

from axpo_sandbox.local import figures

MAX_TRACEBACK_CHARS = 16_384
MAX_VALUE_CHARS = 4_096


def new_namespace() -> dict[str, Any]:
    """A fresh `__main__`, so that pickle and dataclasses find what cells define."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    return module.__dict__


def run_cell(code: str, namespace: dict[str, Any], number: int, limits: dict[str, Any]) -> dict[str, Any]:
    """Run `code` as cell `number`. Returns text, error, images (base64) and warnings, ready for JSON."""
    name = f"<cell {number}>"
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    gallery = figures.Gallery(
        num_images=int(limits["num_images"]),
        image_pixels=int(limits["image_pixels"]),
        total_bytes=32 << 20,
    )
    figures.begin(gallery)
    text, error, value = None, None, None
    try:
        value = _execute(code, name, namespace)
    except BaseException as raised:  # whatever code raises is its result, SystemExit too
        error = describe(raised, name)
        del raised
    try:
        drawn = figures.draw_open()
        if value is not None and not figures.add_last_value(gallery, value, drawn):
            text = repr(value)
    except BaseException as raised:
        error = error or describe(raised, name)
        del raised
    gallery.finish()
    text, warnings = _cut(text, int(limits["output_bytes"]))
    return {"text": text, "error": error, "images": gallery.encoded, "warnings": gallery.warnings + warnings}


def _execute(code: str, name: str, namespace: dict[str, Any]) -> Any:
    """Run the statements; the value of the last one if it is an expression."""
    tree = ast.parse(code, name)
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Expr):
        tree.body.pop()
    exec(compile(tree, name, "exec", dont_inherit=True), namespace)
    if not isinstance(last, ast.Expr):
        return None
    expression = ast.Expression(last.value)
    return eval(compile(expression, name, "eval", dont_inherit=True), namespace)


def describe(error: BaseException, cell_name: str) -> dict[str, str]:
    """name, value and traceback of an exception; the frames of cells alone, chained exceptions too."""
    kind = type(error).__name__
    try:
        value = str(error)
    except BaseException as second:
        value = f"(its message could not be made: {type(second).__name__})"
    try:
        # The constructor formats nothing and keeps no local values.
        trace = traceback.TracebackException.from_exception(error, limit=-200, compact=True)
        _keep_cell_frames(trace)
        lines = "".join(trace.format())
    except BaseException as second:
        lines = f"(the traceback could not be made: {type(second).__name__})"
    if len(lines) > MAX_TRACEBACK_CHARS:
        half = MAX_TRACEBACK_CHARS // 2
        lines = f"{lines[:half]}\n...\n{lines[-half:]}"
    return {"name": kind, "value": value[:MAX_VALUE_CHARS], "traceback": lines}


def _keep_cell_frames(trace: traceback.TracebackException | None) -> None:
    while trace is not None:
        own = [frame for frame in trace.stack if frame.filename.startswith("<cell ")]
        trace.stack = traceback.StackSummary.from_list(own)
        for part in getattr(trace, "exceptions", None) or ():
            _keep_cell_frames(part)
        if trace.__cause__ is not None:
            _keep_cell_frames(trace.__cause__)
        trace = trace.__context__


def _cut(text: str | None, max_bytes: int) -> tuple[str | None, list[str]]:
    if text is None:
        return None, []
    data = text.encode("utf-8", "replace")  # lone surrogates cannot travel
    if len(data) <= max_bytes:
        return data.decode(), []
    cut = data[:max_bytes].decode("utf-8", "ignore")
    return cut, [f"the value's text was cut at {max_bytes} bytes of {len(data)}"]
