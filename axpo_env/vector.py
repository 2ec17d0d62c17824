"""Many episodes at once where tools are slow: `ThreadedVectorEnv`, a thread for each step under way.

It steps in lockstep like any Gymnasium vector environment, or without a barrier: `send` starts steps, `recv` gives
results as they finish. Threads suit environments that wait (for sandboxes, searches, models); for ones that compute
in Python, processes (`gymnasium.vector.AsyncVectorEnv`) are faster. One thread uses a vector environment at a time.

    envs = gymnasium.make_vec("AXPO/ChartQA-Tools-v0", num_envs=64)  # this one, unless a vectorization_mode is given
    observations, infos = envs.reset(seed=0)
    envs.send(range(64), actions)
    for result in envs.as_finished():
        envs.send([result.env_id], [act(result)])
"""

import contextlib
import math
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate

from axpo_env.env import ToolEnv
from axpo_env.names import check_seconds
from axpo_env.state import StopReason
from axpo_env.vector_jobs import Job, StepResult, joined
from axpo_env.workers import Crew, Failure, Worker

_OPTIONS = ("autoreset_mode", "deadline_s", "reset_deadline_s")
CLOSE_TIMEOUT_S = 5.0  # how long closing waits for steps that are still running


@dataclass(kw_only=True, eq=False)
class _Slot:
    """One of the environments, which may be replaced by a fresh one."""

    env_id: int
    worker: Worker
    job: Job | None = None  # under way, or its result not yet received
    latest: StepResult | None = None
    must_reset: bool = False  # the episode has ended or broken and no other was begun
    began_s: float | None = None  # time.monotonic() when the episode's reset was done; None until it is
    owed: BaseException | None = None  # of the reset after an end: the end was given first, this comes next
    seed: int | None = None  # of the latest seeded reset
    num_replaced: int = 0

    def fresh_seed(self) -> int | None:
        """A seed for a fresh environment in the place of one that was seeded; None if that was not."""
        if self.seed is None:
            return None
        return int(np.random.SeedSequence([self.seed, self.num_replaced]).generate_state(1)[0])


class ThreadedVectorEnv(VectorEnv[Any, Any, Any]):
    """Environments that step in threads, with or without a barrier.

    `autoreset_mode` is Gymnasium's: with NEXT_STEP, the step after an end resets and ignores its action; with
    SAME_STEP, the step that ends an episode also begins the next one and has the last moment in its info
    (`final_obs`, `final_info`); with DISABLED, ended environments are reset by `reset(options={"reset_mask":
    ...})` or `send_reset`. An environment whose step raised counts as ended.

    An episode that is older than `deadline_s` (wall-clock, from the end of its reset) is truncated with
    `stop_reason` "timeout" and no grade, even in the middle of a step; there a fresh environment takes the
    place of the one that hangs, which is closed when its step returns. A step that is done counts, however late
    its result is received. So it is for a reset that takes longer than `reset_deadline_s`, the making of a fresh
    environment included; but as there is nothing to show, its result is a TimeoutError, raised like what a step
    raises. Where the reset after an end fails or hangs with SAME_STEP, the end comes first, with its last moment in
    the new one's place, and the next step raises.
    """

    def __init__(
        self,
        env_fns: Iterable[Callable[[], gym.Env[Any, Any]]],
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        deadline_s: float | None = None,  # seconds an episode may take; None: no limit
        reset_deadline_s: float | None = None,  # seconds a reset may take; None: as `deadline_s`
    ) -> None:
        super().__init__()
        self.env_fns = tuple(env_fns)
        if not self.env_fns:
            raise ValueError("a vector environment has at least one environment")
        for name, limit_s in (("deadline_s", deadline_s), ("reset_deadline_s", reset_deadline_s)):
            if limit_s is not None:
                check_seconds(name, limit_s)
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.deadline_s = deadline_s
        self.reset_deadline_s = deadline_s if reset_deadline_s is None else reset_deadline_s
        envs = _make_alike(self.env_fns)
        self.num_envs = len(envs)
        self.metadata = {**envs[0].metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = envs[0].render_mode
        self.single_observation_space = envs[0].observation_space
        self.single_action_space = envs[0].action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._crew = Crew()
        self._left: set[int] = set()  # whose results a reset or step in lockstep left behind when it raised
        self._slots = [
            _Slot(env_id=number, worker=Worker(number, make, env=env))
            for number, (make, env) in enumerate(zip(self.env_fns, envs, strict=True))
        ]
        self._end = weakref.finalize(self, _end_all, self._crew, self._slots)
        self._end.atexit = False  # the threads end with the program

    # In lockstep, as Gymnasium has it.

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset all environments, or those where `options["reset_mask"]` (bool [num_envs]) is true.

        An int as `seed` gives seed, seed + 1, ...; other options go to every environment. Steps in flight are
        awaited and results not yet received are dropped.
        """
        seeds: list[int | None]
        if seed is None or isinstance(seed, int | np.integer):
            seeds = [None if seed is None else int(seed) + number for number in range(self.num_envs)]
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds for {self.num_envs} environments")
        options = dict(options or {})
        ids = _masked_ids(options.pop("reset_mask", None), self.num_envs)
        self._drain()
        with self._lockstep():
            self.send_reset(ids, seeds=[seeds[number] for number in ids], options=options or None)
            return self._batch(self.recv_from(ids))[::4]

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step of every environment; waits for the slowest.

        Raises what the first environment's step raised that did (with its number as a note). The others have
        then made theirs; what it gave can be received, and is dropped by the next step, which goes on from there.
        So it does after an interrupt (KeyboardInterrupt), once the steps under way are done.
        """
        self._drop_left()
        if self.num_pending:
            raise RuntimeError(f"{self.num_pending} results of `send` are not received yet")
        everyone = range(self.num_envs)
        with self._lockstep():
            self.send(everyone, list(iterate(self.action_space, actions)))
            return self._batch(self.recv_from(everyone))

    # Without a barrier.

    @property
    def num_pending(self) -> int:
        """How many results are in flight or wait to be received."""
        return self._crew.num_pending

    def send(self, ids: Iterable[int], actions: Iterable[Any]) -> None:
        """Start a step of each environment in `ids` with its action. Returns at once.

        Raises RuntimeError for an environment whose last result was not received, or that must be reset first.
        """
        slots = [self._slots[number] for number in self._idle(ids)]
        given = list(actions)
        if len(given) != len(slots):
            raise ValueError(f"{len(given)} actions for {len(slots)} environments")
        for slot in slots:
            if slot.must_reset and self.autoreset_mode is AutoresetMode.DISABLED:
                raise RuntimeError(f"environment {slot.env_id} must be reset first: its episode has ended")
        for slot, action in zip(slots, given, strict=True):
            if slot.owed is not None:
                self._crew.results[slot.env_id] = Failure(slot.owed)
                slot.owed = None
            elif slot.must_reset:
                self._submit_reset(slot)
            elif self._deadline(slot) <= time.monotonic():
                self._time_out(slot)
            else:
                resets = self.autoreset_mode is AutoresetMode.SAME_STEP
                self._submit(slot, Job(env_id=slot.env_id, action=action, resets=resets))

    def send_reset(
        self,
        ids: Iterable[int],
        *,
        seeds: Iterable[int | None] | None = None,
        options: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = None,
    ) -> None:
        """Start a reset of each environment in `ids`. `options` are for all of them, or a list of one for each."""
        numbers = self._idle(ids)
        each_seed = [None] * len(numbers) if seeds is None else list(seeds)
        each_options: list[Mapping[str, Any] | None]
        if options is None or isinstance(options, Mapping):
            each_options = [options] * len(numbers)
        else:
            each_options = list(options)
        if not len(numbers) == len(each_seed) == len(each_options):
            counts = f"{len(each_seed)} seeds and {len(each_options)} options"
            raise ValueError(f"{counts} for {len(numbers)} environments")
        for number, seed, given in zip(numbers, each_seed, each_options, strict=True):
            self._submit_reset(self._slots[number], seed=seed, options=given)

    def recv(self, num: int = 1) -> list[StepResult]:
        """The next `num` results, in the order in which they finish.

        Raises ValueError if fewer are pending. Where a step raised, raises that (with the environment's number as
        a note); the other results stay for the next call.
        """
        if not 0 <= num <= self.num_pending:
            raise ValueError(f"asked for {num} results, {self.num_pending} are pending")
        self._wait(num, None)
        return self._take(list(islice(self._crew.results, num)))

    def recv_from(self, ids: Iterable[int]) -> list[StepResult]:
        """The results of the environments in `ids`, in this order, when all are there. Raises as `recv`."""
        numbers = [self._check_id(number) for number in ids]
        pending = {**self._crew.in_flight, **self._crew.results}
        for number in numbers:
            if number not in pending:
                raise ValueError(f"no result of environment {number} is pending")
        if len(set(numbers)) != len(numbers):
            raise ValueError(f"an environment is asked for twice in {numbers}")
        self._wait(len(numbers), frozenset(numbers))
        return self._take(numbers)

    def as_finished(self) -> Iterator[StepResult]:
        """Results as they finish, while any is pending; the loop may send on."""
        while self.num_pending:
            yield self.recv(1)[0]

    # The rest of Gymnasium's interface.

    @property
    def envs(self) -> tuple[gym.Env[Any, Any], ...]:
        """The environments; leave those in flight alone."""
        return tuple(slot.worker.env for slot in self._slots)

    @property  # type: ignore[misc]
    def np_random(self) -> Any:
        return self.get_attr("np_random")

    @property
    def np_random_seed(self) -> Any:
        return self.get_attr("np_random_seed")

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Every environment's attribute `name`, called if it can be."""
        values = (env.get_wrapper_attr(name) for env in self._all_idle())
        return tuple(value(*args, **kwargs) if callable(value) else value for value in values)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Every environment's attribute `name`."""
        return tuple(env.get_wrapper_attr(name) for env in self._all_idle())

    def set_attr(self, name: str, values: Any) -> None:
        """Set attribute `name` of every environment, to one value or to a list or tuple of one for each."""
        each = list(values) if isinstance(values, list | tuple) else [values] * self.num_envs
        for env, value in zip(self._all_idle(), each, strict=True):
            env.set_wrapper_attr(name, value)

    def render(self) -> tuple[Any, ...] | None:
        return self.call("render")

    def close_extras(self, *, timeout_s: float = CLOSE_TIMEOUT_S, **kwargs: Any) -> None:
        """Close all environments. One whose step is running is waited for up to `timeout_s` (all together).

        Raises what the first environment's closing raised that did, once all are closed.
        """
        if (
            not hasattr(self, "_end") or not self._end.alive
        ):  # making an environment raised, or all are closed
            return
        self.closed = True
        self._end.detach()
        errors = _end_all(self._crew, self._slots, timeout_s=timeout_s)
        if errors:
            raise errors[0]

    # Inside.

    def _check_id(self, number: Any) -> int:
        if isinstance(number, bool) or not isinstance(number, int | np.integer):
            raise TypeError(f"an environment's number is an integer, not {type(number).__name__}")
        if not 0 <= number < self.num_envs:
            raise IndexError(f"environments are 0 to {self.num_envs - 1}, not {number}")
        return int(number)

    def _check_open(self) -> None:
        if self.closed:
            raise RuntimeError("the vector environment is closed")

    def _idle(self, ids: Iterable[int]) -> list[int]:
        """`ids`, all of them checked before anything is started."""
        self._check_open()
        numbers = [self._check_id(number) for number in ids]
        for number in numbers:
            if number in self._crew.in_flight or number in self._crew.results:
                raise RuntimeError(f"environment {number} has a result that was not received yet")
        if len(set(numbers)) != len(numbers):
            raise ValueError(f"an environment is given twice in {numbers}")
        return numbers

    def _all_idle(self) -> tuple[gym.Env[Any, Any], ...]:
        self._drop_left()
        self._idle(range(self.num_envs))
        for slot in self._slots:
            if slot.worker.env is None:  # of one that was replaced; no job has made it yet
                slot.worker.env = self.env_fns[slot.env_id]()
        return self.envs

    @contextlib.contextmanager
    def _lockstep(self) -> Iterator[None]:
        """If what is done inside raises, nobody has asked for the results that stay or are still to come."""
        try:
            yield
        except BaseException:
            self._left = {*self._crew.results, *self._crew.in_flight}
            raise

    def _drop_left(self) -> None:
        """Drop the results that nobody has asked for, when they are there."""
        self._wait(len(self._left), frozenset(self._left))
        for number in list(self._left):
            self._settle(number, self._crew.results.pop(number))

    def _drain(self) -> None:
        """Wait for whatever is in flight, and drop it."""
        self._wait(self.num_pending, None)
        for number in list(self._crew.results):
            self._settle(number, self._crew.results.pop(number))

    def _deadline(self, slot: _Slot) -> float:
        """When the episode times out, or the reset that is under way, by `time.monotonic()`."""
        if slot.job is not None and slot.job.reset_s is not None:
            return slot.job.reset_s + (math.inf if self.reset_deadline_s is None else self.reset_deadline_s)
        if slot.began_s is None or self.deadline_s is None:
            return math.inf
        return slot.began_s + self.deadline_s

    def _submit(self, slot: _Slot, job: Job) -> None:
        slot.job = job
        self._crew.submit(slot.worker, job)

    def _submit_reset(
        self,
        slot: _Slot,
        *,
        seed: int | None = None,
        options: Mapping[str, Any] | None = None,
        final: StepResult | None = None,
    ) -> None:
        if seed is not None:
            slot.seed, slot.num_replaced = seed, 0
        elif slot.worker.env is None:
            seed = slot.fresh_seed()
        slot.began_s, slot.owed = None, None
        given = None if options is None else dict(options)
        self._submit(
            slot, Job(env_id=slot.env_id, seed=seed, options=given, final=final, reset_s=time.monotonic())
        )

    def _time_out(self, slot: _Slot) -> None:
        """End an idle environment's episode for its age."""
        last = _timed_out(slot)
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            self._submit_reset(slot, final=last)
        else:
            self._crew.results[slot.env_id] = last

    def _wait(self, num: int, wanted: frozenset[int] | None) -> None:
        """Wait for results; steps whose episode is too old, and resets that take too long, are abandoned."""
        self._check_open()
        if self.deadline_s is None and self.reset_deadline_s is None:
            self._crew.wait(num, wanted)
            return
        while True:
            running = [self._slots[number] for number in self._crew.in_flight]
            until_s = min((self._deadline(slot) for slot in running), default=math.inf)
            if self.reset_deadline_s is not None and self.autoreset_mode is AutoresetMode.SAME_STEP:
                # A step may turn into a reset meanwhile, and that have an earlier deadline.
                until_s = min(until_s, time.monotonic() + self.reset_deadline_s)
            if self._crew.wait(num, wanted, until_s=None if until_s == math.inf else until_s):
                return
            for slot in running:
                if slot.env_id in self._crew.in_flight and self._deadline(slot) <= time.monotonic():
                    self._replace(slot)

    def _replace(self, slot: _Slot) -> None:
        """Put a fresh environment in the place of one that hangs, and end its episode, or its reset in an error."""
        self._crew.abandon(slot.env_id)
        slot.worker = Worker(slot.env_id, self.env_fns[slot.env_id])
        slot.num_replaced += 1
        job = slot.job
        assert job is not None
        if job.reset_s is None:
            self._time_out(slot)
            return
        error = TimeoutError(f"the reset took longer than {self.reset_deadline_s} s")
        # The thread may still write to its job.
        slot.job = replace(job, failure=error, begun_s=None)
        self._crew.results[slot.env_id] = (
            Failure(error) if job.final is None else joined(job.final, job.final)
        )

    def _take(self, numbers: Sequence[int]) -> list[StepResult]:
        results = self._crew.results
        failed = next((number for number in numbers if isinstance(results[number], Failure)), None)
        if failed is not None:
            error = results[failed].error
            self._settle(failed, results.pop(failed))
            error.add_note(f"(in environment {failed} of {self.num_envs})")
            raise error
        taken = [results.pop(number) for number in numbers]
        for result in taken:
            self._settle(result.env_id, result)
        return taken

    def _settle(self, number: int, result: StepResult | Failure) -> None:
        """Note where the environment stands after a result."""
        slot = self._slots[number]
        self._left.discard(number)
        job, slot.job = slot.job, None
        if isinstance(result, Failure):
            slot.must_reset = True
            return
        slot.latest = result
        slot.owed = None if job is None else job.failure
        begun_s = None if job is None else job.begun_s
        slot.must_reset = result.ended and begun_s is None
        if begun_s is not None:
            slot.began_s = begun_s

    def _batch(self, results: Sequence[StepResult]) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Gymnasium's arrays of all environments. `infos` holds those of `results`."""
        infos: dict[str, Any] = {}
        for result in results:
            infos = self._add_info(infos, result.info, result.env_id)
        latest = [slot.latest for slot in self._slots]
        if any(result is None for result in latest):
            raise RuntimeError("some environments were never reset")
        known = [result for result in latest if result is not None]
        empty: Any = create_empty_array(self.single_observation_space, n=self.num_envs, fn=np.zeros)
        return (
            concatenate(self.single_observation_space, [result.observation for result in known], empty),
            np.array([result.reward for result in known], dtype=np.float64),
            np.array([result.terminated for result in known], dtype=np.bool_),
            np.array([result.truncated for result in known], dtype=np.bool_),
            infos,
        )


def make_threaded(num_envs: int = 1, **keywords: Any) -> ThreadedVectorEnv:
    """What `gymnasium.make_vec` calls for the suite's ids: a `ThreadedVectorEnv`'s own keywords, and the id's."""
    options = {name: keywords.pop(name) for name in _OPTIONS if name in keywords}
    return ThreadedVectorEnv([lambda: ToolEnv(**keywords)] * num_envs, **options)


def _timed_out(slot: _Slot) -> StepResult:
    """The last step of an episode that is too old: nothing new was seen."""
    assert slot.latest is not None
    info = {
        name: value for name, value in slot.latest.info.items() if name not in ("final_obs", "final_info")
    }
    nothing_new: dict[str, Any] = {name: [] for name in ("new_messages", "tool_calls") if name in info}
    info = {**info, **nothing_new, "stop_reason": StopReason.TIMEOUT, "grade": None}
    return replace(slot.latest, reward=0.0, terminated=False, truncated=True, info=info)


def _make_alike(makes: Sequence[Callable[[], gym.Env[Any, Any]]]) -> list[gym.Env[Any, Any]]:
    """The environments. Raises ValueError unless all have the same spaces; what was made is then closed."""
    envs: list[gym.Env[Any, Any]] = []
    try:
        for number, make in enumerate(makes):
            env = make()
            envs.append(env)
            spaces = (env.observation_space, env.action_space)
            if spaces != (envs[0].observation_space, envs[0].action_space):
                raise ValueError(f"environment {number} has other spaces than environment 0: {spaces}")
    except BaseException:
        for env in envs:
            with contextlib.suppress(Exception):
                env.close()
        raise
    return envs


def _end_all(crew: Crew, slots: Sequence[_Slot], *, timeout_s: float = 0.0) -> list[Exception]:
    """Close the environments and let the threads end. Returns what was raised here, in the caller's thread."""
    errors = []
    for slot in slots:
        try:
            crew.end(slot.worker)
        except Exception as error:
            errors.append(error)
    crew.dismiss(until_s=time.monotonic() + timeout_s)
    return errors


def _masked_ids(mask: Any, num_envs: int) -> list[int]:
    if mask is None:
        return list(range(num_envs))
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (num_envs,):
        raise TypeError(f"reset_mask must be a bool array of shape ({num_envs},), not {mask!r}")
    if not mask.any():
        raise ValueError("reset_mask selects no environment")
    return [int(number) for number in np.flatnonzero(mask)]
