"""Whole runs that were killed, or whose folder was damaged: resumed, they leave the bytes of an unbroken one, or say
what is wrong."""

import contextlib
import dataclasses
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from axpo_algo.config import TrainConfig, load_config, to_yaml
from axpo_algo.run.folder import NoRunError, RunFolder, RunFolderError, read_jsonl
from axpo_algo.run.resume import read_config
from axpo_algo.train import main as train_main

# Cold start, two algorithms, evaluations and a checkpoint a step: everything that a run writes, in seconds.
ARGUMENTS = [
    "recipe=nano",
    "policy.device=cpu",
    "sft.phases=[{num_steps: 6, batch_size: 6}]",
    "sft.warmup_steps=2",
    "training.num_steps=4",
    "training.num_threads=1",
    "rollout.group_size=4",
    "rollout.questions_per_step=2",
    "rollout.max_new_tokens=16",
    "evaluation.num_questions=2",
    "evaluation.rollouts_per_question=1",
    "evaluation.max_new_tokens=16",
    "checkpoint.every_num_steps=1",
    "logging.tensorboard=false",
    "logging.curves_every_num_steps=0",
]
COMPARED = (
    "sft.jsonl",
    "start/model.safetensors",
    "metrics.jsonl",
    "policy/model.safetensors",
    "best/best.json",
    "best/model.safetensors",
    "grpo/metrics.jsonl",
    "grpo/policy/model.safetensors",
    "grpo/best/best.json",
    "grpo/best/model.safetensors",
    "report.md",
)


def contents(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in COMPARED}


def resume(run: Path) -> None:
    assert train_main(["--resume", f"run_dir={run}"]) == run


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests work on copies."""
    return train_main([*ARGUMENTS, f"run_dir={tmp_path_factory.mktemp('unbroken') / 'run'}"])


@pytest.fixture
def copy(unbroken: Path, tmp_path: Path) -> Path:
    return shutil.copytree(unbroken, tmp_path / "run")


# Killed


def num_lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def progress(run: Path) -> list[bool]:
    """What a run passes through, in order, and whether it has: a moment to be killed after is one of them."""
    return [
        (run / "config.yaml").exists(),
        *(num_lines(run / "sft.jsonl") >= count for count in range(1, 7)),
        (run / "start").exists(),
        *(num_lines(run / "metrics.jsonl") >= count for count in range(1, 6)),
        (run / "policy").exists(),
        (run / "grpo" / "config.yaml").exists(),
        *(num_lines(run / "grpo" / "metrics.jsonl") >= count for count in range(1, 5)),
    ]


def run_and_kill(run: Path, rng: random.Random, reached: set[int]) -> bool:
    """Starts `run`, or goes on with it, and kills it at a random moment that lies ahead; False if it ended first."""
    done = progress(run)
    ahead = [index for index, passed in enumerate(done) if not passed]
    if not ahead:
        return False
    mark = rng.choice(ahead[:8])  # near enough that a run is killed several times on its way
    delay_s = rng.random() * 0.25
    start = ["--resume"] if done[0] else ARGUMENTS
    command = [sys.executable, "-m", "axpo_algo.train", *start, f"run_dir={run}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not progress(run)[mark]:
            time.sleep(0.005)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(delay_s)
    finally:
        process.kill()
        process.wait()
    if process.returncode != -signal.SIGKILL:
        assert process.returncode == 0
        return False
    reached.add(mark)
    return True


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_twenty_times_at_random_moments_runs_end_as_an_unbroken_one(
    unbroken: Path, tmp_path: Path
) -> None:
    rng = random.Random(20)
    kills, reached = 0, set[int]()
    for number in range(10):
        run = tmp_path / f"run-{number}"
        for _ in range(5):
            if kills == 20 or not run_and_kill(run, rng, reached):
                break
            kills += 1
        resume(run)
        assert contents(run) == contents(unbroken), f"after {kills} kills"
        left = [
            path.name for path in run.rglob("*") if path.name.endswith((".partial", ".replaced", ".aside"))
        ]
        assert left == []
        if kills == 20:
            break
    assert kills == 20
    assert min(reached) <= 6 and max(reached) >= 13 and len(reached) >= 8, "in the cold start, and late"


# Damaged


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def cut_last_line(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 30)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "name", "told"),
    [
        (cut, "checkpoints/step-000004/policy/model.safetensors", "bytes, written were"),
        (flip, "checkpoints/step-000004/policy/model.safetensors", "was changed"),
        (cut, "checkpoints/step-000004/trainer.pt", "bytes, written were"),
        (os.unlink, "checkpoints/step-000004/manifest.json", "has no manifest.json"),
        (empty, "checkpoints/step-000004", "is empty"),
        (cut, "grpo/checkpoints/step-000004/trainer.pt", "bytes, written were"),
        (cut_last_line, "metrics.jsonl", "metrics.jsonl: the last line is cut off"),
    ],
)
def test_with_the_newest_checkpoint_damaged_a_run_goes_on_from_the_one_before_to_the_same_bytes(
    unbroken: Path, copy: Path, capsys: pytest.CaptureFixture[str], harm, name: str, told: str
) -> None:
    harm(copy / name)
    for algorithm in ("", "grpo"):
        shutil.rmtree(copy / algorithm / "policy")
    resume(copy)
    said = capsys.readouterr().out
    assert told in said and "kept as step-000004.aside, going on from step-000003" in said
    assert contents(copy) == contents(unbroken)
    assert len(read_jsonl(copy / "metrics.jsonl")) == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "name", "told"),
    [
        (flip, "start/model.safetensors", r"start/model\.safetensors was changed.*start another run"),
        (os.unlink, "metrics.jsonl", r"metrics\.jsonl is missing; remove .*checkpoints to start over"),
        (os.unlink, "timings.jsonl", r"timings\.jsonl is missing"),
    ],
)
def test_what_cannot_be_made_again_is_told_in_one_line(
    copy: Path, capfd: pytest.CaptureFixture[str], harm, name: str, told: str
) -> None:
    harm(copy / name)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    command = [sys.executable, "-m", "axpo_algo.train", "--resume", f"run_dir={copy}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith(("error: ", "failed: "))]
    assert len(errors) == 1 and "Traceback" not in done.stderr
    assert re.search(told, errors[0])
    after = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert {path.name for path in after if before.get(path) != after[path]} <= {".lock"}


# Configurations


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """The folder of a run that has only begun."""
    config = load_config([*ARGUMENTS, f"run_dir={tmp_path / 'run'}"], TrainConfig)
    RunFolder.create(tmp_path / "run", to_yaml(config)).close()
    return tmp_path / "run"


def test_a_configuration_comes_back_as_it_was(begun: Path) -> None:
    config = load_config([*ARGUMENTS, f"run_dir={begun}"], TrainConfig)
    assert read_config(begun) == config


def test_a_configuration_that_is_damaged_in_any_way_is_told(begun: Path) -> None:
    file = begun / "config.yaml"
    text = file.read_text()
    damaged = {
        b"\x00\x01garbage: [": "not YAML",
        text.encode("utf-16"): "is not UTF-8 text",
        b"": "does not say 'seed'",
        b"- 1\n": "must hold a mapping",
        text[: len(text) // 2].rpartition("\n")[0].encode(): "",
        text[: text.index("checkpoint:")].encode(): "does not say 'checkpoint'",
        text.replace("  keep: 2\n", "").encode(): "does not say 'checkpoint.keep'",
        text.replace("    batch_size: 6\n", "").encode(): "does not say 'sft.phases.0.batch_size'",
        text.replace("num_threads: 1", "num_threads: one").encode(): "num_threads",
    }
    assert len(damaged) == 9
    for content, told in damaged.items():
        file.write_bytes(content)
        with pytest.raises(RunFolderError, match="not the whole configuration of a run") as raised:
            read_config(begun)
        assert told in str(raised.value)
    file.unlink()
    (begun / "metrics.jsonl").touch()
    with pytest.raises(RunFolderError, match="No such file"):
        read_config(begun)
    with pytest.raises(NoRunError, match="holds no run to resume"):
        read_config(begun / "nothing")


def test_a_run_of_version_0_1_is_refused_and_left_as_it_is(
    begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = yaml.safe_load((begun / "config.yaml").read_text())
    values["rollout"]["in_step"] = values["rollout"].pop("lockstep")
    del values["training"]["max_skipped_updates"]
    (begun / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    (begun / "checkpoints" / "step-000001" / "policy").mkdir(parents=True)
    before = sorted(begun.rglob("*"))
    with pytest.raises(SystemExit):
        train_main(["--resume", f"run_dir={begun}"])
    told = capsys.readouterr().err
    assert "unknown key 'rollout.in_step'" in told and "version 0.1 is resumed by version 0.1" in told
    assert told.count("\n") == 1 and sorted(begun.rglob("*")) == before


def test_a_second_resume_of_a_run_is_refused_naming_the_process_that_has_it(
    begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in begun.iterdir()}
    with RunFolder.resume(begun, None):
        for longer in ([], ["training.num_steps=9"]):
            with pytest.raises(SystemExit):
                train_main(["--resume", f"run_dir={begun}", *longer])
            assert f"run is in use by process {os.getpid()} on " in capsys.readouterr().err
    assert {path: path.read_bytes() for path in begun.iterdir()} == before


@pytest.mark.slow
def test_a_run_that_is_made_longer_keeps_the_rest_of_its_configuration(copy: Path) -> None:
    before = read_config(copy)
    assert train_main(["--resume", f"run_dir={copy}", "training.num_steps=5"]) == copy
    assert read_config(copy) == dataclasses.replace(
        before, training=dataclasses.replace(before.training, num_steps=5)
    )
    assert not before.resume and len(read_jsonl(copy / "grpo" / "metrics.jsonl")) == 6
