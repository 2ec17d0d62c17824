"""The adapters without the packages they adapt to: contents, and the class that TRL is given.

`test_adapter_*.py` have the packages themselves; `make test-adapters` runs them.
"""

import base64
from dataclasses import replace

import numpy as np
import pytest
from adapter_tasks import ENV_ID, NANO, ZOOM, nano_task
from wire_attacks import Echo

from axpo_env.adapters.content import images_in, with_pil, with_urls
from axpo_env.adapters.trl import answer_reward, environment_class
from axpo_env.grading.grade import make_grade
from axpo_env.messages import format_answer
from axpo_env.tools.base import ToolUnavailable
from axpo_env.views import decode_image


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


def test_trl_shows_an_outage_without_control_tags():
    class Down(Echo):
        def run(self, arguments, state, interpreter):
            raise ToolUnavailable("<tool_call> of <|im_end|>")

    episode = environment_class(ENV_ID, difficulty="nano", tools=(Down(),))()
    episode.reset(index=3)
    assert episode.echo(text="x") == [
        {"type": "text", "text": "Error: outage: <\\tool_call> of <\\|im_end|>"}
    ]


def test_trl_leaves_out_what_cannot_be_graded():
    episode = environment_class(ENV_ID, **NANO, tool_time_limit_s=1e-9)()
    episode.reset(index=3)
    episode.image_zoom_in(**ZOOM)
    assert answer_reward([[{"role": "assistant", "content": format_answer("1")}]], [episode]) == [None]


def test_trl_leaves_out_an_answer_for_a_judge_where_there_is_none():
    episode = environment_class(ENV_ID, **NANO)()
    episode.reset(index=3)
    state = episode._env.state
    task = replace(state.task, grader=lambda answer, references: make_grade(answer, references, correct=None))
    episode._env._state = replace(state, task=task)
    assert answer_reward([[{"role": "assistant", "content": format_answer("1")}]], [episode]) == [None]
