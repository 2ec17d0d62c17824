"""Frames between the trusted side and the sandboxed side: a length, then JSON. Never pickle.

The receiver of a frame from untrusted code caps its length and its nesting and takes nothing but JSON from
it; the meaning of fields is checked by whoever asked.
"""

import array
import contextlib
import json
import os
import re
import select
import socket
import struct
import time
from typing import Any

HEADER = struct.Struct("!I")
MAX_FDS = 24  # that travel with one request
MAX_REQUEST_BYTES = 1 << 30  # trusted -> sandboxed
MAX_REPLY_BYTES = 96 << 20  # sandboxed -> trusted: images of one cell, in base64
MAX_REPLY_ESCAPES = 8 << 20  # images have none, and each takes far longer to read than another character
MAX_REPLY_VALUES = 100_000  # a short empty list becomes thirty times as long in memory
_CHUNK_BYTES = 1 << 18
_STRING_OR_COMMA = re.compile(rb'"(?:[^"\\]++|\\.)*+"|,', re.DOTALL)
_CREDENTIALS = struct.Struct("3i")
_SO_PASSPIDFD = 76  # Linux 6.5
_SCM_PIDFD = 4


class WireError(Exception):
    """The other side did not send a frame, but something else."""


class Gone(WireError):
    """The other side ended."""


def send(channel: socket.socket, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
    """Send one frame; `fds` travel with its first byte. Raises OSError if the other side is gone."""
    body = json.dumps(message, separators=(",", ":")).encode()
    data = HEADER.pack(len(body)) + body
    if fds:
        sent = socket.send_fds(channel, [data], list(fds))
        data = data[sent:]
    if data:
        channel.sendall(data)


def receive(channel: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The sandboxed side's receive: blocks, trusts the sender. Raises WireError at the end."""
    fds: list[int] = []
    header = b""
    while len(header) < HEADER.size:
        # No flag MSG_CMSG_CLOEXEC is needed: Python sets it for descriptors it receives.
        data, ancillary, _, _ = channel.recvmsg(HEADER.size - len(header), socket.CMSG_SPACE(4 * MAX_FDS))
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.extend(_descriptors(content))
        if not data:
            raise Gone("the other side is gone")
        header += data
    (length,) = HEADER.unpack(header)
    return json.loads(_exactly(channel, length)), fds


def _exactly(channel: socket.socket, length: int) -> bytes:
    buffer = bytearray(length)
    view, filled = memoryview(buffer), 0
    while filled < length:
        count = channel.recv_into(view[filled:])
        if not count:
            raise Gone("the other side is gone")
        filled += count
    return bytes(buffer)


def ask_for_sender(channel: socket.socket) -> None:
    """Have the kernel say who sends on `channel`: its number, and a descriptor of it where it can."""
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    with contextlib.suppress(OSError):
        channel.setsockopt(socket.SOL_SOCKET, _SO_PASSPIDFD, 1)


class Receiver:
    """The trusted side's receive, on a non-blocking socket: takes what is there and never waits for the
    rest.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._buffer = bytearray()
        # Of the latest data, as the kernel vouches for it, if it was asked to.
        self.sender_pid: int | None = None
        self._sender_pidfd = -1

    def poll(self) -> dict[str, Any] | None:
        """A whole frame if one is there, else None. Raises WireError at the end or for anything but a
        frame.
        """
        while True:
            try:
                data, ancillary, _, _ = self._channel.recvmsg(_CHUNK_BYTES, 256)
            except (BlockingIOError, InterruptedError):
                return self._frame()
            except OSError as error:
                raise Gone(f"the other side is gone: {error}") from error
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET:
                    self._take(kind, content)
            if not data:
                frame = self._frame()
                if frame is None:
                    raise Gone("the other side is gone")
                return frame
            self._buffer += data
            frame = self._frame()
            if frame is not None:
                return frame

    def take_sender_pidfd(self) -> int:
        """A descriptor of the latest data's sender, to be closed by the caller; none is kept from then on.

        -1 where the kernel has none to give.
        """
        with contextlib.suppress(OSError):
            self._channel.setsockopt(socket.SOL_SOCKET, _SO_PASSPIDFD, 0)
        pidfd, self._sender_pidfd = self._sender_pidfd, -1
        return pidfd

    def close(self) -> None:
        """Let go of what the kernel gave; the channel is the caller's."""
        pidfd, self._sender_pidfd = self._sender_pidfd, -1
        if pidfd >= 0:
            os.close(pidfd)

    def _take(self, kind: int, content: bytes) -> None:
        if kind == socket.SCM_CREDENTIALS:
            self.sender_pid = _CREDENTIALS.unpack(content[: _CREDENTIALS.size])[0]
        elif kind == _SCM_PIDFD:
            self.close()
            (self._sender_pidfd,) = _descriptors(content)
        elif kind == socket.SCM_RIGHTS:
            # They are never asked for here; untrusted code may send them to fill the table.
            for number in _descriptors(content):
                os.close(number)

    def wait(self, timeout_s: float) -> dict[str, Any]:
        """The next frame. Raises WireError, and TimeoutError after timeout_s."""
        deadline = time.monotonic() + timeout_s
        poller = select.poll()
        poller.register(self._channel.fileno(), select.POLLIN)
        while True:
            frame = self.poll()
            if frame is not None:
                return frame
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("no answer in time")
            poller.poll(max(1, int(left_s * 1000)))

    def _frame(self) -> dict[str, Any] | None:
        if len(self._buffer) < HEADER.size:
            return None
        (length,) = HEADER.unpack(self._buffer[: HEADER.size])
        if length > MAX_REPLY_BYTES:
            raise WireError(f"a frame of {length} bytes; at most {MAX_REPLY_BYTES} are allowed")
        if len(self._buffer) < HEADER.size + length:
            return None
        body = bytes(self._buffer[HEADER.size : HEADER.size + length])
        del self._buffer[: HEADER.size + length]
        if body.count(b"\\") > MAX_REPLY_ESCAPES:
            raise WireError(f"a frame of more than {MAX_REPLY_ESCAPES} escapes")
        if _has_many_values(body):
            raise WireError(f"a frame of more than {MAX_REPLY_VALUES} values")
        try:
            frame = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise WireError(f"a frame that is not JSON: {type(error).__name__}") from error
        if not isinstance(frame, dict):
            raise WireError("a frame that is not a JSON object")
        return frame


def _descriptors(content: bytes) -> list[int]:
    numbers = array.array("i")
    numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
    return list(numbers)


def _has_many_values(body: bytes) -> bool:
    """Whether JSON text has more than MAX_REPLY_VALUES, nesting aside, without making any of them."""
    if body.count(b",") <= MAX_REPLY_VALUES:
        return False
    num_commas = 0
    for num_found, found in enumerate(_STRING_OR_COMMA.finditer(body)):
        num_commas += found.end() - found.start() == 1
        # In JSON there is a comma or a colon between two strings.
        if num_commas > MAX_REPLY_VALUES or num_found > 4 * MAX_REPLY_VALUES:
            return True
    return False
