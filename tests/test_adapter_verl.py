"""The adapter for verl inside verl's own classes. What a server would sample is scripted; the rest is verl's."""

import asyncio

import pytest
from adapter_tasks import ENV_ID, NANO, demonstration, tiny_processor

pytestmark = pytest.mark.adapters


class ScriptedServer:
    """Stands for verl's rollout servers: gives the scripted replies, and keeps what it was asked."""

    def __init__(self, replies):
        self.replies = list(replies)
        self.asked = []

    async def generate(self, request_id, *, prompt_ids, sampling_params, image_data=None, **_):
        from verl.workers.rollout.replica import TokenOutput

        self.asked.append((list(prompt_ids), list(image_data)))
        ids = self.replies.pop(0)
        return TokenOutput(token_ids=ids, log_probs=[-0.5] * len(ids))


def verl_rollout(replies, *, response_length=4000, **keywords):
    """An agent loop's output for scripted action texts on task 3, the server, and the policy's chat."""
    pytest.importorskip("verl", reason="verl is not installed: pip install axpo[verl]")
    import hydra
    from omegaconf import OmegaConf
    from verl.experimental.agent_loop import agent_loop as loops

    import axpo_env.adapters.verl  # noqa: F401 - registers the loop
    from axpo_algo.models.nano import build_nano

    chat = build_nano(seed=0).chat
    rollout = {"prompt_length": 4000, "response_length": response_length}
    config = OmegaConf.create({"actor_rollout_ref": {"rollout": rollout}})
    server = ScriptedServer([chat.action(reply) for reply in replies])
    extra_info = {"env_id": ENV_ID, "index": 3, "keywords": {"max_calls": None, **NANO, **keywords}}

    async def play():
        loop = hydra.utils.instantiate(
            loops._agent_loop_registry["axpo_env"],
            trainer_config=loops.DictConfigWrap(config),
            server_manager=server,
            tokenizer=chat.tokenizer,
            processor=tiny_processor(chat),
            dataset_cls=None,
            data_config=loops.DictConfigWrap(OmegaConf.create({})),
            hf_model_type="qwen3_vl",
        )
        return await loop.run({}, raw_prompt=[], extra_info=extra_info, agent_name="axpo_env")

    return asyncio.run(play()), server, chat


def test_verl_plays_an_episode_with_images_in_tool_results():
    actions = demonstration(3)
    output, server, chat = verl_rollout(actions)
    assert output.reward_score == 1.0 and output.extra_fields["stop_reason"] == "answer"
    assert [len(images) for _, images in server.asked] == [1, 2]
    assert len(output.multi_modal_data["images"]) == 2
    tokens = output.prompt_ids + output.response_ids
    assert server.asked[1][0] == tokens[: len(server.asked[1][0])]  # nothing was rendered again
    assert len(output.response_ids) == len(output.response_mask) == len(output.response_logprobs)
    sampled = [t for t, own in zip(output.response_ids, output.response_mask, strict=True) if own]
    assert sampled == [t for action in actions for t in chat.action(action)]
    between = [t for t, own in zip(output.response_ids, output.response_mask, strict=True) if not own]
    patches = chat.image_processor(images=output.multi_modal_data["images"], return_tensors="pt")
    sizes = [int(grid.prod()) // 4 for grid in patches["image_grid_thw"]]  # in tokens of 2 x 2 patches
    counts = [ids.count(chat.image_token_id) for ids in (output.prompt_ids, between)]
    assert counts == sizes and min(counts) > 0
    assert "<tool_response>" in chat.tokenizer.decode(between)
    assert "image_zoom_in" in chat.tokenizer.decode(output.prompt_ids)


def test_verl_leaves_out_what_cannot_be_graded():
    output, _, _ = verl_rollout(demonstration(3), tool_time_limit_s=0.0)
    assert output.extra_fields["stop_reason"] == "timeout"
    assert output.reward_score == 0.0 and set(output.response_mask) == {0}


def test_verl_appends_no_result_that_would_not_fit():
    zoom = demonstration(3)[0]
    output, server, chat = verl_rollout([zoom], response_length=len_of(zoom) + 5)
    assert output.extra_fields["stop_reason"] == "response_length" and output.reward_score == 0.0
    assert output.response_ids == chat.action(zoom) and set(output.response_mask) == {1}
    assert len(output.multi_modal_data["images"]) == len(server.asked) == 1


def len_of(action):
    """How many tokens an action is."""
    from axpo_algo.models.nano import build_nano

    return len(build_nano(seed=0).chat.action(action))
