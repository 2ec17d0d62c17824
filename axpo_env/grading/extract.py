r"""Finds the final answer in what a policy wrote, and takes the wrapping off it.

`extract_answer` is the episode's own rule: an answer stands in `<answer>` tags. `final_phrase` and `unwrap`
read on in what stands there: "the answer is 12." is 12. What an answer is worth is left to the graders.
"""

import functools
import re
import unicodedata

_OPEN, _CLOSE = "<answer>", "</answer>"
# \boxed{}, \fbox{} and their like, with spaces and options before the brace.
_BOXED = re.compile(
    r"(?:\\(?:boxed|fbox|framebox|bbox)|\\colorbox\s*\{[^{}]*\}|\\fcolorbox\s*\{[^{}]*\}\s*\{[^{}]*\})\s*(?:\[[^\[\]{}]*\]\s*){0,2}\{"
)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # "\{" is a sign, no brace
# LaTeX whose backslash was read as an escape: "\f" in "\frac" as a form feed. White space only before a known command.
_ESCAPED = re.compile(
    r"([\a\x08\v\f])(?=[A-Za-z])"
    r"|(\t)(?=(?:an(?=\s*[\\({\d^])|anh|au|ext|extbf|extit|extrm|frac|heta|ilde|imes|o|riangle)(?![A-Za-z]))"
    r"|(\r)(?=(?:ho|ight|ightarrow)(?![A-Za-z]))"
    r"|(\n)(?=(?:abla|eq|otin)(?![A-Za-z]))"
)
# At the start of a text the sign itself may be gone, taken off as white space.
_CUT = {"rac{": "f", "oxed{": "b", "egin{": "b", "ext{": "t", "extbf{": "t", "heta": "t"}
_LETTERS = {"\a": "a", "\x08": "b", "\v": "v", "\f": "f", "\t": "t", "\r": "r", "\n": "n"}
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
_OPENINGS = {"$", "\\", "*", '"', "'", "`", "{"}  # what any of them, a command or a group begins with
_TEXT_COMMAND = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf|tt|normal)|mbox|operatorname|boldsymbol|bm)\*?\s*"
    r"\{([^{}]*)\}"
)
_FONT = re.compile(
    r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf|it)|rm|bf|it)(?:\s+|(?=\d))"
)  # "\mathrm e", "{\rm e}"
_LOOKS = re.compile(r"\\(?:left|right|displaystyle|textstyle|limits|[bB]igg?[lr]?)(?![A-Za-z])")
_SPACES = re.compile(r"(?<!\\)\\[,;:! ]|~|\\q?quad(?![A-Za-z])")
_DASHES = re.compile("[\u2010-\u2015\N{MINUS SIGN}\ufe58\ufe63\uff0d]")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_VULGAR = re.compile("[¼-¾⅐-⅞]")  # one sign for a whole fraction
_SIGNS = str.maketrans({"\N{FRACTION SLASH}": "/", "。": ".", "、": ",", "，": ","})
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
    inner = repair(text[start + len(_OPEN) : end])  # before white space is taken off: a form feed is some
    boxed = last_boxed(inner)
    return (inner if boxed is None else boxed).strip() or None


def last_boxed(text: str) -> str | None:
    r"""Content of the outermost `\boxed{...}` (or `\fbox`, `\framebox`) that closes last; None if there is none."""
    found: str | None = None
    mark = _BOXED.search(text)
    while mark is not None:
        end = matching_brace(text, mark.end())
        if end is None:
            break  # an unclosed box swallows the rest
        found = text[mark.end() : end]
        mark = _BOXED.search(text, end)
    return found


def matching_brace(text: str, start: int) -> int | None:
    """Where the brace closes that was opened just before `start`; None if it does not."""
    depth = 1
    for match in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return match.start()
    return None


def repair(text: str) -> str:
    r"""`text` with the backslashes that were taken for escapes: a form feed and "rac" are `\frac`."""
    if text.startswith(tuple(_CUT)):
        text = "\\" + next(letter for rest, letter in _CUT.items() if text.startswith(rest)) + text
    return _ESCAPED.sub(lambda match: "\\" + _LETTERS[match.group()], text)


def innermost(text: str) -> str:
    r"""What `text` gives as its answer: the tag's content, else the box's, else all of it.

    For texts that did not come through an episode, too. A box in a box is opened. At most `MAX_CHARS`
    characters, the last ones.
    """
    answer = extract_answer(text)
    text = repair(text if answer is None else answer)
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


def readings(answer: str) -> list[str]:
    """What an answer may mean: all of it, and what follows its last "answer is"; without wrapping."""
    inner = unwrap(innermost(answer))
    phrase = final_phrase(inner)
    return [inner] if phrase is None else [inner, unwrap(phrase)]


@functools.lru_cache(maxsize=4096)
def unwrap(text: str) -> str:
    r"""`text` without dollar signs, bold, quotes, `\text{}`, braces and a full stop around it."""
    return layers(text)[-1]


def layers(text: str) -> list[str]:
    r"""`text` as its wrapping is taken off piece by piece, the barest last: "**U.S.**" is "U.S." before it is "U.S"."""
    found = [repair(text).strip()]
    for _ in range(12):
        text = _peel(found[-1])
        if text == found[-1]:
            break
        found.append(text)
    return found


def _peel(text: str) -> str:
    if text[:1] in _OPENINGS:
        for opening, closing in _PAIRS:
            inner = text[len(opening) : len(text) - len(closing)]
            if len(text) > len(opening + closing) and text.startswith(opening) and text.endswith(closing):
                if closing not in inner:
                    return inner.strip()
                break
        if whole := _TEXT_COMMAND.fullmatch(text):
            return whole.group(1).strip()
        if text[:1] == "{" and matching_brace(text, 1) == len(text) - 1:
            return text[1:-1].strip()
    return text.rstrip(" \n.;").lstrip()


def plain_unicode(text: str) -> str:
    """`text` with fullwidth letters, East Asian stops, dashes, fractions and powers as ASCII has them."""
    if text.isascii():
        return text
    text = _RAISED.sub(lambda match: f"^{{{match.group().translate(_SUPERSCRIPTS)}}}", plain_dashes(text))
    text = _VULGAR.sub(lambda match: f" {unicodedata.normalize('NFKC', match.group())}", text)
    return unicodedata.normalize("NFKC", text).translate(_SIGNS).strip()


def plain_dashes(text: str) -> str:
    """`text` with "-" for every dash and minus sign there is."""
    return _DASHES.sub("-", text)


def plain_latex(text: str) -> str:
    r"""`text` with LaTeX that only concerns looks replaced by what it shows: `\text{cm}`, `\%`, `~`, `^\circ`."""
    if "\\" not in (text := repair(text)):
        return text.replace("~", " ")
    if "matrix" not in text:
        text = re.sub(r"\\\\(?=[A-Za-z])", r"\\", text)  # "\\\\frac", escaped twice
    text = _TEXT_COMMAND.sub(lambda match: f" {match.group(1)} ", _FONT.sub("", text))
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?|\\degree\b", "°", text)
    text = re.sub(r"\^\s*\{?\s*((?:\\prime\s*)+)\}?", lambda match: "'" * match.group().count("prime"), text)
    text = _LOOKS.sub("", _SPACES.sub(" ", text))
    text = re.sub(r"\\(?:text)?dollar\b|\\\$", "$", text)
    text = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text)
    return text.replace(r"\%", "%").replace(r"\angle", "∠")
