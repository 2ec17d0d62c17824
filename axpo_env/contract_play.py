"""What the contract's checks share: actions to play, and what came back, written down so that it can be compared.

Only what resets and steps give back is looked at, whatever an environment is made of. What must hold is left to
`contract`, `contract_faults` and `contract_leaks`.
"""

import hashlib
import math
import random
import re
from collections import UserDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from axpo_env.actions import random_action

MakeEnv = Callable[[], Any]
Seen = dict[str, str]  # path -> what stands there, such as {"/info/num_turns": "int 1"}
SEED = 7
_PLAIN = frozenset((str, int, float, bool, type(None)))  # most of what there is
_MAX_CHARS = 200  # longer texts are compared by their digest


class Skipped(Exception):
    """The environment cannot be asked this; the text says what it lacks."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a step gave, as it was at that moment."""

    seen: Seen
    ended: bool


def need(env: Any, *names: str) -> None:
    """Raise Skipped unless `env` has these attributes."""
    lacking = [name for name in names if not hasattr(env, name)]
    if lacking:
        env.close()
        raise Skipped(f"the environment has no {', '.join(lacking)}")


def takes_text(env: Any) -> bool:
    return "text" in env.action_space


def tool_schemas(info: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The schemas of the episode's tools, where `info` has them under "tools"."""
    tools = info.get("tools")
    schemas = tools if isinstance(tools, list | tuple) else ()
    return [tool for tool in schemas if isinstance(tool, Mapping) and "function" in tool]


def actions_for(env: Any, seed: int, count: int = 6) -> list[Any]:
    """Plausible random actions, of whatever the environment takes. Resets the environment."""
    _, info = env.reset(seed=SEED)
    if takes_text(env):
        rng, schemas = random.Random(seed), tool_schemas(info)
        return [random_action(rng, schemas) for _ in range(count)]
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(count)]


def play(env: Any, actions: Iterable[Any]) -> list[Any]:
    """Step through `actions` until they or the episode end. Returns what the steps returned."""
    outcomes: list[Any] = []
    for action in actions:
        outcomes.append(env.step(action))
        check_outcome(outcomes[-1])
        if outcomes[-1][2] or outcomes[-1][3]:
            break
    return outcomes


def watch(env: Any, actions: Iterable[Any]) -> list[Step]:
    """As `play`, but each outcome is written down at once: what it holds may change later."""
    steps: list[Step] = []
    for action in actions:
        outcome = env.step(action)
        check_outcome(outcome)
        steps.append(Step(seen=see_step(outcome), ended=bool(outcome[2] or outcome[3])))
        if steps[-1].ended:
            break
    return steps


def watch_on(env: Any, actions: Iterable[Any]) -> list[Step]:
    """As `watch`, with the start of the next episode: what is drawn there shows the random state."""
    return [*watch(env, actions), Step(seen=see_start(env.reset()), ended=False)]


def check_outcome(outcome: Any) -> None:
    """Raise AssertionError unless it is what a step must give."""
    assert isinstance(outcome, tuple) and len(outcome) == 5, (
        f"a step gave {type(outcome).__name__}, not 5 values"
    )
    _, reward, terminated, truncated, info = outcome
    number = isinstance(reward, int | float | np.number) and math.isfinite(reward)
    assert number, f"the reward is {reward!r}, no finite number"
    for flag in (terminated, truncated):
        assert isinstance(flag, bool | np.bool_), f"a flag is {flag!r}, neither True nor False"
    assert not (terminated and truncated), "an episode was terminated and truncated at once"
    assert isinstance(info, dict), f"info is {type(info).__name__}, not dict"


def see_step(outcome: Sequence[Any]) -> Seen:
    """A step's outcome, written down."""
    names = ("observation", "reward", "terminated", "truncated", "info")
    return see(dict(zip(names, outcome, strict=True)))


def see_start(start: Sequence[Any]) -> Seen:
    """What a reset or restore gave, written down."""
    return see(dict(zip(("observation", "info"), start, strict=True)))


def see(value: Any) -> Seen:
    """`value` written down, part by part; the same in every process."""
    seen: Seen = {}
    _write(value, "", seen, {})
    return seen


def _write(value: Any, path: str, seen: Seen, arrays: dict[int, str]) -> None:
    """`arrays` holds what arrays were written as: an image stands in observation and messages."""
    kind = type(value).__name__
    if isinstance(value, np.ndarray) and value.dtype != object:
        if id(value) not in arrays:
            arrays[id(value)] = f"{kind} {_leaf(value)}"
        seen[path] = arrays[id(value)]
        return
    parts = None if type(value) in _PLAIN else _parts(value)
    if parts is None:
        seen[path] = f"{kind} {_leaf(value)}"
        return
    seen[path] = f"{kind} of {len(parts)}"
    for name, part in parts:
        _write(part, f"{path}/{name}", seen, arrays)


def _parts(value: Any) -> list[tuple[Any, Any]] | None:
    """The parts of a container by name; None for anything else."""
    if isinstance(value, Mapping | UserDict):
        return list(value.items())
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.dtype == object):
        return list(enumerate(value))
    if isinstance(value, set | frozenset):
        return list(enumerate(sorted(value, key=repr)))
    if type(value).__module__ == "builtins" or isinstance(value, str | int | float | np.generic | np.ndarray):
        return None
    return list(vars(value).items()) if hasattr(value, "__dict__") else None


def _leaf(value: Any) -> str:
    if isinstance(value, np.ndarray):
        digest = hashlib.blake2b(np.ascontiguousarray(value).data, digest_size=8).hexdigest()
        return f"{value.dtype} {list(value.shape)} {digest}"
    if isinstance(value, int) and value.bit_length() > 1000:
        return hex(value)
    text = repr(value)
    if type(value) not in _PLAIN:
        text = re.sub(r" at 0x[0-9a-f]+", "", text)  # of an object without parts
    if len(text) <= _MAX_CHARS:
        return text
    return f"{text[:40]}... {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def same(first: Sequence[Step] | Seen, second: Sequence[Step] | Seen, what: str) -> None:
    """Raise AssertionError, with the first difference, unless both are alike."""
    ours, theirs = (
        [given] if isinstance(given, dict) else [step.seen for step in given] for given in (first, second)
    )
    assert len(ours) == len(theirs), f"{what}: {len(ours)} steps and {len(theirs)}"
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        for path in {**one, **other}:
            if one.get(path) != other.get(path):
                where = f"step {number}, {path[1:]}" if len(ours) > 1 else path[1:]
                raise AssertionError(f"{what} ({where}: {one.get(path)} and {other.get(path)})")


def mutable_parts(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """The containers and writable arrays in `value`, which a caller may change, with where they stand."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        return [(path, value)] if value.flags.writeable else []
    here = [(path, value)] if isinstance(value, dict | list | set | bytearray | UserDict | np.ndarray) else []
    parts = _parts(value) or []
    return here + [found for name, part in parts for found in mutable_parts(part, f"{path}/{name}")]


def shared_part(first: Any, second: Any) -> str | None:
    """Where a part that can be changed stands in both values, or None."""
    theirs = mutable_parts(second)
    ids = {id(part) for _, part in theirs}
    arrays = [part for _, part in theirs if isinstance(part, np.ndarray)]
    for path, part in mutable_parts(first):
        overlaps = isinstance(part, np.ndarray) and any(np.may_share_memory(part, one) for one in arrays)
        if id(part) in ids or overlaps:
            return path[1:]
    return None


def release(snapshot: Any) -> None:
    """Give a snapshot back, if that is how it is done."""
    if hasattr(snapshot, "release"):
        snapshot.release()
