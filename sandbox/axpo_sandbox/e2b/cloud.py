"""The control plane: makes, finds, renews and ends machines and snapshots, by the rules of the services.

Requests go over the SDK's client and connections, not through its methods: those ask for a route that clusters of
one's own do not have, keep Retry-After to themselves, and trip over errors that are not JSON. What a machine does is
left to `machine`; when to make or end one to `client` and `keeper`.
"""

import json
import uuid
from collections.abc import Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from axpo_sandbox.base import RateLimited, SandboxUnavailable
from axpo_sandbox.e2b.config import E2BConfig
from axpo_sandbox.e2b.machine import Answer, Machine, SDKSandbox, client_of, no_key
from axpo_sandbox.e2b.owner import owner_of_this_process
from axpo_sandbox.e2b.rules import (
    BRIEF,
    MISSING,
    NUM_BRIEF,
    UNDONE,
    UNKNOWN,
    Clock,
    Gone,
    Pace,
    Refused,
    Waits,
    seconds_in,
)

MARK = {"axpo": "sandbox"}
OWNER = "axpo-owner"
SANDBOX = "axpo-sandbox"
MAX_FORKS = 16  # per request; E2B allows 20, AgentENV 16
_END_S = 10.0  # in which ending something is repeated; the keeper comes back to it
_CREATE_ROUTES = ("/v2/sandboxes", "/sandboxes")  # E2B's cloud; clusters of one's own


class Listed(NamedTuple):
    """A machine in the cloud's list."""

    id: str
    owner: str
    left_s: float | None
    """seconds until it ends by itself; None where the cloud does not say"""


class Cloud:
    """See the module. Threads may share it."""

    def __init__(self, config: E2BConfig, clock: Clock | None = None) -> None:
        """Raises SandboxUnavailable without a key."""
        self.clock = clock or Clock()
        self.owner = owner_of_this_process()
        self.mark = uuid.uuid4().hex[:12]  # of the machines that are made here, and their forks
        self._config = config
        self._lifetime_s = config.lifetime_s
        self._pace = Pace(self.clock, config.creations_per_s)
        self._create_routes: tuple[str, ...] = _CREATE_ROUTES  # the one that works, once that is known
        self._reached = False  # whether anyone ever answered
        self._http = client_of(config)

    def create(self, source: str) -> Machine:
        """A machine from a template or a snapshot. Raises Gone, Refused, RateLimited, SandboxUnavailable."""
        body = {
            "templateID": source,
            "timeout": self._lifetime_s,
            "autoPause": False,  # at the end of its lifetime it ends; some clusters would keep it
            "metadata": {**MARK, OWNER: self.owner, SANDBOX: self.mark},
            "allow_internet_access": self._config.allow_internet_access,
        }
        key = {"Idempotency-Key": uuid.uuid4().hex}  # a repeated request must not leave a second machine
        what = f"no machine could be made from {source!r}"
        gone = ""
        for route in self._create_routes:
            given = body if route == "/v2/sandboxes" else {**body, "secure": True}
            try:
                answer = self._ask("POST", route, what, paced=True, json=given, headers=key)
            except Gone as failure:  # the source, or the route
                gone = str(failure)
            except Refused as failure:
                if not failure.for_good or (route == self._create_routes[-1] and not gone):
                    raise
            else:
                self._create_routes = (route,)
                return self._machine(_read(answer, what), source, what)
        raise Gone(gone)

    def fork(self, machine: Machine, num_branches: int) -> list[Machine]:
        """Copies of a running machine; fewer where some could not start. Raises as `create`.

        Not asked again where nobody knows whether it was done; copies that nobody knows end by themselves.
        """
        made: list[Machine] = []
        what = f"machine {machine.id} could not be forked"
        for first in range(0, num_branches, MAX_FORKS):
            body = {"timeout": self._lifetime_s, "count": min(MAX_FORKS, num_branches - first)}
            try:
                answer = self._ask(
                    "POST", f"{_path(machine.id)}/fork", what, paced=True, repeat_unknown=False, json=body
                )
                results = _read(answer, what, list)
            except (Gone, Refused, SandboxUnavailable):
                if not made:
                    raise
                break
            started = [item["sandbox"] for item in results if item.get("sandbox")]
            made += [self._machine(said, machine.source, what) for said in started]
        return made

    def snapshot_name(self) -> str:
        """A name for a new snapshot, by which `axpo_sandbox.e2b.reaper` knows whose it is."""
        return f"axpo-{self.owner}-{uuid.uuid4().hex[:12]}"

    def snapshot(self, machine: Machine, name: str) -> str:
        """Freeze a machine, which goes on; the snapshot's id. Raises as `create`. Again, with one name, is as once."""
        what = f"machine {machine.id} could not be snapshot"
        answer = self._ask("POST", f"{_path(machine.id)}/snapshots", what, json={"name": name})
        return str(_read(answer, what)["snapshotID"])

    def is_running(self, machine: Machine) -> bool:
        """Whether it is there and not paused. Raises RateLimited, SandboxUnavailable."""
        what = f"the cloud does not say how machine {machine.id} is"
        try:
            return bool(_read(self._ask("GET", _path(machine.id), what), what).get("state") == "running")
        except Gone:
            return False
        except Refused as error:
            raise SandboxUnavailable(str(error)) from error

    def renew(self, machine: Machine) -> None:
        """Let it live for another lifetime_s. Raises as `create`; not repeated."""
        what = f"machine {machine.id} could not be renewed"
        body = {"timeout": self._lifetime_s}
        asked_at = self.clock.now()
        self._ask("POST", f"{_path(machine.id)}/timeout", what, budget_s=0.0, json=body)
        machine.ends_at = asked_at + self._lifetime_s

    def kill(self, machine_id: str) -> bool:
        """End it, running or paused; whether there was one. Raises Refused, RateLimited, SandboxUnavailable."""
        return self._end(_path(machine_id), f"machine {machine_id} could not be ended")

    def delete_snapshot(self, snapshot_id: str) -> bool:
        """Delete it; whether there was one. Raises Refused while machines made of it run, else as `kill`."""
        path = f"/templates/{quote(snapshot_id, safe='')}"
        return self._end(path, f"snapshot {snapshot_id} could not be deleted")

    def machines(self, *, own: bool = False) -> list[Listed]:
        """Machines, running or paused, that any process of ours made, or that were made here. Raises as `kill`."""
        marks = {**MARK, SANDBOX: self.mark} if own else MARK
        query = {"metadata": urlencode(marks), "state": "running,paused"}
        pages = self._pages("/v2/sandboxes", "the cloud does not list its machines", query)
        return [
            Listed(
                str(item.get("sandboxID")), str((item.get("metadata") or {}).get(OWNER)), _left_s(item, date)
            )
            for item, date in pages
        ]

    def snapshots(self) -> dict[str, str]:
        """Snapshots that any process of ours made: id -> owner. Raises as `kill`."""
        found = {}
        for item, _ in self._pages("/snapshots", "the cloud does not list its snapshots", {}):
            snapshot_id = str(item.get("snapshotID"))
            for name in (snapshot_id, *(item.get("names") or ())):
                own = str(name).split("/")[-1].split(":")[0]
                if own.startswith("axpo-"):
                    found[snapshot_id] = own.removeprefix("axpo-").rpartition("-")[0]
        return found

    def _machine(self, said: Any, source: str, what: str) -> Machine:
        try:
            sdk = SDKSandbox.of(said, self._config)
        except Exception as error:
            raise SandboxUnavailable(f"{what}: an answer that makes no sense: {error!r}") from error
        return Machine(sdk, self._config, self.clock, source, self.clock.now() + self._lifetime_s)

    def _end(self, path: str, what: str) -> bool:
        try:
            self._ask("DELETE", path, what, budget_s=min(_END_S, self._config.max_retry_s))
        except Gone:
            return False
        return True

    def _pages(self, path: str, what: str, query: dict[str, str]) -> Iterator[tuple[dict[str, Any], str]]:
        """Items of a list, each with the cloud's date; none where it has no such list."""
        while True:
            try:
                answer = self._ask(
                    "GET", path, what, budget_s=min(_END_S, self._config.max_retry_s), params=query
                )
            except (Gone, Refused) as error:
                if isinstance(error, Gone) or error.for_good:
                    return
                raise
            for item in _read(answer, what, list):
                yield item, answer.headers.get("Date", "")
            if not (token := answer.headers.get("X-Next-Token")):
                return
            query = {**query, "nextToken": token}

    def _ask(
        self,
        method: str,
        path: str,
        what: str,
        *,
        paced: bool = False,
        repeat_unknown: bool = True,
        budget_s: float | None = None,
        **given: Any,
    ) -> Answer:
        """The answer to a request, asked again as long as it may pass. what: went wrong, if it does not.

        repeat_unknown: also where it may have been done. Raises as `create`.
        """
        waits = Waits(self.clock, self._config.max_retry_s if budget_s is None else budget_s)
        num_brief = 0
        while True:
            if paced:
                waits.extend(self._pace.wait_turn())
            answer, said = self._ask_once(method, path, given)
            status = 0 if answer is None else answer.status_code
            if paced:
                self._pace.learn(too_many=status == 429)
            if answer is not None and 200 <= status < 300:
                return answer
            if status in BRIEF or not self._reached:  # the address may be wrong, or the request
                num_brief += 1
            may_pass = status in UNDONE or (status in UNKNOWN and repeat_unknown)
            if not may_pass or num_brief > NUM_BRIEF or not waits.wait(_wish(answer)):
                raise _failure(status, f"{what}: {said}")

    def _ask_once(self, method: str, path: str, given: dict[str, Any]) -> tuple[Answer | None, str]:
        """The answer, and what it says; or None, and what went wrong."""
        try:
            answer = self._http.request(method, path, **given)
        except Exception as error:  # connections, time-outs
            return None, f"{type(error).__name__}: {error}"
        self._reached = True
        try:
            return answer, f"{answer.status_code}: {json.loads(answer.content)['message']}"
        except (ValueError, TypeError, KeyError):
            return answer, f"{answer.status_code}: {answer.text[:500]}"


def _failure(status: int, message: str) -> Exception:
    if status in (404, 410):
        return Gone(message)
    if status == 401:
        return SandboxUnavailable(no_key(message))
    if status == 429:
        return RateLimited(f"{message}; asking again did not help in time (max_retry_s)")
    if status == 403 or status in UNKNOWN or status == 503:
        return SandboxUnavailable(message)
    return Refused(message, for_good=status in MISSING)


def _wish(answer: Answer | None) -> float | None:
    return None if answer is None else seconds_in(answer.headers.get("Retry-After", ""))


def _read(answer: Answer, what: str, kind: type = dict) -> Any:
    """What an answer holds. Raises SandboxUnavailable where it is something else."""
    try:
        said = json.loads(answer.content)
    except ValueError:
        said = None
    items = said if isinstance(said, list) else [said]
    if not isinstance(said, kind) or not all(isinstance(item, dict) for item in items):
        raise SandboxUnavailable(f"{what}: an answer that makes no sense: {answer.text[:200]!r}")
    return said


def _path(machine_id: str) -> str:
    return f"/sandboxes/{quote(machine_id, safe='')}"


def _left_s(item: dict[str, Any], date: str) -> float | None:
    """From the cloud's own clock to the end of a machine that it lists."""
    try:
        ends = datetime.fromisoformat(str(item["endAt"]).replace("Z", "+00:00"))
        return (ends - parsedate_to_datetime(date)).total_seconds()
    except (KeyError, ValueError, TypeError):
        return None
