"""How generated tasks grade: equality, a tolerance where a result is rounded, all parts or nothing, a choice.

Every verdict is by rule; reading numbers, names and letters out of what was written is left to `axpo_env.grading`.
"""

import functools
from collections.abc import Sequence

from axpo_env.grading import Grade
from axpo_env.grading.choice import grade_letter
from axpo_env.grading.free import split_parts
from axpo_env.grading.grade import make_grade
from axpo_env.grading.numeric import number_match
from axpo_env.grading.text import exact_match
from axpo_env.tasks.base import Grader


def grade_exact(answer: str | None, references: Sequence[str]) -> Grade:
    """Right if equal to any of `references`: as a number, or as text (case aside). No answer is wrong."""
    right = answer is not None and (
        exact_match(answer, references)
        or any(number_match(answer, reference, tolerance=0.0) for reference in references)
    )
    return make_grade(answer, references, correct=right, strict=right)


def grade_within(tolerance: float) -> Grader:
    """A grader that lets numbers differ by `tolerance` (absolute): the last digit asked for may be cut off."""

    def grade(answer: str | None, references: Sequence[str]) -> Grade:
        near = answer is not None and any(
            number_match(answer, reference, tolerance=tolerance) for reference in references
        )
        return make_grade(answer, references, correct=near, strict=grade_exact(answer, references).strict)

    return grade


def grade_parts(tolerance: float) -> Grader:
    """A grader of answers "(1) 4.5; (2) 17": right if every part is within `tolerance`, in order.

    The numbers in brackets may be left out; parts are separated by ";" or line ends.
    """

    def grade(answer: str | None, references: Sequence[str]) -> Grade:
        def all_within(slack: float) -> bool:
            return answer is not None and any(
                _all_match(answer, reference, slack) for reference in references
            )

        return make_grade(answer, references, correct=all_within(tolerance), strict=all_within(0.0))

    return grade


def grade_option(options: Sequence[str]) -> Grader:
    """A grader of multiple choice; the first reference is the right letter. The option's text will do, too."""
    return functools.partial(grade_letter, options=tuple(options))


def _all_match(answer: str, reference: str, tolerance: float) -> bool:
    count = reference.count(";") + 1
    wanted, said = split_parts(reference, count), split_parts(answer, count)
    return len(said) == count and all(
        number_match(part, right, tolerance=tolerance) for part, right in zip(said, wanted, strict=True)
    )
