"""Rows that do not fit are refused naming file, row and field; so are tables and variants not there or empty."""

import base64
import re

import gymnasium as gym
import pytest
from dataset_rows import CHARTQA, ENV_IDS, ROWS, folder_of, make, write_table

from axpo_env.tasks.datasets.fields import BadRow

parquet = pytest.importorskip("pyarrow.parquet")
# The field to spoil in the default variant's first row, and what is said about it.
BAD = [
    (
        "mathvision",
        {"answer": "F", "options": list("ABCDE")},
        "field 'answer': 'F' is no letter of 5 options",
    ),
    ("mathvision", {"options": [None, "2"]}, "field 'options': needs strings"),
    ("mathvision", {"level": 6}, "field 'level': 6 where 1 to 5 belongs"),
    ("mathvision", {"decoded_image": None}, "field 'decoded_image': NoneType where dict belongs"),
    ("mathvision", {"question": " "}, "field 'question': blank"),
    ("dynamath", {"ground_truth": "many"}, "field 'ground_truth': 'many' is no number"),
    (
        "dynamath",
        {"answer_type": "flaot"},
        "field 'answer_type': unknown value 'flaot'; known: float, .*nearest: float",
    ),
    ("dynamath", {"answer_type": "multiple choice"}, "'3.0944' is no letter of the question's 0 options"),
    ("mathvr", {"answers": []}, "field 'answers': needs one or more non-empty strings"),
    ("mathvr", {"number_of_answers": 0}, "field 'number_of_answers': 0 where at least 1 belongs"),
    ("mathvr", {"image2": None}, "field 'image2': NoneType where dict belongs"),
    ("mathvr", {"question": "See <image9>."}, "field 'question': figures are <image1> to <image8>"),
    ("vstar", {"label": "C"}, "field 'label': 'C' is no letter of 2 options"),
    ("vstar", {"text": "What is it?"}, "field 'text': lists no options"),
    ("vstar", {"category": "OCR"}, "field 'category': unknown value 'OCR'"),
    (
        "vstar",
        {"image": "../secret.png"},
        "field 'image': the path '../secret.png' leads outside of the data set",
    ),
    (
        "vstar",
        {"image": "/etc/hostname"},
        "field 'image': the path '/etc/hostname' leads outside of the data set",
    ),
    ("vstar", {"image": None}, "field 'image': NoneType where dict belongs"),
    ("visualprobe", {"images": []}, "field 'images': none"),
    ("visualprobe", {"images": ["test_questions.jsonl"]}, "field 'images': no file 'test_questions.jsonl'"),
    ("visualprobe", {"problem": "<image>"}, "field 'problem': blank"),
    ("hrbench4k", {"answer": "E"}, "field 'answer': unknown value 'E'; known: A, B, C, D"),
    ("hrbench4k", {"image": "?!"}, "field 'image': not base64"),
    ("hrbench8k", {"image": base64.b64encode(b"no image").decode()}, "field 'image': not a readable image"),
    ("hrbench8k", {"C": ""}, "field 'C': blank"),
    ("hrmmsearch", {"ground_truth": [""]}, "field 'ground_truth': needs one or more non-empty strings"),
    (
        "hrmmsearch",
        {"query_image": {"bytes": None, "path": "gone.jpg"}},
        "field 'query_image': no file 'gone.jpg'",
    ),
    ("mmsearch", {"gt_answer": None}, "field 'gt_answer': NoneType where str belongs"),
]


@pytest.mark.parametrize(("benchmark", "changes", "message"), BAD)
def test_bad_rows_are_named(tmp_path, benchmark, changes, message):
    folder = folder_of(benchmark, tmp_path, [{**ROWS[benchmark][1][0], **changes}])
    env = make(benchmark, folder)
    place = re.escape(f"{env.source.title}, {folder / ROWS[benchmark][0]}, row 0, ")
    with pytest.raises(BadRow, match=f"^{place}.*{message}"):
        env.reset(options={"index": 0})


@pytest.mark.parametrize(
    ("benchmark", "variant", "changes", "message"),
    [
        ("mathvr", "multimodal", {"question": None}, "field 'question': NoneType where str belongs"),
        ("mathvr", "text", {"question": None}, "field 'question': NoneType where str belongs"),
        ("vstar", "direct_attributes", {"category": "OCR"}, "field 'category': unknown value 'OCR'"),
        ("vstar", "relative_position", {"category": None}, "field 'category': NoneType where str belongs"),
        ("hrbench4k", "one_cycle", {"cycle_category": None}, "field 'cycle_category': NoneType"),
    ],
)
def test_a_row_of_no_variant_is_named_rather_than_left_out(tmp_path, benchmark, variant, changes, message):
    folder = folder_of(benchmark, tmp_path, [{**ROWS[benchmark][1][0], **changes}])
    with pytest.raises(BadRow, match=f"row 0, {message}"):
        make(benchmark, folder, variant=variant).reset(options={"index": 0})


UNREAD = {"image", "solution"}  # of the columns that some tables have beside those in use
NOTES = {("visualprobe", "doc_id"), ("mmsearch", "subfield")}  # not read off the source, and used for nothing
COLUMNS = [
    (benchmark, column)
    for benchmark, (_, rows, _) in ROWS.items()
    for column in rows[0]
    if rows[0][column] is not None and not (column in UNREAD and benchmark in ("mathvision", "dynamath"))
    if (benchmark, column) not in NOTES
]


@pytest.mark.parametrize(("benchmark", "column"), [*COLUMNS, ("mmsearch with_image", "query_image")])
def test_a_missing_column_is_named(tmp_path, benchmark, column):
    benchmark, _, variant = benchmark.partition(" ")
    short = [{key: value for key, value in row.items() if key != column} for row in ROWS[benchmark][1]]
    folder = folder_of(benchmark, tmp_path, short)
    with pytest.raises(BadRow, match=f"row 0, field '{column}': missing"):
        make(benchmark, folder, variant=variant or None).reset(options={"index": 0})


@pytest.mark.parametrize(("benchmark", "column"), sorted(NOTES))
def test_a_note_may_be_missing(tmp_path, benchmark, column):
    short = [{key: value for key, value in row.items() if key != column} for row in ROWS[benchmark][1]]
    env = make(benchmark, folder_of(benchmark, tmp_path, short))
    env.reset(options={"index": 0})
    assert None in env.task.details.values()


def test_a_split_or_table_that_is_not_there_is_named(tmp_path):
    folder = folder_of("mathvision", tmp_path)
    with pytest.raises(ValueError, match="MathVision has no train split; it has: test"):
        make("mathvision", folder, split="train")
    with pytest.raises(
        FileNotFoundError, match=r"no test.parquet, .*; there: data/testmini-00000-of-00001.parquet"
    ):
        make("mathvision", folder, variant="test")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "test_questions.jsonl").write_text("{")
    with pytest.raises(ValueError, match="neither a JSON list nor a JSON object a line"):
        make("vstar", tmp_path / "broken")
    (tmp_path / "broken" / "test_questions.jsonl").write_text("3\n")
    with pytest.raises(ValueError, match="rows that are no JSON objects"):
        make("vstar", tmp_path / "broken")


def test_variants_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"unknown variant of DynaMath 'variant11'; .*; nearest: variant1"):
        make("dynamath", tmp_path, variant="variant11")
    with pytest.raises(ValueError, match="HR-MMSearch has no variants, so none called 'hard'"):
        make("hrmmsearch", tmp_path, variant="hard")
    with pytest.raises(ValueError, match="ChartQA has no variants"):
        make("chartqa", tmp_path, variant="human")
    with pytest.raises(ValueError, match="a variant is for published rows, not for generated ones: 'human'"):
        gym.make(ENV_IDS["chartqa"], variant="human")


@pytest.mark.parametrize(("name", "text"), [("test_questions.jsonl", "\n"), ("test_questions.json", "[]")])
def test_a_table_without_rows_is_named_when_the_environment_is_made(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(
        ValueError, match=rf"V\*Bench, test, variant all: no row in {re.escape(str(tmp_path / name))}$"
    ):
        make("vstar", tmp_path)


def test_an_empty_parquet_file_is_named(tmp_path):
    write_table(tmp_path / "test.parquet", CHARTQA)
    table = parquet.read_table(tmp_path / "test.parquet")
    parquet.write_table(table.slice(0, 0), tmp_path / "test.parquet")
    with pytest.raises(ValueError, match=r"ChartQA, test: no row in .*/test\.parquet$"):
        make("chartqa", tmp_path)


def test_a_variant_that_selects_no_row_is_named_with_what_was_read(tmp_path):
    rows = [row for row in ROWS["vstar"][1] if row["category"] == "direct_attributes"]
    folder = folder_of("vstar", tmp_path, rows)
    said = (
        r"V\*Bench, test, variant relative_position: none of the 2 rows in .*/test_questions\.jsonl belongs"
    )
    with pytest.raises(ValueError, match=said):
        make("vstar", folder, variant="relative_position")
    assert make("vstar", folder, variant="direct_attributes").num_tasks == 2


OTHERS = {  # benchmark -> a file it would read, the first column that another data set's rows lack
    "chartqa": ("test.parquet", "image"),
    "mathvision": ("testmini.parquet", "id"),
    "dynamath": ("sample_variant1.parquet", "id"),
    "mathvr": ("test.parquet", "id"),
    "vstar": ("test.jsonl", "image"),
    "visualprobe": ("val.json", "images"),
    "hrbench4k": ("hrbench_4k.parquet", "index"),
    "hrbench8k": ("hrbench_8k.parquet", "index"),
    "hrmmsearch": ("test.parquet", "sample_id"),
    "mmsearch": ("end2end.parquet", "sample_id"),
}


@pytest.mark.parametrize("benchmark", list(ROWS))
def test_rows_of_another_data_set_are_refused_when_the_environment_is_made(tmp_path, benchmark):
    name, column = OTHERS[benchmark]
    write_table(tmp_path / name, [{"prompt": "?", "reply": "!"}])
    place = re.escape(str(tmp_path / name))
    with pytest.raises(BadRow, match=f", {place}, row 0, field '{column}': missing; there are prompt, reply"):
        make(benchmark, tmp_path)


def test_a_bad_row_is_counted_in_its_own_file(tmp_path):
    good = CHARTQA[0]
    write_table(tmp_path / "test-00000-of-00002.parquet", [good, good])
    write_table(tmp_path / "test-00001-of-00002.parquet", [good, {**good, "query": " "}])
    with pytest.raises(BadRow, match=r"ChartQA, .*/test-00001-of-00002\.parquet, row 1, field 'query'"):
        make("chartqa", tmp_path).reset(options={"index": 3})


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "test_questions.jsonl").write_bytes(b'{"text": "\xff"}')
    with pytest.raises(ValueError, match=r"test_questions\.jsonl is not UTF-8: .*0xff"):
        make("vstar", tmp_path)
    (tmp_path / "test.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"test\.parquet cannot be read as parquet: "):
        make("chartqa", tmp_path)


def test_a_folder_of_many_files_makes_no_long_message(tmp_path):
    for number in range(300):
        (tmp_path / f"part-{number:03}.parquet").touch()
    (tmp_path / "deep" / "deeper" / "deepest").mkdir(parents=True)
    (tmp_path / "deep" / "notes.json").touch()
    with pytest.raises(
        FileNotFoundError, match=r"there: deep/notes\.json, part-000\.parquet, .* 281 more$"
    ) as found:
        make("chartqa", tmp_path)
    assert len(str(found.value)) < 1000
