"""Seeded draws that are the same on every machine and Python version: all come from `Random.random` alone.

What is drawn is left to each kind of task.
"""

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


def item_rng(key: str, split: str, index: int) -> random.Random:
    """The generator of one item; the same on every machine and Python version."""
    return random.Random(hashlib.sha256(f"{key}/{split}/{index}".encode()).digest())


def split_of_data(data: object) -> str:
    """The one split that may hold an item with these data: 8 of 10 train, 1 validation, 1 test."""
    bucket = int.from_bytes(hashlib.sha256(repr(data).encode()).digest()[:4]) % 10
    return {8: "validation", 9: "test"}.get(bucket, "train")


def between(rng: random.Random, bounds: tuple[int, int]) -> int:
    """An integer from `bounds`, both ends included."""
    return bounds[0] + int(rng.random() * (bounds[1] - bounds[0] + 1))


def pick(rng: random.Random, items: Sequence[Item]) -> Item:
    """One of `items`, each as likely."""
    return items[int(rng.random() * len(items))]


def shuffled(rng: random.Random, items: Sequence[Item]) -> list[Item]:
    """A shuffled copy."""
    return sorted(items, key=lambda _: rng.random())


def invent(rng: random.Random, taken: set[str], *, syllables: int = 2) -> str:
    """An invented name such as "Velmor" that is not yet among `taken`, which it joins."""
    while True:
        name = "".join(pick(rng, _CONSONANTS) + pick(rng, _VOWELS) for _ in range(syllables))
        name = (name + pick(rng, "lmnrst")).capitalize()
        if name not in taken:
            taken.add(name)
            return name
