"""Options of the local backend. What they mean for a running sandbox is left to `client` and `zygote`."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from axpo_sandbox.base import Limits
from axpo_sandbox.names import unknown_name
from axpo_sandbox.options import PRELOAD, check_options, config_of

ISOLATIONS = ("auto", "namespaces", "landlock", "none")


def _three_quarters_of_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4


@dataclass(frozen=True, kw_only=True)
class LocalConfig:
    """How `make_sandbox("local", ...)` runs."""

    python: str = sys.executable
    """the interpreter that runs the code, and whose packages code can import"""
    preload: tuple[str, ...] = PRELOAD
    """packages imported once, before sessions are forked; a missing one is an outage if images need
    it (numpy, matplotlib, PIL), else a warning"""
    isolation: str = "auto"
    """the strongest tier that works ("auto"), or one by name: namespaces, landlock, none"""
    allow_unisolated: bool = False
    """whether to run where nothing but resource limits works: code can then read and send anything"""
    fallback: str = "snapshot"
    """what a cell that dies falls back to: "snapshot", taken before each cell, exact, some ms; or "replay" of
    the cells so far, which costs nothing until one dies"""
    limits: Limits = field(default_factory=Limits)
    """of each session, unless it is told otherwise"""
    total_memory_bytes: int = field(default_factory=_three_quarters_of_memory)
    """memory of all sessions together, where a memory cgroup can be made"""
    total_processes: int = 4096
    """processes of all sessions together, where a pids cgroup can be made"""
    start_timeout_s: float = 120.0
    """seconds the interpreter may take to start and import the preloaded packages"""
    quiet: bool = False
    """whether to keep still about what the isolation leaves open, and packages that are missing"""

    def __post_init__(self) -> None:
        check_options(self)
        if self.isolation not in ISOLATIONS:
            raise ValueError(unknown_name("isolation", self.isolation, ISOLATIONS))

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "LocalConfig":
        """`options` as a config; `limits` may be a mapping. Raises ValueError on unknown keys."""
        return config_of(cls, "local", options)
