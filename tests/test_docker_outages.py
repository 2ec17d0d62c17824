"""A Docker engine that is killed before, during and after a command: what the user reads, and what is scored.

The engine is a server of ours at a Unix socket, whose containers are processes; the docker package is the real one.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from axpo_algo.episodes import Episode
from axpo_algo.evaluate import main as evaluate
from axpo_algo.run.folder import read_jsonl
from axpo_algo.train import main as train
from axpo_algo.trainer import Trainer
from axpo_env.env import ToolEnv
from axpo_env.messages import format_action, format_call
from axpo_env.tools import interpreter
from axpo_sandbox.docker.client import DockerSandbox
from tests.docker_fakes import PYTHON, EngineServer, engine_at
from tests.test_commands import TINY

Patch = pytest.MonkeyPatch
Capture = pytest.CaptureFixture[str]

SANDBOX = (
    f"env.kwargs.sandbox={{backend: docker, python: {PYTHON}, profile: default, preload: [PIL], quiet: true}}"
)
TOOLS = "env.kwargs.tools=[image_zoom_in, python]"
ORACLE = ["policy.path=oracle", "env.kwargs.source=ledgers", "evaluation.num_questions=4", SANDBOX]
GONE = (
    "SandboxUnavailable: no Docker engine answers at {url}: No such file or directory. Start an engine, or set "
    "DOCKER_HOST to one."
)
_NUM_CHECKED = (
    2  # sessions before the run: the sandbox attacks itself in one, the command tries the tool in another
)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: Patch) -> Iterator[EngineServer]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(interpreter, "_shared", {})
    with engine_at(tmp_path / "d") as made:
        monkeypatch.setenv("DOCKER_HOST", made.url)
        yield made
        close_all()


def close_all() -> None:
    """As at the end of a program."""
    for key in list(interpreter._shared):
        interpreter._close_shared(key)


def at_session(number: int, do: Callable[[], None], monkeypatch: Patch) -> None:
    """Have `do` done before session `number` of the run starts, counted from 1."""
    start, counted = DockerSandbox.start, []

    def counting(self: DockerSandbox, *arguments: Any) -> Any:
        counted.append(1)
        if len(counted) == _NUM_CHECKED + number:
            do()
        return start(self, *arguments)

    monkeypatch.setattr(DockerSandbox, "start", counting)


@pytest.mark.parametrize(
    ("command", "arguments"), [(evaluate, ORACLE), (train, [*TINY, TOOLS, "run_dir=run", SANDBOX])]
)
def test_an_engine_that_is_down_is_said_before_anything_is_made(
    command: Callable[[list[str]], Any],
    arguments: list[str],
    server: EngineServer,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    server.end()
    with pytest.raises(SystemExit) as stop:
        command(arguments)
    printed = capsys.readouterr()
    assert (stop.value.code, printed.out) == (2, "")
    assert printed.err == (
        "error: env.kwargs.sandbox: the python tool needs the sandbox 'docker', which does not work here: "
        f"SandboxUnavailable: no Docker engine answers at {server.url}: No such file or directory. Start an engine, or "
        "set DOCKER_HOST to one. Mend it, name another (env.kwargs.sandbox), or leave python out of env.kwargs.tools\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_an_engine_killed_during_an_evaluation_stops_it(
    server: EngineServer, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    at_session(3, server.end, monkeypatch)
    with pytest.raises(SystemExit) as stop:
        evaluate([*ORACLE, "json=numbers.json"])
    printed = capsys.readouterr()
    assert stop.value.code == 1
    gone = GONE.replace("{url}", server.url)
    assert printed.out.count(f"ungraded, infrastructure: {gone}\n") == 1
    assert "pass@1" not in printed.out
    assert printed.err == (
        "failed: 2 of 4 rollouts are ungraded (2 infrastructure), more than rollout.max_ungraded_share = 0.25 allows; "
        f"the first outage: {gone}\n"
    )
    assert not (tmp_path / "numbers.json").exists()


def test_what_a_dead_engine_left_ungraded_is_counted_apart(
    server: EngineServer, monkeypatch: Patch, capsys: Capture
) -> None:
    at_session(4, server.end, monkeypatch)
    numbers = evaluate([*ORACLE, "json=numbers.json"])
    assert (numbers["pass@1"], numbers["num_ungraded"], numbers["ungraded/infrastructure"]) == (1.0, 1, 1)
    assert "4 questions, 3 graded answers, 1 (1 infrastructure) ungraded" in capsys.readouterr().out
    rollouts = json.loads(Path("numbers.json").read_text())["rollouts"]
    outages = [rollout["outage"] for rollout in rollouts]
    assert outages == [None, None, None, GONE.replace("{url}", server.url)]
    assert [rollout["reward"] for rollout in rollouts] == [1.0, 1.0, 1.0, None]


def test_a_container_that_is_killed_costs_no_rollout(server: EngineServer, monkeypatch: Patch) -> None:
    def kill() -> None:
        for container_id in list(server.engine.labels):
            server.engine.remove(container_id)

    at_session(2, kill, monkeypatch)
    numbers = evaluate(ORACLE)
    assert (numbers["pass@1"], numbers["num_ungraded"]) == (1.0, 0)
    assert len(server.engine.options) == 2


def test_an_engine_killed_after_an_evaluation_costs_nothing(server: EngineServer, capsys: Capture) -> None:
    numbers = evaluate([*ORACLE, "json=numbers.json"])
    server.end()
    close_all()
    assert (numbers["pass@1"], numbers["num_ungraded"]) == (1.0, 0)
    assert json.loads(Path("numbers.json").read_text())["pass@1"] == 1.0
    assert capsys.readouterr().err == ""


@pytest.fixture
def calling_python(monkeypatch: Patch) -> None:
    """Every episode's first action calls the tool, and no limit of tokens ends one: a policy that has learned nothing
    never gets as far.
    """
    step = ToolEnv.step

    def calling(self: ToolEnv, action: Any) -> Any:
        first = self.state.num_turns == 0
        return step(self, format_action("", format_call("python", {"code": "1"})) if first else action)

    monkeypatch.setattr(ToolEnv, "step", calling)
    monkeypatch.setattr(Episode, "cut", lambda *_: None)


TRAIN = [*TINY, TOOLS, "rollout.max_turns=2", "training.num_steps=2", "run_dir=run", SANDBOX]


def test_an_engine_killed_during_training_stops_it_before_the_update(
    server: EngineServer, calling_python: None, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    step_of = Trainer.step

    def step(self: Trainer, number: int, *hook: Any) -> Any:
        if number == 1:
            server.end()
        return step_of(self, number, *hook)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(Trainer, "step", step)
        train(TRAIN)
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith(
        "failed: 4 of 4 rollouts are ungraded (4 infrastructure), more than rollout.max_ungraded_share = 0.25 allows; "
        f"the first outage: {GONE.replace('{url}', server.url)}"
    )
    assert "--resume" in said and said.count("\n") == 1
    assert [
        row["step"] for row in read_jsonl(tmp_path / "run" / "metrics.jsonl") if "train/num_ungraded" in row
    ] == [1]

    with engine_at(tmp_path / "d") as again:  # the engine is started again
        assert again.url == server.url
        train(["--resume", "run_dir=run"])
        close_all()
    steps = [row for row in read_jsonl(tmp_path / "run" / "metrics.jsonl") if "train/num_ungraded" in row]
    assert [(row["step"], row["train/num_ungraded"]) for row in steps] == [(1, 0), (2, 0)]


def test_an_engine_killed_after_training_costs_nothing(
    server: EngineServer, calling_python: None, tmp_path: Path, capsys: Capture
) -> None:
    train(TRAIN)
    server.end()
    close_all()
    assert capsys.readouterr().err == ""
    assert (tmp_path / "run" / "policy").is_dir()
    assert len(server.engine.options) == 1
