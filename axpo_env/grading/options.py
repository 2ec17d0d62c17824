"""The options of a multiple-choice question, as its text lists them, and how they are shown under it."""

import re
from collections.abc import Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LISTED = re.compile(r"(?<!\w)\(([A-Z])\)\s*|^([A-Z])\s*[.:)]\s+", re.MULTILINE)


def listed_options(question: str) -> list[str]:
    """The options that a question lists itself, "(A) red (B) green" or a line each; [] if it lists none.

    Their letters must run from A without a gap, else nothing is taken for an option.
    """
    marks = list(_LISTED.finditer(question))
    while marks and (marks[0].group(1) or marks[0].group(2)) != "A":
        marks.pop(0)
    letters = [mark.group(1) or mark.group(2) for mark in marks]
    if len(letters) < 2 or letters != list(LETTERS[: len(letters)]):
        return []
    ends = [mark.start() for mark in marks[1:]] + [len(question)]
    texts = [question[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True)]
    texts[-1] = texts[-1].split("\n")[0].strip()  # an instruction may follow
    return texts


def show_options(question: str, options: Sequence[str]) -> str:
    """The question with its options under it, and how to answer."""
    lines = [f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([question.strip(), *lines, "Answer with the letter of the right option."])
