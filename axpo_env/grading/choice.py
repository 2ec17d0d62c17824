r"""Multiple choice: which option an answer names. Never guesses: what names none, or two, is None.

The order: what stands in the answer tag, else in `\boxed{}`; there a letter; else what follows "answer is";
else the one option whose text it is; else a lone letter at the end; else the one option that is mentioned. The letters
shown with the question come before the options' texts, since options may be letters themselves.
"""

import re
from collections.abc import Callable, Sequence

from axpo_env.grading.extract import final_phrase, innermost, plain_latex, unwrap
from axpo_env.grading.grade import Grade, make_grade
from axpo_env.grading.text import normalize, squash

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_WORDS = r"(?:the\s+)?(?:correct\s+|right\s+|final\s+)?(?:option|choice|answer|letter)?\s*(?:is\s*)?"
_LONE = re.compile(_WORDS + r"[(\[{]*\s*([A-Za-z])\s*[)\]}.:,;]*", re.IGNORECASE)
_LABELLED = re.compile(
    _WORDS + r"(?:[(\[]([A-Za-z])[)\]]|([A-Za-z])\s*[).:])[\s:]*(.+)", re.IGNORECASE | re.DOTALL
)
_BESIDE = re.compile(r"([A-Z])\s+\(?(.+?)\)?", re.DOTALL)  # "B dark green", "B (dark green)"
_IS_RIGHT = re.compile(r"[(\[]?([A-Z])[)\]]? is (?:the )?(?:correct|right)(?: (?:answer|option|choice|one))?")
_LAST = re.compile(r"(?:^|[\s(\[*:])([A-Z])[)\]*.]*\s*$")
_DENIES = re.compile(
    r"\b(?:not|no|nor|neither|never|isn't|aren't|wasn't|don't|doesn't|except)\b|n't\b", re.IGNORECASE
)
_SENTENCES = re.compile(r"[.!?;\n]\s")
# A letter after one of these is one of several, or the one that it is not.
_HEDGE = re.compile(r"(?:\b(?:or|and|not|nor|versus|vs)|[,/&])\s*[(\[*]*$", re.IGNORECASE)
_LISTED = re.compile(r"(?<!\w)\(([A-Z])\)\s*|^([A-Z])\s*[.:)]\s+", re.MULTILINE)

Same = Callable[[str, str], bool]


def find_choice(text: str, options: Sequence[str], *, same: Same | None = None) -> str | None:
    """The letter of the option that `text` names, or None.

    `options` are the texts, first to last; the letters are A, B, ... in that order. `same(option, text)` may
    tell equal what is written differently (mathematics); exactly one option must then be the same.
    """
    letters = LETTERS[: len(options)]
    inner = unwrap(innermost(text))
    for candidate in (inner, final_phrase(inner)):
        if candidate is not None:
            found = _named(unwrap(candidate), options, letters)
            if found is not None:
                return found or None
    said = final_phrase(inner) or inner
    equal = _equal(said, options, letters)
    if equal:  # before the last letter: "A ∪ B" may be an option
        return equal[0] if len(equal) == 1 else None
    return _last_letter(inner, letters) or _by_text(said, options, letters, same)


def _named(text: str, options: Sequence[str], letters: str) -> str | None:
    """The letter in "B", "(b)", "Option B.", "B: its text"; "" where letter and text disagree, or letters do."""
    text = unwrap(plain_latex(text)).strip()
    lone = _LONE.fullmatch(text)
    if lone:
        letter = lone.group(1).upper()
        return letter if letter in letters else None
    right = _IS_RIGHT.fullmatch(text)
    if right:
        return right.group(1) if right.group(1) in letters else None
    beside = _BESIDE.fullmatch(text)
    meant = _equal(beside.group(2), options, letters) if beside else []
    if beside and meant:
        return beside.group(1) if beside.group(1) in meant else ""
    labelled = _LABELLED.fullmatch(text)
    if labelled is None:
        return None
    letter = (labelled.group(1) or labelled.group(2)).upper()
    if letter not in letters:
        return None
    rest = labelled.group(3)
    if any(re.search(rf"[(\[]{other}[)\]]", rest) for other in letters if other != letter):
        return ""  # "(A) or (B)"
    return letter if letter in (meant := _equal(rest, options, letters)) or not meant else ""


def _last_letter(text: str, letters: str) -> str | None:
    last = _LAST.search(text)
    if last is None or last.group(1) not in letters or _DENIES.search(_SENTENCES.split(text)[-1]):
        return None
    return None if _HEDGE.search(text[: last.start(1)]) else last.group(1)


def _by_text(text: str, options: Sequence[str], letters: str, same: Same | None) -> str | None:
    """The one option that is the same; else the only one mentioned."""
    if same is not None:
        alike = [
            letter for letter, option in zip(letters, options, strict=True) if same(option, unwrap(text))
        ]
        if alike:
            return alike[0] if len(alike) == 1 else None
    if _DENIES.search(text):
        return None
    said = f" {_plain(text)} "
    mentioned = [
        letter for letter, option in zip(letters, map(_plain, options), strict=True) if f" {option} " in said
    ]
    # One letter or digit is "mentioned" by too many sentences.
    return (
        mentioned[0]
        if len(mentioned) == 1 and len(_plain(options[letters.index(mentioned[0])])) > 2
        else None
    )


def _equal(text: str, options: Sequence[str], letters: str) -> list[str]:
    """The letters of the options that read like `text`: to the sign if there is one, else by their words."""
    for form in (squash, _plain):
        said = form(text)
        found = [
            letter for letter, option in zip(letters, options, strict=True) if said and form(option) == said
        ]
        if found:
            return found
    return []


def _plain(text: str) -> str:
    # An "a" may be the name of an option.
    return normalize(unwrap(plain_latex(unwrap(text))), articles=("the", "an"))


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


def grade_choice(
    answer: str | None, letter: str, options: Sequence[str], *, same: Same | None = None
) -> Grade:
    """Right if the answer names the option `letter` (one of A, B, ... for the options there are)."""
    found = None if answer is None else find_choice(answer, options, same=same)
    strict = answer is not None and answer.strip().upper() == letter
    return make_grade(answer, (letter,), correct=found == letter, strict=strict)


def grade_letter(
    answer: str | None, references: Sequence[str], *, options: Sequence[str], same: Same | None = None
) -> Grade:
    """`grade_choice` for a task, whose first reference is the right letter."""
    return grade_choice(answer, references[0], options, same=same)
