"""ChartQA's rows: real ones where they are at hand, small ones of the same schema otherwise."""

import io
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

import axpo_env  # noqa: F401 - registers the ids
from axpo_env.messages import format_action, format_answer
from axpo_env.scripted import BlankPolicy, OraclePolicy, run_episode
from axpo_env.tasks.datasets.chartqa import ChartQASource
from axpo_env.tasks.datasets.fields import BadRow

FOLDER = Path(__file__).parents[2] / "shared/data/HuggingFaceM4--ChartQA"
pyarrow = pytest.importorskip("pyarrow")


def png(color, mode="RGB"):
    buffer = io.BytesIO()
    Image.new(mode, (40, 30), color).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def row(**changes):
    good = {"image": png((1, 2, 3)), "query": "How many?", "label": ["3"], "human_or_machine": 0}
    return {**good, **changes}


def write(folder, name, rows, row_group_size=2):
    from pyarrow import parquet

    folder.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / name, row_group_size=row_group_size)


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the real rows are not at hand")
def test_oracle_blank_and_wrong_on_the_real_rows():
    env = gym.make(
        "AXPO/ChartQA-Tools-v0", split="test", source=str(FOLDER), tools=("image_zoom_in",)
    ).unwrapped
    assert env.num_tasks == 300
    totals = {"oracle": 0.0, "strict": 0, "blank": 0.0, "wrong": 0.0, "ungraded": 0}
    for index in range(env.num_tasks):
        _, info = env.reset(options={"index": index})
        start = env.snapshot()
        reward, end = run_episode(env, OraclePolicy(env.task), info)
        totals["oracle"] += reward
        totals["strict"] += end["grade"]["strict"]
        _, info = env.restore(start)
        totals["blank"] += run_episode(env, BlankPolicy(), info)[0]
        env.restore(start)
        _, reward, _, _, info = env.step(format_action("", format_answer("-987654.25")))
        totals["wrong"] += reward
        totals["ungraded"] += info["grade"]["correct"] is None
    print(f"chartqa: {env.num_tasks} rows, {totals}")
    assert totals == {"oracle": 300.0, "strict": 300, "blank": 0.0, "wrong": 0.0, "ungraded": 0}


def test_rows_are_read_in_order_across_files_and_groups(tmp_path):
    rows = [row(query=f"q{index}", image=png((index, 0, 0))) for index in range(7)]
    write(tmp_path / "data", "train-00000-of-00002.parquet", rows[:5])
    write(tmp_path / "data", "train-00001-of-00002.parquet", rows[5:])
    source = ChartQASource(split="train", source=str(tmp_path))
    assert source.num_tasks == 7
    for index in (6, 0, 4, 5, 1):
        task = source.get(index)
        assert (task.question, task.id, task.references) == (f"q{index}", f"chartqa/train/{index}", ("3",))
        assert np.array_equal(task.images[0], np.full((30, 40, 3), [index, 0, 0], dtype=np.uint8))
    with pytest.raises(IndexError, match="0 to 6, not 7"):
        source.get(7)


@pytest.mark.parametrize("name", ["val.parquet", "validation.parquet"])
def test_validation_goes_by_both_names(tmp_path, name):
    write(tmp_path, name, [row()])
    assert ChartQASource(split="validation", source=str(tmp_path)).num_tasks == 1


def test_the_hub_reader_gives_the_same_tasks(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    rows = [row(query=f"q{index}", image=png((index, 0, 0))) for index in range(3)]
    write(tmp_path / "data", "val-00000-of-00001.parquet", rows)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("axpo_env.tasks.datasets.chartqa.HUB_NAME", str(tmp_path / "data"))
    monkeypatch.setattr("axpo_env.tasks.datasets.chartqa.HUB_SPLITS", {"validation": "validation"})
    hub = ChartQASource(split="validation", source="hub")
    monkeypatch.setattr("axpo_env.tasks.datasets.chartqa.HUB_SPLITS", {"validation": "val"})
    local = ChartQASource(split="validation", source=str(tmp_path))
    assert hub.num_tasks == local.num_tasks == 3
    for index in (2, 0):
        one, other = hub.get(index), local.get(index)
        assert (one.question, one.references, one.id) == (other.question, other.references, other.id)
        assert np.array_equal(one.images[0], other.images[0])


def test_missing_split_names_what_is_there(tmp_path):
    write(tmp_path, "test.parquet", [row()])
    with pytest.raises(
        FileNotFoundError,
        match=r"no train.parquet, train-\*.parquet, train.json, .* in .*; there: test.parquet",
    ):
        ChartQASource(split="train", source=str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="there: none"):
        ChartQASource(split="train", source=str(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        ChartQASource(split="train", source=str(tmp_path / "nowhere"))


def test_transparent_images_lie_on_white(tmp_path):
    write(tmp_path, "test.parquet", [row(image=png((0, 0, 0, 0), mode="RGBA"))])
    image = ChartQASource(split="test", source=str(tmp_path)).get(0).images[0]
    assert image.shape == (30, 40, 3) and (image == 255).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": []}, "field 'label': needs one or more non-empty strings"),
        ({"label": [""]}, "field 'label': needs one or more non-empty strings"),
        ({"label": "3"}, "field 'label': str where list belongs"),
        ({"query": " "}, "field 'query': blank"),
        ({"query": None}, "field 'query': NoneType where str belongs"),
        ({"human_or_machine": 2}, "field 'human_or_machine': 2 where 0 or 1 belongs"),
        ({"image": {"bytes": b"no image", "path": None}}, "field 'image': not a readable image"),
        ({"image": {"bytes": None, "path": "x.png"}}, "field 'image': no image bytes"),
        ({"image": None}, "field 'image': NoneType where dict belongs"),
    ],
)
def test_bad_rows_are_named(tmp_path, changes, message):
    write(
        tmp_path, "test.parquet", [row(), row(**changes)] if "label" not in changes else [row(**changes)] * 2
    )
    with pytest.raises(BadRow, match=rf"ChartQA, .*/test\.parquet, row 1, {message}"):
        ChartQASource(split="test", source=str(tmp_path)).get(1)


def test_missing_column_is_named(tmp_path):
    short = row()
    del short["query"]
    write(tmp_path, "test.parquet", [short])
    with pytest.raises(
        BadRow, match="row 0, field 'query': missing; there are human_or_machine, image, label"
    ):
        ChartQASource(split="test", source=str(tmp_path)).get(0)
