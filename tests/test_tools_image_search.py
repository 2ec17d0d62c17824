"""`image-search` offline: look-alikes of an image, images for words; what it finds joins the episode."""

import io

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image, ImageDraw

import axpo_env  # noqa: F401 - registers the ids
from axpo_env.messages import format_action, format_call
from axpo_env.snapshots import digest
from axpo_env.tools.image_search import ImageSearch
from axpo_env.tools.page_index import PageIndex, thumbnail
from axpo_env.tools.pages import Page
from axpo_env.views import from_pil


def emblem(number, size=96):
    """A few coloured shapes, different for every number."""
    rng = np.random.default_rng(number)
    picture = Image.new("RGB", (96, 96), "white")
    draw = ImageDraw.Draw(picture)
    for _ in range(4):
        left, top = (int(value) for value in rng.integers(0, 60, size=2))
        colour = tuple(int(value) for value in rng.integers(0, 255, size=3))
        draw.rectangle((left, top, left + 36, top + 36), fill=colour)
    return picture.resize((size, size))


EMBLEMS = [
    Page(
        url=f"https://a.org/{n}",
        title=f"Town {n}",
        content=f"Its lamp is number {n}.",
        image=from_pil(emblem(n)),
    )
    for n in range(40)
]
PLAIN = Page(url="https://a.org/plain", title="Town without a lamp", content="No emblem, no lamp.")


def seek(**arguments):
    return format_action("", format_call("image-search", arguments))


def make(*pages):
    env = gym.make(
        "AXPO/ChartQA-Tools-v0",
        difficulty="nano",
        tools=("image_zoom_in", ImageSearch(pages=pages or (PLAIN, *EMBLEMS))),
        max_turns=9,
    ).unwrapped
    env.reset(options={"index": 0})
    return env


def as_jpeg(picture):
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=60)
    with Image.open(buffer) as image:
        return from_pil(image)


@pytest.mark.parametrize(
    "change",
    [
        lambda number: as_jpeg(emblem(number)),
        lambda number: from_pil(emblem(number, size=400)),
        lambda number: from_pil(emblem(number, size=41)),
        lambda number: from_pil(emblem(number).crop((2, 2, 95, 96))),
        lambda number: from_pil(emblem(number).point(lambda value: int(20 + 0.8 * value))),
    ],
    ids=["jpeg", "larger", "smaller", "cropped", "faded"],
)
def test_changed_copies_are_found_first(change):
    index = PageIndex(EMBLEMS)
    options = {"max_results": 1, "max_chars": 100}
    found = [index.images_like(change(number), **options)[0].url for number in range(40)]
    assert found == [page.url for page in EMBLEMS]


def test_the_same_image_scores_one_and_plain_colours_differ():
    red, blue = (from_pil(Image.new("RGB", (20, 10), colour)) for colour in ("red", "blue"))
    pages = [Page(url=name, title=name, content="", image=image) for name, image in (("r", red), ("b", blue))]
    found = PageIndex(pages).images_like(blue, max_results=2, max_chars=9)
    assert (found[0].url, found[0].score) == ("b", 1.0)
    assert found[1].score < 0.9
    assert thumbnail(red).shape == (16 * 16 * 3 + 48,)


def test_what_is_found_joins_the_episode():
    env = make()
    observation, *_ = env.step(seek(query="number 7", max_results=2))
    blocks = observation["text"].split("\n\n")
    assert blocks[0].startswith("Image 1: Town 7\nURL: https://a.org/7\nScore: ")
    assert blocks[0].endswith("\nIts lamp is number 7.") and blocks[1].startswith("Image 2: Town ")
    assert len(observation["images"]) == 2 and np.array_equal(env.state.images[1], EMBLEMS[7].image)
    observation, *_ = env.step(seek(img_idx=1, max_results=1))
    assert observation["text"].startswith("Image 3: Town 7\nURL: https://a.org/7\nScore: 1.00\n")
    zoom = format_call("image_zoom_in", {"bbox_2d": [0, 0, 1000, 1000], "label": "x", "img_idx": 3})
    observation, *_ = env.step(format_action("", zoom))
    assert observation["text"] == "Image 4:" and np.array_equal(env.state.images[4], EMBLEMS[7].image)
    assert digest(env.snapshot_from_bytes(env.snapshot().to_bytes()).state) == digest(env.state)


def test_pages_without_images_are_not_shown():
    assert make(PLAIN).step(seek(query="lamp"))[0] == {"text": "No images found.", "images": ()}
    assert make(PLAIN).step(seek(img_idx=0))[0]["text"] == "No images found."
    assert "without" not in make().step(seek(query="lamp", max_results=5))[0]["text"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, "Error: give either query or img_idx"),
        ({"query": "a", "img_idx": 0}, "Error: give either query or img_idx"),
        ({"img_idx": 1}, "Error: img_idx is 1, images are 0 to 0"),
        ({"img_idx": -1}, "Error: img_idx is -1, images are 0 to 0"),
        ({"query": ""}, "Error: query is empty"),
    ],
)
def test_bad_arguments_are_told(arguments, error):
    assert make().step(seek(**arguments))[0]["text"] == error


def test_a_spoilt_image_file_is_an_outage(tmp_path):
    (tmp_path / "lamp.png").write_bytes(b"no image")
    (tmp_path / "lamp.md").write_text("A lamp.")
    for arguments in ({"query": "lamp"}, {"img_idx": 0}):
        env = gym.make("AXPO/ChartQA-Tools-v0", difficulty="nano", tools=(ImageSearch(folder=tmp_path),))
        env.reset(options={"index": 0})
        *_, info = env.step(seek(**arguments))
        assert info["stop_reason"] == "infrastructure" and "lamp.png: not a readable" in info["outage"]


def test_python_sees_what_was_found():
    tools = ("python", ImageSearch(pages=EMBLEMS))
    env = gym.make("AXPO/ChartQA-Tools-v0", difficulty="nano", tools=tools)
    env.reset(options={"index": 0})
    code = "print([picture.size for picture in _pil_images])"
    call = format_call("python", {"code": code})
    find = format_call("image-search", {"query": "number 7", "max_results": 1})
    observation, *_ = env.step(format_action("", find, call))
    assert observation["text"].endswith("Image 1:\n[(384, 384), (96, 96)]")
    env.close()
