"""The score of a policy that always gives the same answer: far above chance, the tasks or their grader are at fault.

How much is too much is left to the callers; `contract` refuses letters that are right too often.
"""

import functools
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from axpo_env.grading.options import LETTERS, listed_options
from axpo_env.messages import format_action, format_answer, parse_action
from axpo_env.tasks.base import Grader, Task, TaskSource

MAX_TASKS = 200  # that are looked at, where a source has more
MAX_REFERENCES = 8  # that are tried, the most frequent ones: a grader of mathematics takes milliseconds
BLANK = "-"
NUM_LETTERS = 5  # A to E are tried


class ConstantAnswer(NamedTuple):
    """An answer, and the share of the tasks looked at, 0-1, that it is right for."""

    answer: str
    score: float


class Choices(NamedTuple):
    """The multiple-choice questions among the tasks looked at."""

    num_tasks: int
    chance: float
    """share that a guess at random is right for, 0-1"""
    best: ConstantAnswer
    """the best letter"""


def best_constant_answer(source: Any, tasks: int | Iterable[int] = MAX_TASKS) -> ConstantAnswer:
    """The best of the answers that ignore the question, and its score with the source's own graders.

    `source` is a task source or an unwrapped environment with one; `tasks` says how many are looked at (drawn with a
    fixed seed where there are more), or which. Tried are the most frequent references, the letters A to E and a
    dash; among equals the first of them in that order wins. What only a judge could grade counts as wrong; no
    judge is asked.

        >>> env = gym.make("AXPO/ChartQA-Tools-v0", source="data/chartqa", split="test").unwrapped
        >>> best_constant_answer(env)
        ConstantAnswer(answer='Yes', score=0.055)
    """
    looked_at = _look_at(source, tasks)
    return _best(looked_at, _candidates(looked_at))


def best_constant_letter(source: Any, tasks: int | Iterable[int] = MAX_TASKS) -> Choices | None:
    """As `best_constant_answer`, of letters and among the multiple-choice questions; None if there are none.

    A question is multiple choice if its text lists options and its references are letters of them.
    """
    choices = [task for task in _look_at(source, tasks) if task.num_options]
    if not choices:
        return None
    letters = LETTERS[: max(task.num_options for task in choices)]
    chance = sum(1 / task.num_options for task in choices) / len(choices)
    return Choices(len(choices), chance, _best(choices, letters))


class _Graded(NamedTuple):
    """What is kept of a task: not its images, which would fill the memory."""

    grader: Grader
    references: tuple[str, ...]
    num_options: int  # 0: no multiple choice


def _look_at(source: Any, tasks: int | Iterable[int]) -> list[_Graded]:
    source = source if hasattr(source, "get") else source.source
    indices = _draw(source, tasks) if isinstance(tasks, int) else list(tasks)
    if not indices:
        raise ValueError(f"tasks must be at least one task, not {tasks!r}")
    return [_keep(source.get(index)) for index in indices]


def _draw(source: TaskSource, count: int) -> Sequence[int]:
    """At random: every fourth task may be of one kind."""
    everything = range(source.num_tasks)
    if count >= len(everything):
        return everything
    return sorted(random.Random(0).sample(everything, max(count, 0)))


def _keep(task: Task) -> _Graded:
    letters = LETTERS[: len(listed_options(task.question))]
    is_choice = set(task.references) <= set(letters)
    return _Graded(_without_judge(task.grader), task.references, len(letters) if is_choice else 0)


def _without_judge(grader: Grader) -> Grader:
    if isinstance(grader, functools.partial) and grader.keywords.get("judge") is not None:
        return functools.partial(grader.func, *grader.args, **{**grader.keywords, "judge": None})
    return grader


def _candidates(tasks: Sequence[_Graded]) -> list[str]:
    counts = Counter(reference for task in tasks for reference in task.references)
    frequent = [reference for reference, _ in counts.most_common(MAX_REFERENCES)]
    return list(dict.fromkeys([*frequent, *LETTERS[:NUM_LETTERS], BLANK]))


def _best(tasks: Sequence[_Graded], candidates: Iterable[str]) -> ConstantAnswer:
    scored = []
    for candidate in candidates:
        answer = parse_action(format_action("", format_answer(candidate)), max_calls=1).answer
        right = sum(task.grader(answer, task.references).correct is True for task in tasks)
        scored.append(ConstantAnswer(candidate, right / len(tasks)))
    return max(scored, key=lambda one: one.score)  # the first of equals
