"""Demonstrations as trajectories: whose tokens carry loss, where they come from, and that a seed repeats them."""

import random

import pytest
import torch
from rich.console import Console

from axpo_algo.config import EnvConfig, SFTConfig, SFTPhase, SFTSource, TrainConfig, load_config
from axpo_algo.environments import make_env
from axpo_algo.models.nano import build_nano
from axpo_algo.sft import _learning_rate, cold_start, demonstrate, run_sft

ENV = EnvConfig(kwargs={"difficulty": "nano", "max_pixels": 2304, "tools": ["image_zoom_in"]})


@pytest.fixture(scope="module")
def chat():
    return build_nano().chat


@pytest.fixture
def env():
    made = make_env(ENV, split="train", max_turns=3)
    yield made
    made.close()


def test_only_the_demonstrators_own_tokens_are_trained(env, chat):
    trajectory = demonstrate(env, chat, index=4, rng=random.Random(0), use_tools=True)
    zoom, answer = env.task.demonstrate(random.Random(0))
    trained = [token for token, own in zip(trajectory.token_ids, trajectory.loss_mask, strict=True) if own]
    assert trained == chat.action(zoom) + chat.action(answer)
    read = [token for token, own in zip(trajectory.token_ids, trajectory.loss_mask, strict=True) if not own]
    assert chat.image_token_id in read and chat.tool_call_id not in read
    assert (trajectory.status, trajectory.reward) == ("answer", 1.0)
    assert trajectory.tool_counts == {"image_zoom_in": 1} and len(trajectory.images) == 2


def test_a_careless_demonstrator_reports_what_it_sees(env, chat):
    rewards = {
        demonstrate(env, chat, index=i, rng=random.Random(i), use_tools=True, aim_noise=(0.0, 1.0)).reward
        for i in range(10)
    }
    assert rewards == {0.0}  # every zoom one slot beside: another bar's value, honestly read


def test_without_the_tool_it_guesses_the_usual_value(env, chat):
    texts = {
        demonstrate(env, chat, index=i, rng=random.Random(i), use_tools=False).turns[0].text.split("\n", 1)[1]
        for i in range(5)
    }
    assert texts == {"</think>\n\n<answer>\\boxed{50}</answer>"}


def test_the_learning_rate_runs_in_a_straight_line():
    phase = SFTPhase(num_steps=5, learning_rate=1.0, final_learning_rate=0.2)
    assert [_learning_rate(phase, n) for n in range(5)] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    assert _learning_rate(SFTPhase(num_steps=5, learning_rate=1.0), 3) == 1.0


def test_a_seed_repeats_the_run_and_sources_mix():
    sources = (
        SFTSource(share=1.0, env_kwargs={"difficulty": "nano-places"}),
        SFTSource(share=1.0, tool_fraction=1.0),
    )
    config = SFTConfig(phases=(SFTPhase(num_steps=3, batch_size=8, sources=sources),), warmup_steps=1)

    def run(seed):
        lines = []
        run_sft(
            build_nano(seed=0),
            config,
            ENV,
            max_turns=3,
            seed=seed,
            log=lambda s, m: lines.append((s, dict(m))),
        )
        return lines

    first = run(0)
    assert first == run(0) != run(1)
    assert [step for step, _ in first] == [1, 2, 3]
    assert 0 < sum(m["sft/tool_use_rate"] for _, m in first) < 3


def test_tasks_without_demonstrations_say_so(chat, shared_data):
    config = EnvConfig(
        kwargs={
            "source": str(shared_data / "HuggingFaceM4--ChartQA"),
            "max_pixels": 2304,
            "tools": ["image_zoom_in"],
        }
    )
    real = make_env(config, split="test", max_turns=3)
    with pytest.raises(LookupError, match="has no demonstration"):
        demonstrate(real, chat, index=0, rng=random.Random(0), use_tools=True)
    real.close()


def test_an_environment_that_cannot_fork_is_refused():
    import gymnasium

    class Plain(gymnasium.Env):
        def __init__(self, split, max_turns):
            pass

    gymnasium.register("Plain-v0", entry_point=Plain)
    try:
        with pytest.raises(TypeError, match="has no num_tasks, fork, snapshot, restore"):
            make_env(EnvConfig(id="Plain-v0"), split="train", max_turns=3)
    finally:
        del gymnasium.registry["Plain-v0"]


class Killed(Exception):
    pass


PHASES = (  # the first ends early, at its target
    SFTPhase(num_steps=40, batch_size=2, target_loss=100.0),
    SFTPhase(num_steps=6, batch_size=2, learning_rate=1e-3, final_learning_rate=1e-4),
)


def fine_tune(policy, checkpoints, *, killed_after=None):
    """Metrics by step, of this call alone."""
    lines = {}

    def log(step, metrics):
        lines[step] = metrics
        if step == killed_after:
            raise Killed

    run_sft(
        policy,
        SFTConfig(phases=PHASES, warmup_steps=3),
        ENV,
        max_turns=3,
        seed=0,
        log=log,
        checkpoints=checkpoints,
        checkpoint_every=2,
    )
    return lines


@pytest.mark.parametrize(("killed_after", "first"), [(1, 1), (5, 5), (41, 41), (43, 43)])
def test_a_killed_cold_start_goes_on_to_the_same_weights(tmp_path, killed_after, first):
    unbroken, policy = build_nano(seed=0), build_nano(seed=0)
    expected = fine_tune(unbroken, tmp_path / "unbroken")
    assert list(expected) == [*range(1, 21), *range(41, 47)]
    with pytest.raises(Killed):
        fine_tune(policy, tmp_path / "killed", killed_after=killed_after)
    again = build_nano(seed=int(killed_after > 1))  # where there is a checkpoint, it counts
    lines = fine_tune(again, tmp_path / "killed")
    assert min(lines) == first
    assert lines == {step: metrics for step, metrics in expected.items() if step >= first}
    for name, value in unbroken.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


def test_a_damaged_checkpoint_is_told_and_the_cold_start_begins_anew(tmp_path):
    arguments = ["sft.phases=[{num_steps: 3, batch_size: 2}]", "checkpoint.every_num_steps=2"]
    config = load_config(["recipe=nano", *arguments], TrainConfig)
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    for folder in (whole, damaged):
        folder.mkdir()
    cold_start(config, whole, Console(quiet=True))
    assert not (whole / "sft-checkpoints").exists()

    fine_tune(build_nano(seed=1), damaged / "sft-checkpoints")
    (damaged / "sft.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in range(1, 60)))
    (latest,) = (damaged / "sft-checkpoints").iterdir()
    (latest / "trainer.pt").write_bytes(b"")
    console = Console(record=True, width=500)
    cold_start(config, damaged, console)
    said = console.export_text()
    assert "trainer.pt has 0 bytes" in said and "the cold start begins anew" in said
    assert (damaged / "sft.jsonl").read_bytes() == (whole / "sft.jsonl").read_bytes()
    name = "start/model.safetensors"
    assert (damaged / name).read_bytes() == (whole / name).read_bytes()
