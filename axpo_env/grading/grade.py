"""`Grade`, the verdict on one episode's answer, and how it is put together."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Grade:
    """The verdict on one episode's answer."""

    correct: bool | None  # by the benchmark's metric, the reward; None: ungraded, only a judge could tell
    strict: bool  # by the exact metric
    answer: str | None  # what was extracted; None if the policy never answered
    reference: tuple[str, ...]  # any of these is right
    score: float | None = (
        None  # 0-1, the metric's own value, token F1 even of an ungraded answer; else None there
    )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def make_grade(
    answer: str | None,
    references: Sequence[str],
    *,
    correct: bool | None,
    strict: bool = False,
    score: float | None = None,
) -> Grade:
    """A grade; never having answered is wrong by any metric. `score` is 1 or 0 unless given.

    `references` is what any right answer may be compared with, at least one.
    """
    assert references, "grading needs at least one reference"
    if answer is None:
        correct, strict, score = False, False, 0.0
    if score is None and correct is not None:
        score = float(correct)
    return Grade(
        correct=correct,
        strict=strict and correct is not None,
        answer=answer,
        reference=tuple(references),
        score=score,
    )
