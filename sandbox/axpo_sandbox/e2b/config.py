"""Options of the e2b backend. Which cloud it speaks to is the SDK's matter: E2B_API_KEY, E2B_DOMAIN, E2B_API_URL."""

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from axpo_sandbox.base import Limits
from axpo_sandbox.options import PRELOAD, check_options, config_of


@dataclass(frozen=True, kw_only=True)
class E2BConfig:
    """How `make_sandbox("e2b", ...)` runs."""

    template: str = "code-interpreter-v1"
    """what machines are made from; it must hold Python 3.11 or newer behind E2B's code interpreter"""
    api_key: str | None = field(default=None, repr=False)
    """None: that of the environment, E2B_API_KEY"""
    preload: tuple[str, ...] = PRELOAD
    """packages imported once, before sessions start; a missing one is an outage if images need it
    (numpy, matplotlib, PIL), else a warning"""
    folder: str = "/tmp/box"
    """where cells work in the machine"""
    allow_internet_access: bool = False
    """whether code may use the internet"""
    fallback: str = "replay"
    """what a cell that dies falls back to: "replay" of the cells since the latest snapshot, or a "snapshot" of
    the machine before each cell, which takes seconds each time"""
    prefer_fork: bool = True
    """whether branches of a session that has not moved since its snapshot are one request for all, which
    snapshots it once more, rather than one request for each"""
    limits: Limits = field(default_factory=Limits)
    """of each session, unless it is told otherwise"""
    lifetime_s: int = 600
    """seconds until a machine ends by itself if nobody renews it; live sessions are renewed, and end by
    E2B's own limit all the same, 1 or 24 hours after their start, by plan: then they go on in another machine"""
    creations_per_s: float = 5.0
    """requests a second that make machines, at most; fewer while the cloud says that there were too many. E2B allows 1
    or 5, by plan; a cluster of one's own may take more"""
    max_retry_s: float = 60.0
    """seconds in which a request may be repeated, as long as it may pass (too many requests, too many machines, a
    busy machine, an outage); one that is never answered takes up to twice as long"""
    grace_s: float = 2.0
    """seconds an answer may take beyond a cell's timeout_s, for the way there and back"""
    start_timeout_s: float = 120.0
    """seconds a machine may take to import the preloaded packages"""
    quiet: bool = False
    """whether to keep still about what the isolation leaves open, and packages that are missing"""

    def __post_init__(self) -> None:
        check_options(self)
        if not os.path.isabs(self.folder) or os.path.dirname(self.folder) == "/":
            raise ValueError(f"folder must be an absolute path below a folder, not {self.folder!r}")

    def new_archive(self) -> str:
        """A path in the machine for an archive on its way: beside the working folder, unlike any other."""
        return f"{os.path.dirname(self.folder)}/axpo-{secrets.token_hex(8)}.zip"

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "E2BConfig":
        """`options` as a config; `limits` may be a mapping. Raises ValueError on unknown keys."""
        return config_of(cls, "e2b", options)
