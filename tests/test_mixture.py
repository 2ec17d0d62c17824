"""Several environments: which one a question comes from, training and evaluation in two, what is refused."""

import json
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from axpo_algo.config import ConfigError, TrainConfig, load_config, to_yaml
from axpo_algo.config.evaluation import load_settings
from axpo_algo.environments import ENDLESS, make_env, step_indices, step_tasks
from axpo_algo.evaluate import evaluate_scripted, summarize
from axpo_algo.evaluate import main as evaluate
from axpo_algo.mixture import Mixture
from axpo_algo.models.nano import build_nano
from axpo_algo.run.folder import read_jsonl
from axpo_algo.run.metrics import combine_numbers
from axpo_algo.sft import main as sft
from axpo_algo.train import main as train
from axpo_algo.trainer import Trainer

CHARTS = {
    "id": "AXPO/ChartQA-Tools-v0",
    "kwargs": {"difficulty": "nano", "max_pixels": 2304, "tools": ["image_zoom_in"]},
}
SIGNS = {**CHARTS, "id": "AXPO/VStar-Tools-v0"}
ENTRIES = [{"name": "charts", "env": CHARTS}, {"name": "signs", "env": SIGNS}]
TRAIN_ENVS = f"train_envs={json.dumps([{**ENTRIES[0], 'weight': 3}, ENTRIES[1]])}"
EVAL_ENVS = f"eval_envs={json.dumps(ENTRIES)}"
TINY = [
    "baseline=null",
    "policy.device=cpu",
    "sft.warmup_steps=2",
    "sft.phases=[{num_steps: 3, batch_size: 6, sources: [{env: charts}, {env: signs}]}]",
    "training.num_steps=2",
    "training.num_threads=1",
    "rollout.group_size=2",
    "rollout.questions_per_step=4",
    "rollout.max_new_tokens=8",
    "evaluation.num_questions=3",
    "evaluation.rollouts_per_question=1",
    "evaluation.max_new_tokens=8",
    "checkpoint.every_num_steps=1",
    "logging.tensorboard=false",
    "logging.curves_every_num_steps=0",
    TRAIN_ENVS,
    EVAL_ENVS,
]


# Which question


def tasks(
    num_steps: int, num_tasks: list[int], weights: list[float], *, count: int = 16, seed: int = 0
) -> Any:
    steps = range(num_steps)
    return [step_tasks(num_tasks, weights, step=step, count=count, seed=seed) for step in steps]


@pytest.mark.parametrize("num_tasks", [1, 10, 1000, ENDLESS + 1])
def test_one_environment_has_the_tasks_of_step_indices(num_tasks: int) -> None:
    for seed in (0, 7):
        for step, drawn in enumerate(tasks(20, [num_tasks], [0.3], count=5, seed=seed)):
            indices = step_indices(num_tasks, step=step, count=5, seed=seed)
            assert drawn == [(0, index) for index in indices]


def test_the_indices_of_a_seed_are_those_of_earlier_versions() -> None:
    assert step_indices(10, step=1, count=4, seed=3) == [8, 0, 5, 9]
    assert step_indices(2**31 - 1, step=2, count=3, seed=3) == [501623724, 1519325906, 197881234]


def test_a_steps_tasks_depend_on_seed_step_and_position_alone() -> None:
    drawn = tasks(6, [100, 7, 2**31], [3, 1, 0.5])
    assert step_tasks([100, 7, 2**31], [3, 1, 0.5], step=5, count=16, seed=0) == drawn[5]
    assert tasks(6, [100, 7, 2**31], [6, 2, 1]) == drawn  # weights count by their ratio
    assert tasks(6, [100, 7, 2**31], [3, 1, 0.5], seed=1) != drawn


@pytest.mark.parametrize(
    "weights", [[1.0, 1.0], [3.0, 1.0], [1e-3, 5.0, 0.1], [0.0, 2.0, 0.0, 1.0, 0.0], [1e300, 1e308, 3e299]]
)
@pytest.mark.parametrize("seed", range(5))
def test_each_environment_has_its_share_of_the_first_questions(weights: list[float], seed: int) -> None:
    chosen = [env for step in tasks(40, [50] * len(weights), weights, seed=seed) for env, _ in step]
    largest = max(weights)
    shares = [weight / largest / sum(w / largest for w in weights) for weight in weights]
    counts = [0] * len(weights)
    for number, env in enumerate(chosen, start=1):
        counts[env] += 1
        for count, share in zip(counts, shares, strict=True):
            assert abs(count - number * share) < len(weights)
    assert all(counts[env] == 0 for env, weight in enumerate(weights) if weight == 0)


def test_a_finite_source_is_gone_through_in_passes_in_a_mixture_too() -> None:
    drawn = [task for step in tasks(30, [10, 6, 2**31], [3, 2, 1]) for task in step]
    for env, size in ((0, 10), (1, 6)):
        indices = [index for e, index in drawn if e == env]
        passes = [indices[at : at + size] for at in range(0, len(indices) - size + 1, size)]
        assert len(passes) > 3 and all(sorted(one) == list(range(size)) for one in passes)
        assert all(one != other for one, other in pairwise(passes))
    endless = [index for e, index in drawn if e == 2]
    assert len(set(endless)) == len(endless) > 50


def test_environments_of_one_size_have_orders_of_their_own() -> None:
    drawn = [task for step in tasks(10, [10, 10], [1, 1], count=4) for task in step]
    first, second = ([index for e, index in drawn if e == env] for env in (0, 1))
    assert first != second and sorted(first) == sorted(second)


def test_every_environment_is_opened_once_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    closed: list[Any] = []

    def make(config: Any, **keywords: Any) -> Any:
        if config.id == "missing":
            raise ValueError("no such thing")
        env = make_env(config, **keywords)
        close = env.close
        env.close = lambda: (closed.append(env), close())
        opened.append(env)
        return env

    monkeypatch.setattr("axpo_algo.mixture.make_env", make)
    config = load_config(["recipe=nano", TRAIN_ENVS], TrainConfig)
    policy = build_nano(seed=0)
    with Trainer(config, policy, None) as trainer:
        assert [starter.env for starter in trainer.mixture.starters] == opened
        assert trainer.mixture.names == ["charts", "signs"] and closed == []
    assert len(opened) == 2 and sorted(map(id, closed)) == sorted(map(id, opened))
    opened.clear()
    closed.clear()
    broken = load_config(["recipe=nano", TRAIN_ENVS, "train_envs.1.env.id=missing"], TrainConfig)
    with pytest.raises(ValueError, match="no such thing"):
        Mixture(broken, policy.chat)
    assert closed == opened and len(opened) == 1


# Training


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps on two environments, with a cold start on both."""
    return train([*TINY, f"run_dir={tmp_path_factory.mktemp('mixture') / 'run'}"])


def test_a_run_measures_each_environment_and_all(run: Path) -> None:
    start, *steps = read_jsonl(run / "metrics.jsonl")
    for line in steps:
        assert line["train/num_groups"] == 4
        assert (line["train/charts/num_groups"], line["train/signs/num_groups"]) == (3, 1)
        for key in ("num_rollouts", "num_sampled_tokens", "num_prefixes"):
            assert line[f"train/{key}"] == line[f"train/charts/{key}"] + line[f"train/signs/{key}"]
        assert "train/charts/loss" not in line
    for line in (start, steps[-1]):
        assert line["eval/num_rollouts"] == 6 and line["eval/signs/num_rollouts"] == 3
        assert line["eval/pass@1"] == (line["eval/charts/pass@1"] + line["eval/signs/pass@1"]) / 2
    assert not any(key.startswith("eval/") for key in steps[0])
    report = (run / "report.md").read_text()
    rows = [line.split("|")[1].strip() for line in report.splitlines()[2:]]
    assert rows == [
        f"{when}{env}" for when in ("start", "axpo, 2 steps") for env in ("", ", charts", ", signs")
    ]
    document = json.loads((run / "evaluation-end.json").read_text())
    assert document["charts/pass@1"] == steps[-1]["eval/charts/pass@1"]
    assert "question 0 of " in (run / "trajectories" / "step-000001.md").read_text()
    assert not any("train/charts" in key for key in read_jsonl(run / "sft.jsonl")[0])


def test_a_mixture_is_resumed_to_the_bytes_of_an_unbroken_run(run: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(broken / "checkpoints" / "step-000002")
    shutil.rmtree(broken / "policy")
    assert train(["--resume", f"run_dir={broken}"]) == broken
    for name in ("metrics.jsonl", "policy/model.safetensors", "report.md", "evaluation-end.json"):
        assert (broken / name).read_bytes() == (run / name).read_bytes()
    train(["--resume", f"run_dir={broken}", "training.num_steps=3"])
    longer = train([*TINY, "training.num_steps=3", f"run_dir={tmp_path / 'longer'}"])
    for name in ("metrics.jsonl", "policy/model.safetensors", "report.md"):
        assert (broken / name).read_bytes() == (longer / name).read_bytes()


def test_a_list_of_one_environment_trains_as_the_environment_alone(tmp_path: Path) -> None:
    arguments = [*TINY, "sft.phases=[]", "train_envs=[]", "eval_envs=[]"]
    one = json.dumps([{"name": "charts", "env": CHARTS}])
    alone = train([*arguments, f"env={json.dumps(CHARTS)}", f"run_dir={tmp_path / 'alone'}"])
    listed = train([*arguments, f"train_envs={one}", f"eval_envs={one}", f"run_dir={tmp_path / 'listed'}"])
    for name in ("metrics.jsonl", "policy/model.safetensors", "report.md"):
        assert (alone / name).read_bytes() == (listed / name).read_bytes()


# Evaluation


def test_an_environment_of_a_list_is_measured_as_it_is_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "numbers.json"
    arguments = ["policy.path=oracle", "evaluation.num_questions=4"]
    numbers = evaluate([*arguments, EVAL_ENVS, f"json={path}"])
    printed = capsys.readouterr().out
    config, _ = load_settings([*arguments, EVAL_ENVS])
    for entry in config.eval_envs:
        own = summarize(evaluate_scripted("oracle", config.evaluation, entry.env), k=1)
        assert {key: numbers[f"{entry.name}/{key}"] for key in own} == own
        assert f"environment {entry.name}: {entry.env.id}, split test" in printed
        assert f"| oracle, {entry.name}" in printed
    assert (numbers["num_groups"], numbers["pass@1"]) == (8, 1.0)
    document = json.loads(path.read_text())
    assert document["envs"]["signs"]["id"] == SIGNS["id"] and "env" not in document
    assert set(document["best_constant_answer"]) == {"charts", "signs"}
    assert Counter(rollout["env"] for rollout in document["rollouts"]) == {"charts": 4, "signs": 4}
    assert document["signs/pass@1"] == 1.0


def test_numbers_of_environments_become_one_by_hand() -> None:
    combined = combine_numbers(
        {
            "a": {"pass@1": 0.5, "pass@1_stderr": 0.3, "num_rollouts": 8, "rate": None, "calls/zoom": 2},
            "b": {"pass@1": 0.25, "pass@1_stderr": 0.4, "num_rollouts": 2, "rate": 0.5},
        }
    )
    own = {key: value for key, value in combined.items() if not key.startswith(("a/", "b/"))}
    assert own == {
        "pass@1": 0.375,
        "pass@1_stderr": pytest.approx(0.25),
        "num_rollouts": 10,
        "rate": 0.5,
        "calls/zoom": 2,
    }
    assert (combined["a/num_rollouts"], combined["b/rate"]) == (8, 0.5)
    one_question = combine_numbers(
        {"a": {"pass@1": 1.0, "pass@1_stderr": None}, "b": {"pass@1": 0.0, "pass@1_stderr": 0.1}}
    )
    assert (one_question["pass@1"], one_question["pass@1_stderr"]) == (0.5, None)


def test_a_checkpoint_is_measured_on_the_environments_of_its_run(run: Path) -> None:
    config, _ = load_settings([f"policy.path={run / 'policy'}"])
    assert [entry.name for entry in config.eval_envs] == ["charts", "signs"]
    alone, _ = load_settings([f"policy.path={run / 'policy'}", "eval_envs=[]", "env.id=AXPO/VStar-Tools-v0"])
    assert alone.eval_envs == () and alone.env.id == "AXPO/VStar-Tools-v0"
    with pytest.raises(ConfigError) as refused:
        load_settings([f"policy.path={run / 'policy'}", "env.id=AXPO/VStar-Tools-v0"])
    assert str(refused.value) == (
        "env.id: no effect where eval_envs lists environments (charts, signs): set eval_envs.N.env, or eval_envs=[] "
        "to evaluate on env alone"
    )


# Settings


def test_lists_come_from_files_and_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "mixture.yaml"
    path.write_text(
        "train_envs:\n"
        "  - {name: charts, weight: 3, env: &charts {kwargs: {difficulty: nano}}}\n"
        "  - {name: signs, env: &signs {id: AXPO/VStar-Tools-v0}}\n"
        "eval_envs:\n"
        "  - {name: charts, env: *charts}\n"
        "  - {name: signs, env: *signs}\n"
    )
    argv = ["--config", str(path), "train_envs.1.weight=0.5", "eval_envs.1.env.evaluation_split=validation"]
    config = load_config(argv, TrainConfig)
    assert [(entry.name, entry.weight) for entry in config.train_envs] == [("charts", 3), ("signs", 0.5)]
    assert config.train_envs[0].env == config.eval_envs[0].env
    assert config.eval_envs[1].env.evaluation_split == "validation"
    (tmp_path / "saved.yaml").write_text(to_yaml(config))
    assert load_config(["--config", str(tmp_path / "saved.yaml")], TrainConfig) == config


SPLITS = "known: test, train, validation"
MISTAKES = {
    'train_envs=[{"env":{}}]': "train_envs.0.name is missing: 'train_envs.0' has no default for it",
    'train_envs=[{"name":"a/b"}]': (
        "TrainEnvConfig.name must be letters, digits, '_', '.' and '-', a letter or digit first, got 'a/b'"
    ),
    'eval_envs=[{"name":"status"}]': (
        "EvalEnvConfig.name must not be one of calls, status, ungraded, which metrics use, got 'status'"
    ),
    'train_envs=[{"name":"a"},{"name":"a"}]': "train_envs must have names that differ, got 'a' twice",
    'eval_envs=[{"name":"a"},{"name":"a"}]': "eval_envs must have names that differ, got 'a' twice",
    'train_envs=[{"name":"a","weight":-1}]': "TrainEnvConfig.weight must be at least 0, got -1",
    'train_envs=[{"name":"a","weight":.nan}]': "TrainEnvConfig.weight must be at least 0, got nan",
    'train_envs=[{"name":"a","weight":.inf}]': "TrainEnvConfig.weight must be finite, got inf",
    'train_envs=[{"name":"a","weight":0},{"name":"b","weight":0}]': (
        "train_envs must have a weight above 0, got [0.0, 0.0]"
    ),
    'eval_envs=[{"name":"a","weight":1}]': (
        "unknown key 'eval_envs.0.weight'; known under 'eval_envs.0': env, name; nearest: eval_envs.0.env"
    ),
    'train_envs=[{"name":"a"},{"name":"b","env":{"split":"trian"}}]': (
        f"train_envs.1.env.split: unknown split 'trian'; {SPLITS}; nearest: train"
    ),
    'eval_envs=[{"name":"a"},{"name":"b","env":{"evaluation_split":"tset"}}]': (
        f"eval_envs.1.env.evaluation_split: unknown split 'tset'; {SPLITS}; nearest: test"
    ),
    'train_envs=[{"name":"a"},{"name":"b","env":{"kwargs":{"difficulty":"nanoo"}}}]': (
        "train_envs.1.env: unknown difficulty of charts 'nanoo'; known: easy, hard, medium, nano, nano-places; "
        "nearest: nano"
    ),
    'eval_envs=[{"name":"a","env":{"kwargs":{"sandbox":"dokcer"}}}]': (
        "eval_envs.0.env: sandbox: unknown sandbox 'dokcer'; known: docker, e2b, local; nearest: docker"
    ),
    'sft.phases=[{"sources":[{"env":"chart"}]}] train_envs=[{"name":"charts"}]': (
        "sft.phases.0.sources.env: unknown environment of train_envs 'chart'; known: charts; nearest: charts"
    ),
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_wrong_entry_ends_in_one_line_before_anything_is_made(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = [(train, []), (sft, []), (evaluate, ["policy.path=oracle"])]
    for command, more in commands if line.startswith("eval_envs") else commands[:2]:
        with pytest.raises(SystemExit) as stop:
            command([*line.split(" "), *more])
        printed = capsys.readouterr()
        assert (stop.value.code, printed.out) == (2, "")
        assert printed.err == f"error: {MISTAKES[line]}\n"
    assert list(tmp_path.iterdir()) == []
