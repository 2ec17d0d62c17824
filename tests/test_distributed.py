"""Several processes that train one policy: the same numbers as one, and one end for all. See `ranks_*.py`."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from axpo_algo.config import PolicyConfig
from axpo_algo.distributed import SINGLE, Ranks, whole
from axpo_algo.policies import load_policy
from axpo_algo.run.folder import read_jsonl
from axpo_algo.sharding import network_to_train

HERE = Path(__file__).parent


def torchrun(num_ranks, *arguments, module=False, timeout_s=240):
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        str(num_ranks),
    ]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *(["-m"] if module else []), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=timeout_s,
    )


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 5, 16])
def test_slices_are_neighbours_and_cover_everything(size, count):
    parts = []
    for rank in range(size):
        ranks = Ranks()
        ranks.rank, ranks.size = rank, size
        parts.append(list(ranks.slice(count)))
    assert [index for part in parts for index in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_two_ranks_learn_as_one_process(tmp_path):
    """Log-probs, gradients, weights, and checkpoints that go on; with images on one rank alone."""
    ended = torchrun(2, HERE / "ranks_learner.py", tmp_path / "two")
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stdout.count("equal") == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_checkpoint_is_read_by_another_number_of_ranks(tmp_path):
    for num_ranks, other in ((4, ()), (2, (tmp_path / "4",)), (1, (tmp_path / "4",)), (2, (tmp_path / "1",))):
        ended = torchrun(num_ranks, HERE / "ranks_learner.py", tmp_path / str(num_ranks), *other)
        assert ended.returncode == 0, ended.stderr[-3000:]
        assert ended.stdout.count("equal") == num_ranks


def two_processes(what, where):
    """Exit codes and what was printed to stderr, without torchrun, which would end the others itself."""
    variables = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [
        subprocess.Popen(
            [sys.executable, HERE / "ranks_failing.py", what, where],
            env={**os.environ, **variables, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        out, error = processes[0].communicate(timeout=60)
    finally:
        for process in processes[: 1 + (what != "late")][::-1]:
            if process.poll() is None and what in ("stops", "dies"):
                process.kill()
    processes[1].communicate(timeout=60)
    return processes[0].returncode, out, error


def test_a_rank_later_than_the_time_out_of_collectives_is_waited_for():
    code, out, error = two_processes("late", "gather")
    assert code == 0, error
    assert "[0, 1]" in out


@pytest.mark.parametrize("where", ["gather", "collective"])
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("raises", "rank 1: ValueError: the disk is full"),
        ("stops", "rank 1 has given no sign of life for 4 s"),
    ],
)
def test_when_one_rank_ends_all_do_and_say_why(what, where, message):
    code, _, error = two_processes(what, where)
    assert code == 1 and message in error


def test_in_bfloat16_masters_and_moments_are_float32_and_take_small_steps():
    policy = load_policy(PolicyConfig(device="cpu", dtype="bfloat16"), seed=0)
    assert {p.dtype for p in policy.model.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in policy.model.buffers() if b.is_floating_point()} == {torch.float32}
    network = network_to_train(policy, SINGLE)
    assert network is not policy.network
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    for (name, master), own in zip(network.named_parameters(), policy.network.parameters(), strict=True):
        assert torch.equal(whole(master).bfloat16(), own), name
    float32 = load_policy(PolicyConfig(device="cpu"), seed=0)
    assert network_to_train(float32, SINGLE) is float32.network


TINY = """
baseline: null
sft: {phases: [{num_steps: 2, batch_size: 6, sources: [{tool_fraction: 0.5}]}]}
training: {num_steps: 3, num_threads: 1}
rollout: {group_size: 4, questions_per_step: 3, max_new_tokens: 12}
evaluation: {num_questions: 3, rollouts_per_question: 2, max_new_tokens: 12}
checkpoint: {every_num_steps: 1}
logging: {tensorboard: false}
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_of_two_ranks_is_that_of_one_and_goes_on_when_a_rank_was_killed(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)

    def run(stage, name, *arguments, num_ranks=2):
        folder = tmp_path / name
        return folder, torchrun(num_ranks, HERE / "ranks_train.py", stage, *arguments, f"run_dir={folder}")

    config = ("recipe=nano", f"config={tmp_path / 'tiny.yaml'}")
    one, ended = run("never", "one", *config, num_ranks=1)
    assert ended.returncode == 0, ended.stderr[-3000:]
    two, ended = run("never", "two", *config)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stdout.count("run folder:") == 1
    wanted = read_jsonl(two / "metrics.jsonl")
    for record, other in zip(wanted, read_jsonl(one / "metrics.jsonl"), strict=True):
        assert record.keys() == other.keys()
        for key in record.keys() - {"train/num_forward_tokens", "train/logprob_gap"}:
            if record[key] != other[key]:
                assert record[key] == pytest.approx(other[key], rel=1e-4, abs=1e-6), key
    for stage in ("rollout", "update", "saving"):
        folder, ended = run(stage, stage, *config)
        assert ended.returncode != 0
        assert len(read_jsonl(folder / "metrics.jsonl")) < 5 and not (folder / "policy").exists()
        folder, ended = run("never", stage, "--resume")
        assert ended.returncode == 0, ended.stderr[-3000:]
        assert read_jsonl(folder / "metrics.jsonl") == wanted
    mistaken, ended = run("never", "mistaken", *config, "env.id=AXPO/ChartQ-Tools-v0")
    assert ended.returncode != 0 and "nearest: AXPO/ChartQA-Tools-v0" in ended.stderr
    assert not mistaken.exists()
