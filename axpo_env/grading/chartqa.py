"""ChartQA's metrics: `relaxed_match` is the published one, `strict_match` the one without its 5 % tolerance."""

import math
import re
from collections.abc import Callable, Sequence

from axpo_env.grading.extract import final_phrase, innermost, layers, plain_dashes, unwrap
from axpo_env.grading.grade import Grade, make_grade

_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?(?:[eE][+-]?\d{1,3})?")


def to_number(text: str) -> float | None:
    """The number `text` spells, or None.

    "1,234" is 1234, "5%" is 0.05 as in the published metric, "1,2" is none.
    """
    text = plain_dashes(text.strip())
    percent = text.endswith("%")
    digits = text[:-1].rstrip() if percent else text
    if not _NUMBER.fullmatch(digits) or not any(char.isdigit() for char in digits):
        return None
    try:
        value = float(digits.replace(",", ""))
    except ValueError:  # an exponent without digits before it
        return None
    return value / 100.0 if percent else value


def relaxed_match(prediction: str, reference: str, *, tolerance: float = 0.05) -> bool:
    """ChartQA's relaxed accuracy for one reference.

    Numbers may be off by `tolerance` of the reference, which must not be 0; years get the same 5 %, as
    published. Everything else, a reference of 0 included, is compared as text without case. A reference "[a,
    b]" is a list: its items are compared one by one, in order, and brackets in the prediction are optional.
    """
    items = _list_items(reference)
    if items is not None:
        return _match_list(prediction, items, lambda a, b: relaxed_match(a, b, tolerance=tolerance))
    predicted, target = to_number(prediction), to_number(reference)
    if predicted is not None and target:
        # The small slack keeps exactly 5 % (105 for 100) inside despite rounding.
        return abs(predicted - target) / abs(target) <= tolerance * (1 + 1e-9)
    return prediction.strip().lower() == reference.strip().lower()


def strict_match(prediction: str, reference: str) -> bool:
    """Equality: of numbers (0 included, "1,234" is "1234.0"), else of text without case and doubled spaces.

    Not a subset of `relaxed_match` in one corner: "0.0" for "0" is right here and wrong in the published
    metric.
    """
    items = _list_items(reference)
    if items is not None:
        return _match_list(prediction, items, strict_match)
    predicted, target = to_number(prediction), to_number(reference)
    if predicted is not None and target is not None:
        return math.isclose(predicted, target, rel_tol=1e-9, abs_tol=1e-12)
    return " ".join(prediction.lower().split()) == " ".join(reference.lower().split())


def grade_chartqa(answer: str | None, references: Sequence[str]) -> Grade:
    """Grade by ChartQA's metric.

    Any of `references` (at least one) will do. No answer is wrong, not ungraded. What is only wrapping ("the
    answer is 5.", dollar signs) is taken off first; the metric itself is as published.
    """
    readings = [] if answer is None else _readings(answer)
    return make_grade(
        answer,
        references,
        correct=any(relaxed_match(text, label) for text in readings for label in references),
        strict=any(strict_match(text, label) for text in readings for label in references),
    )


def _readings(answer: str) -> list[str]:
    """The answer as its wrapping comes off: "**U.S.**" is "U.S.", though "U.S" is what is barest.

    A dash is a hyphen: "25–34" is "25-34".
    """
    inner = innermost(answer)
    phrase = final_phrase(unwrap(inner))
    found = [answer, *layers(inner), *([] if phrase is None else layers(phrase))]
    return [*found, *map(plain_dashes, found)]


def _list_items(reference: str) -> list[str] | None:
    text = reference.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    return [item.strip() for item in text[1:-1].split(",")]


def _match_list(prediction: str, items: list[str], match: Callable[[str, str], bool]) -> bool:
    predicted = _list_items(prediction) or [item.strip() for item in prediction.split(",")]
    return len(predicted) == len(items) and all(match(a, b) for a, b in zip(predicted, items, strict=True))
