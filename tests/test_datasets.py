"""The nine data sets beside ChartQA: real rows where they are at hand, small ones of the same schema for all."""

import base64
import io
import json
import shutil

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

import axpo_env
from axpo_env import contract
from axpo_env.messages import format_action, format_answer
from axpo_env.scripted import BlankPolicy, OraclePolicy, run_episode
from axpo_env.tasks import DATASETS
from axpo_env.tasks.datasets.dynamath import average_and_worst
from axpo_env.tasks.datasets.rows import BadRow

pyarrow = pytest.importorskip("pyarrow")
ENV_IDS = {benchmark: env_id for env_id, benchmark in axpo_env.IDS.items()}
ZOOM = ("image_zoom_in",)


def png(shade, size=(40, 30)):
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, shade, shade)).save(buffer, format="PNG")
    return buffer.getvalue()


def embedded(shade):
    return {"bytes": png(shade), "path": None}


# Per benchmark: the file, its rows in the hub's schema, and the right answers, as its default variant has them.
MATHVISION = [
    {
        "id": "1",
        "question": "How many dots?\n<image1>",
        "options": [],
        "image": "images/1.jpg",
        "answer": "12",
        "solution": None,
        "level": 1,
        "subject": "counting",
        "decoded_image": embedded(0),
    },
    {
        "id": "2",
        "question": "Which side?\n<image1>\n<image2>",
        "options": [r"$\frac{1}{2}$", "2", "red", "blue", "green"],
        "image": "images/2.jpg",
        "answer": "A",
        "solution": None,
        "level": 5,
        "subject": "logic",
        "decoded_image": embedded(1),
    },
]


def dynamath(variant):
    rows = (
        ("What is the period?", str(2.0944 + variant), "float"),
        ("Is it odd? choice:(A) yes (B) no", "AB"[variant % 2], "multiple choice"),
        ("Which month?", "Sep", "text"),
    )
    return [
        {
            "id": str(number),
            "question": question,
            "image": "x.png",
            "decoded_image": embedded(number),
            "ground_truth": truth,
            "answer_type": kind,
            "subject": "statistics",
            "knowledge_level": "high school",
        }
        for number, (question, truth, kind) in enumerate(rows)
    ]


def mathvr(question, answers, **images):
    pictures = {f"image{number}": None for number in range(1, 9)} | images
    return {
        "id": 7,
        "question": question,
        "answers": answers,
        "number_of_answers": len(answers),
        "scoring_points": "p1",
        **pictures,
    }


MATHVR = [
    mathvr(
        "See <image2> and <image1>. (1) f(x)? (2) AB?",
        ["2x+1", r"\sqrt{12}"],
        image1=embedded(1),
        image2=embedded(2),
    ),
    mathvr("Without a figure: 1 + 1?", ["2"]),
    mathvr("Area in <image1>?", ["12"], image1=embedded(3)),
]
VSTAR_TEXT = "What is the glove's material?\n(A) rubber\n(B) cotton\nAnswer with the option's letter."
VSTAR = [
    {
        "image": f"{category}/{number}.jpg",
        "text": VSTAR_TEXT,
        "category": category,
        "label": "AB"[number % 2],
        "question_id": str(number),
    }
    for number, category in enumerate(("direct_attributes", "relative_position", "direct_attributes"))
]
VISUALPROBE = [
    {
        "images": ["VisualProbe_Hard/data/0.jpg"],
        "doc_id": "0",
        "problem": "<image>\nWhich number?",
        "solution": "29",
    },
    {
        "images": ["VisualProbe_Hard/data/1.jpg"],
        "doc_id": "1",
        "problem": "<image>\nWhich shop?",
        "solution": "The Fox",
    },
]
HRBENCH = [
    {
        "index": 4 * number + cycle,
        "question": f"What colour is sign {number}?",
        "answer": "ABCD"[cycle],
        **{
            letter: colour for letter, colour in zip("ABCD", colours[-cycle:] + colours[:-cycle], strict=True)
        },
        "category": ("single", "cross")[number],
        "cycle_category": str(cycle),
        "image": base64.b64encode(png(number)).decode(),
    }
    for number, colours in enumerate((["red", "green", "blue", "grey"], ["black", "white", "pink", "brown"]))
    for cycle in range(4)
]
HRMMSEARCH = [
    {
        "sample_id": "0",
        "query": "Who founded it?",
        "query_image": embedded(9),
        "ground_truth": ["Ada Lovelace"],
        "difficulty": "hard",
        "category": "news",
    }
]
MMSEARCH = [
    {
        "sample_id": str(number),
        "query": f"When does part {number} begin?",
        "query_image": image,
        "gt_answer": "12 July 2024",
        "alternative_gt_answers": aliases,
        "timestamp": "2024-07",
        "area": "news",
        "subfield": "sports",
    }
    for number, (image, aliases) in enumerate(
        [(embedded(1), ["July 12, 2024"]), (None, []), (embedded(3), [])]
    )
]
CHARTQA = [{"image": embedded(1), "query": "How many?", "label": ["3"], "human_or_machine": 0}]
ROWS = {
    "chartqa": ("test.parquet", CHARTQA, ["3"]),
    "mathvision": ("data/testmini-00000-of-00001.parquet", MATHVISION, ["12", "A"]),
    "dynamath": ("data/sample1-00000-of-00001.parquet", dynamath(1), ["3.0944", "B", "Sep"]),
    "mathvr": ("data/test-00000-of-00001.parquet", MATHVR, [r"2x+1; \sqrt{12}", "12"]),
    "vstar": ("test_questions.jsonl", VSTAR, ["A", "B", "A"]),
    "visualprobe": ("val.json", VISUALPROBE, ["29", "The Fox"]),
    "hrbench4k": ("hr_bench_4k.parquet", HRBENCH, ["A", "A"]),
    "hrbench8k": ("hr_bench_8k.parquet", HRBENCH, ["A", "A"]),
    "hrmmsearch": ("train.parquet", HRMMSEARCH, ["Ada Lovelace"]),
    "mmsearch": ("end2end.parquet", MMSEARCH, ["12 July 2024"] * 3),
}
NINE = [benchmark for benchmark in ROWS if benchmark != "chartqa"]


def write(path, rows):
    """Rows as the hub has them: parquet with images in it, or JSON with pictures beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)
        return
    lines = [json.dumps(row) for row in rows]
    path.write_text(f"[{','.join(lines)}]" if path.suffix == ".json" else "\n".join(lines) + "\n")
    for number, row in enumerate(rows):
        for name in row.get("images", [row.get("image")]):
            picture = path.parent / str(name).removeprefix("VisualProbe_Hard/")
            picture.parent.mkdir(parents=True, exist_ok=True)
            picture.write_bytes(png(number))


def folder_of(benchmark, tmp_path, rows=None):
    name, small, _ = ROWS[benchmark]
    write(tmp_path / benchmark / name, small if rows is None else rows)
    return tmp_path / benchmark


def make(benchmark, source, **keywords):
    keywords = {"split": "test", "tools": ZOOM, "source": str(source), **keywords}
    return gym.make(ENV_IDS[benchmark], **keywords).unwrapped


def score(env, index, answer):
    """(reward, correct) of an answer to a task."""
    env.reset(options={"index": index})
    _, reward, terminated, _, info = env.step(format_action("", format_answer(answer)))
    assert terminated
    return reward, info["grade"]["correct"]


def test_every_benchmark_has_an_id_and_rows():
    assert set(ROWS) == set(DATASETS) == set(axpo_env.IDS.values())


@pytest.mark.parametrize("benchmark", NINE)
def test_a_folder_loads_renders_and_grades(tmp_path, benchmark):
    env = make(benchmark, folder_of(benchmark, tmp_path))
    answers = ROWS[benchmark][2]
    assert env.num_tasks == len(answers)
    for index, answer in enumerate(answers):
        observation, info = env.reset(options={"index": index})
        assert observation in env.observation_space and observation["text"] == env.task.question
        assert env.task.references[0] == answer
        assert all(image.shape == (30, 40, 3) for image in observation["images"])
        reward, end = run_episode(env, OraclePolicy(env.task), info)
        assert (reward, end["grade"]["correct"], end["grade"]["strict"]) == (1.0, True, True)
        _, info = env.reset(options={"index": index})
        reward, end = run_episode(env, BlankPolicy(), info)
        assert (reward, end["grade"]["correct"], end["grade"]["score"]) == (0.0, False, 0.0)
    env.close()


@pytest.mark.parametrize("benchmark", NINE)
def test_the_hub_reader_gives_the_same_tasks(tmp_path, monkeypatch, benchmark):
    datasets, hub = pytest.importorskip("datasets"), pytest.importorskip("huggingface_hub")
    folder = folder_of(benchmark, tmp_path)
    asked = []

    def load_dataset(name, *config, split):
        asked.append((name, *config, split))
        path = str(folder / ROWS[benchmark][0])
        return datasets.Dataset.from_parquet(path, cache_dir=str(tmp_path / "cache"), keep_in_memory=True)

    def hf_hub_download(name, path, repo_type):
        asked.append((name, path, repo_type))
        if not (folder / path).is_file():
            raise hub.errors.EntryNotFoundError(path)
        return str(folder / path)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(hub, "hf_hub_download", hf_hub_download)
    there, here = make(benchmark, "hub").source, make(benchmark, folder).source
    assert there.num_tasks == here.num_tasks
    for index in reversed(range(here.num_tasks)):
        one, other = there.get(index), here.get(index)
        assert (one.id, one.question, one.references) == (other.id, other.question, other.references)
        assert one.details == other.details
        assert len(one.images) == len(other.images)
        assert all(map(np.array_equal, one.images, other.images))
    assert (
        asked[0]
        == {
            "mathvision": ("MathLLMs/MathVision", "testmini"),
            "dynamath": ("DynaMath/DynaMath_Sample", "sample_variant1"),
            "mathvr": ("gogoduan/Math-VR-bench", "test"),
            "vstar": ("craigwu/vstar_bench", "test_questions.jsonl", "dataset"),
            "visualprobe": ("Mini-o3/VisualProbe_Hard", "val.json", "dataset"),
            "hrbench4k": ("DreamMr/HR-Bench", "hrbench_version_split", "hrbench_4k"),
            "hrbench8k": ("DreamMr/HR-Bench", "hrbench_version_split", "hrbench_8k"),
            "hrmmsearch": ("sensenova/HR-MMSearch", "train"),
            "mmsearch": ("CaraJ/MMSearch", "end2end", "end2end"),
        }[benchmark]
    )


@pytest.mark.parametrize("benchmark", list(ROWS))
def test_the_contract_holds_on_rows(tmp_path, benchmark):
    keywords = {"split": "test", "source": str(folder_of(benchmark, tmp_path)), "tools": ZOOM}
    failed = [
        item for item in contract.run_checks(contract.make_env(ENV_IDS[benchmark], keywords)) if item.error
    ]
    assert failed == []


# The field to spoil in the default variant's first row, and what is said about it.
BAD = [
    (
        "mathvision",
        {"answer": "F", "options": list("ABCDE")},
        "field 'answer': 'F' is no letter of 5 options",
    ),
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
    name, rows, _ = ROWS[benchmark]
    spoiled = {**rows[0], **changes}
    folder = folder_of(benchmark, tmp_path)
    if name.endswith("parquet"):
        folder = folder_of(benchmark, tmp_path, [spoiled])
    else:  # the pictures are there already
        (folder / name).write_text(json.dumps([spoiled]) if name.endswith("json") else json.dumps(spoiled))
    env = make(benchmark, folder)
    with pytest.raises(BadRow, match=f"^{env.source.tables[0].hub_name} .*, row 0, .*{message}"):
        env.reset(options={"index": 0})


@pytest.mark.parametrize("benchmark", NINE)
def test_a_missing_column_is_named(tmp_path, benchmark):
    name, rows, _ = ROWS[benchmark]
    column = {"vstar": "label", "visualprobe": "solution", "mathvr": "answers"}.get(
        benchmark, list(rows[0])[1]
    )
    short = [{key: value for key, value in row.items() if key != column} for row in rows]
    folder = folder_of(benchmark, tmp_path)
    if name.endswith("parquet"):
        folder = folder_of(benchmark, tmp_path, short)
    else:
        (folder / name).write_text(
            json.dumps(short) if name.endswith("json") else "\n".join(map(json.dumps, short))
        )
    with pytest.raises(BadRow, match=f"row 0, field '{column}': missing; there are "):
        make(benchmark, folder).reset(options={"index": 0})


def test_a_split_or_table_that_is_not_there_is_named(tmp_path):
    folder = folder_of("mathvision", tmp_path)
    with pytest.raises(ValueError, match="MathVision has no train split; it has: test"):
        make("mathvision", folder, split="train")
    with pytest.raises(
        FileNotFoundError, match=r"no test.parquet .*; there: data/testmini-00000-of-00001.parquet"
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


def test_options_stand_under_the_question_and_figures_keep_numbers_that_are_needed(tmp_path):
    source = make("mathvision", folder_of("mathvision", tmp_path)).source
    assert source.get(0).question == "How many dots?"
    assert source.get(1).question == (
        "Which side?\n<image1>\n<image2>\n(A) $\\frac{1}{2}$\n(B) 2\n(C) red\n(D) blue\n(E) green\n"
        "Answer with the letter of the right option."
    )
    env = make("mathvision", tmp_path / "mathvision")
    assert [score(env, 1, answer) for answer in ("0.5", "(a)", "B", "A or B")] == [(1.0, True)] * 2 + [
        (0.0, False)
    ] * 2


def test_mathvr_counts_figures_as_the_environment_does_and_is_all_or_nothing(tmp_path):
    env = make("mathvr", folder_of("mathvr", tmp_path))
    task = env.source.get(0)
    assert task.question == (
        "See (image 1) and (image 0). (1) f(x)? (2) AB?\nGive all 2 answers in order, separated by semicolons."
    )
    assert [int(image[0, 0, 0]) for image in task.images] == [1, 2]
    assert score(env, 0, r"(1) 1 + 2x; (2) 2\sqrt{3}") == (1.0, True)
    for wrong in (r"1+2x; 3", r"2\sqrt{3}; 1+2x", "2x+1", r"2x+1; \sqrt{12}; 5"):
        assert score(env, 0, wrong) == (0.0, False)
    assert make("mathvr", tmp_path / "mathvr", variant="text").num_tasks == 1
    alone, _ = make("mathvr", tmp_path / "mathvr", variant="text").reset()
    assert alone["images"] == ()
    assert make("mathvr", tmp_path / "mathvr", variant="all").num_tasks == 3


def test_dynamath_in_all_variants_and_its_two_numbers(tmp_path):
    for variant in range(1, 11):
        write(tmp_path / f"sample_variant{variant}.parquet", dynamath(variant))
    env = make("dynamath", tmp_path, variant="all")
    assert env.num_tasks == 30
    assert [env.source.get(index).references for index in (0, 3, 29)] == [("3.0944",), ("4.0944",), ("Sep",)]
    assert make("dynamath", tmp_path, variant="variant7").source.get(0).references == ("9.0944",)
    results = []
    for index in range(env.num_tasks):
        task = env.source.get(index)
        answer = {"float": task.references[0], "multiple choice": "A", "text": "Sep"}[
            task.details["answer_type"]
        ]
        results.append((task.details["seed_question"], task.grade(answer).correct))
    assert average_and_worst(results) == (25 / 30, 2 / 3)
    assert average_and_worst([("1", True), ("1", None), ("2", False)]) == (0.5, 0.5)
    with pytest.raises(ValueError, match="no graded results"):
        average_and_worst([("1", None)])
    write(tmp_path / "sample_variant3.parquet", [{**dynamath(3)[0], "ground_truth": "x"}, *dynamath(3)[1:]])
    with pytest.raises(BadRow, match="sample_variant3, row 0, field 'ground_truth'"):
        make("dynamath", tmp_path, variant="all").source.get(6)


def test_environments_share_a_table_and_its_images_until_the_file_changes(tmp_path):
    folder = folder_of("mathvision", tmp_path)
    name, rows, _ = ROWS["mathvision"]
    source = make("mathvision", folder).source
    assert make("mathvision", folder).source is source
    assert source.get(0) is source.get(0)
    write(folder / name, rows[1:])
    changed = make("mathvision", folder).source
    assert changed is not source
    assert changed.get(0).question == source.get(1).question != source.get(0).question


def test_hrbench_in_one_cycle_or_four(tmp_path):
    folder = folder_of("hrbench8k", tmp_path)
    one, four = (make("hrbench8k", folder, variant=name).source for name in ("one_cycle", "four_cycles"))
    assert (one.num_tasks, four.num_tasks) == (2, 8)
    assert [one.get(index).details["cycle"] for index in range(2)] == ["0", "0"]
    right = {
        four.get(index).question.splitlines()[1 + "ABCD".index(four.get(index).references[0])][4:]
        for index in range(4)
    }
    assert right == {"red"}  # the same option, wherever it stands


def test_vstar_by_category_and_mmsearch_with_images(tmp_path):
    folder = folder_of("vstar", tmp_path)
    source = make("vstar", folder, variant="direct_attributes").source
    assert [source.get(index).details["id"] for index in range(source.num_tasks)] == ["0", "2"]
    shutil.rmtree(folder / "direct_attributes")
    with pytest.raises(BadRow, match=r"row 2, field 'image': no file 'direct_attributes/2\.jpg'"):
        make("vstar", folder).source.get(2)
    source = make("mmsearch", folder_of("mmsearch", tmp_path), variant="with_image").source
    assert [source.get(index).details["id"] for index in range(source.num_tasks)] == ["0", "2"]


def test_mmsearch_takes_aliases_and_gives_f1_as_the_score(tmp_path):
    env = make("mmsearch", folder_of("mmsearch", tmp_path))
    assert score(env, 0, "July 12, 2024") == (1.0, True)
    assert score(env, 0, "on 12 July 2024") == (1.0, True)
    assert score(env, 0, "13 July 2024") == (0.0, False)
    grade = env.task.grade("13 July 2024")
    assert grade.score == pytest.approx(2 / 3) and grade.correct is False
    assert env.task.grade("12 July 2024, in the evening").score == pytest.approx(2 * 3 / (3 + 6 - 1))


def test_what_only_a_judge_could_grade_is_ungraded_and_says_so(tmp_path):
    env = make("visualprobe", folder_of("visualprobe", tmp_path))
    assert score(env, 0, "The number is 29.") == (1.0, True)
    assert score(env, 0, "28") == (0.0, False)
    assert score(env, 1, "the fox") == (1.0, True)
    assert score(env, 1, "a pub called Fox") == (0.0, None)
    assert (env.state.stop_reason, env.state.grade.score, env.state.grade.strict) == ("answer", None, False)
    _, info = env.reset(options={"index": 1})
    for _ in range(3):
        _, reward, _, truncated, info = env.step("hm")
    assert (reward, truncated, info["grade"]["correct"]) == (0.0, True, False)  # never answered: wrong


def test_visualprobe_trains_on_its_own_set(tmp_path):
    write(tmp_path / "train.json", VISUALPROBE)
    source = make("visualprobe", tmp_path, split="train").source
    assert (source.num_tasks, source.tables[0].hub_name) == (2, "Mini-o3/VisualProbe_train")
    easy = make("visualprobe", folder_of("visualprobe", tmp_path), variant="easy").source
    assert (easy.tables[0].hub_name, easy.get(0).id) == (
        "Mini-o3/VisualProbe_Easy",
        "visualprobe/easy/test/0",
    )


@pytest.mark.parametrize(
    ("benchmark", "folder", "num_tasks"),
    [("mathvision", "MathLLMs--MathVision", 304), ("dynamath", "DynaMath--DynaMath_Sample", 501)],
)
def test_oracle_blank_and_wrong_on_the_real_rows(shared_data, benchmark, folder, num_tasks):
    env = make(benchmark, shared_data / folder, max_pixels=64 * 64)
    assert env.num_tasks == num_tasks
    totals = {"oracle": 0.0, "strict": 0, "blank": 0.0, "wrong": 0.0, "ungraded": 0}
    for index in range(num_tasks):
        observation, info = env.reset(options={"index": index})
        assert len(observation["images"]) == 1 and observation["text"].strip()
        start, task = env.snapshot(), env.task
        reward, end = run_episode(env, OraclePolicy(task), info)
        totals["oracle"] += reward
        totals["strict"] += end["grade"]["strict"]
        wrong = "B" if task.references == ("A",) else "A" if task.references[0] in "BCDEFGH" else "-987654.25"
        for name, answer in (("blank", "-"), ("wrong", wrong)):
            env.restore(start)
            _, reward, _, _, info = env.step(format_action("", format_answer(answer)))
            totals[name] += reward
            totals["ungraded"] += info["grade"]["correct"] is None
    print(f"{benchmark}: {num_tasks} rows, {totals}")
    assert totals == {"oracle": num_tasks, "strict": num_tasks, "blank": 0.0, "wrong": 0.0, "ungraded": 0}
