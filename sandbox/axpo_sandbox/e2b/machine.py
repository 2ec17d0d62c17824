"""One machine as the SDK reaches it: code for its kernel, files. Whatever comes of code is a `Reply`.

The only module that knows the SDK, so the client for `cloud` comes from here, too. Making and ending machines is left
to `cloud`; when to ask again for what is lost, to `live`.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from e2b import (
    AuthenticationException,
    ConnectionConfig,
    InvalidArgumentException,
    NotEnoughSpaceException,
    NotFoundException,
    RateLimitException,
    SandboxException,
    TimeoutException,
)
from e2b.api import ApiClient
from e2b.api.client_sync import get_transport
from e2b_code_interpreter import Sandbox

from axpo_sandbox.base import RateLimited, SandboxUnavailable
from axpo_sandbox.e2b.config import E2BConfig
from axpo_sandbox.e2b.rules import Clock, Gone, Refused, Waits, seconds_in

_CONNECT_TIMEOUT_S = 10.0
_CUT_SHORT_S = 0.1  # a deadline that is nearer than this has passed
_EXPIRY_SLACK_S = 1.0
# What E2B's server reports, inside an answer that is otherwise fine, when it loses the kernel. The kernel may be well.
_LOST_KERNEL = ("WebSocketError", "UnexpectedEndOfExecution", "ExecutionAborted")


Answer = httpx.Response


class TooMuch(Exception):
    """A machine sent more than anyone will read."""


@dataclass(kw_only=True)
class Reply:
    """What came of code that a machine's kernel was given. None of it is trusted."""

    ending: str = "done"
    """done; timeout; flood: it sent too much; malformed: it sent something else; lost: the connection was"""
    again: bool = False
    """whether the code was sent before, and the connection lost"""
    began: bool | None = False
    """whether the machine took the code; None where nobody knows"""
    began_before: bool | None = False
    """whether it did when the code was sent before"""
    texts: list[str] = field(default_factory=list)
    """what the kernel showed as results"""
    error: str = ""
    """name and message of what the kernel reports as an error, "" if nothing"""


class Machine:
    """A virtual machine. One caller at a time."""

    def __init__(
        self, sdk: "SDKSandbox", config: E2BConfig, clock: Clock, source: str, ends_at: float
    ) -> None:
        """source: the template or snapshot it was made of. ends_at: on the clock, when it ends by itself."""
        self.sdk = sdk
        self.source = source
        self.ends_at = ends_at
        self._config = config
        self._clock = clock

    @property
    def id(self) -> str:
        """The cloud's name for it."""
        return self.sdk.sandbox_id

    @property
    def has_expired(self) -> bool:
        """Whether it has reached the end of its lifetime, whatever its code did."""
        return self._clock.now() > self.ends_at - _EXPIRY_SLACK_S

    def execute(
        self, code: str, *, timeout_s: float, max_bytes: int, on_output: Callable[[int, str], None]
    ) -> Reply:
        """Have the kernel run `code`. max_bytes: of the whole reply. on_output: index of the stream, and text.

        Raises RateLimited, and what on_output raises as `flood` or `malformed`.
        """
        waits = Waits(self._clock, self._config.max_retry_s)
        while True:
            watch = _Watch(max_bytes, timeout_s)
            reply = self._execute_once(code, watch, on_output)
            if watch.status != 429:
                return reply
            if not waits.wait(watch.retry_after_s):
                raise RateLimited(
                    "E2B says that there were too many requests; repeating did not help in time"
                )

    def _execute_once(self, code: str, watch: "_Watch", on_output: Callable[[int, str], None]) -> Reply:
        self.sdk.watch = watch
        reply = Reply()

        def take(index: int, message: Any) -> None:
            if not isinstance(message.line, str):
                raise TypeError("output that is not text")
            on_output(index, message.line)

        try:
            execution = self.sdk.run_code(
                code,
                on_stdout=lambda message: take(0, message),
                on_stderr=lambda message: take(1, message),
                timeout=watch.timeout_s,
                request_timeout=_CONNECT_TIMEOUT_S,
            )
            reply.texts = [item.text for item in execution.results if isinstance(item.text, str)]
            if execution.error is not None:
                reply.error = f"{execution.error.name}: {execution.error.value}"[:2000]
                if execution.error.name in _LOST_KERNEL:
                    reply.ending = "lost"
        except TooMuch:
            reply.ending = "flood"
        except TimeoutException:  # of the request, or because the machine is gone
            reply.ending = "timeout" if time.monotonic() > watch.deadline - _CUT_SHORT_S else "lost"
        except (SandboxException, httpx.HTTPError):
            reply.ending = "lost"
        except Exception:  # the SDK trusts what it reads
            reply.ending = "malformed"
        reply.began = watch.has_begun
        return reply

    def write(self, path: str, data: bytes) -> None:
        """Write a file there. Raises Gone, Refused (for_good where the disk is full), RateLimited,
        SandboxUnavailable.
        """
        waits = Waits(self._clock, self._config.max_retry_s)
        what = f"no file could be written in machine {self.id}"
        while True:
            try:
                self.sdk.files.write(path, data, request_timeout=self._config.max_retry_s)
                return
            except RateLimitException as error:
                if not waits.wait():
                    raise RateLimited(f"{what}: {error}") from error
            except AuthenticationException as error:
                raise SandboxUnavailable(f"{what}: {error}") from error
            except (NotFoundException, TimeoutException) as error:  # not there, not running, not reachable
                raise Gone(f"{what}: {error}") from error
            except InvalidArgumentException as error:
                raise Refused(f"{what}: {error}") from error
            except NotEnoughSpaceException as error:
                raise Refused(f"{what}: {error}", for_good=True) from error
            except Exception as error:  # connections, and answers that make no sense
                raise SandboxUnavailable(f"{what}: {type(error).__name__}: {error}") from error


class _Watch:
    """Sees one request off, and its reply as it arrives: its status, its length, the time it takes."""

    def __init__(self, max_bytes: int, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.deadline = time.monotonic() + timeout_s
        self.status = 0
        self.retry_after_s: float | None = None
        self._max_bytes = max_bytes

    @property
    def has_begun(self) -> bool | None:
        """Whether the machine took the request; None where there was no answer, so that nobody knows."""
        return 200 <= self.status < 300 if self.status else None

    def send(self, request: httpx.Request) -> None:
        # The transport takes the sum of both for the whole exchange, and the SDK gives each all the time there is.
        request.extensions["timeout"].update(read=self.timeout_s, write=0.0)

    def see(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.retry_after_s = seconds_in(response.headers.get("Retry-After", ""))
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise TooMuch("a reply that unpacks to any length")
        response.stream = _Capped(response.stream, self)

    def take(self, num_bytes: int) -> None:
        if time.monotonic() > self.deadline + _CUT_SHORT_S:
            raise httpx.ReadTimeout("a reply that trickles")
        self._max_bytes -= num_bytes
        if self._max_bytes < 0:
            raise TooMuch("a reply without end")


class _Capped(httpx.SyncByteStream):
    def __init__(self, stream: Any, watch: _Watch) -> None:
        self._stream = stream
        self._watch = watch

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            self._watch.take(len(chunk))
            yield chunk

    def close(self) -> None:
        self._stream.close()


class SDKSandbox(Sandbox):
    """The SDK's, with a look at what machines send: it would read without end."""

    watch: _Watch

    @classmethod
    def of(cls, said: Any, config: E2BConfig) -> "SDKSandbox":
        """The machine that the control plane speaks of. Raises anything, where that makes no sense."""
        from packaging.version import Version  # the SDK's own

        machine_id, token = str(said["sandboxID"]), said.get("envdAccessToken")
        headers = {"E2b-Sandbox-Id": machine_id, "E2b-Sandbox-Port": str(ConnectionConfig.envd_port)}
        return cls(
            sandbox_id=machine_id,
            sandbox_domain=said.get("domain"),
            envd_version=Version(said["envdVersion"]),
            envd_access_token=token,
            traffic_access_token=said.get("trafficAccessToken"),
            connection_config=_connection(config, {**headers, "X-Access-Token": token} if token else headers),
        )

    @property
    def _client(self) -> httpx.Client:
        client = super()._client
        client.headers["Accept-Encoding"] = "identity"
        client.event_hooks = {"request": [self.watch.send], "response": [self.watch.see]}
        return client

    def _handle_connection_error(self, err: Exception) -> None:
        """Would ask the machine how it is; we ask the cloud."""


def client_of(config: E2BConfig) -> httpx.Client:
    """For the control plane: the SDK's address, key and connections. Raises SandboxUnavailable without a key."""
    connection = _connection(config, {})
    try:
        client = ApiClient(connection, transport=get_transport(connection))
    except AuthenticationException as error:
        raise SandboxUnavailable(no_key(str(error))) from error
    return client.get_httpx_client()


def no_key(why: str) -> str:
    """What to do where the key is missing or wrong."""
    return f"E2B wants a valid key in the environment variable E2B_API_KEY, or as the option api_key: {why}"


def _connection(config: E2BConfig, headers: dict[str, str]) -> ConnectionConfig:
    return ConnectionConfig(
        api_key=config.api_key, request_timeout=config.max_retry_s, extra_sandbox_headers=headers
    )
