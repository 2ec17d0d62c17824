"""The adapter for TRL inside TRL's own trainer. What a model would sample is scripted; the rest is TRL's."""

import gymnasium as gym
import pytest
from adapter_tasks import ENV_ID, NANO, demonstration, tiny_processor

from axpo_env.adapters.trl import answer_reward, environment_class, prompt_rows
from axpo_env.messages import format_answer

pytestmark = pytest.mark.adapters


def test_trl_reads_the_tools_off_the_class():
    pytest.importorskip("trl", reason="TRL is not installed: pip install axpo[trl]")
    from transformers.utils import get_json_schema

    keywords = {**NANO, "tools": ("image_zoom_in", "python")}
    episode = environment_class(ENV_ID, **keywords)()
    env = gym.make(ENV_ID, **keywords).unwrapped
    for name, tool in env.rules.tools.items():
        theirs = get_json_schema(getattr(episode, name))["function"]
        ours = tool.schema["function"]
        assert (theirs["name"], theirs["description"]) == (ours["name"], ours["description"])
        assert theirs["parameters"]["required"] == list(ours["parameters"]["required"])
        for key, schema in ours["parameters"]["properties"].items():
            assert theirs["parameters"]["properties"][key]["type"] == schema["type"]
            assert theirs["parameters"]["properties"][key]["description"] == schema["description"]


def trainer_for(
    folder,
    *,
    script=None,
    seen=None,
    rewards=answer_reward,
    keywords=(),
    steps=1,
    max_completion_length=2000,
    **settings,
):
    """TRL's trainer of the built-in policy on task 3.

    With a `script`, each of its entries is the replies to one turn's prompts, instead of what the policy samples;
    how many images each prompt had goes to `seen`.
    """
    trl = pytest.importorskip("trl", reason="TRL is not installed: pip install axpo[trl]")
    datasets = pytest.importorskip("datasets")
    from axpo_algo.models.nano import build_nano

    policy = build_nano(seed=0)

    class Scripted(trl.GRPOTrainer):
        def _generate_single_turn(self, prompt_ids, images, *_, **__):
            seen.append([len(shown) for shown in images])
            replies = script.pop(0)
            assert len(replies) == len(prompt_ids)
            return [policy.chat.action(reply) for reply in replies], None

    defaults = {
        "output_dir": str(folder),
        "max_steps": steps,
        "max_completion_length": max_completion_length,
        "learning_rate": 1e-3,
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "logging_steps": 1,
    }
    return (Scripted if script else trl.GRPOTrainer)(
        policy.model,
        reward_funcs=rewards,
        args=trl.GRPOConfig(**defaults, **settings),
        train_dataset=datasets.Dataset.from_list(prompt_rows([3])),
        processing_class=tiny_processor(policy.chat),
        environment_factory=environment_class(ENV_ID, **NANO, **dict(keywords)),
    )


def weights_of(trainer):
    return {name: weights.detach().clone() for name, weights in trainer.model.named_parameters()}


def moved(trainer, before):
    return any((weights != before[name]).any() for name, weights in trainer.model.named_parameters())


def test_trl_trains_on_rollouts_with_images_in_tool_results(tmp_path):
    """Two rollouts of one question: one zooms and answers right, one answers wrong. One GRPO step."""
    zoom, right = demonstration(3)
    seen: list[list[int]] = []
    script = [[zoom, format_answer("1")], [right]]
    trainer = trainer_for(
        tmp_path, script=script, seen=seen, per_device_train_batch_size=2, num_generations=2
    )
    before = weights_of(trainer)
    trainer.train()
    assert seen == [[1, 1], [2]]  # the question's image; then, for the rollout that zoomed, the crop as well
    assert trainer.state.log_history[0]["reward"] == 0.5
    assert moved(trainer, before)


def test_trl_leaves_an_ungraded_rollout_out_of_its_group(tmp_path):
    """Three rollouts of one question: right, wrong, timed out. The group's mean is that of the two."""
    zoom, right = demonstration(3)
    turn = [right, format_answer("1"), zoom]
    trainer = trainer_for(
        tmp_path,
        script=[turn, [right]],
        seen=[],
        keywords={"tool_time_limit_s": 1e-9},
        per_device_train_batch_size=3,
        num_generations=3,
        scale_rewards="none",
    )
    trainer.train()
    assert trainer.state.log_history[0]["reward"] == 0.5
    assert list(trainer._logs["advantages"]) == [0.5, -0.5, 0.0]


def test_trl_samples_from_the_policy_itself(tmp_path):
    """Two GRPO steps, nothing scripted: the untrained policy answers nothing, so a second reward tells texts apart."""

    def variety(completions, **_):
        return [float(len(set(completion[-1]["content"]))) for completion in completions]

    trainer = trainer_for(
        tmp_path,
        rewards=[answer_reward, variety],
        steps=2,
        max_completion_length=24,
        per_device_train_batch_size=2,
        num_generations=2,
    )
    before = weights_of(trainer)
    trainer.train()
    assert trainer.state.global_step == 2 and moved(trainer, before)
    assert [log["rewards/answer_reward/mean"] for log in trainer.state.log_history[:2]] == [0.0, 0.0]
