"""Options of the docker backend. What they mean for a running sandbox is left to `client` and `container`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from axpo_sandbox.base import Limits
from axpo_sandbox.names import unknown_name
from axpo_sandbox.options import PRELOAD, check_options, config_of

IMAGE = "axpo-sandbox:latest"
PROFILES = ("auto", "nested", "default")


@dataclass(frozen=True, kw_only=True)
class DockerConfig:
    """How `make_sandbox("docker", ...)` runs. The engine is the one at DOCKER_HOST, as for the docker command."""

    image: str = IMAGE
    """an image the engine has, with Python 3.11 or newer; `python -m axpo_sandbox.docker.image` makes one"""
    python: str = "python3"
    """the interpreter in the image that runs the code, and whose packages code can import"""
    preload: tuple[str, ...] = PRELOAD
    """packages imported once, before sessions are forked; a missing one is an outage if images need
    it (numpy, matplotlib, PIL), else a warning"""
    profile: str = "auto"
    """what the container allows the relay: "nested" namespaces, which keep sessions of a container apart; the
    engine's "default", behind which Landlock does it; or the stronger that works ("auto")"""
    fallback: str = "snapshot"
    """as for the local backend: "snapshot" or "replay", see there"""
    limits: Limits = field(default_factory=Limits)
    """of each session, unless it is told otherwise"""
    total_memory_bytes: int | None = None
    """memory of the container, files in it included; None: three quarters of the engine's machine"""
    total_processes: int = 4096
    """processes and threads of the container"""
    num_cpus: float | None = None
    """cores the container may keep busy; None: all"""
    start_timeout_s: float = 120.0
    """seconds the container may take to start and import the preloaded packages"""
    quiet: bool = False
    """whether to keep still about what the isolation leaves open, and packages that are missing"""

    def __post_init__(self) -> None:
        check_options(self)
        if self.profile not in PROFILES:
            raise ValueError(unknown_name("profile", self.profile, PROFILES))

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "DockerConfig":
        """`options` as a config; `limits` may be a mapping. Raises ValueError on unknown keys."""
        return config_of(cls, "docker", options)
