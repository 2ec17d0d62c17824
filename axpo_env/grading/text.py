"""Short texts: equal after normalising, one of several names, or how many words they share.

Token F1 is SQuAD's (arXiv:1606.05250): the harmonic mean of precision and recall over the words of both, with the
normalising of its script, which deletes punctuation: "U.S." is "us", "Spider-Man" is "spiderman". `normalize`, which
decides whether texts are equal, keeps more: signs, decimals, the parts of "Spider-Man".
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence

from axpo_env.grading.extract import (
    DENIES,
    innermost,
    plain_dashes,
    plain_latex,
    plain_unicode,
    readings,
    unwrap,
)

_ARTICLES = {"a", "an", "the"}
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")
_DECIMAL = re.compile(r"(?<![\w.])(-?\d+)\.(\d*?)0*(?![\w.])")
_BETWEEN_DIGITS = re.compile(r"(?<=\d)\s+(?=\d)")
SENTENCES = re.compile(r"[.!?;\n]\s")
_SEPARATORS = re.compile(r"[,;/|\n]|\band\b", re.IGNORECASE)
# Signs that mean something stand alone; a point or minus stays where it belongs to a number.
_SIGNS = re.compile(r"([+*^=<>%°≤≥≠€£¥])")
_DELETED = str.maketrans("", "", string.punctuation)  # by SQuAD's script
_RATIO = re.compile(r"\s*\d+(?:\s*:\s*\d+)+\s*")
_CLOCK = re.compile(r"\s*\d{1,2}(?::\d\d){1,2}\s*")
_LONG_WORD = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{3,}")
_CASELESS = re.compile(r"[A-H]|no|on|up|ok", re.IGNORECASE)  # short, and no formulas
_PUNCTUATION = re.compile(r"(?<!\d)\.(?!\d)|\.(?!\d)|(?<=\w)-|-(?!\d)|[^\w\s.\-+*^=<>%°≤≥≠€£¥]|_")


def normalize(text: str, *, articles: Collection[str] = _ARTICLES) -> str:
    """Lower case, no punctuation, `articles`, accents or doubled spaces; numbers keep sign and decimals.

    "1,234.50" is "1234.5". A text that is nothing but an article stays ("A" may be an answer).
    """
    text = plain_dashes(unicodedata.normalize("NFKD", text))
    text = "".join(char for char in text if not unicodedata.combining(char)).casefold()
    text = _SIGNS.sub(r" \1 ", _PUNCTUATION.sub(" ", _THOUSANDS.sub("", text)))
    words = _DECIMAL.sub(_short_decimal, text).split()
    return " ".join([word for word in words if word not in articles] or words)


def _short_decimal(match: re.Match[str]) -> str:
    return f"{match.group(1)}.{match.group(2)}" if match.group(2) else match.group(1)


def squash(text: str) -> str:
    """`text` without LaTeX for looks, case and spaces; every sign stays, as formulas need, and "1 3" is not 13."""
    text = _bare(text)
    return "".join(_BETWEEN_DIGITS.sub("_", text.casefold()).split())


def same_formula(answer: str, reference: str) -> bool:
    """Whether two texts are the same but for looks: `squash`, and letters of formulas keep their case.

    Words have none ("Even" is "even"), nor has what names an option or a point: "c" is the reference "C".
    """
    if squash(answer) != squash(reference) or not squash(reference):
        return False
    said, wanted = (
        _LONG_WORD.sub(lambda word: word.group().lower(), _bare(text)) for text in (answer, reference)
    )
    label = _CASELESS.fullmatch(wanted) and (len(wanted) > 1 or wanted.isupper())
    return "".join(said.split()) == "".join(wanted.split()) or bool(label)


def _bare(text: str) -> str:
    return plain_unicode(plain_latex(unwrap(text)))


def denies(text: str) -> bool:
    """Whether the last sentence of `text` says of something that it is not so."""
    return bool(DENIES.search(SENTENCES.split(text.strip())[-1]))


def plain_readings(answer: str) -> list[str]:
    """`extract.readings`, normalised, those left out of which nothing is left."""
    return [text for text in dict.fromkeys(normalize(plain_latex(text)) for text in readings(answer)) if text]


def exact_match(answer: str, references: Sequence[str]) -> bool:
    """Whether the answer, normalised, is one of the references, normalised. A ratio "5:0" is "5 to 0", too."""
    names = {normalize(plain_latex(name)) for reference in references for name in _spellings(reference)}
    return any(text in names for text in plain_readings(answer))


def _spellings(reference: str) -> list[str]:
    reference = unwrap(reference)
    ratio = _RATIO.fullmatch(reference) and not _CLOCK.fullmatch(reference)
    return [reference, reference.replace(":", " to ")] if ratio else [reference]


def token_f1(answer: str, reference: str) -> float:
    """SQuAD's F1 over the words of two texts, 0-1; 0 where one has none."""
    said, wanted = (_squad_words(text) for text in (answer, reference))
    shared = sum((Counter(said) & Counter(wanted)).values())
    return 2 * shared / (len(said) + len(wanted)) if shared else 0.0


def _squad_words(text: str) -> list[str]:
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_DELETED)).split()


def best_f1(answer: str, references: Sequence[str]) -> float:
    """The highest F1 of the answer, or of what follows its last "answer is", with any reference, 0-1."""
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
    return any(_ends_in(answer, spelling) for spelling in _spellings(reference))


def _ends_in(answer: str, reference: str) -> bool:
    wanted, said = _items(reference), _items(answer)
    if not wanted or ("or" in normalize(answer).split() and "or" not in normalize(reference).split()):
        return False
    start = len(said) - len(wanted)
    if start < 0 or said[start + 1 :] != wanted[1:]:
        return False
    listed = start > 0 and said[start] == wanted[0]
    return f" {said[start]}".endswith(f" {wanted[0]}") and not listed


def _items(text: str) -> list[str]:
    plain = plain_latex(unwrap(innermost(text)))
    return [item for item in map(normalize, _SEPARATORS.split(plain)) if item]
