"""Frames between host and relay: a length, then JSON; and the wrapping Docker puts around a container's output.

The standard library alone, since both sides load it. What messages mean is left to `link` and `relay`.
"""

import json
import struct
from collections.abc import Iterator
from typing import Any

HEADER = struct.Struct("!I")
MAX_REQUEST_BYTES = 1 << 30  # host -> relay: input files of a session, in base64
MAX_ANSWER_BYTES = 256 << 20  # relay -> host: output and images of one cell, in base64
STDOUT, STDERR = 1, 2
_DOCKER_HEADER = struct.Struct("!B3sI")
_MAX_DOCKER_CHUNK_BYTES = 1 << 24  # the engine copies by 32 KiB


class StreamError(Exception):
    """The stream holds something else than it should."""


def encode(message: dict[str, Any], max_bytes: int) -> bytes:
    """The frame of `message`, to be sent with one write. Raises ValueError if it is too long."""
    body = json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    if len(body) > max_bytes:
        raise ValueError(f"a message of {len(body)} bytes; at most {max_bytes} are allowed")
    return HEADER.pack(len(body)) + body


class Decoder:
    """Bytes in whatever pieces -> messages. Believes nothing: length and form are checked."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """The messages that are complete with `data`. Raises StreamError."""
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            (length,) = HEADER.unpack_from(self._buffer)
            if length > self._max_bytes:
                raise StreamError(f"a frame of {length} bytes; at most {self._max_bytes} are allowed")
            end = HEADER.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[HEADER.size : end])
            del self._buffer[:end]
            yield _message(body)


class Unwrapper:
    """Docker's multiplexed output in whatever pieces -> (STDOUT or STDERR, bytes)."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._stream = 0
        self._num_left = 0  # bytes of the current chunk still to come

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """What each stream holds more with `data`, in order. Raises StreamError."""
        self._buffer += data
        while self._buffer:
            if not self._num_left:
                if len(self._buffer) < _DOCKER_HEADER.size:
                    return
                self._stream, padding, self._num_left = _DOCKER_HEADER.unpack_from(self._buffer)
                del self._buffer[: _DOCKER_HEADER.size]
                if (
                    self._stream not in (STDOUT, STDERR)
                    or padding != b"\0\0\0"
                    or self._num_left > _MAX_DOCKER_CHUNK_BYTES
                ):
                    raise StreamError("the engine sent something else than multiplexed output")
                continue
            chunk = bytes(self._buffer[: self._num_left])
            del self._buffer[: self._num_left]
            self._num_left -= len(chunk)
            yield self._stream, chunk


def _message(body: bytes) -> dict[str, Any]:
    try:
        message = json.loads(body.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise StreamError(f"a frame that is not JSON: {type(error).__name__}") from error
    if not isinstance(message, dict):
        raise StreamError("a frame that is not a JSON object")
    return message
