"""What is brought into a machine: this package's own source, and the code that starts `runner` from it.

The runner's modules are known there under no name but one, so that code that has an axpo_sandbox of its
own keeps it.
"""

import functools
import io
import json
import zipfile
from pathlib import Path
from typing import Any

MODULE = "_axpo_runner"

_BOOT = """
import os, sys
def ours():
    return [name for name in sys.modules if name == "axpo_sandbox" or name.startswith("axpo_sandbox.")]
def start(path):
    theirs = {{name: sys.modules.pop(name) for name in ours()}}
    sys.path.insert(0, path)
    try:
        from axpo_sandbox.e2b import runner
    finally:
        sys.path.remove(path)
        for name in ours():
            del sys.modules[name]
        sys.modules.update(theirs)
    os.unlink(path)
    sys.modules[{module!r}] = runner
if {module!r} not in sys.modules:
    start({path!r})
"""


@functools.cache
def packed() -> bytes:
    """The package `axpo_sandbox` as a zip file, from which Python can import."""
    root = Path(__file__).resolve().parents[1]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(root.rglob("*.py")):
            archive.write(path, path.relative_to(root.parent).as_posix())
    return file.getvalue()


def archive_of(files: dict[str, bytes]) -> bytes:
    """Input files as a zip file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def boot_code(path: str) -> str:
    """Code for the kernel that imports the runner from the zip file at `path` and deletes it. Twice is as once."""
    return f"exec({_BOOT.format(path=path, module=MODULE)!r}, {{}})"


def call_code(request: dict[str, Any]) -> str:
    """Code for the kernel that has the runner answer `request`."""
    return f"__import__('sys').modules[{MODULE!r}].run({json.dumps(request)!r})"
