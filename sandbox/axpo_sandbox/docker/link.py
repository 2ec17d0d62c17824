"""The host's end of the stream to a container: requests out, answers in, many at once.

The relay at the other end is not trusted: frames are capped, answers that nobody waits for break the link, and a
broken link stays broken. What answers mean is left to `remote`.
"""

import contextlib
import itertools
import os
import queue
import socket
import struct
import threading
from typing import Any

from axpo_sandbox.backend import HostDied
from axpo_sandbox.docker.frames import (
    MAX_ANSWER_BYTES,
    MAX_REQUEST_BYTES,
    STDERR,
    Decoder,
    StreamError,
    Unwrapper,
    encode,
)

_CHUNK_BYTES = 1 << 18
_MAX_LAST_WORDS_BYTES = 8192
_SEND_TIMEOUT_S = 60.0  # without any progress
_LAST_WORDS_TIMEOUT_S = 2.0

Answers = queue.SimpleQueue[dict[str, Any] | None]


class Link:
    """Threads may share it."""

    def __init__(self, stream: socket.socket) -> None:
        """stream: of an attached container; closed with the link."""
        self._stream = stream
        if isinstance(stream, socket.socket):  # over ssh it is something like one
            wait = struct.pack("ll", int(_SEND_TIMEOUT_S), int(_SEND_TIMEOUT_S % 1 * 1e6))
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
        self._owner_pid = os.getpid()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Answers] = {}
        self._write_lock = threading.Lock()
        self._why_broken = ""
        self._last_words = bytearray()
        # Whatever is to be closed inside is told by a thread of its own: the collector may close a session
        # while this very thread is in the middle of a frame.
        self._untold: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="docker-sandbox-read", daemon=True)
        self._reader.start()
        threading.Thread(target=self._tell, name="docker-sandbox-tell", daemon=True).start()

    @property
    def is_alive(self) -> bool:
        """Whether it works, and is ours rather than that of the process we were forked from."""
        return not self._why_broken and self._owner_pid == os.getpid()

    def send(self, data: bytes) -> None:
        """Send bytes as they are. Raises HostDied."""
        with self._write_lock:
            try:
                self._stream.sendall(data)
            except OSError as error:
                if isinstance(error, ConnectionError):  # it hung up: what it said before tells why
                    self._reader.join(_LAST_WORDS_TIMEOUT_S)
                self.break_off(f"the container does not listen: {error}")
        self._check()

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send a request and wait for its answer. Raises HostDied; ValueError for a request that is too long."""
        self._check()
        number = next(self._numbers)
        data = encode({**request, "id": number}, MAX_REQUEST_BYTES)
        answers: Answers = queue.SimpleQueue()
        self._waiting[number] = answers
        try:
            self.send(data)
            answer = answers.get(timeout=timeout_s)
        except queue.Empty:
            self.break_off(f"the container did not answer within {timeout_s:g} s")
            answer = None
        # Where something else is raised here, such as KeyboardInterrupt, the answer may still come.
        if answer is None:
            raise HostDied(self._why())
        return answer

    def tell(self, request: dict[str, Any]) -> None:
        """Send a request that has no answer, soon. Never waits, never raises."""
        if self.is_alive:
            self._untold.put(request)

    def break_off(self, why: str) -> None:
        """Take it for broken from now on: everyone who waits gets HostDied. The first reason is kept."""
        self._why_broken = self._why_broken or why
        if self._owner_pid == os.getpid():
            with contextlib.suppress(OSError):
                self._stream.shutdown(socket.SHUT_RDWR)
        self._untold.put(None)
        for answers in list(self._waiting.values()):
            answers.put(None)

    def close(self) -> None:
        """Hang up; the container then ends by itself. Idempotent."""
        self.break_off("the sandbox was closed")
        self._stream.close()

    def _check(self) -> None:
        if not self.is_alive:
            raise HostDied(
                self._why() or "this process was forked from the one that speaks with the container"
            )

    def _why(self) -> str:
        words = self._last_words.decode("utf-8", "replace").strip()
        return f"{self._why_broken}; its last words: {words}" if words else self._why_broken

    def _read(self) -> None:
        unwrapper, decoder = Unwrapper(), Decoder(MAX_ANSWER_BYTES)
        why = "the container ended"
        try:
            while data := self._stream.recv(_CHUNK_BYTES):
                for kind, chunk in unwrapper.feed(data):
                    if kind == STDERR:
                        self._last_words = (self._last_words + chunk)[-_MAX_LAST_WORDS_BYTES:]
                        continue
                    for message in decoder.feed(chunk):
                        self._deliver(message)
        except StreamError as error:
            why = f"the container does not keep to the protocol: {error}"
        except ConnectionResetError:
            pass  # it ended with something of ours unread
        except OSError as error:
            why = f"the container is out of reach: {error}"
        self.break_off(why)

    def _deliver(self, message: dict[str, Any]) -> None:
        number = message.pop("id", None)
        answers = self._waiting.pop(number, None) if isinstance(number, int) else None
        if answers is None:
            raise StreamError("an answer nobody waits for")
        answers.put(message)

    def _tell(self) -> None:
        while (request := self._untold.get()) is not None:
            with contextlib.suppress(HostDied):
                self.send(encode(request, MAX_REQUEST_BYTES))
