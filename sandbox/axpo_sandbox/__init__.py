"""Run untrusted Python in sessions that can be frozen and branched.

    with make_sandbox("local") as sandbox:
        session = sandbox.session(files={"a.csv": b"1,2"})
        result = session.run("x = 41; x + 1", timeout_s=12)
        left, right = session.snapshot().fork(2)

Importing this loads the standard library alone and starts nothing. Tasks, tools and policies are left to
others.
"""

from collections.abc import Mapping
from typing import Any

from axpo_sandbox.base import (
    Divergence,
    Execution,
    ExecutionError,
    FilesRefused,
    Isolation,
    Limits,
    RateLimited,
    ReplayDiverged,
    Sandbox,
    SandboxClosed,
    SandboxError,
    SandboxUnavailable,
    Session,
    SessionClosed,
    SessionLost,
    Snapshot,
    SnapshotRefused,
    SnapshotReleased,
    UnisolatedRefused,
)
from axpo_sandbox.names import unknown_name

__all__ = [
    "BACKENDS",
    "Divergence",
    "Execution",
    "ExecutionError",
    "FilesRefused",
    "Isolation",
    "Limits",
    "RateLimited",
    "ReplayDiverged",
    "Sandbox",
    "SandboxClosed",
    "SandboxError",
    "SandboxUnavailable",
    "Session",
    "SessionClosed",
    "SessionLost",
    "Snapshot",
    "SnapshotRefused",
    "SnapshotReleased",
    "UnisolatedRefused",
    "check_options",
    "make_sandbox",
]

BACKENDS = ("local", "docker", "e2b")


def check_options(name: str, options: Mapping[str, Any]) -> Any:
    """The config that backend `name` makes of its options, a frozen dataclass; nothing is started.

    Raises ValueError for an unknown name or option, or a value that is not allowed.
    """
    if name == "local":
        from axpo_sandbox.local.config import LocalConfig

        return LocalConfig.of(options)
    if name == "docker":
        from axpo_sandbox.docker.config import DockerConfig

        return DockerConfig.of(options)
    if name == "e2b":
        from axpo_sandbox.e2b.config import E2BConfig

        return E2BConfig.of(options)
    raise ValueError(unknown_name("sandbox", name, BACKENDS))


def make_sandbox(name: str, **options: Any) -> Sandbox:
    """Start the backend called `name`.

    options: that backend's own, the fields of its config, such as `axpo_sandbox.local.config.LocalConfig`. Raises
    ValueError for an unknown name or option, SandboxUnavailable if it cannot start, UnisolatedRefused if it
    would not hold.
    """
    config = check_options(name, options)
    if name == "local":
        from axpo_sandbox.local.client import LocalSandbox

        return LocalSandbox(config)
    if name == "docker":
        from axpo_sandbox.docker.client import DockerSandbox

        return DockerSandbox(config)
    from axpo_sandbox.e2b.client import E2BSandbox

    return E2BSandbox(config)
