"""The invented world behind an encyclopaedia: towns, people, and the firms, buildings and ships that lead to them.

A question takes two hops: from a starting point (a firm, a building, a ship) to a person or a town, and from
there to a fact. Names of people and towns are shared by two of each (homonyms), and some facts have an
outdated value as well. How pages tell all this is left to `encyclopaedia`.
"""

import random
from dataclasses import dataclass
from typing import Literal

from axpo_env.tasks.synthetic.draws import between, invent, pick, shuffled

StartKind = Literal["firm", "building", "ship"]

PROFESSIONS = ("chemist", "painter", "engineer", "botanist", "sculptor", "surveyor", "jurist", "astronomer")
SECTORS = ("glass", "clocks", "bicycles", "paper", "ceramics", "pumps")
BUILDINGS = ("museum", "library", "theatre", "market hall")
NUM_TOWN_NAMES, NUM_PERSON_NAMES = 20, 30
NUM_STARTS = 20  # of each kind
# Ranges of years that do not meet, so that no page tells a fact by accident.
BORN, BEGUN = (1870, 1945), (1971, 1999)


@dataclass(frozen=True, kw_only=True)
class Town:
    """One of two towns of its name."""

    name: str
    region: str
    river: str
    elevation_m: int
    population: int  # census of 2021
    old_population: int  # edition of 2003
    mayor: str
    old_mayor: str

    @property
    def title(self) -> str:
        return f"{self.name} ({self.region})"


@dataclass(frozen=True, kw_only=True)
class Person:
    """One of two people of the name."""

    name: str
    profession: str
    born: int
    birthplace: Town
    school: str

    @property
    def title(self) -> str:
        return f"{self.name} ({self.profession})"


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a question starts from."""

    kind: StartKind
    name: str  # one rare word
    detail: str  # a firm's sector, a building's use, a ship's cargo
    year: int
    person: Person  # founder, architect, first captain
    town: Town  # seat today, place, home port today
    old_town: Town  # the seat or home port of former times; for a building, the place of its old model


@dataclass(frozen=True, kw_only=True)
class World:
    """Everything that one encyclopaedia knows."""

    seed: int
    towns: tuple[Town, ...]
    people: tuple[Person, ...]
    starts: tuple[Start, ...]


def draw_world(seed: int) -> World:
    """The world of `seed`; about 150 entities, all names invented."""
    rng = random.Random(f"encyclopaedia/{seed}")
    taken: set[str] = set()
    regions = [invent(rng, taken, syllables=1) + "land" for _ in range(4)]
    towns = tuple(town for _ in range(NUM_TOWN_NAMES) for town in _draw_towns(rng, taken, regions))
    people = tuple(person for _ in range(NUM_PERSON_NAMES) for person in _draw_people(rng, taken, towns))
    kinds: tuple[StartKind, ...] = ("firm", "building", "ship")
    starts = tuple(_draw_start(rng, taken, kind, people, towns) for kind in kinds for _ in range(NUM_STARTS))
    return World(seed=seed, towns=towns, people=people, starts=starts)


def _draw_towns(rng: random.Random, taken: set[str], regions: list[str]) -> list[Town]:
    """Two towns of one name, in two regions."""
    name = invent(rng, taken)
    towns = []
    for region in shuffled(rng, regions)[:2]:
        population = between(rng, (2_000, 90_000))
        towns.append(
            Town(
                name=name,
                region=region,
                river=invent(rng, taken),
                elevation_m=between(rng, (101, 989)),
                population=population,
                old_population=population + between(rng, (50, 900)),
                mayor=_full_name(rng, taken),
                old_mayor=_full_name(rng, taken),
            )
        )
    return towns


def _draw_people(rng: random.Random, taken: set[str], towns: tuple[Town, ...]) -> list[Person]:
    """Two people of one name, with different professions, years and birthplaces."""
    name = _full_name(rng, taken)
    years = shuffled(rng, range(BORN[0], BORN[1] + 1))
    return [
        Person(
            name=name,
            profession=profession,
            born=year,
            birthplace=town,
            school=f"{invent(rng, taken)} College",
        )
        for profession, year, town in zip(
            shuffled(rng, PROFESSIONS)[:2], years[:2], _different(rng, towns, 2), strict=True
        )
    ]


def _draw_start(
    rng: random.Random, taken: set[str], kind: StartKind, people: tuple[Person, ...], towns: tuple[Town, ...]
) -> Start:
    details = {"firm": SECTORS, "building": BUILDINGS, "ship": ("grain", "timber", "ore", "salt")}
    person = pick(rng, people)
    # The pages about a start name its towns: the birthplace must not be one of them.
    elsewhere = tuple(town for town in towns if town.name != person.birthplace.name)
    town, old_town = _different(rng, elsewhere, 2)
    return Start(
        kind=kind,
        name=invent(rng, taken, syllables=3),
        detail=pick(rng, details[kind]),
        year=between(rng, BEGUN),
        person=person,
        town=town,
        old_town=old_town,
    )


def _different(rng: random.Random, towns: tuple[Town, ...], count: int) -> list[Town]:
    """Towns with different names."""
    chosen: list[Town] = []
    for town in shuffled(rng, towns):
        if len(chosen) < count and town.name not in {other.name for other in chosen}:
            chosen.append(town)
    return chosen


def _full_name(rng: random.Random, taken: set[str]) -> str:
    return f"{invent(rng, taken, syllables=1)} {invent(rng, taken)}"
