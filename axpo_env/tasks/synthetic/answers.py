"""How generated tasks grade: equality, a tolerance where a result is rounded, and all parts or nothing.

Finding the answer in a policy's text is left to `axpo_env.grading`.
"""

import re
from collections.abc import Callable, Sequence

from axpo_env.grading import Grade, strict_match, to_number

Grader = Callable[[str | None, Sequence[str]], Grade]


def grade_exact(answer: str | None, references: Sequence[str]) -> Grade:
    """Right if equal to any of `references`: as a number, or as text without case. No answer is wrong."""
    right = answer is not None and any(strict_match(answer, reference) for reference in references)
    return Grade(correct=right, strict=right, answer=answer, reference=tuple(references))


def grade_within(tolerance: float) -> Grader:
    """A grader that lets numbers differ by `tolerance` (absolute): the last digit asked for may be cut off."""

    def grade(answer: str | None, references: Sequence[str]) -> Grade:
        near = answer is not None and any(_near(answer, reference, tolerance) for reference in references)
        strict = grade_exact(answer, references).strict
        return Grade(correct=near or strict, strict=strict, answer=answer, reference=tuple(references))

    return grade


def grade_parts(tolerance: float) -> Grader:
    """A grader of answers "(1) 4.5; (2) 17": right if every part is within `tolerance`, in order.

    The numbers in brackets may be left out; parts are separated by ";" or line ends.
    """

    def grade(answer: str | None, references: Sequence[str]) -> Grade:
        def all_match(match: Callable[[str, str], bool]) -> bool:
            return answer is not None and any(
                len(_parts(answer)) == len(_parts(reference))
                and all(match(a, b) for a, b in zip(_parts(answer), _parts(reference), strict=True))
                for reference in references
            )

        strict = all_match(strict_match)
        correct = strict or all_match(lambda a, b: _near(a, b, tolerance))
        return Grade(correct=correct, strict=strict, answer=answer, reference=tuple(references))

    return grade


def _parts(text: str) -> list[str]:
    parts = [re.sub(r"^\s*\(\d\)", "", part).strip() for part in re.split(r"[;\n]", text)]
    return [part for part in parts if part]


def _near(answer: str, reference: str, tolerance: float) -> bool:
    given, wanted = to_number(answer), to_number(reference)
    # The small slack keeps a difference of exactly the tolerance inside despite rounding.
    return given is not None and wanted is not None and abs(given - wanted) <= tolerance * (1 + 1e-6)
