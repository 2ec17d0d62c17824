"""A cache bounded by bytes, for what many episodes need at once: tasks with their images, encoded images."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

Value = TypeVar("Value")


class SizedCache(Generic[Value]):
    """The values used last, as many as `max_bytes` allow. Thread-safe; threads that ask at once wait for one of them.

    A forked process begins with an empty one: a value that its parent was making would never come.
    """

    def __init__(self, max_bytes: int, *, size: Callable[[Value], int]) -> None:
        self.max_bytes = max_bytes
        self._size = size
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self.num_bytes = 0  # of the values kept
        self._lock = threading.Lock()
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._making: dict[Hashable, Future[Value]] = {}

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value kept under `key`, or the one that `make` makes. What `make` raises is raised, and not kept."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
            coming = self._making.get(key)
            mine = coming is None
            if coming is None:
                coming = self._making[key] = Future()
        if mine:
            self._make(key, make, coming)
        return coming.result()

    def _make(self, key: Hashable, make: Callable[[], Value], coming: "Future[Value]") -> None:
        try:
            value = make()
        except BaseException as error:
            with self._lock:
                self._making.pop(key, None)
            coming.set_exception(error)
            return
        with self._lock:
            self._making.pop(key, None)
            self._values[key] = value
            self.num_bytes += self._size(value)
            while self.num_bytes > self.max_bytes:
                _, dropped = self._values.popitem(last=False)
                self.num_bytes -= self._size(dropped)
        coming.set_result(value)
