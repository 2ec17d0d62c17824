"""The adapters against the packages they adapt to; each part is skipped where its package is missing.

What a server would sample is scripted here; parsing, templates, tokens and images are the packages' own.
"""

import asyncio
import base64
import json
import random
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from axpo_env.adapters.content import images_in, with_pil, with_urls
from axpo_env.adapters.trl import answer_reward, environment_class, prompt_rows
from axpo_env.messages import format_answer
from axpo_env.views import decode_image

ENV_ID = "AXPO/ChartQA-Tools-v0"
NANO: dict[str, Any] = {"difficulty": "nano", "max_pixels": 48 * 48, "tools": ("image_zoom_in",)}
ZOOM = {"label": "bar", "bbox_2d": [500, 833, 667, 1000]}


def nano_task(index):
    env = gym.make(ENV_ID, **NANO).unwrapped
    env.reset(options={"index": index})
    return env.task


def demonstration(index):
    """Two action texts: a zoom, the right answer."""
    return nano_task(index).demonstrate(random.Random(0))


def tiny_processor(chat):
    """Qwen3-VL's processor, less video, around the built-in policy's tokenizer, with the released template."""
    transformers = pytest.importorskip("transformers")
    template = pytest.importorskip("trl.chat_template_utils").qwen3_vl_chat_template

    class ImagesOnly(transformers.Qwen3VLProcessor):
        def __init__(self, image_processor=None, tokenizer=None, chat_template=None):
            for name in ("image", "video", "vision_start", "vision_end"):
                token = f"<|{name}_pad|>" if name in ("image", "video") else f"<|{name}|>"
                setattr(self, f"{name}_token", token)
                setattr(self, f"{name}_token_id", tokenizer.convert_tokens_to_ids(token))
            transformers.ProcessorMixin.__init__(
                self, image_processor, tokenizer, chat_template=chat_template
            )

    return ImagesOnly(chat.image_processor, chat.tokenizer, chat_template=template)


def test_contents_keep_their_pixels():
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    content = [{"type": "text", "text": "x"}, {"type": "image", "image": image}]
    text, picture = with_pil(content)
    assert text == content[0]
    np.testing.assert_array_equal(np.array(picture["image"]), image)
    url = with_urls(content)[1]["image_url"]["url"]
    prefix, encoded = url.split(",")
    assert prefix == "data:image/png;base64"
    np.testing.assert_array_equal(decode_image(base64.b64decode(encoded), max_pixels=100), image)
    assert images_in([{"content": content}]) == [image]


# TRL ---------------------------------------------------------------------------------------------------------


def test_trl_class_plays_an_episode():
    episode = environment_class(ENV_ID, **NANO)()
    start = episode.reset(index=3, prompt="ignored")
    assert [part["type"] for part in start] == ["image", "text"]
    result = episode.image_zoom_in(**ZOOM)
    assert [part["type"] for part in result] == ["text", "image"]
    assert result[1]["image"].size == (48, 48)
    right = {"role": "assistant", "content": format_answer(nano_task(3).references[0])}
    assert answer_reward([[right]], [episode]) == [1.0]
    episode.reset(index=3)
    assert answer_reward([[{"role": "assistant", "content": "I do not know"}]], [episode]) == [0.0]


def test_trl_class_says_what_is_wrong():
    with pytest.raises(ValueError, match="unknown environment 'AXPO/Chart'"):
        environment_class("AXPO/Chart")
    episode = environment_class(ENV_ID, **NANO, max_turns=2)()
    with pytest.raises(TypeError, match="index"):
        episode.reset()
    episode.reset(index=3)
    wrong = episode.image_zoom_in(label="x", bbox_2d=[0, 0, 5, 5000])
    assert wrong[0]["text"].startswith("Error: bbox_2d[3] is 5000")
    assert episode.image_zoom_in(**ZOOM)[0]["text"] == "Error: not run: this was the last turn"
    assert episode.image_zoom_in(**ZOOM)[0]["text"] == "Error: not run: the episode is over."
    late = {"role": "assistant", "content": format_answer(nano_task(3).references[0])}
    assert answer_reward([[late]], [episode]) == [0.0]


def test_trl_leaves_out_what_cannot_be_graded():
    episode = environment_class(ENV_ID, **NANO, tool_time_limit_s=0.0)()
    episode.reset(index=3)
    episode.image_zoom_in(**ZOOM)
    assert answer_reward([[{"role": "assistant", "content": format_answer("1")}]], [episode]) == [None]


@pytest.mark.adapters
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


@pytest.mark.adapters
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


# verl --------------------------------------------------------------------------------------------------------


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
    loops = pytest.importorskip(
        "verl.experimental.agent_loop.agent_loop", reason="verl is not installed: pip install axpo[verl]"
    )
    import hydra
    from omegaconf import OmegaConf

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


@pytest.mark.adapters
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


@pytest.mark.adapters
def test_verl_leaves_out_what_cannot_be_graded():
    output, _, _ = verl_rollout(demonstration(3), tool_time_limit_s=0.0)
    assert output.extra_fields["stop_reason"] == "timeout"
    assert output.reward_score == 0.0 and set(output.response_mask) == {0}


@pytest.mark.adapters
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


# verifiers ---------------------------------------------------------------------------------------------------


def scripted_openai(replies, asked):
    """OpenAI's client over a transport that gives the scripted messages; requests go to `asked`."""
    httpx, openai = pytest.importorskip("httpx"), pytest.importorskip("openai")
    remaining = list(replies)

    def handle(request):
        asked.append(json.loads(request.content))
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", **remaining.pop(0)}}
        completion = {"id": "1", "created": 0, "model": "m", "object": "chat.completion", "choices": [choice]}
        return httpx.Response(200, json=completion)

    transport = httpx.AsyncClient(transport=httpx.MockTransport(handle))
    return openai.AsyncOpenAI(api_key="none", base_url="http://localhost/v1", http_client=transport)


def verifiers_rollout(replies, **keywords):
    """What verifiers makes of scripted replies on task 3, and the requests that it made."""
    vf = pytest.importorskip(
        "verifiers.legacy", reason="verifiers 0.3 is not installed: pip install axpo[verifiers]"
    )
    from axpo_env.adapters.verifiers import load_environment

    env = load_environment(ENV_ID, indices=[3], **{**NANO, **keywords})
    asked: list[dict[str, Any]] = []
    client = vf.OpenAIChatCompletionsClient(scripted_openai(replies, asked))
    row = env.get_dataset()[0]
    output = asyncio.run(env.run_rollout(dict(row), client, "m", {}, state_columns=["stop_reason"]))
    assert env._running == {}
    return output, asked


def url_parts(message):
    return [part for part in message["content"] if part["type"] == "image_url"]


@pytest.mark.adapters
def test_verifiers_plays_an_episode_with_images_in_tool_results():
    output, asked = verifiers_rollout([{"content": action} for action in demonstration(3)])
    assert output["reward"] == 1.0 and output["error"] is None and output["stop_reason"] == "answer"
    first, second = (request["messages"] for request in asked)
    assert [message["role"] for message in first] == ["system", "user"]
    assert [message["role"] for message in second] == ["system", "user", "assistant", "user"]
    assert len(url_parts(first[1])) == len(url_parts(second[3])) == 1
    url = url_parts(second[3])[0]["image_url"]["url"]
    crop = decode_image(base64.b64decode(url.split(",")[1]), max_pixels=48 * 48)
    env = gym.make(ENV_ID, **NANO).unwrapped
    env.reset(options={"index": 3})
    np.testing.assert_array_equal(crop, env.step(demonstration(3)[0])[0]["images"][0])
    assert asked[0]["tools"][0]["function"]["name"] == "image_zoom_in"


@pytest.mark.adapters
def test_verifiers_answers_calls_that_the_server_parsed():
    arguments = json.dumps(ZOOM)
    calls = [
        {"id": f"call-{n}", "type": "function", "function": {"name": "image_zoom_in", "arguments": arguments}}
        for n in range(2)
    ]
    right = {"content": format_answer(nano_task(3).references[0])}
    output, asked = verifiers_rollout([{"content": None, "tool_calls": calls}, right], max_calls=1)
    assert output["reward"] == 1.0
    ran, left = asked[1]["messages"][3:]
    assert (ran["role"], ran["tool_call_id"], len(url_parts(ran))) == ("tool", "call-0", 1)
    assert (left["tool_call_id"], left["content"]) == ("call-1", [{"type": "text", "text": "(not run)"}])


@pytest.mark.adapters
def test_verifiers_reports_what_cannot_be_graded_as_an_error():
    output, _ = verifiers_rollout([{"content": demonstration(3)[0]}], tool_time_limit_s=0.0)
    assert "not graded: timeout" in str(output["error"])
    assert output["reward"] == 0.0
