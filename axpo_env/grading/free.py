"""Free answers that the benchmark lets a judge compare: what rules can settle is settled, the judge does the rest.

Without a judge, what rules cannot settle is ungraded.
"""

import dataclasses
import re
from collections.abc import Sequence

from axpo_env.grading.extract import final_phrase, innermost, unwrap
from axpo_env.grading.grade import Grade, make_grade
from axpo_env.grading.judge import Judge
from axpo_env.grading.maths import is_maths, maths_match
from axpo_env.grading.numeric import number_match, read_quantity
from axpo_env.grading.text import best_f1, exact_match, normalize, readings

# "(1) 5", "2. x", "(ii) y" at the start of a part; a bare number is the part itself.
_LABEL = re.compile(
    r"^\s*(?:\((?:\d{1,2}|[ivx]{1,4}|[a-h])\)|(?:\d{1,2}|[ivx]{1,4}|[a-h])[.)]\s|part\s+\w+\s*:)\s*",
    re.IGNORECASE,
)
_BETWEEN_PARTS = re.compile(r"\s*[;；\n]\s*")


def grade_free(
    answer: str | None, references: Sequence[str], *, question: str, judge: Judge | None = None
) -> Grade:
    """Right if equal to a reference after normalising, wrong if both are numbers that differ; else the judge's."""
    if answer is None:
        return make_grade(None, references, correct=False)
    exact = exact_match(answer, references)
    correct: bool | None = exact or _by_number(answer, references)
    if not readings(answer):
        correct = False  # nothing but punctuation
    if correct is None and judge is not None:
        correct = judge.verdict(question, references, answer)
    return make_grade(answer, references, correct=correct, strict=exact)


def grade_f1(
    answer: str | None, references: Sequence[str], *, question: str, judge: Judge | None = None
) -> Grade:
    """`grade_free` whose `score` is the best token F1 with a reference, also where the answer is ungraded.

    F1 is a published metric, but no verdict: "not guilty" shares most of its words with "guilty", "USA" none with
    "United States of America". So it never makes an answer right or wrong.
    """
    grade = grade_free(answer, references, question=question, judge=judge)
    if answer is None:
        return grade
    return dataclasses.replace(grade, score=1.0 if grade.strict else best_f1(answer, references))


def _by_number(answer: str, references: Sequence[str]) -> bool | None:
    """Equality where the answer and all references are numbers, else None; also if they have different units."""
    inner = unwrap(innermost(answer))
    said, unit = max(map(read_quantity, (inner, final_phrase(inner) or "")), key=lambda found: len(found[0]))
    wanted = [read_quantity(reference) for reference in references]
    if not said or not all(values for values, _ in wanted):
        return None
    if any(unit and other and normalize(unit) != normalize(other) for _, other in wanted):
        return None  # "5 km" may be 5000 m
    return any(number_match(answer, reference, tolerance=0.0) for reference in references)


def grade_parts(
    answer: str | None,
    references: Sequence[str],
    *,
    parts: Sequence[str],
    question: str,
    judge: Judge | None = None,
) -> Grade:
    """All or nothing over the parts of an answer, separated by semicolons or lines, each compared as mathematics.

    `parts` are the right answers, `references` how they are shown. Rules that find every part right decide; else
    the judge, if there is one; else a part that is clearly wrong or missing makes all wrong, and one that rules
    cannot tell leaves all ungraded.
    """
    if answer is None:
        return make_grade(None, references, correct=False)
    said = split_parts(answer, len(parts))
    verdicts = [maths_match(part, reference) for part, reference in zip(said, parts, strict=False)]
    complete = len(said) == len(parts)
    correct: bool | None = complete and all(verdicts)
    if not correct and not readings(answer):
        return make_grade(answer, references, correct=False)
    if not correct:
        if judge is not None:
            correct = judge.verdict(question, references, answer)
        elif False in verdicts or (not complete and all(map(is_maths, parts))):
            correct = False
        else:
            correct = None
    strict = complete and all(
        exact_match(part, (reference,)) for part, reference in zip(said, parts, strict=True)
    )
    return make_grade(answer, references, correct=correct, strict=strict)


def split_parts(answer: str, count: int) -> list[str]:
    """The parts of an answer to a question of `count` parts, without their labels; one part is not split."""
    inner = innermost(answer)
    if count == 1:
        return [inner]
    texts = [_LABEL.sub("", text, count=1).strip() for text in _BETWEEN_PARTS.split(inner)]
    return [text for text in texts if text]
