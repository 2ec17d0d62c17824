"""What every environment of the suite promises, as checks; for environments of your own, too.

    python -m axpo_env.contract AXPO/ChartQA-Tools-v0 --difficulty nano
    python -m axpo_env.contract --all

prints a table and exits with 1 if a check fails. The checks need only the contract (spaces, reset, step,
snapshot, restore, fork, bytes), no particular task. What goes wrong or away is in `contract_faults`, which
environments there are in `catalogue`. What answers are worth, and whether the tasks are good, is left to
others.
"""

import argparse
import pickle
import random
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium.utils.env_checker import check_env, data_equivalence

import axpo_env
from axpo_env.actions import BAD_ACTIONS, fitting_arguments, random_action
from axpo_env.catalogue import ZOOM_AND_PYTHON, find_entries
from axpo_env.contract_faults import check_closing, check_outages, check_pickling
from axpo_env.echo import EchoSandbox
from axpo_env.messages import format_action, format_answer, format_call
from axpo_env.names import unknown_name
from axpo_env.snapshots import digest

MakeEnv = Callable[[], Any]
_SEED = 7


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one check went."""

    name: str
    error: str | None  # None: it passed


def play(env: Any, actions: list[Any]) -> list[Any]:
    """Step through `actions` until they or the episode end. Returns what the steps returned."""
    outcomes: list[Any] = []
    for action in actions:
        outcomes.append(env.step(action))
        if outcomes[-1][2] or outcomes[-1][3]:
            break
    return outcomes


def _actions(env: Any, seed: int, count: int = 6) -> list[str]:
    """Plausible random actions for the environment's tools."""
    rng = random.Random(seed)
    schemas = [tool.schema for tool in env.rules.tools.values()]
    return [random_action(rng, schemas) for _ in range(count)]


def _same(first: Any, second: Any, what: str) -> None:
    if not data_equivalence(first, second, exact=True):
        raise AssertionError(what)


def check_gymnasium(make: MakeEnv) -> None:
    """Gymnasium's own checks pass without a warning."""
    env = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)
    env.close()


def check_seeding(make: MakeEnv) -> None:
    """Two copies with one seed and the same actions show the same to the last byte."""
    first, second = make(), make()
    for seed in range(_SEED, _SEED + 5):
        actions = _actions(first, seed)
        _same(
            first.reset(seed=seed), second.reset(seed=seed), f"seed {seed} starts differently in two copies"
        )
        _same(play(first, actions), play(second, actions), f"seed {seed} goes on differently in two copies")
    first.close()
    second.close()


def check_indices(make: MakeEnv) -> None:
    """`options={"index": i}` gives task i whatever came before; an index outside raises IndexError."""
    first, second = make(), make()
    for index in {0, first.num_tasks // 2, first.num_tasks - 1}:
        second.reset(seed=index % 1000)
        start = first.reset(options={"index": index})
        assert start[1]["task"]["index"] == index, f"asked for task {index}, got {start[1]['task']}"
        _same(start, second.reset(options={"index": index}), f"task {index} differs between two copies")
    try:
        first.reset(options={"index": first.num_tasks})
    except IndexError:
        return
    finally:
        first.close()
        second.close()
    raise AssertionError("an index past the end was accepted")


def check_snapshots(make: MakeEnv, *, num_episodes: int = 10) -> None:
    """The snapshot law at every turn: restored, forked or elsewhere, the same actions show the same."""
    env, other = make(), make()
    for episode in range(num_episodes):
        actions = _actions(env, episode)
        env.reset(seed=episode)
        for turn in range(len(actions)):
            snapshot = env.snapshot()
            expected = play(env, actions[turn:])
            where = f"episode {episode}, turn {turn}"
            _same(expected, _restored(env, snapshot, actions[turn:]), f"{where}: restored goes another way")
            _same(
                expected, _restored(other, snapshot, actions[turn:]), f"{where}: elsewhere goes another way"
            )
            env.restore(snapshot)
            branch = env.fork(1)[0]
            _same(expected, play(branch, actions[turn:]), f"{where}: a branch goes another way")
            branch.close()
            snapshot.release()
            if len(expected) == 1 and (expected[0][2] or expected[0][3]):
                break
            env.step(actions[turn])
    env.close()
    other.close()


def _restored(env: Any, snapshot: Any, actions: list[Any]) -> list[Any]:
    env.restore(snapshot)
    return play(env, actions)


def check_forks(make: MakeEnv) -> None:
    """No branch sees what another did, in the episode or in the interpreter."""
    env = make()
    write = "{0} = 1; print(sorted(n for n in ('left', 'right', 'both') if n in globals()))"
    both, left, right = (
        format_action("", format_call("python", {"code": write.format(name)}))
        for name in ("both", "left", "right")
    )
    rng = random.Random(_SEED)
    pairs = [(both, left, right)]
    for tool in env.rules.tools.values():
        calls = [format_call(tool.name, fitting_arguments(tool.schema, rng)) for _ in range(3)]
        pairs.append((format_action("", calls[0]), format_action("", calls[1]), format_action("", calls[2])))
    for before, mine, others in pairs:
        _check_fork(env, before, mine, others)
    env.close()


def _check_fork(env: Any, before: str, mine: str, others: str) -> None:
    """After `before`, `mine` shows the same whether or not a sibling, a child or the parent did `others`."""
    env.reset(seed=_SEED)
    play(env, [before])
    if env.state.stop_reason is not None:
        return  # one turn is all there is
    first, second, third = env.fork(3)
    alone = play(first, [mine])
    play(second, [others])
    _same(play(third, [mine]), alone, "a branch saw what its sibling did")
    cousins = env.fork(2)
    play(cousins[0], [others])
    _same(play(cousins[1], [mine]), alone, "a branch saw what its sibling did after another had begun")
    orphan = env.fork(1)[0]
    play(env, [others])
    _same(play(orphan, [mine]), alone, "a branch saw what the one it came from did")
    for branch in (first, second, third, *cousins, orphan):
        branch.close()


def check_bad_actions(make: MakeEnv) -> None:
    """Whatever the policy writes is answered or ends the episode, and never raises."""
    env = make()
    for action in BAD_ACTIONS:
        what = f"action {str(action)[:60]!r}"
        env.reset(seed=_SEED)
        observation, reward, terminated, truncated, info = env.step(action)
        assert observation in env.observation_space, f"{what}: observation outside its space"
        assert reward == 0.0, f"{what}: rewarded"
        assert observation["text"] or terminated or truncated, f"{what}: nothing was said about it"
        assert info["stop_reason"] != "infrastructure", f"{what}: called an outage ({info['outage']})"
    env.close()


def check_random_text(make: MakeEnv) -> None:
    """Random unicode never raises."""
    env = make()
    env.action_space.seed(_SEED)
    env.reset(seed=_SEED)
    for _ in range(300):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
    env.close()


_CHILD = """
import pickle, sys
import gymnasium as gym
from axpo_env.contract import play
from axpo_env.snapshots import digest
spec, data, actions = pickle.load(sys.stdin.buffer)
env = gym.make(spec).unwrapped
env.restore(env.snapshot_from_bytes(data))
play(env, actions)
print(digest(env.state))
env.close()
"""


def check_bytes(make: MakeEnv) -> None:
    """A snapshot's bytes, in another process, lead to the same conversation."""
    env = make()
    if env.spec is None:
        return  # made without gymnasium.make, so another process cannot make it either
    env.reset(seed=_SEED)
    past = [format_action("", format_call("python", {"code": "n = 41; print(n)"})), "hm"]
    play(env, past[: env.rules.max_turns - 1])
    data = env.snapshot().to_bytes()
    actions = [*_actions(env, _SEED, 1), format_action("", format_answer("1"))]
    message = pickle.dumps((env.spec, data, actions))
    done = subprocess.run([sys.executable, "-c", _CHILD], input=message, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    play(env, actions)
    assert done.stdout.decode().strip() == digest(env.state), "another process got elsewhere"
    env.close()


CHECKS: tuple[Callable[[MakeEnv], None], ...] = (
    check_gymnasium,
    check_seeding,
    check_indices,
    check_snapshots,
    check_forks,
    check_bad_actions,
    check_random_text,
    check_bytes,
    check_outages,
    check_pickling,
    check_closing,
)


def make_env(env_id: str, keywords: dict[str, Any]) -> MakeEnv:
    """A function that makes the environment. Raises ValueError for an unknown id."""
    if env_id not in gym.registry:
        raise ValueError(unknown_name("environment", env_id, axpo_env.IDS))
    return lambda: gym.make(env_id, **keywords).unwrapped


def run_checks(make: MakeEnv) -> list[Outcome]:
    """Every check, in order; a failed one does not keep the others from running."""
    outcomes = []
    for check in CHECKS:
        name = check.__name__.removeprefix("check_")
        try:
            check(make)
        except Exception as error:
            outcomes.append(Outcome(name=name, error=f"{type(error).__name__}: {error}"))
        else:
            outcomes.append(Outcome(name=name, error=None))
    return outcomes


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m axpo_env.contract", description=__doc__.split("\n")[0])
    parser.add_argument("id", nargs="?", help="environment id, such as AXPO/ChartQA-Tools-v0")
    parser.add_argument("--all", action="store_true", help="every id with every source that is there")
    parser.add_argument("--data", help="with --all: folder of data sets, named OWNER--NAME as on the hub")
    parser.add_argument("--source", default="synthetic", help="synthetic, hub, or a folder")
    parser.add_argument("--split", default="test")
    parser.add_argument("--difficulty", default="nano")
    parser.add_argument(
        "--tools", help="names, comma-separated; default: zoom, python, with --all searches too"
    )
    parser.add_argument("--sandbox", default="local", help="backend that the python tool runs in, or echo")
    given = parser.parse_args(arguments)
    if given.all == (given.id is not None):
        parser.error("give an id or --all")
    try:
        makes = _find(given)
        for make in makes.values():
            make().close()
    except (ValueError, OSError, ImportError) as error:
        print(error, file=sys.stderr)
        return 2
    failed = 0
    for name, make in makes.items():
        started = time.monotonic()
        outcomes = run_checks(make)
        if given.all:
            passed = sum(outcome.error is None for outcome in outcomes)
            print(f"{name}: {passed} of {len(outcomes)} in {time.monotonic() - started:.0f} s", flush=True)
        for outcome in outcomes:
            failed += outcome.error is not None
            if outcome.error is not None or not given.all:
                state = "ok" if outcome.error is None else "FAILED"
                print(f"{state:8}{outcome.name:16}{outcome.error or ''}".rstrip(), flush=True)
    return 1 if failed else 0


def _find(given: argparse.Namespace) -> dict[str, MakeEnv]:
    """What the command line asks for, by name."""
    keywords: dict[str, Any] = {"sandbox": EchoSandbox() if given.sandbox == "echo" else given.sandbox}
    if given.tools is not None or not given.all:
        tools = ",".join(ZOOM_AND_PYTHON) if given.tools is None else given.tools
        keywords["tools"] = tuple(tools.split(","))
    if not given.all:
        keywords |= {"source": given.source, "split": given.split, "difficulty": given.difficulty}
        return {given.id: make_env(given.id, keywords)}
    entries = find_entries(data=given.data, split=given.split, difficulty=given.difficulty)
    return {entry.name: make_env(entry.env_id, {**entry.keywords, **keywords}) for entry in entries}


if __name__ == "__main__":
    sys.exit(main())
