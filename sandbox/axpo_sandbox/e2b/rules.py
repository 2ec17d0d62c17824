"""What the services allow, and when to ask again: which answers pass by waiting, how long, how many machines a second.

Asking itself is left to `cloud` and `machine`.
"""

import random
import threading
import time

_FIRST_WAIT_S = 0.2
_MAX_WAIT_S = 10.0
_SLOWEST_S = 2.0  # between two requests that make machines, however often there were too many

# 0 stands for no answer at all. Nothing was done where the answer is one of the first set; after one of the second,
# it may have been.
UNDONE = frozenset({400, 409, 425, 429, 503})
UNKNOWN = frozenset({0, 408, 500, 502, 504})
# Limits of the team come as 400, and what is wrong with a request for good, too: that is asked again, but not for long.
BRIEF = frozenset({400})
NUM_BRIEF = 3
MISSING = frozenset(
    {405, 501}
)  # the service has no such route; 404 may also mean that what is asked for is gone


class Gone(Exception):
    """The machine or the snapshot does not exist any more, or the service has no such route."""


class Refused(Exception):
    """The service does not do that; `for_good`: it cannot, whatever is asked for."""

    def __init__(self, message: str, *, for_good: bool = False) -> None:
        super().__init__(message)
        self.for_good = for_good


class Clock:
    """Time and chance as this backend sees them. Tests bring their own."""

    def now(self) -> float:
        """Seconds, from any moment on."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def jitter(self) -> float:
        """A factor from 0.5 to 1, so that those who were refused together do not come again together."""
        return random.uniform(0.5, 1.0)


class Waits:
    """Waits between repetitions of one request: the server's wish, or exponential with jitter; bounded."""

    def __init__(self, clock: Clock, budget_s: float) -> None:
        self._clock = clock
        self._deadline = clock.now() + budget_s
        self._next_s = _FIRST_WAIT_S

    def wait(self, wish_s: float | None = None) -> bool:
        """False, at once, where waiting would take longer than there is time. A wish of 0 s is none."""
        wait_s = wish_s or self._next_s * self._clock.jitter()
        self._next_s = min(2 * self._next_s, _MAX_WAIT_S)
        if self._clock.now() + wait_s > self._deadline:
            return False
        self._clock.sleep(wait_s)
        return True

    def extend(self, seconds: float) -> None:
        """Time that does not count: nobody was asked."""
        self._deadline += seconds


class Pace:
    """The line of those who want machines: so many requests a second, fewer while there were too many."""

    def __init__(self, clock: Clock, per_s: float) -> None:
        self._clock = clock
        self._shortest_s = self._interval_s = 1 / per_s
        self._next_at = clock.now()
        self._lock = threading.Lock()

    def wait_turn(self) -> float:
        """Seconds that it took."""
        with self._lock:
            now = self._clock.now()
            turn_at = max(now, self._next_at)
            self._next_at = turn_at + self._interval_s
        if turn_at > now:
            self._clock.sleep(turn_at - now)
        return turn_at - now

    def learn(self, *, too_many: bool) -> None:
        """From an answer: whether there were too many requests."""
        with self._lock:
            if too_many:
                self._interval_s = max(self._interval_s, min(2 * self._interval_s, _SLOWEST_S))
            else:
                self._interval_s = max(self._shortest_s, 0.9 * self._interval_s)


def seconds_in(header: str) -> float | None:
    """What a Retry-After header wishes; None where there is none, or a date."""
    header = header.strip()
    return float(header) if header.isascii() and header.isdecimal() and len(header) < 6 else None
