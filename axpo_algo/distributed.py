"""The processes of one run, started by torchrun: what they tell each other, and how all end when one does.

    with ranks_of_torchrun() as ranks:  # a single process without torchrun
        everything = ranks.gather(mine)

Rollouts of two ranks may differ by minutes, longer than a collective waits. So ranks meet in torchrun's store before
any collective (`barrier`), without a time limit: each rank counts heartbeats there, and one that falls silent, or says
that it failed, ends the others.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from axpo_algo.commands import RunFailed, one_line

__all__ = ["SINGLE", "RankFailed", "Ranks", "local_part", "ranks_of_torchrun", "whole"]

T = TypeVar("T")

POLL_S = 0.02
HEARTBEAT_S = 1.0
SILENCE_S = 30.0
"""without a heartbeat for so long a rank is taken for dead"""
GRACE_S = 5.0
"""that a rank has to end by itself once another has failed; it may be inside a collective, which never returns"""


class RankFailed(RunFailed):
    """Another rank has failed or is gone."""


class Ranks:
    """One process of `size`, as seen by itself. This class is a run of one process, for which all of it is nothing."""

    rank, size = 0, 1

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes and prints."""
        return self.rank == 0

    def barrier(self) -> None:
        """Waits until all ranks are here. Raises RankFailed if one will not come."""

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in the order of ranks; values are pickled. Waits as `barrier` does."""
        return [value]

    def share(self, value: T) -> T:
        """The value of rank 0."""
        return self.gather(value)[0]

    def sum(self, *values: float) -> list[float]:
        """Each value summed over ranks, as float64. A collective: nobody may be late by minutes."""
        return list(values)

    def slice(self, count: int) -> range:
        """Which of `count` things in a row are this rank's: neighbours, and about as many on each rank."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)


SINGLE = Ranks()


class _TorchrunRanks(Ranks):
    def __init__(self, rank: int, size: int, store: dist.Store) -> None:
        self.rank, self.size = rank, size
        self._store = store
        self._num_barriers = 0
        self._failure: str | None = None
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._watch.start()

    def barrier(self) -> None:
        self._num_barriers += 1
        key = f"barrier/{self._num_barriers}"
        self._store.add(key, 1)
        while self._store.add(key, 0) < self.size:
            if self._failure is not None:
                raise RankFailed(self._failure)
            time.sleep(POLL_S)

    def gather(self, value: T) -> list[T]:
        self.barrier()
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value)
        return cast(list[T], values)

    def sum(self, *values: float) -> list[float]:
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def fail(self, error: BaseException) -> None:
        """Tells the others why this rank ends. Raises RankFailed if it ends since another one did: a collective's own
        error says no more than that a connection was closed."""
        if isinstance(error, RankFailed):
            return
        own = f"rank {self.rank}: {type(error).__name__}: {one_line(error)}"
        first = self._store.compare_set("failed", "", own).decode()
        if first != own and isinstance(error, RuntimeError):
            raise RankFailed(first) from error

    def close(self) -> None:
        self._ended.set()
        self._watch.join()

    def _beat(self) -> None:
        """Counts this rank's heartbeats and looks at the others', until the run ends."""
        seen = {rank: (0, time.monotonic()) for rank in range(self.size) if rank != self.rank}
        while not self._ended.wait(HEARTBEAT_S):
            try:
                self._store.add(f"alive/{self.rank}", 1)
                self._failure = self._look(seen)
            except Exception as error:
                self._failure = f"the store of the run cannot be reached: {one_line(error)}"
            if self._failure is not None:
                break
        else:
            return
        if not self._ended.wait(GRACE_S):
            print(f"failed: {self._failure}", file=sys.stderr, flush=True)
            os._exit(1)

    def _look(self, seen: dict[int, tuple[int, float]]) -> str | None:
        """What has failed, if anything has."""
        if self._store.check(["failed"]):
            return self._store.get("failed").decode()
        now_s = time.monotonic()
        for rank, (count, since_s) in seen.items():
            latest = self._store.add(f"alive/{rank}", 0)
            if latest != count:
                seen[rank] = (latest, now_s)
            elif now_s - since_s > SILENCE_S:
                return f"rank {rank} has given no sign of life for {SILENCE_S:g} s"
        return None


@contextmanager
def ranks_of_torchrun(*, timeout_s: float = 600.0) -> Iterator[Ranks]:
    """The ranks of a run under torchrun, whose process group it opens; one process without torchrun.

    timeout_s: of collectives. What is raised inside is told to the other ranks, which then raise RankFailed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield SINGLE
        return
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    has_gpus = torch.cuda.is_available()
    if has_gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "cpu:gloo,cuda:nccl" if has_gpus else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    # A connection of its own: a process group may wait in its one while this rank has to beat.
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, wait_for_workers=False
    )
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    ranks = _TorchrunRanks(rank, size, dist.PrefixStore(f"axpo/{restart}", store))
    try:
        yield ranks
        ranks.barrier()
    except BaseException as error:
        ranks.fail(error)
        raise
    finally:
        ranks.close()
    dist.destroy_process_group()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A sharded tensor gathered from all ranks; another one as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this rank holds of a sharded tensor; another one as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
