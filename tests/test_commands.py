"""How commands end: mistakes are refused before anything is made, in one line; Ctrl-C saves; a full disk is said.

Also what `evaluate` takes its settings from, what it says of ungraded rollouts, and giving a run more steps.
"""

import errno
import json
import os
import runpy
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from axpo_algo.checks import check_new_file, check_new_folder
from axpo_algo.commands import CtrlC, RunFailed, command
from axpo_algo.config import ConfigError, load_config
from axpo_algo.config.evaluation import EvaluateConfig, load_settings, run_config
from axpo_algo.evaluate import main as evaluate
from axpo_algo.learner import DivergedError
from axpo_algo.run.folder import read_jsonl
from axpo_algo.sft import main as sft
from axpo_algo.train import main as train
from axpo_algo.trainer import Trainer
from axpo_algo.types import Trajectory
from axpo_algo.ungraded import UngradedWatch, count_ungraded, ungraded_in_words
from axpo_env.tasks.synthetic.charts import ChartSource
from axpo_env.tools import register_tool, tool_names
from axpo_env.tools.base import ToolUnavailable, function_schema
from axpo_sandbox import SandboxUnavailable

MAINS = {"train": train, "sft": sft, "evaluate": evaluate}

# A run of a second or two: no cold start, two questions of two rollouts, few tokens. Its weights decay, so that they
# change though nothing is right.
TINY = (
    "sft.phases=[]",
    "baseline=null",
    "policy.device=cpu",
    "training.num_threads=1",
    "rollout.group_size=2",
    "rollout.questions_per_step=2",
    "rollout.max_new_tokens=6",
    "evaluation.num_questions=2",
    "evaluation.rollouts_per_question=1",
    "evaluation.max_new_tokens=6",
    "optimizer.learning_rate=0.01",
    "optimizer.weight_decay=1.0",
    "logging.tensorboard=false",
    "checkpoint.every_num_steps=0",
)

IDS = (
    "AXPO/ChartQA-Tools-v0, AXPO/DynaMath-Tools-v0, AXPO/HRBench4K-Tools-v0, AXPO/HRBench8K-Tools-v0, "
    "AXPO/HRMMSearch-Tools-v0, AXPO/MMSearch-Tools-v0, AXPO/MathVR-Tools-v0, AXPO/MathVision-Tools-v0, "
    "AXPO/VStar-Tools-v0, AXPO/VisualProbe-Tools-v0"
)
DEVICES = "known: auto, cpu, cuda, cuda:N, mps, xpu"
SPLITS = "known: test, train, validation"
NOT_FETCHED = "and no checkpoint of that id could be fetched from the hub (LocalEntryNotFoundError)"

# Command line -> what stands on stderr, after "error: ". {mess} is a folder of `mess`.
MISTAKES = {
    # names
    "train algorithm=ppo": "algorithm: unknown algorithm 'ppo'; known: axpo, grpo; nearest: grpo",
    "train baseline=grop": "baseline: unknown algorithm 'grop'; known: axpo, grpo; nearest: grpo",
    "train rollout.engine=vllm2": "rollout.engine: unknown engine 'vllm2'; known: transformers",
    "train recipe=nanoo": (
        "unknown recipe 'nanoo'; known: nano, nano-gap, qwen3-vl-2b, qwen3-vl-2b-lora, qwen3-vl-2b-sft, "
        "qwen3-vl-4b, qwen3-vl-4b-sft, qwen3-vl-8b, qwen3-vl-8b-sft; nearest: nano"
    ),
    "train env.id=AXPO/ChartQ-Tools-v0": (
        f"env: unknown environment id 'AXPO/ChartQ-Tools-v0'; known: {IDS}; nearest: AXPO/ChartQA-Tools-v0"
    ),
    "train env.kwargs.difficulty=nanoo": (
        "env: unknown difficulty of charts 'nanoo'; known: easy, hard, medium, nano, nano-places; nearest: nano"
    ),
    "train env.kwargs.source=synthetics": (
        "env: unknown source 'synthetics'; known: charts, figures, hub, ledgers, lookups, signs, synthetic; "
        "nearest: synthetic; a folder's name will do, but none is called so"
    ),
    "train sft.phases.0.sources=[{env_kwargs: {difficulty: nano-place}}]": (
        "sft.phases.0: unknown difficulty of charts 'nano-place'; known: easy, hard, medium, nano, nano-places; "
        "nearest: nano-places"
    ),
    "train env.kwargs.sandbox=dokcer": (
        "env: sandbox: unknown sandbox 'dokcer'; known: docker, e2b, local; nearest: docker"
    ),
    "train env.kwargs.sandbox.image=x": (
        "env: sandbox: a mapping must name a backend (local, docker, e2b), got image without 'backend'"
    ),
    "evaluate policy.path=oracle env.kwargs.sandbox.backend=docker env.kwargs.sandbox.imag=x": (
        "env: sandbox: unknown option of the docker sandbox 'imag'; known: fallback, image, limits, num_cpus, preload, "
        "profile, python, quiet, start_timeout_s, total_memory_bytes, total_processes; nearest: image"
    ),
    "train env.kwargs.sandbox.backend=docker env.kwargs.sandbox.total_processes=0": (
        "env: sandbox: total_processes must be a positive whole number, not 0"
    ),
    "sft env.kwargs.sandbox.backend=local env.kwargs.sandbox.limits.memory=1": (
        "env: sandbox: unknown limit 'memory'; known: file_bytes, image_pixels, memory_bytes, num_images, "
        "num_open_files, num_processes, output_bytes, timeout_s, workdir_bytes; nearest: memory_bytes"
    ),
    "train env.kwargs.sandbox.backend=e2b env.kwargs.sandbox.api_key=secret": (
        "env.kwargs.sandbox.api_key is not taken: settings are kept in files; set E2B_API_KEY instead"
    ),
    # settings of their own
    "train env.split=trian": f"env.split: unknown split 'trian'; {SPLITS}; nearest: train",
    "train env.evaluation_split=tset": f"env.evaluation_split: unknown split 'tset'; {SPLITS}; nearest: test",
    "train env.kwargs.split=test": (
        "env.kwargs.split is not taken (got 'test'): set env.split for training, env.evaluation_split for evaluation"
    ),
    "train env.kwargs.max_turns=4": (
        "env.kwargs.max_turns is not taken (got 4): set rollout.max_turns for training, evaluation.max_turns for "
        "evaluation"
    ),
    # ranges
    "train evaluation.top_p=0": "EvaluationConfig.top_p must lie in (0, 1], got 0",
    "train optimizer.betas=[0.9,1.0]": "OptimizerConfig.betas must lie in [0, 1), got [0.9, 1.0]",
    "train sft.betas=[0.9,1.5]": "SFTConfig.betas must lie in [0, 1), got [0.9, 1.5]",
    "train seed=18446744073709551616": "TrainConfig.seed must lie in [0, 2^64), got 18446744073709551616",
    "train optimizer.learning_rate=.nan": "OptimizerConfig.learning_rate must be at least 0, got nan",
    "train optimizer.learning_rate=.inf": "OptimizerConfig.learning_rate must be finite, got inf",
    "train rollout.max_batch_size=0": "RolloutConfig.max_batch_size must be at least 1, got 0",
    "train sft.phases.0.sources.0.aim_noise=[0,0]": (
        "SFTSource.aim_noise must be probabilities, one above 0, got [0.0, 0.0]"
    ),
    "train training.num_steps=many": "Parser key \"training.num_steps\": Expected a <class 'int'>. Got value: many",
    # policies and devices
    "train policy.path=nanno": f"policy: there is no folder 'nanno', {NOT_FETCHED}; nearest: nano",
    "train policy.path={mess}/run": "policy: '{mess}/run' is no checkpoint, but holds some: use {mess}/run/policy",
    "train policy.path={mess}/run/polcy": (
        "policy: there is no folder '{mess}/run/polcy', and a hub id has the form 'owner/name'; "
        "nearest: {mess}/run/policy"
    ),
    "train policy.path={mess}/run/policy": (
        "policy: '{mess}/run/policy' holds a 'llama'; this policy is 'qwen3_vl'"
    ),
    "train policy.path={mess}/file": (
        "policy: '{mess}/file' is a file; a policy is a checkpoint's folder, a hub id or 'nano'"
    ),
    "train policy.device=gpu": f"policy: unknown device 'gpu'; {DEVICES}; nearest: cuda",
    "train policy.device=tpu": f"policy: unknown device 'tpu'; {DEVICES}; nearest: xpu",
    # run folders
    "train run_dir={mess}/run": "run_dir: {mess}/run holds a run already: resume it, or name another folder",
    "train run_dir={mess}/file": "run_dir: '{mess}/file' is a file; name a folder",
    "train run_dir={mess}/file/run": "run_dir: '{mess}/file/run' cannot be made: '{mess}/file' is a file",
    "train run_dir=/proc/run": "run_dir: /proc/run: No such file or directory",
    "train --resume": "run_dir: no run axpo-NNN in runs",
    "train --resume run_dir={mess}/runn": (
        "run_dir: '{mess}/runn' holds no run to resume; nearest: {mess}/run"
    ),
    "train --resume run_dir={mess}/run rollout.group_size=2": (
        "a resumed run keeps its own configuration; rollout.group_size cannot be changed. Allowed beside resume: "
        "run_dir, algorithm (which run to find), training.num_steps (how long it shall be)"
    ),
    # files
    "train --config {mess}/utf16.yaml": "{mess}/utf16.yaml is not UTF-8 text (byte 0): save it as UTF-8",
    "train --config {mess}/utf61.yaml": (
        "cannot read {mess}/utf61.yaml: No such file or directory; nearest: {mess}/utf16.yaml"
    ),
    "train --config {mess}": "cannot read {mess}: Is a directory",
    "train --config {mess}/file": "{mess}/file must hold a mapping of keys, not a str",
    # the other commands
    "sft run_dir={mess}/run": "run_dir: {mess}/run holds a run already: resume it, or name another folder",
    "sft env.evaluation_split=tset": f"env.evaluation_split: unknown split 'tset'; {SPLITS}; nearest: test",
    "evaluate policy.path=orcale": f"policy: there is no folder 'orcale', {NOT_FETCHED}; nearest: oracle",
    "evaluate policy.path=oracle env.evaluation_split=tset": (
        f"env.evaluation_split: unknown split 'tset'; {SPLITS}; nearest: test"
    ),
    "evaluate policy.path=oracle json={mess}": "json: '{mess}' is a folder; name a file",
    "evaluate policy.path=oracle sedd=1": (
        "unknown key 'sedd'; known at the top: env, eval_envs, evaluation, json, policy, rollout, seed; nearest: seed"
    ),
    "evaluate recipe=qwen3-vl-8b training.num_stepz=1": (
        "unknown key 'training.num_stepz'; known under 'training': max_skipped_updates, num_steps, num_threads; "
        "nearest: training.num_steps"
    ),
    "evaluate oracle": "expected KEY=VALUE or --KEY VALUE, got 'oracle'",
}


@pytest.fixture(scope="module")
def mess(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files and folders that are not what is asked for."""
    folder = tmp_path_factory.mktemp("mess")
    (folder / "file").write_text("x")
    (folder / "utf16.yaml").write_bytes("seed: 1\n".encode("utf-16"))
    (folder / "run" / "policy").mkdir(parents=True)
    (folder / "run" / "policy" / "config.json").write_text('{"model_type": "llama"}')
    (folder / "run" / "config.yaml").write_text("seed: 1\n")
    (folder / "run" / "metrics.jsonl").write_text("")
    return folder


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_ends_in_one_line_before_anything_is_made(
    line: str,
    mess: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = snapshot(mess)
    name, _, rest = line.replace("{mess}", str(mess)).partition(" ")
    arguments = [rest] if rest.startswith("sft.") else rest.split(" ")
    with pytest.raises(SystemExit) as stop:
        MAINS[name](arguments)
    printed = capsys.readouterr()
    assert (stop.value.code, printed.out) == (2, "")
    assert printed.err == f"error: {MISTAKES[line].replace('{mess}', str(mess))}\n"
    assert list(tmp_path.iterdir()) == [] and snapshot(mess) == before


def test_a_gpu_that_is_not_here_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        train(["policy.device=cuda"])
    assert (
        capsys.readouterr().err
        == "error: policy: torch sees no device 'cuda' here, got 'cuda': use auto or cpu\n"
    )
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(SystemExit):
        train(["policy.device=cuda:2"])
    assert capsys.readouterr().err == (
        "error: policy: torch sees 2 devices 'cuda', counted from 0: got 'cuda:2'\n"
    )


def test_places_that_may_not_be_written_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ConfigError) as stop:
        check_new_folder(tmp_path / "a" / "b", "run_dir")
    assert str(stop.value) == (f"run_dir: '{tmp_path}/a/b' cannot be made: '{tmp_path}' is not writable")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as stop:
        check_new_file(tmp_path / "file", "json")
    assert str(stop.value) == f"json: '{tmp_path}/file' is not writable"
    with pytest.raises(ConfigError, match=r"cannot be made: .* is a file"):
        check_new_file(tmp_path / "file" / "numbers.json", "json")


@pytest.mark.parametrize("name", ["train", "sft", "evaluate"])
def test_a_missing_extra_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, f"axpo_algo.{name}", raising=False)
    with pytest.raises(SystemExit) as stop:
        runpy.run_module(f"axpo_algo.{name}", run_name="__main__")
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "error: torch, transformers not installed; install the extra: pip install 'axpo[train]'\n"
    )


def test_a_missing_reader_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SystemExit) as stop:
        evaluate(["policy.path=oracle", "env.kwargs.source=hub"])
    printed = capsys.readouterr().err
    assert stop.value.code == 2 and printed.count("\n") == 1 and "pip install 'axpo[data]'" in printed


# Sandboxes and ungraded rollouts


def outage(name: str) -> None:
    raise SandboxUnavailable(f"no engine for {name} is\nrunning; start one.")


@pytest.mark.parametrize("name", ["train", "sft", "evaluate"])
def test_a_sandbox_that_does_not_start_is_refused_before_the_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("axpo_env.tools.interpreter.make_sandbox", outage)
    monkeypatch.setattr("axpo_env.tools.interpreter._shared", {})
    arguments = ["env.kwargs.tools=[image_zoom_in, python]", "env.kwargs.sandbox=docker"]
    with pytest.raises(SystemExit) as stop:
        MAINS[name](arguments)
    printed = capsys.readouterr()
    assert (stop.value.code, printed.out) == (2, "")
    assert printed.err == (
        "error: env.kwargs.sandbox: the python tool needs the sandbox 'docker', which does not work here: "
        "SandboxUnavailable: no engine for docker is running; start one. Mend it, name another "
        "(env.kwargs.sandbox), or leave python out of env.kwargs.tools\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_an_interpreter_without_packages_is_refused_before_the_run(
    bare_python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("axpo_env.tools.interpreter._shared", {})
    sandbox = f"env.kwargs.sandbox={{backend: local, python: {bare_python}, quiet: true}}"
    with pytest.raises(SystemExit) as stop:
        evaluate(["policy.path=oracle", "env.kwargs.tools=[image_zoom_in, python]", sandbox])
    printed = capsys.readouterr()
    assert (stop.value.code, printed.out) == (2, "")
    assert printed.err.startswith(
        "error: env.kwargs.sandbox: the python tool needs the sandbox 'local', which does not work here: "
        f"SandboxUnavailable: images need packages that {bare_python} cannot import: numpy (ModuleNotFoundError"
    )
    assert f"Install them ({bare_python} -m pip install numpy matplotlib pillow)" in printed.err
    assert list(tmp_path.iterdir()) == []


class FragileTool:
    """Called by the oracle; the backend is down from the second call on."""

    name = "image_zoom_in"
    schema = function_schema(name, "", {"label": {"type": "string"}, "bbox_2d": {}}, required=())
    num_calls = 0

    def run(self, arguments: Any, state: Any, interpreter: Any) -> Any:
        FragileTool.num_calls += 1
        if FragileTool.num_calls > 1:
            raise ToolUnavailable("the cable\nis cut")
        from axpo_env.tools.zoom import ZoomTool

        return ZoomTool().run(arguments, state, interpreter)


@pytest.fixture
def fragile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FragileTool, "num_calls", 0)
    if "fragile" not in tool_names():
        register_tool("fragile", FragileTool)


FRAGILE = ["policy.path=oracle", "env.kwargs.tools=[fragile]", "env.kwargs.difficulty=nano"]


def test_too_many_ungraded_rollouts_stop_an_evaluation(
    fragile: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        evaluate([*FRAGILE, "evaluation.num_questions=8", f"json={tmp_path / 'numbers.json'}"])
    assert stop.value.code == 1
    printed = capsys.readouterr()
    assert printed.err == (
        "failed: 3 of 8 rollouts are ungraded (3 infrastructure), more than rollout.max_ungraded_share = 0.25 allows; "
        "the first outage: the cable is cut\n"
    )
    assert printed.out.count("ungraded, infrastructure: the cable is cut\n") == 1
    assert not (tmp_path / "numbers.json").exists()


def test_ungraded_rollouts_are_told_by_reason(
    fragile: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "numbers.json"
    numbers = evaluate(
        [*FRAGILE, "evaluation.num_questions=4", "rollout.max_ungraded_share=1", f"json={path}"]
    )
    assert (numbers["num_ungraded"], numbers["ungraded/infrastructure"], numbers["pass@1"]) == (3, 3, 1.0)
    printed = capsys.readouterr().out
    assert "| 3 (3 infrastructure) |" in printed
    assert "4 questions, 1 graded answers, 3 (3 infrastructure) ungraded" in printed
    document = json.loads(path.read_text())
    assert (document["num_ungraded"], document["ungraded/infrastructure"]) == (3, 3)
    assert [rollout["outage"] for rollout in document["rollouts"]] == [None] + 3 * ["the cable\nis cut"]


def trajectory(status: str, reward: float = float("nan"), **info: object) -> Trajectory:
    return Trajectory(status=status, reward=reward, info=info)


def test_reasons_are_counted_and_the_first_outage_is_said_once() -> None:
    said: list[str] = []
    some = [
        trajectory("answer", 1.0, grade={"correct": True}),
        trajectory("answer", grade={"correct": None}),
        trajectory("infrastructure", grade=None, outage="down"),
        trajectory("infrastructure", grade=None, outage="down"),
        trajectory("timeout", grade=None),
        trajectory("max_new_tokens"),
    ]
    counts = count_ungraded(some)
    assert list(counts.items()) == [
        ("infrastructure", 2),
        ("max_new_tokens", 1),
        ("needs a judge", 1),
        ("timeout", 1),
    ]
    numbers = {"num_ungraded": 2, "ungraded/infrastructure": 1, "ungraded/timeout": 1}
    assert ungraded_in_words(numbers) == "2 (1 infrastructure, 1 timeout)"
    watch = UngradedWatch(said.append, num_planned=8, max_share=0.5)
    watch.add(some)  # four: a response that was cut is the policy's doing
    assert said == ["ungraded, infrastructure: down"]
    with pytest.raises(RunFailed) as stop:
        watch.add(some[1:2])
    assert str(stop.value) == (
        "5 of 8 rollouts are ungraded (2 needs a judge, 2 infrastructure, 1 timeout), more than "
        "rollout.max_ungraded_share = 0.5 allows; the first outage: down; env.kwargs.judge names a judge"
    )


def test_training_says_an_outage_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step_of = Trainer.step

    def step(self: Trainer, number: int, *hook: Any) -> Any:
        result = step_of(self, number, *hook)
        lost = result.groups[0].trajectories[0]
        lost.reward, lost.status, lost.info["outage"] = float("nan"), "infrastructure", "the cable is cut"
        return result

    monkeypatch.setattr(Trainer, "step", step)
    run(tmp_path / "run", "training.num_steps=2")
    assert capsys.readouterr().out.count("ungraded, infrastructure: the cable is cut\n") == 1


# What evaluation is given


def test_the_oracle_is_right_on_every_question_of_the_search_twin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "folder" / "numbers.json"
    numbers = evaluate(
        [
            "policy.path=oracle",
            "env.id=AXPO/HRMMSearch-Tools-v0",
            "evaluation.num_questions=8",
            f"json={path}",
        ]
    )
    assert (numbers["pass@1"], numbers["tool_use_rate"], numbers["num_ungraded"]) == (1.0, 1.0, 0)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "settings from: the environment's defaults and the paper's sampling",
        "environment: AXPO/HRMMSearch-Tools-v0, split test",
        "policy: oracle, at most 8 questions, 5 turns",
    ]
    document = json.loads(path.read_text())
    assert (document["policy"], document["seed"]) == ("oracle", 0)
    assert document["env"] == {
        "id": "AXPO/HRMMSearch-Tools-v0",
        "kwargs": {},
        "split": "test",
        "source": "synthetic",
    }
    assert document["settings"]["evaluation"]["max_turns"] == 5
    assert document["versions"]["python"] == sys.version.split()[0] and document["versions"]["torch"]
    assert [rollout["status"] for rollout in document["rollouts"]] == ["answer"] * 8
    assert len(document["rollouts"][0]["actions"]) == 4


def test_without_a_run_or_a_recipe_the_paper_samples() -> None:
    config, origin = load_settings(["policy.path=oracle", "env.id=AXPO/VStar-Tools-v0"])
    how = config.evaluation
    assert origin == "the environment's defaults and the paper's sampling"
    assert (how.temperature, how.top_p, how.top_k, how.presence_penalty) == (0.7, 0.8, 20, 1.5)
    assert (how.max_turns, how.max_response_tokens, how.max_new_tokens) == (5, 32768, 32768)
    assert config.env.kwargs == {}


@pytest.mark.parametrize("inside", ["policy", "best", "start", "checkpoints/step-000002/policy"])
def test_a_checkpoint_is_measured_as_its_run_was(inside: str, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run" / inside
    checkpoint.mkdir(parents=True)
    arguments = ["recipe=nano", "seed=4", "env.kwargs.difficulty=easy", "evaluation.max_turns=2"]
    from axpo_algo.config import TrainConfig, to_yaml

    (tmp_path / "run" / "config.yaml").write_text(to_yaml(load_config(arguments, TrainConfig)))
    config, origin = load_settings([f"policy.path={checkpoint}", "evaluation.num_questions=7"])
    assert origin == str(tmp_path / "run" / "config.yaml")
    assert (config.seed, config.env.kwargs["difficulty"], config.env.kwargs["max_pixels"]) == (
        4,
        "easy",
        2304,
    )
    how = config.evaluation
    assert (how.num_questions, how.max_turns, how.max_new_tokens, how.temperature) == (7, 2, 40, 1.0)
    assert config.policy.path == str(checkpoint)
    named, _ = load_settings([f"policy.path={checkpoint}", "recipe=qwen3-vl-8b"])  # what is named wins
    assert named.evaluation.max_new_tokens == 32768 and named.env.kwargs["difficulty"] == "medium"


def test_a_folder_in_no_run_has_no_settings(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    (tmp_path / "other").mkdir()
    assert run_config(str(tmp_path / "other")) is None
    assert run_config(str(tmp_path / "policy")) is None  # not there
    assert run_config("owner/policy") is None


def test_training_files_are_taken_by_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"training": {"num_steps": 3}, "env": {"kwargs": {"difficulty": "nano"}}}))
    arguments = ["policy.path=oracle", "evaluation.num_questions=1"]
    assert evaluate([*arguments, "recipe=qwen3-vl-8b", "env.kwargs.difficulty=nano"])["pass@1"] == 1.0
    assert "not used" not in capsys.readouterr().out
    assert evaluate([*arguments, "--config", str(path), "loss.clip_low=0.1"])["pass@1"] == 1.0
    assert "not used by evaluation: loss.clip_low\n" in capsys.readouterr().out
    path.write_text("training: {num_stepz: 3}\n")
    with pytest.raises(ConfigError, match=r"unknown key 'training\.num_stepz'"):
        load_settings(["--config", str(path)])
    path.write_text("trainin: 3\n")
    with pytest.raises(ConfigError, match="unknown key 'trainin'"):
        load_settings(["--config", str(path)])


def test_a_source_without_demonstrations_teaches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    get = ChartSource.get
    monkeypatch.setattr(ChartSource, "get", lambda self, index: replace(get(self, index), demonstrator=None))
    with pytest.raises(SystemExit) as stop:
        train([f"run_dir={tmp_path / 'run'}", "env.kwargs={source: charts, difficulty: nano}"])
    assert stop.value.code == 2 and not (tmp_path / "run").exists()
    assert capsys.readouterr().err == (
        "error: sft.phases.0: the tasks of AXPO/ChartQA-Tools-v0 with {'source': 'charts', 'difficulty': 'nano'} have "
        "no demonstrations to learn from; leave the cold start out (sft.phases=[])\n"
    )


def test_help_says_what_the_json_holds(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        evaluate(["--help"])
    assert "json: str | None = None  # file to write: the settings, the numbers and every rollout" in (
        capsys.readouterr().out
    )
    assert EvaluateConfig().json is None


# Longer runs


def run(folder: Path, *arguments: str) -> Path:
    return train([*TINY, f"run_dir={folder}", *arguments])


SAME = ("metrics.jsonl", "policy/model.safetensors")


def test_a_tiny_run_changes_its_weights_at_every_step(tmp_path: Path) -> None:
    weights = [
        (run(tmp_path / str(count), f"training.num_steps={count}") / SAME[1]).read_bytes()
        for count in (0, 1, 2)
    ]
    assert len(set(weights)) == 3
    assert read_jsonl(tmp_path / "2" / "metrics.jsonl")[2]["train/kl"] > 1e-5


@pytest.mark.parametrize("every", [0, 2])
def test_a_finished_run_is_extended_to_the_bytes_of_a_longer_one(every: int, tmp_path: Path) -> None:
    often = (f"evaluation.every_num_steps={every}", "baseline=grpo", "optimizer.warmup_steps=4")
    whole, short = tmp_path / "whole", tmp_path / "short"
    run(whole, "training.num_steps=4", *often)
    run(short, "training.num_steps=2", *often)
    assert "eval/pass@1" in read_jsonl(short / "metrics.jsonl")[2]
    train(["--resume", f"run_dir={short}", "training.num_steps=4"])
    for inside in ("", "grpo/"):
        for name in SAME:
            assert (short / inside / name).read_bytes() == (whole / inside / name).read_bytes(), inside + name
        names = {p.name for p in (short / inside).glob("evaluation-*")}
        assert names == {p.name for p in (whole / inside).glob("evaluation-*")}
        assert yaml.safe_load((short / inside / "config.yaml").read_text())["training"]["num_steps"] == 4
    assert (short / "report.md").read_text() == (whole / "report.md").read_text()
    assert ("eval/pass@1" in read_jsonl(short / "metrics.jsonl")[2]) == (every == 2)


def test_a_run_ends_where_it_stopped_and_not_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(whole, "training.num_steps=2")
    run(broken, "training.num_steps=2")
    # As if it had been stopped after step 2 of 5: no evaluation there, no policy yet.
    from axpo_algo.run.extend import set_evaluation

    set_evaluation(broken / "metrics.jsonl", 2, None)
    longer = (broken / "config.yaml").read_text().replace("num_steps: 2\n", "num_steps: 5\n", 1)
    (broken / "config.yaml").write_text(longer)
    (broken / "evaluation-end.json").unlink()
    with pytest.raises(SystemExit) as stop:
        train(["--resume", f"run_dir={broken}", "training.num_steps=1"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        f"error: training.num_steps: {broken} has done 2 steps, and can have that many or more, got 1\n"
    )
    train(["--resume", f"run_dir={broken}", "training.num_steps=2"])
    for name in (*SAME, "evaluation-end.json", "report.md"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(whole, "training.num_steps=4")
    arguments = [*TINY, f"run_dir={broken}", "training.num_steps=4"]
    command_line = [sys.executable, "-W", "ignore", "-m", "axpo_algo.train", *arguments]
    process = subprocess.Popen(command_line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "axpo 1/4" in line:
            process.send_signal(signal.SIGINT)
            break
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    step = len(read_jsonl(broken / "metrics.jsonl")) - 1
    assert 1 <= step < 4
    assert error == (
        f"interrupted: after step {step} of 4, saved as {broken}/checkpoints/step-{step:06d}; "
        f"go on with: python -m axpo_algo.train --resume run_dir={broken}\n"
    )
    assert (broken / "checkpoints" / f"step-{step:06d}" / "trainer.pt").exists()
    train(["--resume", f"run_dir={broken}"])
    for name in SAME:
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name


def test_ctrl_c_waits_for_a_step_that_is_half_done_and_not_twice() -> None:
    half_done = [True]
    said: list[str] = []
    old = signal.getsignal(signal.SIGINT)
    with CtrlC(lambda: half_done[0], said.append) as ctrl_c:
        ctrl_c.check()
        signal.raise_signal(signal.SIGINT)
        assert len(said) == 1
        with pytest.raises(KeyboardInterrupt):
            ctrl_c.check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with CtrlC(lambda: False, said.append):
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is old and len(said) == 1


def test_ctrl_c_in_the_cold_start_says_that_it_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("axpo_algo.train.cold_start", interrupted)
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "a run")
    assert stop.value.code == 130
    assert capsys.readouterr().err == (
        "interrupted: in the cold start, which will begin anew; go on with: python -m axpo_algo.train --resume "
        f"run_dir='{tmp_path / 'a run'}'\n"
    )


# What fails


@pytest.mark.parametrize("writer", ["axpo_algo.train.save_checkpoint", "axpo_algo.train.RunFolder.log"])
def test_a_full_disk_is_said_in_one_line(
    writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object, **keywords: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/disk/file")

    monkeypatch.setattr(writer, full)
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "run", "training.num_steps=1")
    assert stop.value.code == 1
    assert capsys.readouterr().err == (
        "failed: /disk/file: No space left on device; go on with: python -m axpo_algo.train --resume "
        f"run_dir={tmp_path / 'run'}\n"
    )


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("bad\n value"), 2, "error: bad value\n"),
        (RunFailed("too many"), 1, "failed: too many; try again\n"),
        (DivergedError("not finite"), 1, "failed: not finite\n"),  # it would diverge again
        (SandboxUnavailable("gone"), 1, "failed: gone; try again\n"),
        (ToolUnavailable("gone"), 1, "failed: gone; try again\n"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), 1, "failed: reset; try again\n"),
        (
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
            1,
            "failed: a file could not be written, the disk may be full ([enforce fail at inline_container.cc:672] . "
            "unexpected pos 576 vs 534); try again\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted: try again\n"),
        (KeyboardInterrupt("here"), 130, "interrupted: here; try again\n"),
    ],
)
def test_how_each_kind_of_end_is_told(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop, command() as ending:
        ending.how_to_go_on = "try again"
        raise error
    assert (stop.value.code, capsys.readouterr().err) == (code, line)


@pytest.mark.parametrize("bug", [ValueError("x"), KeyError("x"), FileNotFoundError(2, "x"), AssertionError()])
def test_a_bug_keeps_its_traceback(bug: Exception) -> None:
    with pytest.raises(type(bug)) as caught, command():
        raise bug
    assert caught.value is bug
