"""The tasks used last, kept for all sources together: the rollouts of a question share its decoded images."""

from axpo_env.caches import SizedCache
from axpo_env.tasks.base import Task

MAX_CACHE_BYTES = 256 * 2**20  # pixels of the tasks kept: two 8k canvases


class TaskCache(SizedCache[Task]):
    """As many tasks as their pixels allow."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes, size=_size)


def _size(task: Task) -> int:
    found = () if task.image_search_result is None else (task.image_search_result,)
    return 1024 + sum(image.nbytes for image in (*task.images, *found))


task_cache = TaskCache(MAX_CACHE_BYTES)
