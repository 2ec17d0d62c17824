"""What the best constant answer scores: on real rows, on HR-Bench's cycles, with judges and endless sources."""

import base64
import functools

import pytest
from dataset_rows import HRBENCH, MMSEARCH, ROWS, folder_of, make, png, write_table

from axpo_env.contract import check_constants, make_env
from axpo_env.grading.judge import Judge
from axpo_env.tasks.base import Task
from axpo_env.tasks.constant import MAX_TASKS, ConstantAnswer, best_constant_answer, best_constant_letter

IMAGE = base64.b64encode(png(0)).decode()
COLOURS = ["red", "green", "blue", "grey"]


def hrbench_rows(num_questions, *, by_cycle=False):
    """As the real table: within a cycle the right letter is the same for all questions."""
    rows = []
    for number in range(num_questions):
        for cycle in range(4):
            options = COLOURS[-cycle:] + COLOURS[:-cycle] if cycle else COLOURS
            rows.append(
                {
                    **HRBENCH[0],
                    "index": len(rows),
                    "question": f"What colour is sign {number}?",
                    "answer": "ABCD"[cycle],
                    **dict(zip("ABCD", options, strict=True)),
                    "cycle_category": str(cycle),
                    "D": options[3] + " " * cycle,  # as tables are
                    "image": IMAGE,
                }
            )
    return sorted(rows, key=lambda row: row["cycle_category"]) if by_cycle else rows


@pytest.mark.parametrize("by_cycle", [False, True])
@pytest.mark.parametrize("benchmark", ["hrbench4k", "hrbench8k"])
def test_no_letter_is_right_for_most_of_hrbench(tmp_path, benchmark, by_cycle):
    write_table(tmp_path / ROWS[benchmark][0], hrbench_rows(200, by_cycle=by_cycle))
    env = make(benchmark, tmp_path)
    assert env.num_tasks == 200
    questions = [env.source.get(index).question.splitlines()[0] for index in range(200)]
    assert questions == [f"What colour is sign {number}?" for number in range(200)]  # each once
    assert [env.source.get(index).references[0] for index in range(8)] == list("ABCDABCD")
    assert best_constant_answer(env) == ("A", 0.25)
    number, chance, best = best_constant_letter(env.source)
    assert (number, chance, best) == (200, 0.25, ("A", 0.25))
    check_constants(lambda: make(benchmark, tmp_path))


def test_one_cycle_of_hrbench_alone_is_found_out(tmp_path):
    rows = [row for row in hrbench_rows(100) if row["cycle_category"] == "0"]
    write_table(tmp_path / "hrbench_4k.parquet", rows)
    env = make("hrbench4k", tmp_path)
    assert env.num_tasks == 100 and best_constant_answer(env) == ("A", 1.0)
    with pytest.raises(AssertionError, match=r"'A' is right for 1.00 of 100 multiple-choice questions"):
        check_constants(lambda: make("hrbench4k", tmp_path))


def test_questions_of_the_same_words_are_told_apart_by_their_order(tmp_path):
    rows = [{**row, "question": "What colour is it?"} for row in hrbench_rows(8)]
    write_table(tmp_path / "hrbench_4k.parquet", rows)
    source = make("hrbench4k", tmp_path).source
    assert [source.get(index).details["id"] for index in range(8)] == [
        "0",
        "5",
        "10",
        "15",
        "16",
        "21",
        "26",
        "31",
    ]


@pytest.mark.parametrize(
    ("benchmark", "folder", "least", "most"),
    [
        ("chartqa", "HuggingFaceM4--ChartQA", 0.03, 0.1),
        ("mathvision", "MathLLMs--MathVision", 0.1, 0.25),
        ("dynamath", "DynaMath--DynaMath_Sample", 0.1, 0.25),
    ],
)
def test_no_constant_is_good_on_real_rows(shared_data, benchmark, folder, least, most):
    answer, score = best_constant_answer(make(benchmark, shared_data / folder), 100)
    assert answer and least <= score <= most


@pytest.mark.parametrize(
    ("benchmark", "folder", "choices"),
    [
        ("mathvision", "MathLLMs--MathVision", (185, "A", 42)),  # five more have options such as "(A) (A)"
        ("dynamath", "DynaMath--DynaMath_Sample", (174, "B", 72)),
    ],
)
def test_letters_of_the_real_choice_questions(shared_data, benchmark, folder, choices):
    env = make(benchmark, shared_data / folder)
    number, chance, best = best_constant_letter(env, 1000)
    assert (number, best.answer, round(best.score * number)) == choices
    check_constants(lambda: env)
    assert chance == pytest.approx(0.2 if benchmark == "mathvision" else 0.3505, abs=0.0001)


class Answers:
    """Tasks without images, whose answers are given."""

    def __init__(self, answers, num_tasks=None, grader=None):
        self.answers, self.num_tasks = answers, len(answers) if num_tasks is None else num_tasks
        self.keywords = {} if grader is None else {"grader": grader}
        self.asked = []

    def get(self, index):
        self.asked.append(index)
        reference = self.answers[index % len(self.answers)]
        return Task(
            id=str(index),
            index=index,
            split="test",
            source="answers",
            question="?",
            images=(),
            references=(reference,),
            **self.keywords,
        )


def test_what_is_tried():
    assert best_constant_answer(Answers(["x", "7", "7", "9"])) == ("7", 0.5)
    assert best_constant_answer(Answers(["100", "104", "108"])) == ("104", 1.0)  # within 5 % of all three
    assert best_constant_answer(Answers(["x", "y"]), [1]) == ConstantAnswer("y", 1.0)
    always = functools.partial(lambda right, answer, references: grade(answer == right), "-")
    assert best_constant_answer(Answers(["x"], grader=always)) == ("-", 1.0)
    letter = functools.partial(lambda right, answer, references: grade(answer == right), "E")
    assert best_constant_answer(Answers(["x"], grader=letter)) == ("E", 1.0)
    assert best_constant_letter(Answers(["A", "B"])) is None  # no options in the question


def grade(correct):
    from axpo_env.grading import make_grade

    return make_grade("", [""], correct=correct)


def test_an_endless_source_is_sampled_by_chance_and_always_alike():
    source = Answers(["A", "B", "C", "D"], num_tasks=2**40)
    answer, score = best_constant_answer(source)
    assert len(source.asked) == len(set(source.asked)) == MAX_TASKS
    assert {index % 4 for index in source.asked} == {0, 1, 2, 3} and score < 0.35
    again = Answers(["A", "B", "C", "D"], num_tasks=2**40)
    assert best_constant_answer(again) == (answer, score) and again.asked == source.asked
    for nothing in (0, []):
        with pytest.raises(ValueError, match="at least one task"):
            best_constant_answer(source, nothing)


def test_no_judge_is_asked(tmp_path, monkeypatch):
    folder = folder_of("mmsearch", tmp_path, [{**row, "query_image": None} for row in MMSEARCH])
    monkeypatch.setattr(Judge, "verdict", lambda *given: pytest.fail("a judge was asked"))
    env = make("mmsearch", folder, judge={"url": "http://127.0.0.1:9/v1", "model": "m"})
    assert best_constant_answer(env) == ("12 July 2024", 1.0)


def test_the_contract_knows_free_answers_from_choices():
    check_constants(make_env("AXPO/ChartQA-Tools-v0", {"difficulty": "nano", "tools": ("image_zoom_in",)}))
