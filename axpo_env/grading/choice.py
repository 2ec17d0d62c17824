r"""Multiple choice: which option an answer names. Never guesses: what names none, or two, is None.

The order: what stands in the answer tag, else in `\boxed{}`; there a letter alone; else the text of an option, with its
letter or without, whatever letters stand in it; else a letter; else what follows "answer is"; else the one option whose
text, or number, it is; else a lone letter at the end; else the one option that is chosen in
so many words ("I pick option A"), or mentioned, once clauses that deny one are left out ("red, not green"). The letters
shown with the question come before the options' texts, since options may be letters themselves. Of options that hold
each other ("red", "dark red") the longest that is mentioned counts.
"""

import re
from collections.abc import Callable, Sequence

from axpo_env.grading.extract import DENIES, final_phrase, innermost, plain_latex, plain_unicode, unwrap
from axpo_env.grading.grade import Grade, make_grade
from axpo_env.grading.numeric import read_quantity
from axpo_env.grading.options import LETTERS
from axpo_env.grading.text import SENTENCES, denies, normalize, squash
from axpo_env.grading.units import other_unit

_WORDS = r"(?:the\s+)?(?:correct\s+|right\s+|final\s+)?(?:option|choice|answer|letter)?\s*(?:is\s*)?"
_LONE = re.compile(_WORDS + r"[(\[{<]*\s*([A-Za-z])\s*[)\]}>.:,;]*", re.IGNORECASE)
_LABELLED = re.compile(
    _WORDS + r"(?:[(\[]([A-Za-z])[)\]]|([A-Za-z])\s*[).:])[\s:]*(.+)", re.IGNORECASE | re.DOTALL
)
_BESIDE = re.compile(r"([A-Z])\s+\(?(.+?)\)?", re.DOTALL)  # "B dark green", "B (dark green)"
_NOT_BUT = re.compile(
    r"(?:it is|it's|the answer is) not [(\[]?([A-Z])[)\]]?\s*(?:[,;.]\s*(?:it is|it's|but)|but(?: it is)?)\s+"
    r"[(\[]?([A-Z])[)\]]?\.?",
    re.IGNORECASE,
)
_IS_RIGHT = re.compile(r"[(\[]?([A-Z])[)\]]? is (?:the )?(?:correct|right)(?: (?:answer|option|choice|one))?")
_LAST = re.compile(r"(?:^|[\s(\[*:])([A-Z])[)\]*.]*\s*$")
_EQUALS = re.compile(r"([A-Z])\s*=\s*(.+)", re.DOTALL)
# "A, because ...": what follows is no choice any more, unless it calls another letter right.
_REASONED = re.compile(
    r"(?:(?:I (?:think|believe) (?:that )?)?[Ii]t(?: is|'s| must be) )?"
    + _WORDS
    + r"[(\[]?\b([A-Z])\b[)\]]?\s*[.,;:–—-]*\s*\b(?:because|since|given that|due to)\b(.*)",
    re.DOTALL,
)
_PRAISED = re.compile(
    r"\b([A-Z])[)\]]? (?:is|seems|must be) (?:the )?(?:\w+ )?(?:correct|right|best|answer|true|fits)"
)
_CHOSEN = re.compile(
    r"(?:\b(?:pick|choose|select|chose|picked|selected|go with|going with|take|it is|it's|must be|answer is|be)\s+"
    r"(?:the\s+)?(?:option|choice|letter|answer)\s+[(\[]?([A-Z])\b(?!'))"
    r"|(?:\b(?:option|choice|letter|answer)\s+[(\[]?([A-Z])[)\]]?\s+"
    r"(?:is (?:the )?(?:correct|right|best|answer)|fits))",
)
_AFTER_HEDGE = re.compile(
    r"[)\]]?\s*(?:or|and|,|/|&|vs\.?|versus)\s*(?:(?:option|choice)\s*)?[(\[]?[A-Z]\b(?!')"
)
_CLAUSES = re.compile(
    r"[,;.!?\n]\s+|\s+[-–—]+\s+"
    r"|\s*\b(?=(?:so|rather(?! than)|instead(?! of)|hence|thus|therefore)\b)"
    r"|\s*(?<!anything )(?<!everything )(?<!all )\b(?=but\b)"
)
# A clause after a denied one that says what is so instead; a bare "B" after "not A," may be denied as well.
_STATES = re.compile(
    r"(?:(?:but|so|rather|instead|hence|thus|therefore)\b[\s,]*)*(?:(?:it|that|this) is|it's|that's|I \w+)?\s*",
    re.IGNORECASE,
)
_REJECTS = (
    r"\b(?:wrong|incorrect|false|impossible|unlikely|hardly|doubt\w*|exclud\w*|eliminat\w*|rul(?:e|es|ed|ing) out|"
    r"ruled|reject\w*|discard\w*|dismiss\w*|far from|rather than|instead of|other than|apart from|aside from|"
    r"(?:anything|everything|all) but"
)
_REJECTED = re.compile(_REJECTS + r")\b", re.IGNORECASE)
_WRONG = re.compile(_REJECTS + r"|over)\b", re.IGNORECASE)
_NO = re.compile(
    r"(?:no|nope|wrong|not (?:that|it|so)|wait)", re.IGNORECASE
)  # takes back what was said before it
# A letter after one of these is one of several, or the one that it is not.
_HEDGE = re.compile(r"(?:\b(?:or|and|not|nor|versus|vs)|[,/&])\s*[(\[*]*$", re.IGNORECASE)
# A letter, then one of these and the last letter: it is not clear which of them is meant.
_RIVAL = re.compile(
    r"\b[A-Z]\b(?!').*\b(?:or|maybe|perhaps|instead of|rather than|over|than|versus)\b|\b(?:because|since)\s+[(\[]?$",
    re.DOTALL,
)
_CLAIMED = re.compile(r"\b(?:is|it's|be)\s+[(\[]?([A-Z])\b(?!')")
# A letter that is no article and no pronoun: "A glove" and "I think" name nothing.
_BARE = re.compile(
    r"(?<![\w'.-])(?![AI]\s+(?!(?:then|and|or|nor|is|was|to|but|because|since|so|not|vs|versus|fits|seems)\b)[a-z'])"
    r"([A-Z])(?![\w'])"
)
_CONCLUDES = re.compile(r"\s*(?:so|hence|thus|therefore)\b", re.IGNORECASE)

Same = Callable[[str, str], bool]


def find_choice(text: str, options: Sequence[str], *, same: Same | None = None) -> str | None:
    """The letter of the option that `text` names, or None.

    `options` are the texts, first to last; the letters are A, B, ... in that order. `same(option, text)` may
    tell equal what is written differently (mathematics); exactly one option must then be the same.
    """
    letters = LETTERS[: len(options)]
    inner = plain_unicode(unwrap(innermost(text)))
    for candidate in (inner, final_phrase(inner)):
        if candidate is not None:
            found = _named(unwrap(candidate), options, letters)
            if found is not None:
                return found or None
    said = final_phrase(inner) or inner
    equal = _equal(said, options, letters) or _same_quantity(said, options, letters)
    if equal:  # before the last letter: "A ∪ B" may be an option
        return equal[0] if len(equal) == 1 else None
    return (
        _last_letter(inner, letters)
        or _chosen(inner, letters)
        or _by_text(said, options, letters, same)
        or _by_clauses(said, options, letters)
    )


def _named(text: str, options: Sequence[str], letters: str) -> str | None:
    """The letter in "B", "(b)", "Option B.", "B: its text"; "" where letter and text disagree, or letters do."""
    text = unwrap(plain_latex(text)).strip()
    lone = _LONE.fullmatch(text)
    if lone:
        letter = lone.group(1).upper()
        return letter if letter in letters else None
    labelled = _LABELLED.fullmatch(text)
    written = _equal(text, options, letters), _equal(labelled.group(3), options, letters) if labelled else []
    if len(written[0]) == 1:  # "None of (A) to (D)" may be an option
        return written[0][0]
    if labelled and (letter := (labelled.group(1) or labelled.group(2)).upper()) in written[1]:
        return letter
    instead = _NOT_BUT.fullmatch(text)
    if instead and instead.group(1).upper() != instead.group(2).upper():
        return letter if (letter := instead.group(2).upper()) in letters else None
    reasoned = _REASONED.fullmatch(text)
    if reasoned:
        letter, others = reasoned.group(1), set(_PRAISED.findall(reasoned.group(2))) - {reasoned.group(1)}
        return (letter if not others else "") if letter in letters else None
    equals = _EQUALS.fullmatch(text)
    if equals:  # "A=5", where A says 5; else A may be an area
        meant = _equal(equals.group(2), options, letters)
        return (equals.group(1) if equals.group(1) in meant else "") if meant else None
    right = _IS_RIGHT.fullmatch(text)
    if right:
        return right.group(1) if right.group(1) in letters else None
    beside = _BESIDE.fullmatch(text)
    meant = _equal(beside.group(2), options, letters) if beside else []
    if beside and meant:
        return beside.group(1) if beside.group(1) in meant else ""
    if labelled is None:
        return None
    letter = (labelled.group(1) or labelled.group(2)).upper()
    if letter not in letters:
        return None
    rest = labelled.group(3)
    if (other := _LONE.fullmatch(rest)) and other.group(1).upper() != letter:
        return ""
    if any(re.search(rf"[(\[]{other}[)\]]", rest) for other in letters if other != letter):
        return ""  # "(A) or (B)"
    return "" if written[1] else letter


def _last_letter(text: str, letters: str) -> str | None:
    last = _LAST.search(text)
    if last is None or last.group(1) not in letters or denies(text):
        return None
    before = SENTENCES.split(text[: last.start(1)])[-1]
    if _HEDGE.search(before) or _RIVAL.search(before):
        return None
    claimed = {*_CLAIMED.findall(before), last.group(1)}  # "it is A, it is B" claims two
    if len(claimed) > 1:
        return None
    *others, clause = _CLAUSES.split(before)
    if _REJECTED.search(clause):
        return None
    if not _CONCLUDES.match(clause):
        for other in (*others, clause):
            if not DENIES.search(other) and not _WRONG.search(other):
                claimed |= set(_BARE.findall(other)) & set(letters)
    return last.group(1) if len(claimed) == 1 else None


def _by_text(text: str, options: Sequence[str], letters: str, same: Same | None) -> str | None:
    """The one option that is the same; else the only one mentioned."""
    if same is not None:
        alike = [
            letter for letter, option in zip(letters, options, strict=True) if same(option, unwrap(text))
        ]
        if alike:
            return alike[0] if len(alike) == 1 else None
    rest = text
    for option in options:
        if DENIES.search(option) or _REJECTED.search(
            option
        ):  # "there is not enough data" denies nothing where that is an option
            rest = re.sub(rf"(?<!\w){re.escape(option.strip())}(?!\w)", " ", rest, flags=re.IGNORECASE)
    return None if DENIES.search(rest) or _REJECTED.search(rest) else _mentioned(text, options, letters)


def _mentioned(text: str, options: Sequence[str], letters: str) -> str | None:
    """The letter of the one option whose text stands in `text`, the longer ones read first; None for none or two."""
    said = f" {_plain(text)} "
    plain = [_plain(option) for option in options]
    found: set[str] = set()
    for option in sorted(filter(None, set(plain)), key=len, reverse=True):
        if f" {option} " in said:
            found.add(option)
            said = said.replace(f" {option} ", " | ")
    if len(found) != 1:
        return None
    (only,) = found
    # One letter or digit is "mentioned" by too many sentences.
    return letters[plain.index(only)] if len(only) > 2 and plain.count(only) == 1 else None


def _chosen(text: str, letters: str) -> str | None:
    """The one letter in "I pick option A because it fits"; None where it is denied, or one of several."""
    found: set[str] = set()
    for sentence in SENTENCES.split(text):
        for match in _CHOSEN.finditer(sentence):
            letter = match.group(1) or match.group(2)
            before = sentence[: match.start()]
            if DENIES.search(before) or _AFTER_HEDGE.match(sentence, match.end()):
                return None
            found.add(letter)
    return found.pop() if len(found) == 1 and found <= set(letters) else None


def _by_clauses(text: str, options: Sequence[str], letters: str) -> str | None:
    """The one option that is left in "red, not green" and "It is not A, it is B" without the clauses that deny.

    A clause after a denied one counts only if it states something itself, as "but B" or "it is B".
    """
    if any(_CLAUSES.search(option) for option in options):
        return None  # "A, B or C" is an option
    options_deny = any(DENIES.search(option) for option in options)  # as "not enough data"
    found: set[str] = set()
    previous, denied = "", False
    for clause in filter(None, map(str.strip, _CLAUSES.split(text))):
        states = _STATES.match(clause)
        assert states is not None
        rest = clause[states.end() :]
        if _NO.fullmatch(rest.rstrip(".!?")) and not options_deny:  # "red? no, blue"
            found, previous, denied = found - {previous}, "", False
            continue
        if DENIES.search(clause) or _WRONG.search(clause):
            if options_deny and _equal(rest, options, letters):
                return None
            denied = True
            continue
        if denied and not states.group().strip():
            continue
        named = _named(rest, options, letters)
        if named == "":
            return None
        if named is None:
            equal = _equal(rest, options, letters)
            named = equal[0] if len(equal) == 1 else _last_letter(rest, letters)
            named = named or (None if options_deny else _mentioned(rest, options, letters))
        previous = named or ""
        if named is not None:
            found.add(named)
        elif re.search(r"\bor\b", rest):
            return None
    return found.pop() if len(found) == 1 else None


def _same_quantity(text: str, options: Sequence[str], letters: str) -> list[str]:
    """The letters of the options that are the same plain number, and the same unit where both have one.

    "5 cm" is "5" and "five", not "5 km". Fractions are left to `same`.
    """
    said, unit = read_quantity(text)
    if not said or "/" in text or "frac" in text:
        return []
    found = []
    for letter, option in zip(letters, options, strict=True):
        values, other = read_quantity(option)
        fraction = "/" in option or "frac" in option
        if values[:1] == said[:1] and not fraction and not other_unit(unit, other):
            found.append(letter)
    return found


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
