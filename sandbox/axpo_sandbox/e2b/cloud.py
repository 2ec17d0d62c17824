"""E2B's cloud as this backend needs it: the only module that knows the SDK, its exceptions and its settings.

Whatever goes wrong comes out as one of `Gone`, `Refused`, `RateLimited` and `SandboxUnavailable`; of a cell, as a
`Reply`. When to ask for what is left to `client`, `live` and `keeper`.
"""

import contextlib
import random
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from e2b import (
    AuthenticationException,
    InvalidArgumentException,
    NotEnoughSpaceException,
    NotFoundException,
    RateLimitException,
    SandboxException,
    SandboxQuery,
    TimeoutException,
)
from e2b_code_interpreter import Sandbox

from axpo_sandbox.base import RateLimited, SandboxUnavailable
from axpo_sandbox.e2b.config import E2BConfig
from axpo_sandbox.e2b.owner import owner_of_this_process

MARK = {"axpo": "sandbox"}
OWNER = "axpo-owner"
MAX_FORKS = 20  # per request
_CONNECT_TIMEOUT_S = 10.0
_FIRST_WAIT_S = 0.2
_MAX_WAIT_S = 10.0
_CUT_SHORT_S = 0.1  # a deadline that is nearer than this has passed
_REFUSALS = (400, 403, 405, 409, 501)


class Gone(Exception):
    """The machine or the snapshot does not exist any more."""


class Refused(Exception):
    """The cloud does not do that, now or ever."""


class TooMuch(Exception):
    """A machine sent more than anyone will read."""


@dataclass(kw_only=True)
class Reply:
    """What came of code that a machine's kernel was given. None of it is trusted."""

    ending: str = "done"
    """done; timeout; flood: it sent too much; malformed: it sent something else; lost: the connection was"""
    again: bool = False
    """whether the code was sent before, and the connection lost"""
    status: int = 0
    """of the HTTP answer, 0 if there was none"""
    texts: list[str] = field(default_factory=list)
    """what the kernel showed as results"""
    error: str = ""
    """name and message of what the kernel reports as an error, "" if nothing"""

    @property
    def began(self) -> bool:
        """Whether the machine took the code."""
        return 200 <= self.status < 300


class Machine:
    """A virtual machine. One caller at a time."""

    def __init__(self, sdk: "_Sandbox", config: E2BConfig) -> None:
        self._sdk = sdk
        self._config = config

    @property
    def id(self) -> str:
        """The cloud's name for it."""
        return self._sdk.sandbox_id

    def execute(
        self, code: str, *, timeout_s: float, max_bytes: int, on_output: Callable[[int, str], None]
    ) -> Reply:
        """Have the kernel run `code`. max_bytes: of the whole reply. on_output: index of the stream, and text.

        Raises RateLimited, and what on_output raises as `flood` or `malformed`.
        """
        waits = _Waits(self._config)
        while True:
            watch = _Watch(max_bytes, timeout_s)
            reply = self._execute_once(code, watch, on_output)
            if watch.status != 429:
                return reply
            waits.wait(watch.retry_after_s)

    def _execute_once(self, code: str, watch: "_Watch", on_output: Callable[[int, str], None]) -> Reply:
        self._sdk.watch = watch
        reply = Reply()

        def take(index: int, message: Any) -> None:
            if not isinstance(message.line, str):
                raise TypeError("output that is not text")
            on_output(index, message.line)

        try:
            execution = self._sdk.run_code(
                code,
                on_stdout=lambda message: take(0, message),
                on_stderr=lambda message: take(1, message),
                timeout=watch.timeout_s,
                request_timeout=_CONNECT_TIMEOUT_S,
            )
            reply.texts = [item.text for item in execution.results if isinstance(item.text, str)]
            if execution.error is not None:
                reply.error = f"{execution.error.name}: {execution.error.value}"[:2000]
        except TooMuch:
            reply.ending = "flood"
        except TimeoutException:  # of the request, or because the machine is gone
            reply.ending = "timeout" if time.monotonic() > watch.deadline - _CUT_SHORT_S else "lost"
        except (SandboxException, httpx.HTTPError):
            reply.ending = "lost"
        except Exception:  # the SDK trusts what it reads
            reply.ending = "malformed"
        reply.status = watch.status
        return reply

    def write(self, path: str, data: bytes) -> None:
        """Write a file there. Raises Gone, Refused, RateLimited, SandboxUnavailable."""
        waits = _Waits(self._config)
        while True:
            try:
                with _translated(f"no file could be written in machine {self.id}"):
                    try:
                        self._sdk.files.write(path, data, request_timeout=self._config.max_retry_s)
                    except TimeoutException as error:  # not found, not running, not reachable
                        raise Gone(str(error)) from error
                return
            except RateLimited:
                waits.wait(None)


class Cloud:
    """The control plane: makes, finds, renews and ends machines and snapshots. Threads may share it."""

    def __init__(self, config: E2BConfig) -> None:
        self.owner = owner_of_this_process()
        self._config = config
        self._options: dict[str, Any] = {
            "api_key": config.api_key,
            "retries": config.max_retries,
            "request_timeout": config.max_retry_s,
        }
        self._lifetime_s = int(config.lifetime_s)

    def create(self, source: str) -> Machine:
        """A machine from a template or a snapshot. Raises Gone, Refused, RateLimited, SandboxUnavailable."""
        with _translated(f"no machine could be made from {source!r}"):
            sdk = _Sandbox.create(
                source,
                timeout=self._lifetime_s,
                metadata={**MARK, OWNER: self.owner},
                allow_internet_access=self._config.allow_internet_access,
                idempotency_key=uuid.uuid4().hex,  # a repeated request must not leave a second machine
                **self._options,
            )
            return Machine(sdk, self._config)

    def fork(self, machine: Machine, num_branches: int) -> list[Machine]:
        """Copies of a running machine; fewer where some could not start. Raises as `create`."""
        made: list[Machine] = []
        with _translated(f"machine {machine.id} could not be forked"):
            for first in range(0, num_branches, MAX_FORKS):
                count = min(MAX_FORKS, num_branches - first)
                try:
                    branches = machine._sdk.fork(timeout=self._lifetime_s, count=count, **self._options)
                except Exception:
                    if not made:
                        raise
                    break
                made += [Machine(item, self._config) for item in branches if isinstance(item, _Sandbox)]
        return made

    def snapshot(self, machine: Machine) -> str:
        """Freeze a machine, which goes on; the snapshot's id. Raises as `create`."""
        with _translated(f"machine {machine.id} could not be snapshot"):
            name = f"axpo-{self.owner}-{uuid.uuid4().hex[:12]}"
            return str(machine._sdk.create_snapshot(name, **self._options).snapshot_id)

    def state(self, machine: Machine) -> str:
        """running, paused, or gone. Raises RateLimited, SandboxUnavailable."""
        try:
            with _translated(f"the cloud does not say how machine {machine.id} is"):
                return str(_Sandbox.get_info(machine.id, **self._options).state.value)
        except Gone:
            return "gone"

    def renew(self, machine_id: str) -> None:
        """Let it live for another lifetime_s. Raises as `create`."""
        with _translated(f"machine {machine_id} could not be renewed"):
            _Sandbox.set_timeout(machine_id, self._lifetime_s, **self._options)

    def kill(self, machine_id: str) -> bool:
        """End it; whether there was one. Raises Refused, RateLimited, SandboxUnavailable."""
        with _translated(f"machine {machine_id} could not be ended"):
            return bool(_Sandbox.kill(machine_id, **self._options))

    def delete_snapshot(self, snapshot_id: str) -> bool:
        """Delete it; whether there was one. Raises Refused, RateLimited, SandboxUnavailable."""
        with _translated(f"snapshot {snapshot_id} could not be deleted"):
            return bool(_Sandbox.delete_snapshot(snapshot_id, **self._options))

    def machines(self) -> dict[str, str]:
        """Machines that any process of ours made: id -> owner. Raises as `kill`."""
        with _translated("the cloud does not list its machines"):
            found = {}
            pages = _Sandbox.list(query=SandboxQuery(metadata=MARK), **self._options)
            while pages.has_next:
                found.update({item.sandbox_id: str(item.metadata.get(OWNER)) for item in pages.next_items()})
            return found

    def snapshots(self) -> dict[str, str]:
        """Snapshots that any process of ours made: id -> owner. Raises as `kill`."""
        with _translated("the cloud does not list its snapshots"):
            found = {}
            pages = _Sandbox.list_snapshots(**self._options)
            while pages.has_next:
                for item in pages.next_items():
                    for name in (item.snapshot_id, *item.names):
                        own = name.split("/")[-1].split(":")[0]
                        if own.startswith("axpo-"):
                            found[item.snapshot_id] = own.removeprefix("axpo-").rpartition("-")[0]
            return found


class _Waits:
    """Waits between repetitions of one request: the server's wish, or exponential with jitter; bounded."""

    def __init__(self, config: E2BConfig) -> None:
        self._left = config.max_retries
        self._deadline = time.monotonic() + config.max_retry_s
        self._next_s = _FIRST_WAIT_S

    def wait(self, retry_after_s: float | None) -> None:
        """Raises RateLimited where there is no more to wait for."""
        wait_s = self._next_s * random.uniform(0.5, 1.0) if retry_after_s is None else retry_after_s
        self._next_s = min(2 * self._next_s, _MAX_WAIT_S)
        if not self._left or time.monotonic() + wait_s > self._deadline:
            raise RateLimited("E2B says that there were too many requests; repeating did not help in time")
        self._left -= 1
        time.sleep(wait_s)


class _Watch:
    """Sees one request off, and its reply as it arrives: its status, its length, the time it takes."""

    def __init__(self, max_bytes: int, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.deadline = time.monotonic() + timeout_s
        self.status = 0
        self.retry_after_s: float | None = None
        self._max_bytes = max_bytes

    def send(self, request: httpx.Request) -> None:
        # The transport takes the sum of both for the whole exchange, and the SDK gives each all the time there is.
        request.extensions["timeout"].update(read=self.timeout_s, write=0.0)

    def see(self, response: httpx.Response) -> None:
        self.status = response.status_code
        wish = response.headers.get("Retry-After", "")
        if wish.isascii() and wish.isdecimal() and len(wish) < 6:
            self.retry_after_s = float(wish)
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


class _Sandbox(Sandbox):
    """The SDK's, with a look at what machines send: it would read without end."""

    watch: _Watch

    @property
    def _client(self) -> httpx.Client:
        client = super()._client
        client.headers["Accept-Encoding"] = "identity"
        client.event_hooks = {"request": [self.watch.send], "response": [self.watch.see]}
        return client

    def _handle_connection_error(self, err: Exception) -> None:
        """Would ask the machine how it is; we ask the cloud."""


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    """The SDK's exceptions as ours."""
    try:
        yield
    except (Gone, Refused, SandboxUnavailable):
        raise
    except AuthenticationException as error:
        raise SandboxUnavailable(
            f"{what}: E2B wants a valid key in the environment variable E2B_API_KEY: {error}"
        ) from error
    except RateLimitException as error:
        raise RateLimited(f"{what}: {error}") from error
    except NotFoundException as error:
        raise Gone(f"{what}: {error}") from error
    except (InvalidArgumentException, NotEnoughSpaceException) as error:
        raise Refused(f"{what}: {error}") from error
    except SandboxException as error:
        if error.status_code in (404, 410):
            raise Gone(f"{what}: {error}") from error
        if error.status_code in _REFUSALS:
            raise Refused(f"{what}: {error}") from error
        raise SandboxUnavailable(f"{what}: {error}") from error
    except Exception as error:  # connections, time-outs, answers that make no sense
        raise SandboxUnavailable(f"{what}: {type(error).__name__}: {error}") from error
