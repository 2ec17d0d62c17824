"""Run folders: what is on disk after a step, after a kill and resume; pages, curves, sinks and progress."""

import errno
import io
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from axpo_algo.run.curves import PANELS, Panel, draw_curves, trailing_mean
from axpo_algo.run.folder import (
    NoRunError,
    RunExistsError,
    RunFolder,
    RunFolderError,
    latest_run_path,
    next_run_path,
    read_jsonl,
)
from axpo_algo.run.metrics import summarize_groups
from axpo_algo.run.pages import Message, Transcript, write_page
from axpo_algo.run.progress import Progress, show_stages
from axpo_algo.run.sinks import WandbSink, open_sinks
from axpo_algo.timings import Counts, RolloutCounts, UpdateCounts


def metrics_at(step: int) -> dict[str, float | int | None]:
    return {"train/mean_reward": step / 7, "num": step, "train/recovery_rate": None if step % 2 else 0.5}


def train(run: RunFolder, steps: range) -> None:
    for step in steps:
        run.log(step, metrics_at(step), {"step_s": 0.1 * step})


# Lines


def test_a_line_is_on_disk_before_the_run_is_closed(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", "seed: 1\n") as run:
        run.log(3, {"loss": 0.1, "none": None}, {"step_s": 2.5})
        assert run.config_path.read_text() == "seed: 1\n"
        assert run.metrics_path.read_text() == '{"step": 3, "loss": 0.1, "none": null}\n'
        assert run.timings_path.read_text() == '{"step": 3, "step_s": 2.5}\n'
        assert run.read_metrics() == [{"step": 3, "loss": 0.1, "none": None}]


def test_a_run_that_diverged_says_so(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", "") as run:
        run.log(0, {"loss": math.nan, "norm": math.inf})
        assert run.metrics_path.read_text() == '{"step": 0, "loss": "nan", "norm": "inf"}\n'
        record = run.read_metrics()[0]
    assert math.isnan(record["loss"]) and record["norm"] == math.inf


def test_steps_must_increase(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", "") as run:
        run.log(2, {})
        with pytest.raises(ValueError, match="step 2 comes after step 2"):
            run.log(2, {})


def test_a_second_run_does_not_write_over_the_first(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, "first\n") as run:
        train(run, range(2))
    with pytest.raises(FileExistsError, match="holds a run already"):
        RunFolder.create(tmp_path, "second\n")
    assert (tmp_path / "config.yaml").read_text() == "first\n"
    assert len(read_jsonl(tmp_path / "metrics.jsonl")) == 2


def test_a_line_in_the_middle_that_is_not_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nbroken\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2"):
        read_jsonl(path)


# Resuming


def test_a_killed_and_resumed_run_equals_an_unbroken_one(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "unbroken", "") as run:
        train(run, range(1, 10))
    killed = RunFolder.create(tmp_path / "killed", "")
    train(killed, range(1, 8))
    killed.write_trajectories(4, [])
    killed.write_trajectories(6, [Transcript(title="late", messages=[message_with_image()])])
    killed.close()
    with killed.metrics_path.open("a") as file:
        file.write('{"step": 8, "train/mean')  # cut off in the middle of a write
    with RunFolder.resume(tmp_path / "killed", 5) as run:
        assert run.last_step == 5
        train(run, range(6, 10))
    for name in ("metrics.jsonl", "timings.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()
    assert [entry.name for entry in (tmp_path / "killed" / "trajectories").iterdir()] == ["step-000004.md"]


def test_resuming_before_the_first_checkpoint_starts_over(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, "") as run:
        train(run, range(1, 4))
    with RunFolder.resume(tmp_path, None) as run:
        assert run.last_step is None and run.read_metrics() == []
        train(run, range(1, 2))
    assert [record["step"] for record in read_jsonl(tmp_path / "metrics.jsonl")] == [1]


def test_resuming_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no run to resume"):
        RunFolder.resume(tmp_path / "nothing", 3)


def test_run_names_count_up(tmp_path: Path) -> None:
    assert next_run_path(tmp_path / "runs", "axpo") == tmp_path / "runs" / "axpo-001"
    with pytest.raises(FileNotFoundError, match="no run axpo-NNN"):
        latest_run_path(tmp_path / "runs", "axpo")
    for name in ("axpo-002", "axpo-010", "axpo-x", "grpo-100", "my-axpo-900"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert next_run_path(tmp_path / "runs", "axpo") == tmp_path / "runs" / "axpo-011"
    assert latest_run_path(tmp_path / "runs", "axpo") == tmp_path / "runs" / "axpo-010"


@pytest.mark.parametrize("name", ["metrics.jsonl", "timings.jsonl"])
@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"garbage", "line 2, is not JSON"),
        (b"[" * 100_000, "line 2, is not JSON"),
        (b"\xff\xfe\x00", "line 2, is not JSON"),
        (b"[1]", "line 2, is not a JSON object"),
        (b'{"loss": 1}', "line 2: steps must be integers that increase, got None"),
        (b'{"step": "3"}', "line 2: steps must be integers that increase, got '3'"),
        (b'{"step": 1}', "line 2: steps must be integers that increase, got 1"),
    ],
)
def test_garbage_among_the_lines_is_named_and_nothing_is_changed(
    tmp_path: Path, name: str, line: bytes, told: str
) -> None:
    with RunFolder.create(tmp_path, "") as run:
        train(run, range(1, 3))
    lines = (tmp_path / name).read_bytes().split(b"\n")
    (tmp_path / name).write_bytes(b"\n".join([lines[0], line, *lines[1:]]))
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.jsonl")}
    with pytest.raises(RunFolderError, match=f"{name}, {told}"):
        RunFolder.resume(tmp_path, 1)
    assert before == {path.name: path.read_bytes() for path in tmp_path.glob("*.jsonl")}


@pytest.mark.parametrize("name", ["metrics.jsonl", "timings.jsonl"])
def test_lines_that_are_missing_are_told_where_there_are_checkpoints(tmp_path: Path, name: str) -> None:
    with RunFolder.create(tmp_path, "") as run:
        train(run, range(1, 3))
    (tmp_path / name).unlink()
    (tmp_path / "checkpoints" / "step-000002").mkdir(parents=True)
    with pytest.raises(RunFolderError, match=f"{name} is missing; remove .*checkpoints to start over"):
        RunFolder.resume(tmp_path, 2)
    (tmp_path / "checkpoints" / "step-000002").rmdir()
    with RunFolder.resume(tmp_path, None) as run:
        train(run, range(1, 3))


def test_a_step_that_was_not_logged_cannot_be_gone_on_from(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, "") as run:
        train(run, range(1, 3))
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl has no line of step 3"):
        RunFolder.resume(tmp_path, 3)


def test_a_last_line_that_is_cut_off_is_told(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, "") as run:
        train(run, range(1, 4))
    os.truncate(run.metrics_path, run.metrics_path.stat().st_size - 1)
    with pytest.warns(UserWarning, match=r"metrics\.jsonl: the last line is cut off and left out"):
        assert [record["step"] for record in read_jsonl(run.metrics_path)] == [1, 2]
    said: list[str] = []
    given: list[int | None] = []
    with RunFolder.resume(tmp_path, lambda last: given.append(last) or 2, said.append) as run:  # type: ignore[func-returns-value]
        train(run, range(3, 4))
    assert given == [2] and said == [f"{run.metrics_path}: the last line is cut off and left out"]
    assert [record["step"] for record in read_jsonl(run.metrics_path)] == [1, 2, 3]
    assert [record["step"] for record in read_jsonl(run.timings_path)] == [1, 2, 3]


def test_a_line_is_synced_to_disk_and_a_full_disk_leaves_no_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    with RunFolder.create(tmp_path, "") as run:
        train(run, range(1, 2))
        before = run.metrics_path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
            run.log(2, {"loss": 1.0}, {"step_s": 1.0})
        assert synced == [str(run.metrics_path), str(run.timings_path)]

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        before = run.metrics_path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match=r"No space left on device: '.*metrics\.jsonl'"):
                run.log(3, {"loss": 1.0})
        assert run.metrics_path.read_bytes() == before


# One process a folder


def test_a_folder_in_use_is_refused_naming_the_process_that_has_it(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", "first\n") as run:
        train(run, range(1, 3))
        for attempt in (
            lambda: RunFolder.resume(tmp_path / "run", 1),
            lambda: RunFolder.create(tmp_path / "run", "second\n"),
        ):
            with pytest.raises(RunFolderError, match=rf"run is in use by process {os.getpid()} on "):
                attempt()
        assert len(run.read_metrics()) == 2 and run.config_path.read_text() == "first\n"
    RunFolder.resume(tmp_path / "run", 1).close()


HOLD = """
import os, subprocess, sys, time
from axpo_algo.run.folder import RunFolder
run = RunFolder.create(sys.argv[1], "")
run.log(0, {})
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
print(child, other.pid, flush=True)
time.sleep(60)
"""


def test_the_lock_ends_with_its_process_though_its_children_live(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    children = [int(pid) for pid in holder.stdout.readline().split()]
    try:
        assert len(children) == 2
        with pytest.raises(RunFolderError, match=f"in use by process {holder.pid} on"):
            RunFolder.resume(tmp_path / "run", 0)
        holder.kill()
        holder.wait()
        for child in children:
            os.kill(child, 0)  # it lives
        RunFolder.resume(tmp_path / "run", 0).close()
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
        for child in children:
            os.kill(child, signal.SIGKILL)


def claim(parent: Path, number: int, tries: int, barrier: Any, results: Any) -> None:
    """Runs in a process of its own: for one name, and for the next free one, whether the folder was got."""
    got = []
    for attempt in range(tries):
        barrier.wait(60)
        try:
            with RunFolder.create(parent / f"named-{attempt}", f"by {number}\n"):
                got.append((f"named-{attempt}", ""))
        except RunFolderError as error:
            got.append(("", str(error)))
        barrier.wait(60)
        with RunFolder.create_next(parent, "run", f"by {number}\n") as run:
            got.append((run.path.name, ""))
    results.put((number, got))


def test_of_two_processes_that_start_at_once_each_folder_is_ones(tmp_path: Path) -> None:
    tries = 60
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(2), spawn.Queue()
    processes = [
        spawn.Process(target=claim, args=(tmp_path, number, tries, barrier, results)) for number in (0, 1)
    ]
    for process in processes:
        process.start()
    got = dict(results.get(timeout=200) for _ in processes)
    for process in processes:
        process.join(60)
    names = [name for number in (0, 1) for name, _ in got[number] if name]
    assert len(names) == len(set(names)) == 3 * tries  # of a name one process, and a number for each
    assert {name for name in names if name.startswith("run")} == {
        f"run-{n:03d}" for n in range(1, 2 * tries + 1)
    }
    refused = [told for number in (0, 1) for name, told in got[number] if not name]
    assert len(refused) == tries
    assert all("is in use by" in told or "holds a run already" in told for told in refused)
    for number in (0, 1):
        for name, _ in got[number]:
            assert not name or (tmp_path / name / "config.yaml").read_text() == f"by {number}\n"


def test_errors_are_of_one_kind(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="file is a file; a run needs a folder"):
        RunFolder.create(tmp_path / "file", "")
    assert issubclass(RunExistsError, RunFolderError) and issubclass(RunExistsError, FileExistsError)
    assert issubclass(NoRunError, RunFolderError) and issubclass(NoRunError, FileNotFoundError)


def test_a_folder_whose_process_was_killed_before_its_configuration_was_written_is_free(
    tmp_path: Path,
) -> None:
    (tmp_path / ".lock").write_text("process 1 on elsewhere")
    (tmp_path / ".config.yaml.partial").write_text("see")
    with RunFolder.create(tmp_path, "seed: 1\n") as run:
        assert run.config_path.read_text() == "seed: 1\n"


# Pages


def message_with_image(value: int = 7) -> Message:
    return Message(role="environment", text="look", images=[np.full((2, 3, 3), value, np.uint8)])


def test_a_page_shows_text_as_written_and_images_beside_it(tmp_path: Path) -> None:
    tricky = "<think>a ```b``` ![x](y) **c**</think>"
    transcript = Transcript(
        title="question 3, trajectory 0",
        facts={"reward": 1.0, "stop": "answer"},
        messages=[message_with_image(), Message(role="policy", text=tricky)],
    )
    page = write_page(tmp_path, "step-000002", [transcript])
    images = list((tmp_path / "step-000002").iterdir())
    assert len(images) == 1
    assert page.read_text() == (
        "# step-000002\n\n"
        "## question 3, trajectory 0\n\n"
        "- reward: 1.000\n- stop: answer\n"
        f"\n**environment**\n\n![3 x 2 px](step-000002/{images[0].name})\n\n```text\nlook\n```\n"
        f"\n**policy**\n\n````text\n{tricky}\n````\n"
    )
    assert np.asarray(Image.open(images[0])).tolist() == [[[7] * 3] * 3] * 2


def test_equal_images_are_stored_once_and_a_page_replaces_the_old(tmp_path: Path) -> None:
    many = [message_with_image(1), message_with_image(1), message_with_image(2)]
    write_page(tmp_path, "page", [Transcript(title="a", messages=many)] * 2)
    assert len(list((tmp_path / "page").iterdir())) == 2
    write_page(tmp_path, "page", [Transcript(title="a", messages=[message_with_image(3)])])
    assert len(list((tmp_path / "page").iterdir())) == 1


def test_what_is_not_an_image_is_refused(tmp_path: Path) -> None:
    wrong = Message(role="environment", text="", images=[np.zeros((2, 3), np.uint8)])
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\], got uint8 \[2, 3\]"):
        write_page(tmp_path, "page", [Transcript(title="a", messages=[wrong])])


# Curves


def test_trailing_mean_by_hand() -> None:
    values = np.array([1.0, 2.0, 3.0, 6.0, 9.0])
    assert trailing_mean(values, 3).tolist() == [1.0, 1.5, 2.0, 11 / 3, 6.0]
    assert trailing_mean(values, 9).tolist() == values.tolist()


def test_curves_have_a_panel_for_what_was_measured_only(tmp_path: Path) -> None:
    records = [
        {"step": step, "a": step / 4, "b": None if step % 2 else math.nan, "text": "x"} for step in range(4)
    ]
    one = [Panel(title="a", keys=("a",)), Panel(title="b", keys=("b",)), Panel(title="c", keys=("text",))]
    two = [*one, Panel(title="again", keys=("a", "b"), is_rate=False)]
    first = draw_curves({"run": records}, tmp_path / "one.png", panels=one)
    second = draw_curves({"run": records, "other": records[:1]}, tmp_path / "two.png", panels=two, window=2)
    assert Image.open(second).width == 2 * Image.open(first).width
    assert [entry.name for entry in sorted(tmp_path.iterdir())] == ["one.png", "two.png"]


def test_a_run_draws_its_curves_at_any_time(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, "") as run:
        empty = Image.open(run.write_curves()).tobytes()
        train(run, range(1, 30))
        assert Image.open(run.write_curves()).tobytes() != empty


def test_every_panel_draws_metrics_that_a_summary_has_or_the_loop_adds() -> None:
    summary = summarize_groups([])
    known = {
        *summary.as_dict("train/"),
        *summary.as_dict("eval/"),
        "train/loss",
        "train/kl",
        "train/grad_norm",
    }
    assert {key for panel in PANELS for key in panel.keys} <= known


# Sinks


class ScriptedWandbRun:
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def log(self, values: Mapping[str, Any], step: int) -> None:
        self.calls.append((step, dict(values)))

    def finish(self) -> None:
        self.calls.append("finish")


def test_sinks_get_metrics_and_timings_as_numbers_and_are_closed_once(tmp_path: Path) -> None:
    wandb_run = ScriptedWandbRun()
    run = RunFolder.create(tmp_path, "")
    run.sinks.append(WandbSink(wandb_run))
    run.log(1, {"a": 0.5, "b": None, "c": math.nan, "d": "text", "e": 3}, {"step_s": 2.0})
    run.close()
    run.close()
    assert wandb_run.calls == [(1, {"a": 0.5, "e": 3, "step_s": 2.0}), "finish"]


def test_tensorboard_events_hold_every_number_and_a_resumed_run_hides_the_later_ones(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    pytest.importorskip("torch")

    def sinks(resume_step: int | None) -> list[Any]:
        return open_sinks(
            folder=tmp_path,
            tensorboard=True,
            wandb_project=None,
            name="run",
            config={},
            resume_step=resume_step,
        )

    with RunFolder.create(tmp_path, "") as run:
        run.sinks += sinks(None)
        for step in (1, 2, 3):
            run.log(step, {"loss": float(step)})
    with RunFolder.resume(tmp_path, 1) as run:
        run.sinks += sinks(1)
        run.log(2, {"loss": 20.0})
    events = reader.EventAccumulator(str(run.tensorboard_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1.0), (2, 20.0)]


def test_no_sinks_are_opened_unless_asked_for(tmp_path: Path) -> None:
    assert open_sinks(folder=tmp_path, tensorboard=False, wandb_project=None, name="run", config={}) == []
    assert list(tmp_path.iterdir()) == []


# Progress


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_progress_in_a_log_file_is_plain_lines_with_the_time_left() -> None:
    clock = Clock()
    out = io.StringIO()
    console = Console(file=out, width=40)
    show = ["train/mean_reward", "missing"]
    with Progress(3000, start_step=10, show=show, console=console, clock=clock) as progress:
        progress.update(10, {"train/mean_reward": 0.0})
        clock.now_s += 25.0
        progress.update(20, {"train/mean_reward": 0.25, "other": 1})
        progress.say("[evaluating] now, " + "at some length " * 3)
    assert out.getvalue().splitlines() == [
        "training 10/3000  left ?  mean_reward 0.000",
        "training 20/3000  left 2:04:10  mean_reward 0.250",
        "[evaluating] now, at some length at some length at some length ",
    ]


def test_progress_on_a_terminal_is_a_bar() -> None:
    clock = Clock()
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True, color_system=None)
    with Progress(4, title="sft", console=console, clock=clock) as progress:
        clock.now_s += 30.0
        progress.update(2, {"loss": 0.125})
    shown = out.getvalue()
    assert "sft" in shown and "2/4" in shown and "left 0:00:30  loss 0.125" in shown


def test_inside_a_step_a_log_file_has_a_line_every_thirty_seconds_and_none_of_quick_steps() -> None:
    clock, out = Clock(), io.StringIO()
    with Progress(3, title="axpo", show=(), console=Console(file=out), clock=clock) as progress:
        for step in range(1, 3):  # quick: one tick a second, 20 seconds in all
            counts = RolloutCounts(num_all=40)
            for counts.num_done in range(20):
                progress.inside(counts)
                clock.now_s += 1.0
            progress.update(step, {})
        rollout = RolloutCounts(num_all=128)
        progress.inside(rollout)
        for _ in range(70):
            clock.now_s += 1.0
            rollout.num_done, rollout.num_sampled_tokens = (
                rollout.num_done + 1,
                rollout.num_sampled_tokens + 50,
            )
            progress.inside(rollout)
        update = UpdateCounts(num_all=20)
        progress.inside(update)
        clock.now_s += 25.0
        update.num_done = 5
        progress.inside(update)
        progress.update(3, {})
    assert out.getvalue().splitlines() == [
        "axpo 1/3  left 0:00:40",
        "axpo 2/3  left 0:00:20",
        "axpo 3/3  rollout 30/128 episodes, 50 tokens/s, left 0:01:38",
        "axpo 3/3  rollout 60/128 episodes, 50 tokens/s, left 0:01:08",
        "axpo 3/3  update 5/20 micro-batch passes, left 0:01:15",
        "axpo 3/3  left 0:00:00",
    ]


def test_on_a_terminal_the_stage_at_hand_has_a_bar_that_goes_with_the_step() -> None:
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, width=120, force_terminal=True, color_system=None)
    with Progress(4, title="axpo", show=(), console=console, clock=clock) as progress:
        counts = RolloutCounts(stage="resampling", num_all=8)
        progress.inside(counts)
        assert "resampling" not in out.getvalue()  # it may be a quick one
        clock.now_s += 2.0
        counts.num_done, counts.num_sampled_tokens = 2, 400
        progress.inside(counts)
        assert "resampling" in out.getvalue() and "2/8 episodes, 200 tokens/s, left 0:00:06" in out.getvalue()
        out.seek(0)
        out.truncate()
        progress.update(1, {})
        assert "1/4" in out.getvalue() and "resampling" not in out.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_a_stage_outside_of_a_loop_is_shown_too(terminal: bool) -> None:
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, width=120, force_terminal=terminal, color_system=None)
    with show_stages(console, clock) as on_progress:
        counts = Counts(stage="evaluation", unit="questions", num_all=200)
        on_progress(counts)
        clock.now_s += 31.0
        counts.num_done = 50
        on_progress(counts)
    shown = out.getvalue()
    if terminal:
        assert "evaluation" in shown and "50/200 questions, left 0:01:33" in shown
    else:
        assert shown == "evaluation 50/200 questions, left 0:01:33\n"


def test_json_of_a_line_is_plain(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, "") as run:
        run.log(1, metrics_at(1))
        assert json.loads(run.metrics_path.read_text()) == {"step": 1, **metrics_at(1)}
