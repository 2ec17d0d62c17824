r"""Formulas as people type them, rewritten as the LaTeX that math-verify's grammar reads: "2√3" is "2\sqrt{3}".

What the grammar would drop without a word, or take for something else, is refused (`typed` gives None): primes, dots
that go on, a number's subscript, digits apart, "1/2x". What several letters in a row mean is kept: "IV" is one name,
not I times V. Lists, matrices and times are taken apart before (`shapes`).
"""

import re
import unicodedata

from axpo_env.grading.extract import matching_brace, plain_latex, plain_unicode
from axpo_env.grading.numeric import read_number, without_periods
from axpo_env.grading.units import is_known_unit

_FUNCTIONS = "sin|cos|tan|cot|sec|csc|ln|log|exp|gcd|lcm|max|min"
_TRIGONOMETRY = re.compile(r"\\(?:arc)?(?:sin|cos|tan|cot|sec|csc)")
_DEGREES = re.compile(r"(?<=[\d)}])\s*°(?!\s*[A-Za-z'\d])")
_COMMAND = re.compile(r"\\(frac|binom|sqrt)(?![A-Za-z])")
_REFUSED = re.compile(
    r"['\"`′″:&°∠$#?;@]|\.\.|…|\\[lcv]?dots[bcim]?(?![A-Za-z])|\\\\|≈|\\approx|\\sim(?![A-Za-z])|\\(?:equiv|not)(?![A-Za-z])"
    r"|\d\s*_|\d\s+[\d.]|\d\.\d*\.|\d\{|[A-Za-z]\.|\\(?:text|math)[a-z]*\s*\{\s*\}"
    r"|/\s*[\d.]+\s*(?!\\(?:cdot|times|div|cup|cap|le|ge|ne|in|pm)(?![A-Za-z]))[A-Za-z\\(]"
)
_TYPED = (
    *[(re.compile(r"(?:√|(?<![A-Za-z])\\?sqrt)\s*\(([^()]*)\)"), r"\\sqrt{\1}")] * 3,  # the inner ones first
    (re.compile(r"√\s*(\d+|[A-Za-z])"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![A-Za-z\\])sqrt\s*(\d+)"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![A-Za-z\\])sqrt(?=\s*\{)"), r"\\sqrt"),
    (re.compile(r"∛\s*(\d+)"), r"\\sqrt[3]{\1}"),
    (re.compile(r"π|(?<![A-Za-z\\])pi(?![A-Za-z])"), r"\\pi "),
    (re.compile(r"∞"), r"\\infty "),
    (re.compile(r"(?<![A-Za-z\\])(?:a|arc)(sin|cos|tan)(?![A-Za-z])"), r"\\arc\1 "),
    (re.compile(rf"(?<![A-Za-z\\])({_FUNCTIONS})(?![A-Za-z])"), r"\\\1 "),
    (
        re.compile(r"\\(sin|cos|tan|cot|sec|csc)\s*(?:\(\s*([\d.]+)\s*°\s*\)|\{?\s*([\d.]+)\s*°\s*\}?)"),
        r"\\\1(\\frac{\2\3\\pi}{180})",
    ),
    (re.compile(r"\\log\s*_\s*(?:(\d+)(?=[\s(])|(\d))"), r"\\log_{\1\2} "),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\^\s*\(([^()]*)\)"), r"^{\1}"),
    (re.compile(r"\^\s*([+-]?\d+(?:\.\d+)?|-[A-Za-z])"), r"^{\1}"),
    # 6.02e23, but not 2e for twice Euler's number.
    (re.compile(r"(?<=\d)\s*[eE]([+-]?\d{1,3})(?![\w.])"), r"\\cdot 10^{\1}"),
    (re.compile(r"(\^\{[^{}]*\})\s*(?=\d)"), r"\1\\cdot "),
    # "2\frac{1}{2}" is two and a half; the grammar is told that nothing else is.
    (re.compile(r"(?<![\d.^_{}])(\d+)\s*(\\frac\{\d+\}\{\d+\})"), r"(\1+\2)"),
    (re.compile(r"(?<!_)(?<![\d.])(\d+(?:\.\d+)?|\.\d+)\s*(?=\()"), r"\1\\cdot "),
    (re.compile(r"\)\s*(?=[(\d])"), r")\\cdot "),
    (re.compile(r"!\s*(?=\d)"), r"!\\cdot "),
    (re.compile(r"[×·⋅∙]"), r"\\cdot "),
    (re.compile("÷"), r"\\div "),
    (re.compile(r"≤|<=|\\leqslant(?![A-Za-z])"), r"\\le "),
    (re.compile(r"≥|>=|\\geqslant(?![A-Za-z])"), r"\\ge "),
    (re.compile(r"≠|!=|\\neq(?![A-Za-z])"), r"\\ne "),
    (re.compile("∪"), r"\\cup "),
    (re.compile("∩"), r"\\cap "),
    (re.compile("∈"), r"\\in "),
    (re.compile("∅"), r"\\emptyset "),
)
# Capitals in a row, or a letter with digits behind it: the name of a segment, a numeral, a code.
_NAME = re.compile(
    r"(?P<accent>\\(?:over[a-z]+|wide[a-z]+|vec|hat|bar)\s*\{[^{}]*\})|(?<![A-Za-z\\])(?:[A-Z](?:\s*[A-Z])+|[A-Za-z]\d[A-Za-z\d]*)(?![a-z])"
)


_ONE_SIGN = re.compile("[¼-¾⅐-⅞]")
_ORDINAL = re.compile(r"\d(?:st|nd|rd|th)\b")
_WORD = re.compile(r"[A-Za-z]{3,}")
_OTHERS = "arcsin|arccos|arctan|sqrt|lim|mod|inf|det"
_FUNCTION_WORDS = set(f"{_FUNCTIONS}|{_OTHERS}".split("|"))


def is_maths(text: str) -> bool:
    """Whether `text` is a formula rather than prose: no word of three letters but functions and units, no "3rd"."""
    if _ORDINAL.search(text):
        return False
    bare = re.sub(r"\\[A-Za-z]+", " ", plain_latex(text))
    words = {word.lower() for word in _WORD.findall(bare)}
    return any(map(str.isalnum, bare + text)) and (not words - _FUNCTION_WORDS or bool(read_number(text)))


def _as_latex(sign: re.Match[str]) -> str:
    above, below = unicodedata.normalize("NFKC", sign.group()).split("\N{FRACTION SLASH}")
    return rf"\frac{{{above}}}{{{below}}}"


def typed(text: str) -> str | None:
    """`text` as strict LaTeX, None where some of it would be lost or misread."""
    text = _ONE_SIGN.sub(_as_latex, plain_latex(text))
    text = without_periods(plain_unicode(text))
    text = braced(re.sub(r"\\frac(?=\d\s+\d)", r"\\frac ", text))
    for pattern, latex in _TYPED:
        text = pattern.sub(latex, text)
    if not _TRIGONOMETRY.search(text):  # there it would be another number
        text = _DEGREES.sub("", text)
    if _REFUSED.search(text):
        return None
    return _NAME.sub(_as_name, text)


def _as_name(name: re.Match[str]) -> str:
    return name.group() if name["accent"] else rf"\text{{{''.join(name.group().split())}}}"


def braced(text: str) -> str:
    r"""`text` with the braces that TeX does without: "\frac12" is "\frac{1}{2}", "\sqrt3x" is "\sqrt{3}x"."""
    for match in reversed(list(_COMMAND.finditer(text))):
        rest, arguments = text[match.end() :].lstrip(), []
        option = re.match(r"\[[^\[\]]*\]\s*", rest) if match.group(1) == "sqrt" else None
        rest = rest[option.end() :] if option else rest
        for _ in range(1 if match.group(1) == "sqrt" else 2):
            end = _argument(rest)
            if end is None:
                return text
            piece = rest[:end]
            arguments.append(piece if piece.startswith("{") else f"{{{piece}}}")
            rest = rest[end:].lstrip() if len(arguments) == 1 else rest[end:]
        text = text[: match.end()] + (option.group().strip() if option else "") + "".join(arguments) + rest
    return text


def _argument(text: str) -> int | None:
    """Where TeX's argument at the start of `text` ends: a group, a command with its own groups, or one sign."""
    if text.startswith("{"):
        closed = matching_brace(text, 1)
        return None if closed is None else closed + 1
    command = re.match(r"\\[A-Za-z]+", text)
    if command is None:
        return 1 if text[:1].isalnum() else None
    end = command.end()
    if _COMMAND.match(text):
        while text[end : end + 1] in ("{", "["):
            closed = matching_brace(text, end + 1) if text[end] == "{" else text.find("]", end)
            if closed is None or closed < 0:
                return None
            end = closed + 1
    return end


def peel_unit(text: str) -> str:
    r"""`text` with a unit in braces at its end set free: "69{degrees}" is "69 degrees"."""
    brace = text.rfind("{")
    inside = text[brace + 1 : -1].strip()
    if brace > 0 and text.endswith("}") and len(inside) > 2 and is_known_unit(inside):
        before = text[:brace].rstrip()
        if re.search(r"[\d})°]$", before) and not re.search(r"\\[a-z]*frac\s*\{[^{}]*\}$", before):
            return f"{before} {inside}"
    return text
