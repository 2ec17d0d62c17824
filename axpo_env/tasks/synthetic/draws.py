"""Seeded draws that are the same on every machine and Python version: all come from `Random.random` alone.

What is drawn is left to each kind of task.
"""

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

from axpo_env.tasks.base import Random

Thing = TypeVar("Thing")

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"


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


def pick(rng: random.Random, things: Sequence[Thing]) -> Thing:
    """One of `things`, each as likely. Raises ValueError if there are none."""
    if not things:
        raise ValueError("there is nothing to pick from")
    return things[int(rng.random() * len(things))]


def shuffled(rng: random.Random, things: Sequence[Thing]) -> list[Thing]:
    """A shuffled copy."""
    return sorted(things, key=lambda _: rng.random())


def invent(rng: random.Random, taken: set[str], *, syllables: int = 2) -> str:
    """An invented name such as "Velmor" that is not yet among `taken`, which it joins."""
    while True:
        name = "".join(pick(rng, CONSONANTS) + pick(rng, VOWELS) for _ in range(syllables))
        name = (name + pick(rng, "lmnrst")).capitalize()
        if name not in taken:
            taken.add(name)
            return name


def pick_offset(rng: Random, aim_noise: Sequence[float] | float, *, index: int, count: int) -> int:
    """A neighbour of `index` among `count`, by the probabilities `aim_noise` gives to distances 0, 1, 2, ...

    A distance's probability is shared by both sides; what lies past the edges is renormalised away. A bare
    number is the probability of missing by one. Draws one random number; 0 always gives `index`.
    """
    distances = [1 - aim_noise, aim_noise] if isinstance(aim_noise, int | float) else list(aim_noise)
    weights = [
        distances[abs(other - index)] / (1 if other == index else 2)
        if abs(other - index) < len(distances)
        else 0.0
        for other in range(count)
    ]
    if not distances or min(distances) < 0 or sum(weights) <= 0:
        raise ValueError(
            f"aim_noise gives probabilities to distances, one in reach above 0, not {aim_noise!r}"
        )
    point = rng.random() * sum(weights)
    for other, weight in enumerate(weights):
        point -= weight
        if point < 0:
            return other
    return index
