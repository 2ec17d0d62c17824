"""Waiting in line: first come, first served, however much each one wants."""

import threading
import time
from collections import deque
from collections.abc import Callable


class FairGate:
    """A number of places. Nobody overtakes, so a large wish is not starved by small ones behind it."""

    def __init__(self, num_places: int, also: Callable[[], bool] = lambda: True) -> None:
        """also: what must hold besides before anyone may enter; asked again by whoever waits."""
        self.num_places = num_places
        self.num_taken = 0
        self._also = also
        self._line: deque[object] = deque()
        self._changed = threading.Condition(threading.RLock())  # the collector may leave a place in here
        self._closed = False

    def enter(self, num_wanted: int, timeout_s: float, patience_s: float = 0.05) -> bool:
        """Take places, all at once; False after timeout_s, or once it is closed.

        patience_s: how often `also` is asked while it does not hold. Raises ValueError for more places than
        there are.
        """
        if not 0 < num_wanted <= self.num_places:
            raise ValueError(f"{num_wanted} places wanted; from 1 to {self.num_places} can be had at once")
        deadline = time.monotonic() + timeout_s
        ticket = object()
        with self._changed:
            self._line.append(ticket)
            try:
                while not self._closed:
                    if self._line[0] is ticket and self.num_taken + num_wanted <= self.num_places:
                        # Someone must be inside for things to get better by waiting.
                        if self.num_taken == 0 or self._also():
                            self.num_taken += num_wanted
                            return True
                        left_s = min(deadline - time.monotonic(), patience_s)
                    else:
                        left_s = deadline - time.monotonic()
                    if left_s <= 0:
                        return False
                    self._changed.wait(left_s)
                return False
            finally:
                self._line.remove(ticket)
                self._changed.notify_all()

    def leave(self, num_places: int = 1) -> None:
        """Give places back."""
        with self._changed:
            self.num_taken -= num_places
            self._changed.notify_all()

    def close(self) -> None:
        """Let nobody in any more; those who wait are told."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def num_waiting(self) -> int:
        """How many stand in line."""
        return len(self._line)
