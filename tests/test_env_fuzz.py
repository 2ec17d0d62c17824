"""Actions of every kind of badness at every id, and that the fuzzer sees what it looks for."""

import random

import pytest

from axpo_env import fuzz as fuzzer
from axpo_env.catalogue import find_entries
from axpo_env.echo import EchoSandbox
from axpo_env.env import ToolEnv
from axpo_env.fuzz import KINDS, MAX_GROWTH, FuzzFailure, Report, fuzz
from axpo_env.tools.zoom import ZoomTool

ZOOM_ONLY = {"difficulty": "nano", "tools": ("image_zoom_in",)}


def makes(entries):
    sandbox = EchoSandbox()
    return {entry.name: (lambda entry=entry: entry.make(sandbox=sandbox)) for entry in entries}


def test_ten_thousand_actions_at_every_id():
    entries = [entry for entry in find_entries() if entry.source == "synthetic"]
    report = fuzz(makes(entries), num_actions=10_000)
    assert report.num_actions == 10_000
    assert set(report.kinds) == set(KINDS)
    assert min(report.ends[end] for end in ("answer", "max_turns", "malformed")) > 100
    assert sum(report.ends.values()) in (report.num_episodes, report.num_episodes - 1)


@pytest.mark.hours
@pytest.mark.timeout(7200)
def test_a_million_actions_without_growth(shared_data):
    report = fuzz(makes(find_entries(data=shared_data)), num_actions=1_000_000)
    assert report.growth <= MAX_GROWTH, report.resident_bytes


def test_a_run_depends_on_its_seed_alone():
    first, again, other = (
        fuzz({"nano": lambda: ToolEnv(**ZOOM_ONLY)}, num_actions=150, seed=seed) for seed in (1, 1, 2)
    )
    assert (first.kinds, first.ends, first.num_episodes) == (again.kinds, again.ends, again.num_episodes)
    assert first.kinds != other.kinds


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_kinds_depend_on_the_generator_alone(kind):
    schemas = [ZoomTool.schema]
    made = [[kind(random.Random(seed), schemas) for seed in range(50)] for _ in range(2)]
    assert made[0] == made[1]
    assert len({repr(action) for action in made[0]}) > 10


class Fragile(ToolEnv):
    """Raises at an answer without a digit."""

    def step(self, action):
        if isinstance(action, str) and "<answer>" in action and not any(map(str.isdigit, action)):
            raise KeyError("no digit")
        return super().step(action)


class Mute(ToolEnv):
    """Shows images that are none."""

    def _observe(self):
        observation, info = super()._observe()
        return {**observation, "images": None}, info


class Doubtful(ToolEnv):
    """Takes every policy's mistake for an outage of its own."""

    def _info(self, state):
        info = super()._info(state)
        return {**info, "stop_reason": "infrastructure" if state.truncated else info["stop_reason"]}


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Fragile, r"nano, task \d: KeyError: 'no digit'; actions: .*<answer>"),
        (Mute, "observation is outside its space"),
        (Doubtful, "called an outage"),
    ],
)
def test_failures_are_found_and_named(broken, message):
    with pytest.raises(FuzzFailure, match=message):
        fuzz({"nano": lambda: broken(**ZOOM_ONLY)}, num_actions=2_000)


def test_growth_is_that_of_the_least_late_look():
    assert Report().growth == 0.0
    assert Report(resident_bytes=[100, 90, 120, 104]).growth == pytest.approx(0.04)
    steady = [100] * 18 + [180, 110]  # a spike that is gone again is no leak
    assert Report(resident_bytes=steady).growth == pytest.approx(0.10)


def test_command_line(capsys, monkeypatch):
    assert fuzzer.main(["--ids", "AXPO/ChartQA-Tools-v0", "--actions", "60"]) == 0
    assert "60 actions in" in capsys.readouterr().out
    assert fuzzer.main(["--ids", "AXPO/ChartQA-v0"]) == 2
    assert "nearest: AXPO/ChartQA-Tools-v0" in capsys.readouterr().err
    sizes = iter(range(100, 10_000, 100))
    monkeypatch.setattr(fuzzer, "resident_bytes", lambda: next(sizes))
    assert fuzzer.main(["--ids", "AXPO/ChartQA-Tools-v0", "--actions", "60"]) == 1
