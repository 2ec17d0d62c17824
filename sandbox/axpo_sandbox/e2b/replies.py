"""What the reply of a machine to a cell holds: output as it arrives, and the runner's answer. Checked before anyone
believes it; what its ending means is left to `live`.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from axpo_sandbox.base import ExecutionError
from axpo_sandbox.e2b.machine import Reply


@dataclass(kw_only=True)
class Parts:
    """The parts of an `Execution` that come with the end of a reply."""

    text: str | None = None
    images: tuple[bytes, ...] = ()
    error: ExecutionError | None = None
    warnings: list[str] = field(default_factory=list)
    num_dropped_bytes: list[int] = field(default_factory=lambda: [0, 0])
    """of stdout and stderr, before they were sent"""


class Outputs:
    """stdout and stderr as they arrive, up to the limit once more: the machine may not hold it."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.clear()

    def clear(self) -> None:
        """Forget what there is: the reply begins again."""
        self._parts = (bytearray(), bytearray())
        self._num_dropped_bytes = [0, 0]

    def take(self, index: int, text: str) -> None:
        """Keep what there is room for."""
        data = text.encode("utf-8", "replace")
        room = max(0, self._max_bytes - len(self._parts[index]))
        self._parts[index].extend(data[:room])
        self._num_dropped_bytes[index] += max(0, len(data) - room)

    def texts(self) -> tuple[str, str]:
        """stdout and stderr."""
        stdout, stderr = (bytes(part).decode("utf-8", "replace") for part in self._parts)
        return stdout, stderr

    def warnings(self, num_dropped_there: list[int]) -> list[str]:
        """A sentence per stream that was cut, there or here."""
        told = []
        for index, name in enumerate(("stdout", "stderr")):
            num_bytes = self._num_dropped_bytes[index] + num_dropped_there[index]
            if num_bytes:
                told.append(f"{name} was cut at {self._max_bytes} bytes; {num_bytes} more were dropped")
        return told


def answer_in(reply: Reply, token: str) -> dict[str, Any] | None:
    """The runner's answer among what the kernel showed, if it is there."""
    if reply.ending != "done":
        return None
    for text in reversed(reply.texts):
        if text.startswith("{") and token in text[:64]:
            try:
                answer = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(answer, dict) and answer.get("token") == token:
                return answer
    return None


def checked_counts(raw: Any) -> list[int]:
    """Two untrusted numbers of bytes. Raises ValueError."""
    if not isinstance(raw, list) or len(raw) != 2:
        raise ValueError("dropped is not two numbers")
    if not all(type(number) is int and 0 <= number < 1 << 62 for number in raw):
        raise ValueError("dropped is not two numbers")
    return raw
