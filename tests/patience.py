"""Waiting in tests for what another process does, within bounds."""

import time
from collections.abc import Callable


def eventually(condition: Callable[[], bool], patience_s: float = 20.0) -> bool:
    """Whether it comes true before patience ends."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False
