"""Short texts: equal after normalising, one of several names, or how many words they share.

Token F1 is SQuAD's (arXiv:1606.05250): the harmonic mean of precision and recall over the words of both.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence

from axpo_env.grading.extract import DENIES, final_phrase, innermost, plain_latex, plain_unicode, unwrap

_ARTICLES = {"a", "an", "the"}
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")
_DECIMAL = re.compile(r"(?<![\w.])(-?\d+)\.(\d*?)0*(?![\w.])")
_BETWEEN_DIGITS = re.compile(r"(?<=\d)\s+(?=\d)")
SENTENCES = re.compile(r"[.!?;\n]\s")
_SEPARATORS = re.compile(r"[,;/|\n]|\band\b", re.IGNORECASE)
# Signs that mean something stand alone; a point or minus stays where it belongs to a number.
_SIGNS = re.compile(r"([+*^=<>%°≤≥≠])")
_PUNCTUATION = re.compile(r"(?<!\d)\.(?!\d)|\.(?!\d)|(?<=\w)-|-(?!\d)|[^\w\s.\-+*^=<>%°≤≥≠]|_")


def normalize(text: str, *, articles: Collection[str] = _ARTICLES) -> str:
    """Lower case, no punctuation, `articles`, accents or doubled spaces; numbers keep sign and decimals.

    "1,234.50" is "1234.5". A text that is nothing but an article stays ("A" may be an answer).
    """
    text = unicodedata.normalize("NFKD", text).replace("\N{MINUS SIGN}", "-")
    text = "".join(char for char in text if not unicodedata.combining(char)).casefold()
    text = _SIGNS.sub(r" \1 ", _PUNCTUATION.sub(" ", _THOUSANDS.sub("", text)))
    words = _DECIMAL.sub(_short_decimal, text).split()
    return " ".join([word for word in words if word not in articles] or words)


def _short_decimal(match: re.Match[str]) -> str:
    return f"{match.group(1)}.{match.group(2)}" if match.group(2) else match.group(1)


def squash(text: str) -> str:
    """`text` without LaTeX for looks, case and spaces; every sign stays, as formulas need, and "1 3" is not 13."""
    text = plain_unicode(plain_latex(unwrap(text)))
    return "".join(_BETWEEN_DIGITS.sub("_", text.casefold()).split())


def denies(text: str) -> bool:
    """Whether the last sentence of `text` says of something that it is not so."""
    return bool(DENIES.search(SENTENCES.split(text.strip())[-1]))


def readings(answer: str) -> list[str]:
    """What an answer may mean: all of it, and what follows its last "answer is". Normalised, not blank."""
    inner = unwrap(innermost(answer))
    phrase = final_phrase(inner)
    texts = [inner] if phrase is None else [inner, unwrap(phrase)]
    return [text for text in dict.fromkeys(map(normalize, texts)) if text]


def exact_match(answer: str, references: Sequence[str]) -> bool:
    """Whether the answer, normalised, is one of the references, normalised."""
    names = {normalize(unwrap(reference)) for reference in references}
    return any(text in names for text in readings(answer))


def token_f1(answer: str, reference: str) -> float:
    """F1 over the words of two texts, normalised, 0-1; 0 where one has none."""
    said, wanted = normalize(answer).split(), normalize(reference).split()
    shared = sum((Counter(said) & Counter(wanted)).values())
    return 2 * shared / (len(said) + len(wanted)) if shared else 0.0


def best_f1(answer: str, references: Sequence[str]) -> float:
    """The highest F1 of any reading of the answer with any reference, 0-1."""
    pairs = [token_f1(text, reference) for text in readings(answer) for reference in references]
    return max(pairs, default=0.0)


def holds_phrase(answer: str, reference: str) -> bool:
    """Whether the answer ends in the reference: whole words, in a row, both normalised.

    Not if it offers several: an "or" that the reference has not, or a list with the reference as one item of more.
    Nor if the sentence denies anything: "not Sep", "neither odd nor even".
    """
    inner = unwrap(innermost(answer))
    if denies(inner) and not denies(reference):
        return False
    wanted, said = _items(reference), _items(answer)
    if not wanted or ("or" in normalize(answer).split() and "or" not in normalize(reference).split()):
        return False
    start = len(said) - len(wanted)
    if start < 0 or said[start + 1 :] != wanted[1:]:
        return False
    listed = start > 0 and said[start] == wanted[0]
    return f" {said[start]}".endswith(f" {wanted[0]}") and not listed


def _items(text: str) -> list[str]:
    return [item for item in map(normalize, _SEPARATORS.split(unwrap(innermost(text)))) if item]
