"""The zoom tool: which pixels, which index, and what is said about bad arguments."""

import gymnasium as gym
import numpy as np
import pytest

from axpo_env.messages import format_action, format_call
from axpo_env.tools.zoom import crop_box, zoom_aim
from axpo_env.views import downscale, view_size


@pytest.fixture
def env():
    env = gym.make(
        "AXPO/ChartQA-Tools-v0", difficulty="nano", max_pixels=2304, tools=("image_zoom_in",), max_turns=9
    )
    env.reset(options={"index": 0})
    return env.unwrapped


def call(env, **arguments):
    return env.step(format_action("", format_call("image_zoom_in", arguments)))


@pytest.mark.parametrize(
    ("box", "size", "pixels"),
    [
        ([0, 0, 1000, 1000], (300, 200), (0, 0, 300, 200)),
        ([100, 500, 600, 1000], (300, 200), (30, 100, 180, 200)),
        ([500, 500, 501, 501], (1000, 1000), (484, 484, 516, 516)),  # grown about its centre
        ([0, 0, 1, 1], (1000, 1000), (0, 0, 32, 32)),  # and moved inside
        ([999, 999, 1000, 1000], (1000, 1000), (968, 968, 1000, 1000)),
        ([400, 400, 500, 500], (20, 1000), (0, 400, 20, 500)),  # an image thinner than the least crop
        ([0.5, 0.5, 999.5, 999.5], (1000, 1000), (0, 0, 1000, 1000)),
    ],
)
def test_crop_box(box, size, pixels):
    assert crop_box(box, width_px=size[0], height_px=size[1]) == pixels


def test_every_nano_slot_is_a_square_of_64():
    boxes = [[round(i * 1000 / 6), 833, round((i + 1) * 1000 / 6), 1000] for i in range(6)]
    assert [crop_box(box, width_px=384, height_px=384) for box in boxes] == [
        (64 * i, 320, 64 * i + 64, 384) for i in range(6)
    ]


def test_crop_is_full_resolution_and_joins_the_images(env):
    observation, *_ = call(env, bbox_2d=[0, 500, 500, 1000], label="x")
    original, crop = env.state.images
    assert np.array_equal(crop, original[192:384, 0:192])
    assert np.array_equal(observation["images"][0], downscale(crop, 2304))
    observation, *_ = call(env, bbox_2d=[500, 0, 1000, 500], label="x", img_idx=1)
    assert observation["text"] == "Image 2:"
    assert np.array_equal(env.state.images[2], crop[0:96, 96:192])


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"label": "x"}, "argument 'bbox_2d' is missing"),
        ({"bbox_2d": [0, 0, 9, 9]}, "argument 'label' is missing"),
        (
            {"bbox_2d": [0, 0, 9, 9], "label": "x", "image_idx": 0},
            "unknown argument 'image_idx'; known: bbox_2d, img_idx, label; nearest: img_idx",
        ),
        ({"bbox_2d": [0, 0, 1001, 9], "label": "x"}, "bbox_2d[2] is 1001, must lie in 0 to 1000"),
        ({"bbox_2d": [-1, 0, 9, 9], "label": "x"}, "bbox_2d[0] is -1, must lie in 0 to 1000"),
        ({"bbox_2d": [9, 0, 9, 9], "label": "x"}, "bbox_2d: x2 (9) must be greater than x1 (9)"),
        ({"bbox_2d": [0, 9, 9, 1], "label": "x"}, "bbox_2d: y2 (1) must be greater than y1 (9)"),
        ({"bbox_2d": [0, 0, 9], "label": "x"}, "bbox_2d has 3 items, must have exactly 4"),
        ({"bbox_2d": "0,0,9,9", "label": "x"}, "bbox_2d must be of type array, not '0,0,9,9'"),
        ({"bbox_2d": [0, 0, "9", 9], "label": "x"}, "bbox_2d[2] must be of type number, not '9'"),
        ({"bbox_2d": [0, 0, True, 9], "label": "x"}, "bbox_2d[2] must be of type number, not True"),
        (
            {"bbox_2d": [0, 0, 10**400, 9], "label": "x"},
            "bbox_2d[2] is a huge integer, must lie in 0 to 1000",
        ),
        ({"bbox_2d": [0, 0, 9, 9], "label": 3}, "label must be of type string, not 3"),
        ({"bbox_2d": [0, 0, 9, 9], "label": "x", "img_idx": 1}, "img_idx is 1, images are 0 to 0"),
        ({"bbox_2d": [0, 0, 9, 9], "label": "x", "img_idx": -1}, "img_idx is -1, images are 0 to 0"),
        ({"bbox_2d": [0, 0, 9, 9], "label": "x", "img_idx": 0.0}, "img_idx must be of type integer, not 0.0"),
        (
            {"bbox_2d": [0, 0, 9, 9], "label": "x", "img_idx": None},
            "img_idx must be of type integer, not None",
        ),
    ],
)
def test_bad_arguments_are_observations(env, arguments, error):
    observation, reward, terminated, truncated, info = call(env, **arguments)
    assert observation == {"text": f"Error: {error}", "images": ()}
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert info["tool_calls"][0]["error"] == error
    assert info["new_messages"][0]["role"] == "tool"


def test_overflowing_float_is_an_observation(env):
    arguments = '{"bbox_2d": [0, 0, 1e999, 9], "label": "x"}'
    call_text = f'{{"name": "image_zoom_in", "arguments": {arguments}}}'
    observation, *_ = env.step(f"</think><tool_call>{call_text}</tool_call>")
    assert observation["text"] == "Error: bbox_2d[2] must be of type number, not inf"


def test_unknown_tool_names_known_and_nearest(env):
    observation, *_, info = env.step(format_action("", format_call("zoom_in", {})))
    assert (
        observation["text"] == "Error: unknown tool 'zoom_in'; known: image_zoom_in; nearest: image_zoom_in"
    )
    assert info["new_messages"][0]["name"] == "unknown"


@pytest.mark.parametrize(
    ("size", "max_pixels", "view"),
    [
        ((384, 384), 2304, (48, 48)),
        ((48, 48), 2304, (48, 48)),
        ((3000, 1000), 30_000, (300, 100)),
        ((100_000, 1), 1000, (1000, 1)),
        ((1, 100_000), 1000, (1, 1000)),
        ((500, 500), 1, (1, 1)),
    ],
)
def test_view_size_keeps_aspect_and_limit(size, max_pixels, view):
    assert view_size(*size, max_pixels) == view


def test_downscaling_averages_areas():
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    image[:2, :2] = [[[0], [100]], [[100], [200]]]
    assert downscale(image, 4)[:, :, 0].tolist() == [[100, 0], [0, 0]]


def test_info_says_where_a_zoom_looked_and_where_it_should_have(env):
    target = env.task.places.index(env.task.gold_boxes[0])
    assert len(env.task.places) == 6
    for place, box in enumerate(env.task.places):
        env.reset(options={"index": 0})
        *_, info = env.step(
            format_action("", format_call("image_zoom_in", {"bbox_2d": list(box), "label": "x"}))
        )
        aim = {"on_target": place == target, "place": place, "target": target}
        assert info["tool_calls"][0]["aim"] == aim


@pytest.mark.parametrize(
    ("box", "on_target"),
    [
        ((0, 0, 1000, 1000), True),
        ((0, 0, 1000, 917), True),
        ((0, 0, 1000, 916), False),
        ((0, 0, 9, 9), False),
    ],
)
def test_a_zoom_is_on_target_when_it_shows_half_of_the_box(env, box, on_target):
    aim = zoom_aim(env.task, {"bbox_2d": list(box), "label": "x"})
    assert aim["on_target"] is on_target and aim["target"] is not None


def test_calls_that_aim_nowhere_say_nothing_of_aim(env):
    *_, info = env.step(
        format_action("", format_call("image_zoom_in", {"bbox_2d": [9, 0, 9, 9], "label": "x"}))
    )
    assert info["tool_calls"][0]["aim"] is None and info["tool_calls"][0]["error"]
    assert zoom_aim(env.task, {"bbox_2d": [0, 0, 9, 9], "label": "x", "img_idx": 1}) is None
