"""The tasks used last, kept for all sources together: the rollouts of a question share its decoded images."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

from axpo_env.tasks.base import Task

MAX_CACHE_BYTES = 256 * 2**20  # pixels of the tasks kept: two 8k canvases


class TaskCache:
    """As many tasks as their pixels allow. Thread-safe; two threads may make the same task."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0  # of the images of the tasks kept
        self._tasks: OrderedDict[Hashable, Task] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Task]) -> Task:
        """The task kept under `key`, or the one that `make` makes. What `make` raises is raised."""
        with self._lock:
            if key in self._tasks:
                self._tasks.move_to_end(key)
                return self._tasks[key]
        task = make()
        with self._lock:
            if key not in self._tasks:
                self._tasks[key] = task
                self.num_bytes += _size(task)
            while self.num_bytes > self.max_bytes:
                _, dropped = self._tasks.popitem(last=False)
                self.num_bytes -= _size(dropped)
        return task


def _size(task: Task) -> int:
    return 1024 + sum(image.nbytes for image in task.images)


task_cache = TaskCache(MAX_CACHE_BYTES)
