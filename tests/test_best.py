"""The best policy by evaluation: which it is, and that killed or made longer a run has that of an unbroken one."""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from axpo_algo import train as train_module
from axpo_algo.config import PolicyConfig, TrainConfig
from axpo_algo.config.evaluation import run_config
from axpo_algo.models.qwen3_vl import PolicyError
from axpo_algo.policies import check_policy, load_policy
from axpo_algo.run import best as best_module
from axpo_algo.run.best import BestPolicy, best_metrics, find_best
from axpo_algo.run.checkpoint import CheckpointError
from axpo_algo.run.resume import read_config
from axpo_algo.train import main as train

# A run of a second or two, whose weights change at every step. What its evaluations say, the tests make up.
TINY = (
    "recipe=nano",
    "sft.phases=[]",
    "baseline=null",
    "policy.device=cpu",
    "training.num_threads=1",
    "rollout.group_size=2",
    "rollout.questions_per_step=1",
    "rollout.max_new_tokens=4",
    "optimizer.learning_rate=0.01",
    "optimizer.weight_decay=1.0",
    "loss.kl_coefficient=0",
    "logging.tensorboard=false",
    "logging.trajectories_every_num_steps=0",
    "logging.curves_every_num_steps=0",
)
SCORES = {0: 0.2, 1: 0.3, 2: 0.5, 3: 0.9, 4: 0.6, 5: None, 6: 0.6, 7: float("nan"), 8: 0.1}


class Killed(BaseException):
    """Ends a run as a kill would: nothing is saved."""


def evaluate(config: TrainConfig, folder: Any, policy: Any, name: str, *rest: Any) -> dict[str, Any]:
    """What stands in for an evaluation: the number of its step."""
    named = {"start": 0, "end": config.training.num_steps}
    step = named[name] if name in named else int(name.removeprefix("step-"))
    (folder.path / f"evaluation-{name}.json").write_text("{}")
    return {"pass@1": SCORES[step], "num_ungraded": 0}


def make_up(patch: pytest.MonkeyPatch) -> None:
    """Evaluations are made up, and curves, which take longer than all the rest, are not drawn."""
    patch.setattr(train_module, "_evaluate", evaluate)
    patch.setattr(train_module, "draw_curves", lambda *arguments: None)
    patch.setattr(train_module.RunFolder, "write_curves", lambda folder: None)


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    make_up(monkeypatch)


def run(folder: Path, *arguments: str) -> Path:
    return train([*TINY, f"run_dir={folder}", *arguments])


def resume(folder: Path, *arguments: str) -> Path:
    return train(["--resume", f"run_dir={folder}", *arguments])


def kept(run: Path) -> dict[str, bytes]:
    """All files of a run's best, by name."""
    return {path.name: path.read_bytes() for path in (run / "best").iterdir()}


def best_step(run: Path) -> int:
    return int(json.loads((run / "best" / "best.json").read_text())["step"])


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def often(evaluation: int, checkpoint: int, num_steps: int) -> tuple[str, ...]:
    return (
        f"evaluation.every_num_steps={evaluation}",
        f"checkpoint.every_num_steps={checkpoint}",
        f"training.num_steps={num_steps}",
    )


def test_the_best_is_the_first_step_with_the_highest_number() -> None:
    def lines(*values: float | None) -> list[dict[str, Any]]:
        return [{"step": step, "eval/pass@1": value} for step, value in enumerate(values)]

    assert find_best(lines(0.5, None, 0.7, float("nan"), 0.7, 0.6), "pass@1") == {
        "step": 2,
        "metric": "pass@1",
        "value": 0.7,
    }
    assert find_best(lines(None, float("nan")), "pass@1") is None
    assert find_best([{"step": 0, "train/loss": 1.0}], "pass@1") is None
    assert find_best(lines(0.5), "mean_reward") is None


def test_a_run_keeps_its_best_as_a_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(tmp_path / "run", *often(2, 0, 8))  # 4 and 6 are equal, 7 would be NaN, the newest is worse
    assert f"axpo: best pass@1: 0.600 after step 4, kept as {folder}/best\n" in capsys.readouterr().out
    note = json.loads((folder / "best" / "best.json").read_text())
    assert note == {"step": 4, "metric": "pass@1", "value": 0.6}
    run(tmp_path / "four", *often(2, 0, 4))
    assert weights(folder / "best") == weights(tmp_path / "four" / "policy") != weights(folder / "policy")
    assert set(kept(folder)) == {path.name for path in (folder / "policy").iterdir()} | {"best.json"}
    assert not list(folder.glob(".best-*"))

    best = str(folder / "best")
    assert load_policy(PolicyConfig(path=best, device="cpu"), seed=0).chat is not None
    assert run_config(best) == folder / "config.yaml"
    with pytest.raises(
        PolicyError, match=f"holds some: use {folder}/policy or {folder}/best or {folder}/start"
    ):
        check_policy(PolicyConfig(path=str(folder)))
    (folder / "best" / "best.json").write_text(json.dumps(note | {"step": 6}))
    with pytest.raises(CheckpointError, match=r"best\.json"):
        load_policy(PolicyConfig(path=best), seed=0)


def test_where_nothing_is_better_the_start_is_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCORES, 0, 0.9)
    folder = run(tmp_path / "run", *often(1, 1, 3), "baseline=grpo")  # 3 is as good, and later
    for inside in (folder, folder / "grpo"):
        assert best_step(inside) == 0 and weights(inside / "best") == weights(folder / "start")


def test_without_a_metric_none_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(tmp_path / "run", *often(1, 1, 1), "checkpoint.best_metric=null")
    assert not (folder / "best").exists() and "best" not in capsys.readouterr().out


def test_an_unknown_metric_is_refused_by_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        run(tmp_path / "run", "checkpoint.best_metric=pass@2", "evaluation.rollouts_per_question=4")
    assert capsys.readouterr().err == (
        "error: checkpoint.best_metric: unknown metric 'pass@2'; known: aim_bits, aim_on_target, mean_reward, pass@1, "
        "pass@1_no_tool, pass@1_tool, pass@4; nearest: pass@4\n"
    )
    assert not (tmp_path / "run").exists() and best_metrics(1)[:2] == ["pass@1", "mean_reward"]


# Killed

CALLS: dict[str, tuple[Any, str]] = {
    "log": (train_module.RunFolder, "log"),
    "save_policy": (best_module, "save_policy"),
    "replace": (best_module.os, "replace"),
    "save_checkpoint": (train_module, "save_checkpoint"),
    "set_evaluation": (train_module, "set_evaluation"),
}


def killed(monkeypatch: pytest.MonkeyPatch, moment: str, do: Callable[[], Path]) -> None:
    """Runs `do` until a moment: "before log 2" is before the second call of RunFolder.log."""
    when, name, number = moment.split()
    owner, attribute = CALLS[name]
    real, calls = getattr(owner, attribute), itertools.count(1)

    def dying(*args: Any, **kwargs: Any) -> Any:
        dies = (name != "replace" or Path(args[0]).name == "best") and next(calls) == int(number)
        if dies and when == "before":
            raise Killed
        result = real(*args, **kwargs)
        if dies:
            raise Killed
        return result

    with monkeypatch.context() as patch:
        patch.setattr(owner, attribute, dying)
        with pytest.raises(Killed):
            do()


def slow(moment: str) -> Any:
    return pytest.param(moment, marks=pytest.mark.slow)


def assert_same_best(folder: Path, unbroken: Path) -> None:
    assert kept(folder) == kept(unbroken)
    assert (folder / "metrics.jsonl").read_bytes() == (unbroken / "metrics.jsonl").read_bytes()
    hidden = {path.name for path in folder.iterdir() if path.name.startswith(".")} - {".lock"}
    assert hidden == {path.name for path in unbroken.iterdir() if path.name.startswith(".")} - {".lock"}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over 4 steps, each evaluated and better up to the third; checkpoints at 2 and 4."""
    with pytest.MonkeyPatch.context() as patch:
        make_up(patch)
        return run(tmp_path_factory.mktemp("unbroken") / "run", *often(1, 2, 4))


@pytest.mark.parametrize(
    "moment",
    [
        "after log 1",  # the start is evaluated, and not kept yet
        slow("before save_policy 2"),  # the start has been moved away, and nothing is in its place
        "after save_policy 3",  # of step 2, before its checkpoint; step 1 has gone
        slow("after save_checkpoint 1"),
        slow("before log 4"),  # step 3, the best, is evaluated, and that is not on disk
        "after log 4",
        slow("before replace 3"),
        "after replace 3",
        slow("after save_policy 4"),
        slow("before save_checkpoint 2"),
        "after save_checkpoint 2",
    ],
)
def test_a_run_that_was_killed_ends_with_the_best_of_an_unbroken_one(
    moment: str, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(monkeypatch, moment, lambda: run(tmp_path / "run", *often(1, 2, 4)))
    resume(tmp_path / "run")
    assert best_step(unbroken) == 3
    assert_same_best(tmp_path / "run", unbroken)


def test_what_is_kept_is_never_later_than_where_a_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after step 3, the best, with a checkpoint of step 2: made shorter, it has never seen step 3."""
    killed(monkeypatch, "after save_policy 4", lambda: run(tmp_path / "run", *often(1, 2, 4)))
    assert best_step(tmp_path / "run") == 3
    resume(tmp_path / "run", "training.num_steps=2")
    assert_same_best(tmp_path / "run", run(tmp_path / "two", *often(1, 2, 2)))
    assert best_step(tmp_path / "run") == 2


# Made longer


@pytest.mark.parametrize(("every", "best"), [(0, 0), (1, 3), (2, 2), (3, 3)])
def test_a_run_that_is_made_longer_ends_with_the_best_of_an_unbroken_one(
    every: int, best: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its old end is the best of all; whether it counts depends on whether it is evaluated anyhow."""
    monkeypatch.setitem(SCORES, 4, 0.1)
    short = run(tmp_path / "short", *often(every, 0, 3))
    assert best_step(short) == 3
    resume(short, "training.num_steps=4")
    assert_same_best(short, run(tmp_path / "whole", *often(every, 0, 4)))
    assert best_step(short) == best


@pytest.mark.parametrize("moment", ["after log 4", "after save_policy 3", "after save_checkpoint 1"])
def test_a_run_that_was_killed_at_its_end_may_still_be_made_longer(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCORES, 4, 0.1)
    killed(monkeypatch, moment, lambda: run(tmp_path / "short", *often(2, 0, 3)))
    resume(tmp_path / "short", "training.num_steps=4")
    assert_same_best(tmp_path / "short", run(tmp_path / "whole", *often(2, 0, 4)))
    assert best_step(tmp_path / "short") == 2


@pytest.mark.parametrize(
    "moment", [None, "after set_evaluation 1", slow("after replace 1"), slow("after save_policy 1")]
)
def test_a_run_that_ends_where_it_stopped_has_its_end_among_its_evaluations(
    moment: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    killed(monkeypatch, "after save_checkpoint 3", lambda: run(folder, *often(0, 1, 4)))
    assert best_step(folder) == 0
    if moment is not None:
        killed(monkeypatch, moment, lambda: resume(folder, "training.num_steps=3"))
    resume(folder, "training.num_steps=3")
    assert_same_best(folder, run(tmp_path / "whole", *often(0, 1, 3)))
    assert best_step(folder) == 3


def test_a_best_that_is_gone_is_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(tmp_path / "run", *often(1, 1, 4))
    shutil.rmtree(folder / "best")
    resume(folder)
    assert f"best pass@1: 0.900 after step 3, no longer in {folder}/best\n" in capsys.readouterr().out
    assert BestPolicy(folder, read_config(folder)).path == folder / "best" and not (folder / "best").exists()
