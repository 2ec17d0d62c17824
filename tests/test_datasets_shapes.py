"""Rows in the shapes that real tables have: blank aliases, counts as texts, pictures beside the table, damaged ones."""

import io

import numpy as np
import pytest
from dataset_rows import (
    CHARTQA,
    HRMMSEARCH,
    MATHVISION,
    MATHVR,
    MMSEARCH,
    ROWS,
    folder_of,
    make,
    png,
    write_table,
)
from dataset_rows import dynamath as dynamath_rows
from PIL import Image

from axpo_env.messages import format_action, format_answer, format_call
from axpo_env.tasks.datasets.fields import BadRow
from axpo_env.tools.image_search import ImageSearch
from axpo_env.tools.pages import Page


def changed(benchmark, tmp_path, **changes):
    """The source of a table whose first row is changed."""
    return make(benchmark, folder_of(benchmark, tmp_path, [{**ROWS[benchmark][1][0], **changes}])).source


def changed_json(benchmark, path, **changes):
    """As `changed`, of values that a parquet column would not mix; the row's image stands beside the table."""
    row = {**ROWS[benchmark][1][0], **changes}
    for name, value in row.items():
        if isinstance(value, dict):
            (path.parent / f"{name}.png").write_bytes(value["bytes"])
            row[name] = f"{name}.png"
    write_table(path, [row])
    return make(benchmark, path.parent).source


GOLD = "12 July 2024"


@pytest.mark.parametrize(
    ("aliases", "more"),
    [
        ([""], ()),
        ([], ()),
        (None, ()),
        ("", ()),
        ([None], ()),
        ([" ", "\n", "\u3000"], ()),
        ([None, " July 12, 2024 ", ""], ("July 12, 2024",)),
        ("July 12, 2024", ("July 12, 2024",)),
        ([GOLD, "7/12", GOLD], ("7/12",)),
        ([2024, 7.5], ("2024", "7.5")),
        ([float("nan")], ()),
    ],
)
def test_blank_aliases_say_nothing(tmp_path, aliases, more):
    source = changed_json("mmsearch", tmp_path / "end2end.jsonl", alternative_gt_answers=aliases)
    assert source.get(0).references == (GOLD, *more)
    assert source.get(0).grade("").correct is False


@pytest.mark.parametrize("aliases", [[True], [["a"]], [{}], True])
def test_aliases_of_another_kind_are_refused(tmp_path, aliases):
    source = changed_json("mmsearch", tmp_path / "end2end.jsonl", alternative_gt_answers=aliases)
    with pytest.raises(BadRow, match=r"row 0, field 'alternative_gt_answers': needs .* strings, not"):
        source.get(0)


@pytest.mark.parametrize(
    ("truths", "references"),
    [
        (["", "Ada", None], ("Ada",)),
        ("Ada", ("Ada",)),
        (1815, ("1815",)),
        (["Ada ", "A. L."], ("Ada", "A. L.")),
    ],
)
def test_blank_ground_truths_are_left_out(tmp_path, truths, references):
    source = changed_json("hrmmsearch", tmp_path / "data.jsonl", ground_truth=truths)
    assert source.get(0).references == references


@pytest.mark.parametrize("truths", [[""], [], None, " ", [None, "\t"]])
def test_a_question_without_any_ground_truth_is_refused(tmp_path, truths):
    source = changed_json("hrmmsearch", tmp_path / "data.jsonl", ground_truth=truths)
    with pytest.raises(BadRow, match=r"data\.jsonl, row 0, field 'ground_truth': needs one or more"):
        source.get(0)


@pytest.mark.parametrize(
    ("kind", "truth", "right", "wrong"),
    [
        ("int", "7", ("7", "7.0", "seven"), ("8", "7.01", "-")),
        ("int", "-12", ("-12",), ("12",)),
        ("single answer", "3.0944", ("3.0944", "3.0950"), ("3.0960", "3.1")),
        ("single answer", "12", ("12",), ("13", "even")),
        ("single answer", "even", ("even", "Even"), ("odd", "not even")),
    ],
)
def test_dynamaths_own_answer_types(tmp_path, kind, truth, right, wrong):
    row = {**dynamath_rows(1)[0], "answer_type": kind, "ground_truth": truth}
    write_table(tmp_path / "sample_variant1.parquet", [row])
    task = make("dynamath", tmp_path).source.get(0)
    assert task.details["answer_type"] == kind
    assert [task.grade(answer).correct for answer in (*right, *wrong)] == [True] * len(right) + [False] * len(
        wrong
    )


def test_an_unknown_answer_type_is_named_with_its_row(tmp_path):
    rows = dynamath_rows(1)
    write_table(tmp_path / "sample_variant1.parquet", [*rows[:2], {**rows[2], "answer_type": "integer"}])
    known = "float, int, multiple choice, single answer, text"
    said = rf"variant1\.parquet, row 2, field 'answer_type': unknown value 'integer'; known: {known}; nearest: int"
    with pytest.raises(BadRow, match=said):
        make("dynamath", tmp_path).source.get(2)
    write_table(
        tmp_path / "sample_variant1.parquet", [{**rows[0], "answer_type": "int", "ground_truth": "many"}]
    )
    with pytest.raises(BadRow, match="row 0, field 'ground_truth': 'many' is no number"):
        make("dynamath", tmp_path).source.get(0)


@pytest.mark.parametrize("count", [2, 2.0, "2", "2.0", " 2 "])
def test_counts_may_be_texts_or_floats(tmp_path, count):
    assert changed("mathvr", tmp_path, number_of_answers=count).get(0).details["num_parts"] == 2
    assert changed("mathvision", tmp_path, level=count).get(0).details["level"] == 2
    assert (
        MATHVR[0]["number_of_answers"] == 2 and MATHVISION[0]["level"] == 1
    )  # other columns stay as they were


@pytest.mark.parametrize(("origin", "name"), [(0.0, "human"), ("1", "machine"), (1, "machine")])
def test_the_origin_of_a_chart_may_be_a_text_or_a_float(tmp_path, origin, name):
    write_table(tmp_path / "test.parquet", [{**CHARTQA[0], "human_or_machine": origin}])
    assert make("chartqa", tmp_path).source.get(0).details["origin"] == name


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (2.5, "2.5 where a whole number belongs"),
        ("two", "'two' where a whole number belongs"),
        ("", "'' where a whole number belongs"),
        (float("nan"), "nan where a whole number belongs"),
        (float("inf"), "inf where a whole number belongs"),
        (None, "NoneType where int belongs"),
        (True, "bool where int belongs"),
        ("0", "0 where at least 1 belongs"),
        (-1.0, "-1 where at least 1 belongs"),
    ],
)
def test_a_count_that_is_none_is_named(tmp_path, count, said):
    source = changed("mathvr", tmp_path, number_of_answers=count)
    with pytest.raises(BadRow, match=rf"row 0, field 'number_of_answers': {said}$"):
        source.get(0)


@pytest.mark.parametrize("place", ["images/0.png", "HR-MMSearch/images/0.png", "./images/0.png"])
def test_hrmmsearch_as_its_authors_have_it(tmp_path, place):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").write_bytes(png(9))
    write_table(tmp_path / "data.jsonl", [{**HRMMSEARCH[0], "query_image": place}])
    env = make("hrmmsearch", tmp_path)
    observation, _ = env.reset(options={"index": 0})
    assert observation["text"] == "Who founded it?" and int(observation["images"][0][0, 0, 0]) == 9
    (tmp_path / "images" / "0.png").unlink()
    write_table(tmp_path / "train.jsonl", [{**HRMMSEARCH[0], "query_image": place, "query": "From train?"}])
    with pytest.raises(BadRow, match=r"train\.jsonl, row 0, field 'query_image': no file '.*0\.png' in"):
        make("hrmmsearch", tmp_path).source.get(0)  # the hub's name goes first


def test_hrmmsearch_from_the_hub_fetches_its_pictures(tmp_path, monkeypatch):
    datasets, hub = pytest.importorskip("datasets"), pytest.importorskip("huggingface_hub")
    write_table(tmp_path / "data.jsonl", [{**HRMMSEARCH[0], "query_image": "images/0.png"}])
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").write_bytes(png(9))
    fetched = []

    def load_dataset(name, *, split):
        return datasets.Dataset.from_json(str(tmp_path / "data.jsonl"), cache_dir=str(tmp_path / "cache"))

    def hf_hub_download(name, path, repo_type):
        fetched.append((name, path))
        return str(tmp_path / path)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(hub, "hf_hub_download", hf_hub_download)
    task = make("hrmmsearch", "hub").source.get(0)
    assert int(task.images[0][0, 0, 0]) == 9 and task.references == ("Ada Lovelace",)
    assert fetched == [("sensenova/HR-MMSearch", "images/0.png")]


def test_the_first_name_of_a_table_wins_whatever_its_form(tmp_path):
    write_table(tmp_path / "train.parquet", HRMMSEARCH)
    write_table(tmp_path / "data.jsonl", [{**HRMMSEARCH[0], "query": "Another?", "query_image": "0.png"}])
    assert make("hrmmsearch", tmp_path).source.get(0).question == "Who founded it?"


SEEK = format_action("", format_call("image-search", {"img_idx": 0}))


def mmsearch(tmp_path, tool, found=77):
    shown = None if found is None else {"bytes": png(found, (60, 50)), "path": None}
    write_table(tmp_path / "end2end.parquet", [{**MMSEARCH[0], "image_search_result": shown}])
    env = make("mmsearch", tmp_path, tools=("image_zoom_in", tool), max_turns=4)
    return env, env.reset(options={"index": 0})[0]


@pytest.mark.parametrize("tool", ["image-search", ImageSearch(online=False)], ids=["web", "offline"])
def test_the_published_image_search_is_found_by_the_policy(tmp_path, monkeypatch, tool):
    monkeypatch.delenv("TAVILY_API_KEY", raising=False)
    env, start = mmsearch(tmp_path, tool)
    assert len(start["images"]) == 1 and int(start["images"][0][0, 0, 0]) == 1
    observation, *_, info = env.step(SEEK)
    assert observation["text"] == "What an image search for image 0 found:\nImage 1:"
    assert info["stop_reason"] is None and len(observation["images"]) == 1
    assert env.state.images[1].shape == (50, 60, 3) and int(env.state.images[1][0, 0, 0]) == 77
    zoom = format_call("image_zoom_in", {"bbox_2d": [0, 0, 1000, 1000], "label": "x", "img_idx": 1})
    assert env.step(format_action("", zoom))[0]["text"] == "Image 2:"
    assert env.step(format_action("", format_answer("July 12, 2024")))[1] == 1.0


def test_a_tool_with_pages_of_its_own_searches_these(tmp_path):
    page = Page(url="https://a.org", title="A page", content="", image=np.zeros((9, 9, 3), dtype=np.uint8))
    env, _ = mmsearch(tmp_path, ImageSearch(pages=[page]))
    assert env.step(SEEK)[0]["text"].startswith("Image 1: A page\nURL: https://a.org")


def test_without_a_published_search_or_of_another_image_the_web_is_asked_in_words(tmp_path):
    env, _ = mmsearch(tmp_path, "image-search", found=None)
    assert env.step(SEEK)[0]["text"] == "Error: the web search for images takes a query only, no img_idx"
    env, _ = mmsearch(tmp_path, "image-search")
    env.step(SEEK)
    again = format_action("", format_call("image-search", {"img_idx": 1}))
    assert env.step(again)[0]["text"] == "Error: the web search for images takes a query only, no img_idx"
    assert make("mmsearch", folder_of("mmsearch", tmp_path / "old")).source.get(0).image_search_result is None


def avif():
    pytest.importorskip("PIL._avif", reason="this Pillow reads no AVIF")
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(buffer, format="AVIF")
    return buffer.getvalue()[:-40]


DAMAGED = {
    "avif": avif,
    "dds": lambda: b"DDS " + bytes([124, 0, 0, 0]) + bytes(120),
    "png": lambda: png(1)[:60],
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_image_is_the_rows_error(tmp_path, kind):
    source = changed("chartqa", tmp_path, image={"bytes": DAMAGED[kind](), "path": f"chart.{kind}"})
    said = rf"ChartQA, .*test\.parquet, row 0, image 'chart\.{kind}', field 'image': not a readable image: "
    with pytest.raises(BadRow, match=said):
        source.get(0)
    folder = folder_of("visualprobe", tmp_path)
    (folder / "data" / "0.jpg").write_bytes(DAMAGED[kind]())
    said = r"val\.json, row 0, image 'VisualProbe_Hard/data/0\.jpg', field 'images': not a readable image: "
    with pytest.raises(BadRow, match=said):
        make("visualprobe", folder).source.get(0)


def test_a_file_that_cannot_be_opened_is_the_rows_error(tmp_path):
    source = changed_json("hrmmsearch", tmp_path / "data.jsonl", query_image="x" * 300 + ".png")
    with pytest.raises(BadRow, match=r"row 0, field 'query_image': .*File name too long"):
        source.get(0)


def test_images_of_rows_are_upright_and_keep_their_shades(tmp_path):
    def embedded(image, **options):
        buffer = io.BytesIO()
        image.save(buffer, format="PNG", **options)
        return {"bytes": buffer.getvalue(), "path": None}

    exif = Image.Exif()
    exif[0x0112] = 6
    source = changed("chartqa", tmp_path, image=embedded(Image.new("RGB", (3, 2), "red"), exif=exif))
    assert source.get(0).images[0].shape == (3, 2, 3)
    wide = Image.fromarray(np.array([[0, 257, 32896, 65535]], dtype=np.uint16))
    source = changed("chartqa", tmp_path, image=embedded(wide))
    assert source.get(0).images[0][0, :, 0].tolist() == [0, 1, 128, 255]
