"""Characters that look alike when small, in pairs, and texts of wrong answers made with them.

The pairs are closest to each other among a font's letters and digits, shrunk until a capital is one or two pixels
high. Each character has one like, whose like it is: so texts that differ by likes do not tell which came first.
"""


def pairs(text: str) -> dict[str, str]:
    """Each character's like, from pairs such as "BR DG"."""
    return {pair[side]: pair[1 - side] for pair in text.split() for side in (0, 1)}


OUTER, VOWELS, INNER = pairs("BR DG SV FP KX"), pairs("AE OU"), pairs("RB DG SV KX")
DIGITS = pairs("05 17 23 49 68")
DIGITS_FROM_2 = pairs("27 35 49 68")


def with_like(text: str, place: int, likes: dict[str, str]) -> str:
    """The text with its character at `place` changed."""
    return text[:place] + likes[text[place]] + text[place + 1 :]


def number_like(text: str) -> str:
    """A number with its last digit before the point changed: "15.3" is "10.3"."""
    return with_like(text, len(text.partition(".")[0]) - 1, DIGITS)
