"""The nine data sets beside ChartQA: real rows where they are at hand, small ones of the same schema for all."""

import shutil

import gymnasium as gym
import numpy as np
import pytest
from dataset_rows import ENV_IDS, NINE, ROWS, VISUALPROBE, VSTAR, ZOOM, dynamath, folder_of, make, write

import axpo_env
from axpo_env import contract
from axpo_env.messages import format_action, format_answer
from axpo_env.scripted import BlankPolicy, OraclePolicy, run_episode
from axpo_env.tasks import DATASETS
from axpo_env.tasks.datasets.dynamath import average_and_worst
from axpo_env.tasks.datasets.fields import BadRow


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


@pytest.mark.parametrize(
    "benchmark",
    [
        pytest.param(benchmark, marks=() if benchmark in ("chartqa", "mmsearch") else pytest.mark.slow)
        for benchmark in ROWS
    ],
)
def test_the_contract_holds_on_rows(tmp_path, benchmark):
    keywords = {"split": "test", "source": str(folder_of(benchmark, tmp_path)), "tools": ZOOM}
    failed = [
        item for item in contract.run_checks(contract.make_env(ENV_IDS[benchmark], keywords)) if item.error
    ]
    assert failed == []


@pytest.mark.parametrize("benchmark", list(ROWS))
def test_the_split_is_train_or_else_the_only_one(tmp_path, benchmark):
    folder = folder_of(benchmark, tmp_path)
    if benchmark in ("chartqa", "visualprobe"):  # they have one to train on, which is not in the folder
        with pytest.raises(FileNotFoundError, match=r"no .*train"):
            gym.make(ENV_IDS[benchmark], source=str(folder), tools=ZOOM)
        return
    env = gym.make(ENV_IDS[benchmark], source=str(folder), tools=ZOOM).unwrapped
    assert (env.config.split, env.reset(seed=1)[1]["task"]["split"]) == ("test", "test")


def test_a_folder_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.json").write_text("[]")
    for source, error, message in (
        ("rows", ValueError, "unknown source 'rows'.*none is called so"),
        ("data/rows", FileNotFoundError, "no folder data/rows"),
        (str(tmp_path / "rows.json"), NotADirectoryError, "is a file"),
        ("rows.json", NotADirectoryError, "is a file"),
    ):
        with pytest.raises(error, match=message):
            gym.make(ENV_IDS["dynamath"], source=source)


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
    with pytest.raises(BadRow, match=r"sample_variant3\.parquet, row 0, field 'ground_truth'"):
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
    assert [one.get(index).details["cycle"] for index in range(2)] == ["0", "1"]
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


def test_a_text_may_hold_any_sign_that_ends_a_line(tmp_path):
    text = VSTAR[0]["text"].replace("glove's", "glove's\u2028\x85")
    assert (
        make("vstar", folder_of("vstar", tmp_path, [{**VSTAR[0], "text": text}])).source.get(0).question
        == text
    )


def test_mmsearch_takes_aliases_and_gives_f1_as_the_score(tmp_path):
    env = make("mmsearch", folder_of("mmsearch", tmp_path))
    assert score(env, 0, "July 12, 2024") == (1.0, True)
    assert score(env, 0, "on 12 July 2024") == (0.0, None)  # only a judge could tell
    assert score(env, 0, "13 July 2024") == (0.0, None)
    grade = env.task.grade("13 July 2024")
    assert grade.score == pytest.approx(2 / 3) and grade.strict is False
    blank = env.task.grade(None)
    assert (blank.correct, blank.score) == (False, 0.0)
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
