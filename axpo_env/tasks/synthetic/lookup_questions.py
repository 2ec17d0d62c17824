"""Two-hop questions about an encyclopaedia's world: from a firm, building or ship to a person or town, to a fact.

Each way of asking has three wordings, one a split. Showing the starting point is left to `lookups`.
"""

import random
from dataclasses import dataclass

from axpo_env.tasks.synthetic.draws import pick
from axpo_env.tasks.synthetic.encyclopaedia_world import Person, Start, StartKind, Town
from axpo_env.tasks.synthetic.items import wording

PERSON_FACTS = ("born", "birthplace", "school")
TOWN_FACTS = ("river", "elevation", "population", "mayor")

_PERSONS: dict[StartKind, str] = {
    "firm": "the founder of {it}",
    "building": "the architect of {it}",
    "ship": "the first captain of {it}",
}
_TOWNS: dict[StartKind, str] = {
    "firm": "the town where {it} has its seat today",
    "building": "the town where {it} stands",
    "ship": "the town that is the home port of {it} today",
}
_ASKED: dict[str, tuple[str, str, str]] = {
    "born": (
        "In which year was {x} born?",
        "Give the year of birth of {x}.",
        "What is the birth year of {x}?",
    ),
    "birthplace": (
        "In which town was {x} born?",
        "Name the birthplace (a town) of {x}.",
        "Which town is where {x} was born?",
    ),
    "school": (
        "At which college did {x} learn?",
        "Name the college of {x}.",
        "Which college was it that {x} went to?",
    ),
    "river": (
        "On which river lies {x}?",
        "Name the river of {x}.",
        "Which river flows by {x}?",
    ),
    "elevation": (
        "At how many metres of elevation lies {x}?",
        "Give the elevation in metres of {x}.",
        "How high above the sea, in metres, is {x}?",
    ),
    "population": (
        "How many inhabitants does the latest census give {x}?",
        "Give the number of inhabitants, by the latest census, of {x}.",
        "By the census of 2021, how many people live in {x}?",
    ),
    "mayor": (
        "Who is now mayor of {x}?",
        "Name the present mayor of {x}.",
        "Which person is today the mayor of {x}?",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """A question and the way to its answer."""

    kind: str  # for example "firm-born"
    text: str
    answer: str
    aliases: tuple[str, ...]
    queries: tuple[str, str]  # of the first and the second search
    found: tuple[str, str]  # what the first and the second search tell


def ask(rng: random.Random, start: Start, *, it: str, split: str) -> Lookup:
    """A question that calls the starting point `it`."""
    fact = pick(rng, PERSON_FACTS + TOWN_FACTS)
    if fact in PERSON_FACTS:
        person = start.person
        answer, aliases = _person_fact(person, fact)
        target = _PERSONS[start.kind]
        query, found = f"{person.name} {person.profession}", f"{person.profession} {person.name}"
    else:
        town = start.town
        answer, aliases = _town_fact(town, fact)
        target = _TOWNS[start.kind]
        query, found = f"{town.name} {town.region} town", f"{town.name} in {town.region}"
    return Lookup(
        kind=f"{start.kind}-{fact}",
        text=wording(split, _ASKED[fact]).format(x=target.format(it=it)),
        answer=answer,
        aliases=aliases,
        queries=(f"{start.name} {start.kind}", query),
        found=(found, f"{fact} {answer}"),
    )


def _person_fact(person: Person, fact: str) -> tuple[str, tuple[str, ...]]:
    if fact == "born":
        return str(person.born), ()
    if fact == "birthplace":
        town = person.birthplace
        return town.name, (town.title, f"{town.name} in {town.region}", f"{town.name}, {town.region}")
    return person.school, (person.school.removesuffix(" College"),)


def _town_fact(town: Town, fact: str) -> tuple[str, tuple[str, ...]]:
    if fact == "river":
        return town.river, (f"the {town.river}", f"river {town.river}", f"the river {town.river}")
    if fact == "elevation":
        return str(town.elevation_m), (f"{town.elevation_m} m", f"{town.elevation_m} metres")
    if fact == "population":
        return str(town.population), (f"{town.population} inhabitants", f"{town.population:,} inhabitants")
    return town.mayor, ()
