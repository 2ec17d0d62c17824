"""Free answers that the benchmark lets a judge compare: what rules can settle is settled, the judge does the rest.

Without a judge, what rules cannot settle is ungraded.
"""

import dataclasses
import re
from collections.abc import Sequence

from axpo_env.grading.extract import innermost, readings, unwrap
from axpo_env.grading.grade import Grade, make_grade
from axpo_env.grading.judge import Judge
from axpo_env.grading.maths import is_maths, maths_match
from axpo_env.grading.numeric import number_match, read_quantity
from axpo_env.grading.text import best_f1, exact_match, plain_readings, same_formula
from axpo_env.grading.units import is_known_unit, other_unit, read_compound, same_compound

# "(1) 5", "2. x", "(ii) y", "Part 1: z" at the start of a part; a bare number is the part itself.
_LABEL = re.compile(
    r"\s*(?:\((\d{1,2}|[ivx]{1,4}|[a-h])\)|(\d{1,2}|[ivx]{1,4}|[a-h])[.)](?=\s)|part\s+(\w+)\s*:)\s*",
    re.IGNORECASE,
)
_ORDER = {
    name: place
    for names in ("i ii iii iv v vi vii viii ix x", "a b c d e f g h")
    for place, name in enumerate(names.split(), 1)
}
_MONTHS = re.compile(
    r"\b(?:january|february|march|april|may|june|july|august|(?:septem|octo|novem|decem)ber)\b"
)
_BETWEEN_PARTS = re.compile(r"\s*[;；\n]\s*")
_BETWEEN_FEW = re.compile(r"\s*,\s+|\s+and\s+")


def grade_free(
    answer: str | None, references: Sequence[str], *, question: str, judge: Judge | None = None
) -> Grade:
    """Right if equal to a reference after normalising, wrong if both are numbers that differ; else the judge's."""
    if answer is None:
        return make_grade(None, references, correct=False)
    exact = exact_match(answer, references)
    correct: bool | None = exact or _by_number(answer, references)
    if not plain_readings(answer):
        correct = False  # nothing but punctuation
    if correct is None and judge is not None:
        correct = judge.verdict(question, references, answer)
    return make_grade(answer, references, correct=correct, strict=exact)


def grade_f1(
    answer: str | None, references: Sequence[str], *, question: str, judge: Judge | None = None
) -> Grade:
    """`grade_free` whose `score` is the best token F1 (SQuAD's) with a reference, also where the answer is ungraded.

    F1 is a published metric, but no verdict: "not guilty" shares most of its words with "guilty", "USA" none with
    "United States of America". So it never makes an answer right or wrong.
    """
    grade = grade_free(answer, references, question=question, judge=judge)
    if answer is None:
        return grade
    return dataclasses.replace(grade, score=best_f1(answer, references))


def _by_number(answer: str, references: Sequence[str]) -> bool | None:
    """Equality where the answer and all references are numbers and nothing else, else None.

    None, too, where both have units, and not the same: "5 km" may be 5000 m.
    """
    texts = readings(answer)
    if all(map(read_compound, references)):
        same = [same_compound(text, reference) for text in texts for reference in references]
        return True if True in same else (False if any(map(read_compound, texts)) else None)
    wanted = [_lone_number(reference) for reference in references]
    units = [read(text) for read in (_lone_number, _count) for text in texts]
    said = next((unit for unit in units if unit is not None), None)
    if said is None or None in wanted or any(other_unit(said, unit or "") for unit in wanted):
        return None
    return any(number_match(answer, reference, tolerance=0.0) for reference in references)


def _lone_number(text: str) -> str | None:
    """The unit of a number beside which nothing stands but a unit that is known, "" without one; else None.

    "45G1", "49ers", "1990s", "4K" and "12 Angry Men" are names that begin with a number.
    """
    values, unit = read_quantity(text)
    name = re.search(r"\d(?:s|[A-Z])$", unwrap(text)) is not None
    return unit if values and not name and (not unit or is_known_unit(unit)) else None


def _count(text: str) -> str | None:
    """What is counted in "29 apples" or "There are 6 dots", in lower case as no name is; None if that is not it."""
    values, unit = read_quantity(text)
    counted = re.fullmatch(r"[a-z]{3,}(?: [a-z]{3,}){0,2}", unit) is not None and not _MONTHS.search(unit)
    return unit if values and counted else None


def grade_parts(
    answer: str | None,
    references: Sequence[str],
    *,
    parts: Sequence[str],
    question: str,
    judge: Judge | None = None,
) -> Grade:
    """All or nothing over the parts of an answer (`split_parts`), each compared as mathematics.

    `parts` are the right answers, `references` how they are shown; labels, "(1)", count on neither side. Rules that
    find every part right decide; else the judge, if there is one; else a part that is clearly wrong or missing makes
    all wrong, and one that rules cannot tell leaves all ungraded.
    """
    if answer is None:
        return make_grade(None, references, correct=False)
    if any(same_formula(innermost(answer), text) for text in (*references, "; ".join(parts))):
        return make_grade(answer, references, correct=True, strict=True)
    if not plain_readings(answer):
        return make_grade(answer, references, correct=False)
    wanted, said = list(parts), split_parts(answer, len(parts))
    if len(said) != len(wanted):  # a part may hold a semicolon itself
        wanted = [piece for part in parts for piece in _pieces(part)]
        said = split_parts(answer, len(wanted))
    complete = len(said) == len(wanted)
    verdicts = [
        _same_part(part, right, place)
        for place, (part, right) in enumerate(zip(said, wanted, strict=False), 1)
    ]
    correct: bool | None = complete and all(verdicts)
    if not correct:
        if judge is not None:
            correct = judge.verdict(question, references, answer)
        elif False in verdicts or (not complete and all(map(is_maths, parts))):
            correct = False
        else:
            correct = None
    strict = complete and all(
        exact_match(part, (right, _unlabelled(right))) for part, right in zip(said, wanted, strict=True)
    )
    return make_grade(answer, references, correct=correct, strict=bool(correct) and strict)


def _same_part(said: str, wanted: str, place: int) -> bool | None:
    """`maths_match`, with or without the label that says that `wanted` is the part at `place`, from 1."""
    label = _LABEL.match(wanted)
    if label is not None:
        name = next(filter(None, label.groups())).lower()
        bare = wanted[label.end() :]
        if bare and (int(name) if name.isdecimal() else _ORDER.get(name, place)) == place:
            return maths_match(said, wanted) or maths_match(said, bare)
    return maths_match(said, wanted)


def split_parts(answer: str, count: int) -> list[str]:
    """The parts of an answer to a question of `count` parts, without their labels; one part is not split.

    Parts stand between semicolons or on lines of their own; where that does not make `count` of them, behind the
    labels (1) to (`count`), or between commas and "and".
    """
    inner = innermost(answer)
    if count == 1:
        return [inner]
    texts = _pieces(inner)
    for split in (_without_bare_labels, _at_labels, _BETWEEN_FEW.split):
        if len(texts) == count:
            break
        other = [text for text in split(inner) if text]
        texts = other if len(other) == count else texts
    return [_unlabelled(text) for text in texts]


def _pieces(text: str) -> list[str]:
    return [piece for piece in _BETWEEN_PARTS.split(text.strip()) if piece]


def _without_bare_labels(text: str) -> list[str]:
    return [piece for piece in _pieces(text) if not _LABEL.fullmatch(piece)]


def _at_labels(text: str) -> list[str]:
    """What stands behind (1), (2), ..., which come in this order, the first of them first."""
    marks = [mark for mark in re.finditer(r"(?:^|(?<=[\s,;]))\((\d{1,2})\)\s", text)]
    if (
        not marks
        or marks[0].start()
        or [int(mark.group(1)) for mark in marks] != list(range(1, len(marks) + 1))
    ):
        return []
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [text[mark.end() : end].strip(" ,;\n") for mark, end in zip(marks, ends, strict=True)]


def _unlabelled(text: str) -> str:
    """`text` without its label, unless it is nothing else."""
    return _LABEL.sub("", text, count=1) if (mark := _LABEL.match(text)) and mark.end() < len(text) else text
