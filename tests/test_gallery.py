"""The catalogue of what there is, and the page that shows a task of each."""

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

import axpo_env
from axpo_env import gallery
from axpo_env.catalogue import HUB_NAMES, find_entries
from axpo_env.echo import EchoSandbox
from axpo_env.gallery import Exhibit, View, exhibit
from axpo_env.gallery_page import cut, data_uri, render, surroundings
from axpo_env.tasks import DATASETS
from axpo_env.tasks.base import Task
from axpo_env.tasks.synthetic.families import FAMILIES, TWINS
from axpo_env.views import downscale

VOID = {"meta", "img"}


class Page(HTMLParser):
    """What a page holds; asserts that its tags are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.ids, self.images, self.articles, self.texts = [], [], [], [], 0, []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.articles += tag == "article"
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if "href" in found else []
        self.images += [found["src"]] if "src" in found else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_the_catalogue_has_every_id_and_family(tmp_path):
    entries = find_entries(data=tmp_path)
    assert [entry.env_id for entry in entries[: len(axpo_env.IDS)]] == list(axpo_env.IDS)
    families = {TWINS.get(axpo_env.IDS[e.env_id]) if e.source == "synthetic" else e.source for e in entries}
    assert families == set(FAMILIES)
    assert set(HUB_NAMES) == set(DATASETS)
    assert entries[0].name == "ChartQA, synthetic" and entries[0].generated


def test_folders_are_found_by_the_hubs_name(tmp_path):
    (tmp_path / "craigwu--vstar_bench").mkdir()
    found = [entry for entry in find_entries(data=tmp_path) if entry.source == "craigwu/vstar_bench"]
    assert [(entry.env_id, entry.generated) for entry in found] == [("AXPO/VStar-Tools-v0", False)]
    assert found[0].keywords["source"] == str(tmp_path / "craigwu--vstar_bench")
    assert find_entries(ids=["AXPO/MathVR-Tools-v0"], data=tmp_path)[0].env_id == "AXPO/MathVR-Tools-v0"
    with pytest.raises(
        ValueError, match=r"unknown environment 'AXPO/VStar-v0'.*nearest: AXPO/VStar-Tools-v0"
    ):
        find_entries(ids=["AXPO/VStar-v0"])
    with pytest.raises(NotADirectoryError, match="nowhere"):
        find_entries(data=tmp_path / "nowhere")


def test_searches_are_for_generated_look_ups_only(tmp_path):
    (tmp_path / "CaraJ--MMSearch").mkdir()
    generated, rows = find_entries(ids=["AXPO/MMSearch-Tools-v0"], data=tmp_path)
    assert {"tavily-search", "image-search"} <= set(generated.keywords["tools"])
    assert rows.keywords["tools"] == ("image_zoom_in", "python")


def test_without_python_the_tool_is_left_out(tmp_path):
    for entry in find_entries(data=tmp_path, python=False):
        assert "python" not in entry.keywords["tools"]


@pytest.mark.parametrize("entry", find_entries(difficulty="nano"), ids=lambda entry: entry.name)
def test_a_demonstration_is_shown_to_its_end(entry):
    if not entry.generated:
        pytest.skip("rows of data sets are shown in another test")
    shown = exhibit(entry, 2, sandbox=EchoSandbox())
    assert (shown.demonstrated, shown.stop_reason, shown.reward) == (True, "answer", 1.0)
    calls = {call.name for turn in shown.turns for call in turn.action.calls}
    assert set(shown.task.needs_tools) <= calls
    assert shown.turns[-1].action.answer is not None and shown.turns[-1].results == ()
    assert all(turn.results for turn in shown.turns[:-1])
    assert shown.max_pixels == entry.make().source.level.view_pixels
    views = [*shown.views, *(view for turn in shown.turns for one in turn.results for view in one.views)]
    assert [view.number for view in views] == list(range(len(views)))
    for view in views:
        assert np.array_equal(view.seen, downscale(view.full, shown.max_pixels))


def test_rows_without_demonstration_are_looked_at_and_answered(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    buffer = io.BytesIO()
    Image.new("RGB", (400, 300), (9, 99, 199)).save(buffer, format="PNG")
    row = {
        "image": {"bytes": buffer.getvalue(), "path": None},
        "query": "How <b>many</b>?",
        "label": ["3 & 4"],
    }
    folder = tmp_path / "HuggingFaceM4--ChartQA"
    folder.mkdir()
    table = pyarrow.Table.from_pylist([{**row, "human_or_machine": 0}])
    parquet.write_table(table, folder / "test.parquet")
    entry = find_entries(ids=["AXPO/ChartQA-Tools-v0"], data=tmp_path)[1]
    shown = exhibit(entry, 7)  # there is one row only
    assert (shown.demonstrated, shown.reward, len(shown.turns), shown.task.index) == (False, 1.0, 2, 0)
    assert shown.turns[0].results[0].views[0].full.shape == (150, 200, 3)
    text = render([shown])
    assert "<b>many" not in text and "How &lt;b&gt;many&lt;/b&gt;?" in text and "3 &amp; 4" in text
    assert "Not demonstrated by its source" in "".join(Page(text).texts)


def test_the_page_stands_alone(tmp_path, capsys):
    out = tmp_path / "page.html"
    ids = ["AXPO/ChartQA-Tools-v0", "AXPO/HRMMSearch-Tools-v0"]
    arguments = ["--ids", *ids, "--data", str(tmp_path), "--difficulty", "nano", "--index", "0", "1"]
    assert gallery.main([*arguments, "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith(f"{out}: 4 tasks, 4 solved as shown, ")
    page = Page(out.read_text(encoding="utf-8"))
    assert page.articles == 4
    assert page.links == [f"#{name}" for name in page.ids] == [f"#task-{place}" for place in range(4)]
    assert len(page.images) > 4 * 3
    for source in page.images:
        header, _, data = source.partition(",")
        assert header == "data:image/webp;base64"
        Image.open(io.BytesIO(base64.b64decode(data))).load()
    shown = "".join(page.texts)
    for entry in find_entries(ids=ids, data=tmp_path):
        task = entry.make().source.get(1)
        assert task.question in shown and all(reference in shown for reference in task.references)


def test_wrong_arguments_are_named(capsys, tmp_path):
    assert gallery.main(["--ids", "AXPO/ChartQA-v0"]) == 2
    assert "nearest: AXPO/ChartQA-Tools-v0" in capsys.readouterr().err
    ids = ["--ids", "AXPO/ChartQA-Tools-v0", "--data", str(tmp_path)]
    assert gallery.main([*ids, "--difficulty", "nan"]) == 2
    assert "nearest: nano" in capsys.readouterr().err


def test_a_task_without_images_and_a_policy_that_fails_are_shown_as_such():
    task = Task(
        id="x/0",
        index=0,
        split="test",
        source="x",
        question="<script>",
        images=(),
        references=("</article>",),
    )
    shown = Exhibit(
        name="X",
        env_id="AXPO/X",
        task=task,
        max_pixels=9,
        views=(),
        turns=(),
        demonstrated=False,
        stop_reason="malformed",
        reward=0.0,
    )
    text = render([shown])
    page = Page(text)
    assert "<script>" not in text and page.images == [] and page.articles == 1
    assert "This task has none." in page.texts and "reward 0" in page.texts


def test_a_small_image_is_kept_to_the_last_bit():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    data = base64.b64decode(data_uri(image).partition(",")[2])
    assert np.array_equal(np.array(Image.open(io.BytesIO(data)).convert("RGB")), image)


def test_surroundings_and_cuts_by_hand():
    # 200 wide and 100 high in thousandths: margins 70 and 35.
    assert surroundings((400, 500, 600, 600)) == pytest.approx((0.33, 0.465, 0.67, 0.635))
    # A point gets a share of 0.06 around it; at an edge the box stays inside.
    assert surroundings((500, 0, 500, 0)) == pytest.approx((0.47, 0.0, 0.53, 0.03))
    image = np.arange(100, dtype=np.uint8).reshape(10, 10, 1).repeat(3, axis=2)
    assert cut(image, (0.2, 0.3, 0.5, 0.4))[:, :, 0].tolist() == [[32, 33, 34]]
    assert cut(image, (1.0, 1.0, 1.0, 1.0))[:, :, 0].tolist() == [[99]]


def test_an_image_seen_whole_is_shown_once():
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    views = (View(number=0, full=image, seen=image), View(number=1, full=image, seen=image[:2, :2]))
    task = Task(
        id="x/0", index=0, split="test", source="x", question="?", images=(image,) * 2, references=("1",)
    )
    shown = Exhibit(
        name="X",
        env_id="AXPO/X",
        task=task,
        max_pixels=9,
        views=views,
        turns=(),
        demonstrated=False,
        stop_reason="answer",
        reward=1.0,
    )
    assert len(Page(render([shown])).images) == 1 + 2
