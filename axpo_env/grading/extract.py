r"""Finds the final answer in what a policy wrote, and takes the wrapping off it.

`extract_answer` is the episode's own rule: an answer stands in `<answer>` tags. `final_phrase` and `unwrap`
read on in what stands there: "the answer is 12." is 12. What an answer is worth is left to the graders.
"""

import re
import unicodedata

_OPEN, _CLOSE, _BOXED = "<answer>", "</answer>", "\\boxed{"
_BRACE = re.compile(r"[{}]")
# After the last of these the answer begins. "answer" alone is too common a word.
_LEAD = re.compile(r"\banswers?\s*(?:is\b|are\b|:|=)[\s:]*(?:that\b)?", re.IGNORECASE)
DENIES = re.compile(
    r"\b(?:not|no|nor|neither|never|none|cannot|isn't|aren't|wasn't|don't|doesn't|except|unlike|without)\b|n['’]t\b",
    re.IGNORECASE,
)
_CLAUSES = re.compile(r"[.,;:!?\n]\s|\bbut\b")
_PAIRS = (
    ("$$", "$$"),
    ("$", "$"),
    (r"\(", r"\)"),
    (r"\[", r"\]"),
    ("**", "**"),
    ('"', '"'),
    ("'", "'"),
    ("`", "`"),
)
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_VULGAR = re.compile("[¼-¾⅐-⅞]")  # one sign for a whole fraction
_SIGNS = str.maketrans({"\N{MINUS SIGN}": "-", "\N{FRACTION SLASH}": "/", "。": ".", "、": ",", "，": ","})
MAX_CHARS = 2000  # an answer longer than this is an essay; graders look at its end


def extract_answer(text: str) -> str | None:
    r"""The final answer in `text`, or None if there is none or it is blank.

    The last complete `<answer>...</answer>` counts, and in it the last `\boxed{...}` with balanced braces. An
    answer without a (balanced) box is taken as it stands. A box outside the answer tags is no answer.
    """
    end = text.rfind(_CLOSE)
    start = text.rfind(_OPEN, 0, end) if end >= 0 else -1
    if start < 0:
        return None
    inner = text[start + len(_OPEN) : end]
    boxed = last_boxed(inner)
    return (inner if boxed is None else boxed).strip() or None


def last_boxed(text: str) -> str | None:
    r"""Content of the outermost `\boxed{...}` that closes last; None if there is none. One pass."""
    found: str | None = None
    position = text.find(_BOXED)
    while position >= 0:
        start = position + len(_BOXED)
        end = _matching_brace(text, start)
        if end is None:
            break  # an unclosed box swallows the rest
        found = text[start:end]
        position = text.find(_BOXED, end)
    return found


def _matching_brace(text: str, start: int) -> int | None:
    depth = 1
    for match in _BRACE.finditer(text, start):
        depth += 1 if match.group() == "{" else -1
        if depth == 0:
            return match.start()
    return None


def innermost(text: str) -> str:
    r"""What `text` gives as its answer: the tag's content, else the box's, else all of it.

    For texts that did not come through an episode, too. A box in a box is opened. At most `MAX_CHARS`
    characters, the last ones.
    """
    answer = extract_answer(text)
    text = text if answer is None else answer
    for _ in range(3):
        boxed = last_boxed(text)
        if boxed is None:
            break
        text = boxed
    return text[-MAX_CHARS:].strip()


def final_phrase(text: str) -> str | None:
    """What follows the last "answer is" or "answer:", up to the end of its line; None without one.

    None, too, if that is denied: "I don't think the answer is 5".
    """
    last = None
    for last in _LEAD.finditer(text):  # noqa: B007 - the last one is what is wanted
        pass
    if last is None or DENIES.search(_CLAUSES.split(text[: last.start()])[-1]):
        return None
    lines = text[last.end() :].strip().splitlines()
    return lines[0].strip() or None if lines else None


def unwrap(text: str) -> str:
    r"""`text` without dollar signs, bold, quotes, `\text{}` and a full stop around it."""
    text = text.strip()
    for _ in range(6):
        before = text
        text = text.rstrip(" \n.;").lstrip()
        for opening, closing in _PAIRS:
            inner = text[len(opening) : len(text) - len(closing)]
            if len(text) > len(opening + closing) and text.startswith(opening) and text.endswith(closing):
                text = inner if closing not in inner else text
                break
        whole = _TEXT_COMMAND.fullmatch(text)
        text = (whole.group(1) if whole else text).strip()
        if text == before:
            break
    return text


def plain_unicode(text: str) -> str:
    """`text` with fullwidth letters, East Asian stops, minus signs, fractions and powers as ASCII has them."""
    if text.isascii():
        return text
    text = _RAISED.sub(lambda match: f"^{{{match.group().translate(_SUPERSCRIPTS)}}}", text)
    text = _VULGAR.sub(lambda match: f" {unicodedata.normalize('NFKC', match.group())}", text)
    return unicodedata.normalize("NFKC", text).translate(_SIGNS).strip()


def plain_latex(text: str) -> str:
    r"""`text` with LaTeX that only concerns looks replaced by what it shows: `\text{cm}`, `\%`, `~`, `^\circ`."""
    text = _TEXT_COMMAND.sub(lambda match: f" {match.group(1)} ", text)
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?|\\degree\b", "°", text)
    text = re.sub(r"\\[,;:! ]|~", " ", text)
    text = re.sub(r"\\(?:text)?dollar\b|\\\$", "$", text)
    return (
        text.replace(r"\%", "%")
        .replace(r"\angle", "∠")
        .replace(r"\left", "")
        .replace(r"\right", "")
        .replace(r"\dfrac", r"\frac")
        .replace(r"\tfrac", r"\frac")
    )
