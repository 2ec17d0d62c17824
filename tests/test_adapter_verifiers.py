"""The adapter for verifiers 0.4 inside its own rollouts: plugins by id, interception, traces. A server is scripted."""

import asyncio
import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import gymnasium as gym
import numpy as np
import pytest
from adapter_tasks import ENV_ID, NANO, ZOOM, demonstration, nano_task

from axpo_env.messages import format_answer
from axpo_env.views import decode_image

pytestmark = pytest.mark.adapters

PLUGIN = """
from axpo_env.adapters.verifiers import EpisodeEnv, EpisodeHarness, EpisodeTaskset
__all__ = ["EpisodeEnv", "EpisodeHarness", "EpisodeTaskset"]
"""


@contextmanager
def scripted_server(replies):
    """An OpenAI-compatible server that gives the scripted messages: its address, and the requests it got."""
    remaining, asked = list(replies), []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            message = {"role": "assistant", "content": None, **remaining.pop(0)}
            reason = "tool_calls" if message.get("tool_calls") else "stop"
            choice = {"index": 0, "finish_reason": reason, "message": message}
            completion = {
                "id": "1",
                "created": 0,
                "model": "m",
                "object": "chat.completion",
                "choices": [choice],
            }
            body = json.dumps(completion).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def rollout(tmp_path, monkeypatch):
    """A function that plays task 3 by scripted replies: verifiers' episode, and the requests that it made."""
    pytest.importorskip("verifiers", reason="verifiers is not installed: pip install axpo[verifiers]")
    import verifiers.v1 as vf

    (tmp_path / "axpo_episodes.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)

    def play(replies, *, agent=(), taskset=(), **keywords):
        tasks = {"id": "axpo_episodes", "env_id": ENV_ID, "keywords": {**NANO, **keywords}, **dict(taskset)}
        env = vf.load_environment(vf.resolve_env_config({"taskset": tasks, "agent": dict(agent)}))
        (task,) = env.taskset.include(idx=["3:4"])

        async def run(url):
            context = vf.ModelContext(model="m", client=vf.EvalClientConfig(base_url=url, api_key_var="NONE"))
            async with env.serving():
                return await env.run_slot(env.slots(task)[0], context)

        with scripted_server(replies) as (url, asked):
            return asyncio.run(run(url)), asked

    return play


def url_parts(message):
    return [part for part in message["content"] if part["type"] == "image_url"]


def test_verifiers_plays_an_episode_with_images_in_tool_results(rollout):
    episode, asked = rollout([{"content": action} for action in demonstration(3)])
    (trace,) = episode.traces
    assert episode.ok and list(trace.rewards) == ["environment_reward"] and trace.reward == 1.0
    assert (trace.stop_condition, trace.num_turns) == ("answer", 2)
    first, second = (request["messages"] for request in asked)
    assert [message["role"] for message in first] == ["system", "user"]
    assert [message["role"] for message in second] == ["system", "user", "assistant", "user"]
    assert second[:2] == first
    assert len(url_parts(first[1])) == len(url_parts(second[3])) == 1
    url = url_parts(second[3])[0]["image_url"]["url"]
    crop = decode_image(base64.b64decode(url.split(",")[1]), max_pixels=48 * 48)
    env = gym.make(ENV_ID, **NANO).unwrapped
    env.reset(options={"index": 3})
    np.testing.assert_array_equal(crop, env.step(demonstration(3)[0])[0]["images"][0])
    assert asked[0]["tools"][0]["function"]["name"] == "image_zoom_in"
    (branch,) = trace.branches  # one conversation, which only grew
    assert [message.role for message in branch.messages] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
    ]
    assert branch.messages[3].content[-2].image_url.url == url  # before the closing tag


def test_verifiers_answers_calls_that_the_server_parsed(rollout):
    function = {"name": "image_zoom_in", "arguments": json.dumps(ZOOM)}
    calls = [{"id": f"call-{n}", "type": "function", "function": function} for n in range(2)]
    right = {"content": format_answer(nano_task(3).references[0])}
    episode, asked = rollout([{"tool_calls": calls}, right], max_calls=1)
    assert episode.traces[0].reward == 1.0
    ran, left = asked[1]["messages"][3:]
    assert (ran["role"], ran["tool_call_id"], len(url_parts(ran))) == ("tool", "call-0", 1)
    assert (left["tool_call_id"], left["content"]) == ("call-1", [{"type": "text", "text": "(not run)"}])


def test_verifiers_gets_an_error_for_what_cannot_be_graded(rollout):
    episode, _ = rollout([{"content": demonstration(3)[0]}], tool_time_limit_s=1e-9)
    (trace,) = episode.traces
    assert not episode.ok and not trace.ok and trace.rewards == {}
    assert trace.last_error.type == "HarnessError" and "not graded: timeout" in trace.last_error.message


def test_verifiers_turn_limit_ends_an_episode_without_reward(rollout):
    episode, asked = rollout([{"content": action} for action in demonstration(3)], agent={"max_turns": 1})
    (trace,) = episode.traces
    assert episode.ok and trace.rewards["environment_reward"].score == 0.0
    assert trace.stop_condition == "max_turns" and len(asked) == 1


def test_verifiers_system_prompt_takes_the_place_of_ours(rollout, tmp_path):
    (tmp_path / "prompt.txt").write_text("Look closely.")
    _, asked = rollout([{"content": demonstration(3)[1]}], taskset={"system_prompt": tmp_path / "prompt.txt"})
    system, user = asked[0]["messages"]
    assert system == {"role": "system", "content": "Look closely."} and len(url_parts(user)) == 1


def test_verifiers_names_the_nearest_environment(rollout):
    import verifiers.v1 as vf

    taskset = {"id": "axpo_episodes", "env_id": "AXPO/ChartQA-Tool-v0"}
    env = vf.load_environment(vf.resolve_env_config({"taskset": taskset}))
    with pytest.raises(
        ValueError, match=r"unknown environment 'AXPO/ChartQA-Tool-v0'.*AXPO/ChartQA-Tools-v0"
    ):
        next(iter(env.taskset))
