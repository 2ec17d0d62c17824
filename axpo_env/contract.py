"""What every environment of the suite promises, as checks; for environments of your own, too.

    python -m axpo_env.contract AXPO/ChartQA-Tools-v0 --difficulty nano
    python -m axpo_env.contract --all

prints a table and exits with 1 if a check fails. The checks look at what resets, steps, snapshots, restores, forks
and bytes give, and that references are right answers. An environment that lacks what a check needs skips it, and the
table says so:

    check                        needs, beside reset, step and close
    gymnasium                    to be a gymnasium.Env
    snapshots, forks             snapshot, restore, fork
    bytes                        snapshot, restore, snapshot_from_bytes; a spec, to be made in another process, too
    indices                      num_tasks, and reset with options={"index": i}
    bad_actions                  actions that are text
    answers, constants           the suite's tasks
    outages                      the suite's rules and config
    pickling                     a spec

What goes wrong is in `contract_faults`, what is left behind in `contract_leaks`, which environments there are in
`catalogue`. Whether tasks are good, and graders fair to other ways to say the same, is left to others.
"""

import argparse
import json
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
from gymnasium.utils.env_checker import check_env

import axpo_env
from axpo_env.actions import BAD_ACTIONS, fitting_arguments
from axpo_env.catalogue import find_entries
from axpo_env.contract_faults import check_answers, check_constants, check_outages, check_pickling
from axpo_env.contract_leaks import check_closing, check_memory
from axpo_env.contract_play import (
    SEED,
    MakeEnv,
    Skipped,
    Step,
    actions_for,
    check_outcome,
    need,
    release,
    same,
    see,
    see_start,
    shared_part,
    takes_text,
    tool_schemas,
    watch,
    watch_on,
)
from axpo_env.echo import EchoSandbox
from axpo_env.messages import format_action, format_answer, format_call
from axpo_env.names import unknown_name

_NUM_DRAWS = 3  # episodes after which another is drawn
_MANY_TASKS = 100  # of which five seeds do not all draw the same
_MOMENT_S = 1.1  # after which a clock that is shown shows something else


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one check went."""

    name: str
    error: str | None  # None: it passed, or was skipped
    skipped: str | None = None  # why


def check_gymnasium(make: MakeEnv) -> None:
    """Gymnasium's own checks pass without a warning."""
    env = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Said of every environment made without gymnasium.make.
        warnings.filterwarnings("ignore", message=".*alternative render modes due to .* not having a spec")
        check_env(env)
    env.close()


def check_seeding(make: MakeEnv) -> None:
    """Two copies with one seed and the same actions show the same to the last byte; seeds differ."""
    first, second = make(), make()
    starts = []
    for seed in range(SEED, SEED + 5):
        actions = actions_for(first, seed)
        starts.append(see_start(first.reset(seed=seed)))
        same(starts[-1], see_start(second.reset(seed=seed)), f"seed {seed} starts differently in two copies")
        what = f"seed {seed} goes on differently in two copies"
        same(watch_on(first, actions), watch_on(second, actions), what)
    if getattr(first, "num_tasks", 0) >= _MANY_TASKS:
        assert any(start != starts[0] for start in starts), "all seeds start the same episode"
    first.close()
    second.close()


def check_indices(make: MakeEnv) -> None:
    """`options={"index": i}` gives task i whatever came before; an index outside raises IndexError."""
    first, second = make(), make()
    need(first, "num_tasks")
    for index in {0, first.num_tasks // 2, first.num_tasks - 1}:
        second.reset(seed=index % 1000)
        start = first.reset(options={"index": index})
        task = start[1].get("task", {"index": index})
        assert task["index"] == index, f"asked for task {index}, got {task}"
        again = second.reset(options={"index": index})
        same(see_start(start), see_start(again), f"task {index} differs between two copies")
    try:
        first.reset(options={"index": first.num_tasks})
    except IndexError:
        return
    finally:
        first.close()
        second.close()
    raise AssertionError("an index past the end was accepted")


def check_snapshots(make: MakeEnv, *, num_episodes: int = 10) -> None:
    """The snapshot law at every turn: restored, forked or elsewhere, the same actions show the same.

    So do the episodes that are drawn afterwards: a snapshot holds the random state.
    """
    env, other = make(), make()
    need(env, "snapshot", "restore", "fork")
    for episode in range(num_episodes):
        actions = actions_for(env, episode)
        env.reset(seed=episode)
        for turn in range(len(actions)):
            follow = watch_on if turn == 0 and episode < _NUM_DRAWS else watch
            rest, where = actions[turn:], f"episode {episode}, turn {turn}"
            snapshot = env.snapshot()
            expected = follow(env, rest)
            moment = see_start(env.restore(snapshot))
            same(expected, follow(env, rest), f"{where}: restored goes another way")
            same(moment, see_start(other.restore(snapshot)), f"{where}: elsewhere is another moment")
            same(expected, follow(other, rest), f"{where}: elsewhere goes another way")
            env.restore(snapshot)
            branch = env.fork(1)[0]
            same(expected, follow(branch, rest), f"{where}: a branch goes another way")
            branch.close()
            release(snapshot)
            if expected[0].ended:
                break
            env.step(actions[turn])
    env.close()
    other.close()


def check_forks(make: MakeEnv) -> None:
    """No branch sees what another did, in the episode or in the interpreter."""
    env = make()
    need(env, "fork")
    triples = [tuple(actions_for(env, seed, 3)) for seed in range(2)]
    if takes_text(env):
        write = "{0} = 1; print(sorted(n for n in ('left', 'right', 'both') if n in globals()))"
        names = ("both", "left", "right")
        calls = [format_call("python", {"code": write.format(name)}) for name in names]
        triples = [tuple(format_action("", call) for call in calls)]
        rng = random.Random(SEED)
        for schema in tool_schemas(env.reset(seed=SEED)[1]):
            name = schema["function"]["name"]
            calls = [format_call(name, fitting_arguments(schema, rng)) for _ in range(3)]
            triples.append(tuple(format_action("", call) for call in calls))
    for before, mine, others in triples:
        _check_fork(env, before, mine, others)
    env.close()


def _check_fork(env: Any, before: Any, mine: Any, others: Any) -> None:
    """After `before`, `mine` shows the same whether or not a sibling, a child or the parent did `others`."""
    env.reset(seed=SEED)
    if watch(env, [before])[-1].ended:
        return  # one turn is all there is
    first, second, third = env.fork(3)
    alone = watch(first, [mine])
    watch(second, [others])
    same(watch(third, [mine]), alone, "a branch saw what its sibling did")
    cousins = env.fork(2)
    watch(cousins[0], [others])
    same(watch(cousins[1], [mine]), alone, "a branch saw what its sibling did after another had begun")
    orphan = env.fork(1)[0]
    watch(env, [others])
    same(watch(orphan, [mine]), alone, "a branch saw what the one it came from did")
    for branch in (first, second, third, *cousins, orphan):
        branch.close()


def check_returns(make: MakeEnv) -> None:
    """What a reset or step gives is the caller's: it does not change later, and no two share what can be changed."""
    env = make()
    actions = actions_for(env, SEED, 4)
    given: dict[str, Any] = {"a reset": env.reset(seed=SEED)}
    snapshot = env.snapshot() if hasattr(env, "snapshot") else None
    branches = env.fork(2) if hasattr(env, "fork") else []
    seen = {"a reset": see(given["a reset"])}

    def note(what: str, value: Any) -> None:
        given[what], seen[what] = value, see(value)

    for number, branch in enumerate(branches):
        note(f"a step of branch {number}", branch.step(actions[0]))
    for number, action in enumerate(actions):
        note(f"step {number}", env.step(action))
        if given[f"step {number}"][2] or given[f"step {number}"][3]:
            break
    if snapshot is not None and hasattr(env, "restore"):
        note("a restore", env.restore(snapshot))
        note("a second restore", env.restore(snapshot))
        note("a step after it", env.step(actions[0]))
    note("a later reset", env.reset(seed=SEED))
    for what, value in given.items():
        same(see(value), seen[what], f"what {what} gave changed later")
    names = list(given)
    for number, one in enumerate(names):
        for other in names[number + 1 :]:
            part = shared_part(given[one], given[other])
            assert part is None, f"{one} and {other} share what can be changed ({part})"
    for branch in branches:
        branch.close()
    release(snapshot)
    env.close()


def check_ends(make: MakeEnv) -> None:
    """An episode ends in one way, and takes no step after its end."""
    env = make()
    scripts = [actions_for(env, seed, 64) for seed in range(2)]
    if takes_text(env):
        scripts += [[format_action("", format_answer("1"))], ["neither a call nor an answer"] * 64]
    for actions in scripts:
        env.reset(seed=SEED)
        if not watch(env, actions)[-1].ended:
            continue
        try:
            env.step(actions[-1])
        except Exception:
            continue
        raise AssertionError("a step after the end of the episode was taken")
    env.close()


def check_bad_actions(make: MakeEnv) -> None:
    """Whatever the policy writes is answered or ends the episode, and never raises."""
    env = make()
    if not takes_text(env):
        raise Skipped("the environment's actions are no text")
    for action in BAD_ACTIONS:
        what = f"action {str(action)[:60]!r}"
        env.reset(seed=SEED)
        outcome = env.step(action)
        check_outcome(outcome)
        observation, reward, terminated, truncated, info = outcome
        assert observation in env.observation_space, f"{what}: observation outside its space"
        assert reward == 0.0, f"{what}: rewarded"
        said = not isinstance(observation, dict) or observation.get("text", True)
        assert said or terminated or truncated, f"{what}: nothing was said about it"
        roles = {message["role"] for message in info.get("new_messages", ())}
        assert roles <= {"tool"}, f"{what}: answered by {sorted(roles)}, not by a tool's message"
        outage = info.get("stop_reason") == "infrastructure"
        assert not outage, f"{what}: called an outage ({info.get('outage')})"
    env.close()


def check_random_text(make: MakeEnv) -> None:
    """Random actions, such as random unicode, never raise."""
    env = make()
    env.action_space.seed(SEED)
    env.reset(seed=SEED)
    for _ in range(300):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
    env.close()


_CHILD = """
import json, pickle, sys
path, message = pickle.load(sys.stdin.buffer)
sys.path[:] = path
import gymnasium as gym
from axpo_env.contract_play import watch_on
spec, data, actions = pickle.loads(message)
env = gym.make(spec).unwrapped
env.restore(env.snapshot_from_bytes(data))
steps = watch_on(env, actions)
print(json.dumps([step.seen for step in steps]))
env.close()
"""


def check_bytes(make: MakeEnv) -> None:
    """A snapshot's bytes lead to the same: in a copy, in another process, and a moment later."""
    env, other = make(), make()
    need(env, "snapshot", "restore", "snapshot_from_bytes")
    past = actions_for(env, SEED, 2)
    if takes_text(env):
        past = [format_action("", format_call("python", {"code": "n = 41; print(n)"})), "hm"]
    while env.reset(seed=SEED) and past and watch(env, past)[-1].ended:
        past = past[:-1]
    snapshot = env.snapshot()
    need(snapshot, "to_bytes")
    data = snapshot.to_bytes()
    release(snapshot)
    actions = actions_for(other, SEED, 2)
    if takes_text(env):
        actions = [actions[0], format_action("", format_answer("1"))]
    started_s = time.monotonic()
    expected = watch_on(env, actions)
    same(_from_bytes(other, data, actions), expected, "bytes lead elsewhere in a copy")
    if env.spec is not None:
        same(
            _in_another_process(env.spec, data, actions), expected, "bytes lead elsewhere in another process"
        )
    time.sleep(max(0.0, started_s + _MOMENT_S - time.monotonic()))
    same(_from_bytes(other, data, actions), expected, "bytes lead elsewhere a moment later")
    env.close()
    other.close()
    if env.spec is None:
        raise Skipped(
            "the environment has no spec, so no other process can make it; a copy went the same way"
        )


def _from_bytes(env: Any, data: bytes, actions: list[Any]) -> list[Step]:
    snapshot = env.snapshot_from_bytes(data)
    env.restore(snapshot)
    release(snapshot)
    return watch_on(env, actions)


def _in_another_process(spec: Any, data: bytes, actions: list[Any]) -> list[Step]:
    message = pickle.dumps((sys.path, pickle.dumps((spec, data, actions))))
    done = subprocess.run([sys.executable, "-c", _CHILD], input=message, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return [Step(seen=seen, ended=False) for seen in json.loads(done.stdout)]


CHECKS: tuple[Callable[[MakeEnv], None], ...] = (
    check_gymnasium,
    check_seeding,
    check_indices,
    check_snapshots,
    check_forks,
    check_bad_actions,
    check_random_text,
    check_returns,
    check_ends,
    check_bytes,
    check_answers,
    check_constants,
    check_outages,
    check_pickling,
    check_memory,
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
        except Skipped as reason:
            outcomes.append(Outcome(name=name, error=None, skipped=str(reason)))
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
    parser.add_argument("--tools", help="names, comma-separated; default: those of the id")
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
            passed = sum(outcome.error is None and outcome.skipped is None for outcome in outcomes)
            print(f"{name}: {passed} of {len(outcomes)} in {time.monotonic() - started:.0f} s", flush=True)
        for outcome in outcomes:
            failed += outcome.error is not None
            why = outcome.error or outcome.skipped
            if why is not None or not given.all:
                state = "FAILED" if outcome.error else "skipped" if outcome.skipped else "ok"
                print(f"{state:8}{outcome.name:16}{why or ''}".rstrip(), flush=True)
    return 1 if failed else 0


def _find(given: argparse.Namespace) -> dict[str, MakeEnv]:
    """What the command line asks for, by name."""
    keywords: dict[str, Any] = {"sandbox": EchoSandbox() if given.sandbox == "echo" else given.sandbox}
    if given.tools is not None:
        keywords["tools"] = tuple(given.tools.split(","))
    if not given.all:
        named = {"source": given.source, "split": given.split, "difficulty": given.difficulty}
        return {given.id: make_env(given.id, {**_own_tools(given), **named, **keywords})}
    entries = find_entries(data=given.data, split=given.split, difficulty=given.difficulty)
    return {entry.name: make_env(entry.env_id, {**entry.keywords, **keywords}) for entry in entries}


def _own_tools(given: argparse.Namespace) -> dict[str, Any]:
    """The tools and turns of the id's twin; with another source, the usual ones."""
    if given.source != "synthetic" or given.id not in axpo_env.IDS:
        return {}
    (entry,) = [one for one in find_entries(ids=[given.id]) if one.source == "synthetic"]
    return {name: entry.keywords[name] for name in ("tools", "max_turns")}


if __name__ == "__main__":
    sys.exit(main())
