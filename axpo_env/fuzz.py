"""Actions of every kind of badness, at environments that must take them all.

    python -m axpo_env.fuzz --actions 1000000

plays every id and source that is there and exits with 1 if a step raises, an observation is outside its space, or
the process's memory grows. Python cells are answered by `echo`: what code does is the sandboxes' own tests' matter.
A run depends on its seed alone, so a failure comes again; it names environment, task and actions.
"""

import argparse
import gc
import itertools
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from axpo_env.actions import BAD_ACTIONS, WORDS, fitting_arguments, random_action
from axpo_env.catalogue import find_entries
from axpo_env.echo import EchoSandbox
from axpo_env.messages import format_action, format_answer, format_call
from axpo_env.names import shorten
from axpo_env.tasks.base import Task, TaskSource, check_index

NUM_TASKS = 8  # of each environment, in turn; few, so that no cache is still filling late in a run
WARM_UP = 0.1  # share of the actions before memory is looked at
MAX_GROWTH = 0.05  # of resident memory after the warm-up
_LEAST_STEP = 20  # actions between two of them
_NUM_SAMPLES = 20  # looks at memory in a run
_MAX_SHORT_CHARS = 20_000  # longer bad actions are played rarely: they say nothing new and cost much
_PIECES = (
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<answer>", "</answer>", "\\boxed{", "{", "}", "[", "]",
    '"', "\\", ",", ":", "\n", "\0", "null", "NaN", "1e999", "-1", "\ud800", "\u202e", "𝟙", "é", "$", "\\frac{1}{0}",
    '"name"', '"arguments"', "image_zoom_in", "python", "%", "1,234.5", "½", "(A)", ";", "9" * 40, "^", "_",
)  # fmt: skip
_ODD_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 10**30, 10**400, 1.5, -0.0, 1e308, "", "x", "0", "\ud800", "x" * 500, [], {}, [[]], [None] * 9,
    {"a": {"b": []}}, [0, 0, 0, 0], [1000, 1000, 1000, 1000], [0, 0, 1e-9, 1e-9], [999.9, 0, 1000, 1],
)  # fmt: skip


class KeptTasks:
    """The first few tasks of a source, each read or made once: here actions are tried, not readers."""

    def __init__(self, source: TaskSource) -> None:
        self.num_tasks = min(NUM_TASKS, source.num_tasks)
        self._tasks = [source.get(index) for index in range(self.num_tasks)]

    def get(self, index: int) -> Task:
        check_index(index, self.num_tasks, "the fuzzer")
        return self._tasks[index]


class FuzzFailure(AssertionError):
    """An action was not taken as it must be; the text names environment, task and the episode's actions."""


@dataclass(kw_only=True)
class Report:
    """What a run did."""

    num_actions: int = 0
    num_episodes: int = 0
    ends: Counter[str] = field(default_factory=Counter)  # stop reason -> episodes
    kinds: Counter[str] = field(default_factory=Counter)  # kind of action -> actions
    duration_s: float = 0.0
    resident_bytes: list[int] = field(
        default_factory=list
    )  # after the warm-up, then along the run; [] if unknown

    @property
    def growth(self) -> float:
        """How much more memory the run's last tenth held, at its least, than after the warm-up, as a share."""
        if len(self.resident_bytes) < 2:
            return 0.0
        late = self.resident_bytes[-max(1, len(self.resident_bytes) // 10) :]
        return min(late) / self.resident_bytes[0] - 1


def fuzz(
    makes: Mapping[str, Callable[[], Any]],
    *,
    num_actions: int,
    seed: int = 0,
    say: Callable[[str], None] | None = None,
) -> Report:
    """Play `num_actions` in the environments that `makes` makes, by turns, an episode each.

    Raises FuzzFailure for the first action that raises or shows what is outside the observation space.
    """
    rng, report, started = random.Random(seed), Report(), time.monotonic()
    envs = {name: make() for name, make in makes.items()}
    for env in envs.values():
        env.source = KeptTasks(env.source)
    next_look = warm = int(num_actions * WARM_UP)
    step = max(_LEAST_STEP, (num_actions - warm) // _NUM_SAMPLES)
    for name, env in itertools.cycle(envs.items()):
        if report.num_actions == num_actions:
            break
        _episode(name, env, rng, report, num_actions)
        if report.num_actions >= next_look:
            resident = resident_bytes()
            if resident is not None:
                report.resident_bytes.append(resident)
            if say is not None:
                say(f"{report.num_actions:,} actions, {(resident or 0) / 2**20:.0f} MiB")
            next_look += step
    for env in envs.values():
        env.close()
    report.duration_s = time.monotonic() - started
    return report


def _episode(name: str, env: Any, rng: random.Random, report: Report, num_actions: int) -> None:
    index = rng.randrange(env.num_tasks)
    schemas = [tool.schema for tool in env.rules.tools.values()]
    played: list[Any] = []
    env.reset(options={"index": index})
    done = False
    while not done and report.num_actions < num_actions:
        kind = rng.choice(tuple(KINDS))
        action = KINDS[kind](rng, schemas)
        played.append(action)
        try:
            observation, reward, terminated, truncated, info = env.step(action)
            assert observation in env.observation_space, "the observation is outside its space"
            assert reward in (0.0, 1.0), f"the reward is {reward!r}"
            assert info["stop_reason"] != "infrastructure", f"called an outage: {info['outage']}"
            assert observation["text"] or terminated or truncated, "nothing was said about it"
        except Exception as error:
            shown = ", ".join(shorten(one, limit=300) for one in played)
            raise FuzzFailure(
                f"{name}, task {index}: {type(error).__name__}: {error}; actions: {shown}"
            ) from error
        done = terminated or truncated
        report.num_actions += 1
        report.kinds[kind] += 1
        report.ends[str(info["stop_reason"])] += done
    report.num_episodes += 1


def plausible(rng: random.Random, schemas: Sequence[Mapping[str, Any]]) -> Any:
    """What a policy that knows the form writes."""
    return random_action(rng, schemas)


def odd_arguments(rng: random.Random, schemas: Sequence[Mapping[str, Any]]) -> Any:
    """A call in good form with one or two arguments wrong, missing or not in the schema."""
    schema = rng.choice(schemas)
    arguments = fitting_arguments(schema, rng)
    for _ in range(rng.randint(1, 2)):
        names = [*schema["function"].get("parameters", {}).get("properties", ()), "zoom", ""]
        name = rng.choice(names)
        if rng.random() < 0.2:
            arguments.pop(name, None)
        else:
            arguments[name] = rng.choice(_ODD_VALUES)
    return format_action("", format_call(schema["function"]["name"], arguments))


def torn(rng: random.Random, schemas: Sequence[Mapping[str, Any]]) -> Any:
    """A plausible action with pieces cut out, doubled, or thrown in."""
    text = random_action(rng, schemas)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.randrange(20))
        text = text[:start] + rng.choice(("", text[start:end] * 2, rng.choice(_PIECES))) + text[end:]
    return text


def answers(rng: random.Random, schemas: Sequence[Mapping[str, Any]]) -> Any:
    """An answer in good form that no grader expects."""
    parts = [rng.choice((*_PIECES, *WORDS, str(rng.uniform(-1e6, 1e6)))) for _ in range(rng.randint(1, 5))]
    return format_action("", format_answer("".join(parts)))


def soup(rng: random.Random, schemas: Sequence[Mapping[str, Any]]) -> Any:
    """Tags, brackets and any characters in any order."""
    parts = [rng.choice(_PIECES) if rng.random() < 0.7 else chr(rng.randrange(0x11000)) for _ in range(30)]
    return "".join(parts[: rng.randint(1, 30)])


def known_bad(rng: random.Random, schemas: Sequence[Mapping[str, Any]]) -> Any:
    """One of the corpus, things that are no text among them; the very long ones one time in fifty."""
    action = rng.choice(BAD_ACTIONS)
    if isinstance(action, str) and len(action) > _MAX_SHORT_CHARS and rng.random() > 0.02:
        return action[: rng.randrange(1000)]
    return action


KINDS: dict[str, Callable[[random.Random, Sequence[Mapping[str, Any]]], Any]] = {
    kind.__name__: kind for kind in (plausible, odd_arguments, torn, answers, soup, known_bad)
}


def resident_bytes() -> int | None:
    """The process's resident memory; None where the system does not say."""
    gc.collect()
    table = Path("/proc/self/statm")
    if not table.is_file():
        return None
    return int(table.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m axpo_env.fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("--ids", nargs="+", metavar="ID", help="environment ids; default: all")
    parser.add_argument(
        "--data", help="folder of data sets, named OWNER--NAME; default: ../shared/data, if there"
    )
    parser.add_argument("--actions", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    try:
        entries = find_entries(ids=given.ids, data=given.data)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    sandbox = EchoSandbox()
    makes = {entry.name: (lambda entry=entry: entry.make(sandbox=sandbox)) for entry in entries}
    try:
        report = fuzz(
            makes, num_actions=given.actions, seed=given.seed, say=lambda text: print(text, flush=True)
        )
    except FuzzFailure as failure:
        print(failure, file=sys.stderr)
        return 1
    rate = report.num_actions / report.duration_s
    print(f"{report.num_actions:,} actions in {report.num_episodes:,} episodes of {len(makes)} environments")
    print(f"{report.duration_s:.0f} s, {rate:.0f} actions/s, memory {report.growth:+.1%}")
    print("ends: " + ", ".join(f"{name} {count:,}" for name, count in report.ends.most_common() if count))
    return 1 if report.growth > MAX_GROWTH else 0


if __name__ == "__main__":
    sys.exit(main())
