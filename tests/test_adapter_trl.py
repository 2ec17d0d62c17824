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


def test_trl_trains_on_rollouts_with_images_in_tool_results(tmp_path):
    """Two rollouts of one question: one zooms and answers right, one answers wrong. One GRPO step."""
    trl = pytest.importorskip("trl", reason="TRL is not installed: pip install axpo[trl]")
    from axpo_algo.models.nano import build_nano

    datasets = pytest.importorskip("datasets")
    policy = build_nano(seed=0)
    processor = tiny_processor(policy.chat)
    zoom, right = demonstration(3)
    script = [[zoom, format_answer("1")], [right]]
    seen: list[list[int]] = []

    class Scripted(trl.GRPOTrainer):
        def _generate_single_turn(self, prompt_ids, images, *_, **__):
            seen.append([len(shown) for shown in images])
            replies = script.pop(0)[: len(prompt_ids)]
            ids = [policy.chat.action(reply) for reply in replies]
            return ids, None

    trainer = Scripted(
        policy.model,
        reward_funcs=answer_reward,
        args=trl.GRPOConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=2,
            num_generations=2,
            max_steps=1,
            max_completion_length=2000,
            learning_rate=1e-3,
            report_to=[],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            save_strategy="no",
        ),
        train_dataset=datasets.Dataset.from_list(prompt_rows([3])),
        processing_class=processor,
        environment_factory=environment_class(ENV_ID, **NANO),
    )
    before = {name: weights.detach().clone() for name, weights in trainer.model.named_parameters()}
    trainer.train()
    assert seen == [[1, 1], [2]]  # the question's image; then, for the rollout that zoomed, the crop as well
    assert trainer.state.log_history[0]["reward"] == 0.5
    assert any((weights != before[name]).any() for name, weights in trainer.model.named_parameters())
