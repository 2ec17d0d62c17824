"""The machine that a run is planned for: ranks, memory, disk, limits."""

import math
import os
import resource
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from axpo_algo.checks import checking
from axpo_algo.config import ConfigError, TrainConfig
from axpo_algo.policies import choose_device

__all__ = ["Machine", "find_machine"]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What there is."""

    ranks: int = 1
    """processes that train together"""
    local_ranks: int = 1
    """those on one node"""
    device_bytes: float
    """memory of a rank's accelerator; without one the node's"""
    has_accelerator: bool
    host_bytes: float
    """memory of a node"""
    disk_bytes: float
    """free where the run's folder will be"""
    max_processes: float
    max_files: float
    """that one process may have open"""

    @property
    def in_words(self) -> str:
        device = f"{self.device_bytes / 1e9:.1f} GB" if self.has_accelerator else "the CPU"
        nodes = f"{self.ranks} rank{'s' if self.ranks > 1 else ''}"
        return f"{nodes}, {self.local_ranks} a node, each on {device}; {self.host_bytes / 1e9:.1f} GB a node"


def find_machine(config: TrainConfig) -> Machine:
    """This machine, or one with `config.plan.device_gb`; WORLD_SIZE and LOCAL_WORLD_SIZE of the environment are
    torchrun's. Raises ConfigError for a device that is not here, or numbers of ranks that are none."""
    ranks = _count("WORLD_SIZE", 1)
    local_ranks = _count("LOCAL_WORLD_SIZE", min(ranks, 8))
    host = _host_bytes()
    device_bytes, has_accelerator = host, False
    if config.plan.device_gb is not None:
        device_bytes, has_accelerator = config.plan.device_gb * 1e9, config.policy.device != "cpu"
    else:
        with checking("policy.device"):
            device = torch.device(choose_device(config.policy.device))
        if device.type in ("cuda", "xpu"):
            properties = getattr(torch, device.type).get_device_properties(device)
            device_bytes, has_accelerator = float(properties.total_memory), True
    return Machine(
        ranks=ranks,
        local_ranks=local_ranks,
        device_bytes=device_bytes,
        has_accelerator=has_accelerator,
        host_bytes=host if has_accelerator else device_bytes,
        disk_bytes=_free_bytes(_existing(Path(config.run_dir or "runs"))),
        max_processes=_limit(resource.RLIMIT_NPROC),
        max_files=_limit(resource.RLIMIT_NOFILE),
    )


def _free_bytes(folder: Path) -> float:
    """Of its file system; infinite where that does not say, as /proc."""
    usage = shutil.disk_usage(folder)
    return usage.free if usage.total else math.inf


def _count(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{name} in the environment must be a number of ranks from 1, got {text!r}")
    return int(text)


def _host_bytes() -> float:
    """The machine's memory, or what its control group allows."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return float(min(total, int(Path("/sys/fs/cgroup/memory.max").read_text())))
    except (OSError, ValueError):  # no control group, or "max"
        return float(total)


def _limit(kind: int) -> float:
    soft, _ = resource.getrlimit(kind)
    return float("inf") if soft == resource.RLIM_INFINITY else float(soft)


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
