"""The adapter for verifiers 0.3 inside its `MultiTurnEnv`. What a server would answer is scripted."""

import asyncio
import base64
import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from adapter_tasks import ENV_ID, NANO, ZOOM, demonstration, nano_task

from axpo_env.messages import format_answer
from axpo_env.views import decode_image

pytestmark = pytest.mark.adapters


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
    pytest.importorskip(
        "verifiers.legacy", reason="verifiers 0.3 is not installed: pip install axpo[verifiers-legacy]"
    )
    import verifiers.legacy as vf

    from axpo_env.adapters.verifiers_legacy import load_environment

    env = load_environment(ENV_ID, indices=[3], **{**NANO, **keywords})
    asked: list[dict[str, Any]] = []
    client = vf.OpenAIChatCompletionsClient(scripted_openai(replies, asked))
    row = env.get_dataset()[0]
    output = asyncio.run(env.run_rollout(dict(row), client, "m", {}, state_columns=["stop_reason"]))
    assert env._running == {}
    return output, asked


def url_parts(message):
    return [part for part in message["content"] if part["type"] == "image_url"]


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


def test_verifiers_reports_what_cannot_be_graded_as_an_error():
    output, _ = verifiers_rollout([{"content": demonstration(3)[0]}], tool_time_limit_s=1e-9)
    assert "not graded: timeout" in str(output["error"])
    assert output["reward"] == 0.0
