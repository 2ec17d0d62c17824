"""An invented encyclopaedia: the pages that an offline search engine looks through, drawn from a seed.

The facts are drawn in `encyclopaedia_world`, asked about in `lookup_questions`; searching is left to
the search tools. What the pages promise:

- A starting point (firm, building, ship) has at least five pages that name it, more than a search shows of
  anything else, and none of them holds a fact about the person or town that it leads to.
- The pages of people and towns do not name starting points.
- Two people share each name, and two towns: only profession or region tells them apart.
- Old pages give outdated seats, mayors and numbers of inhabitants, and say what year they are of.
"""

import random
import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from axpo_env.tasks.synthetic.draws import pick, shuffled
from axpo_env.tasks.synthetic.emblems import EMBLEM_PX, paint_emblem
from axpo_env.tasks.synthetic.encyclopaedia_world import Person, Start, Town, World, draw_world
from axpo_env.views import from_pil

SITE = "https://encyclopaedia.example"


@dataclass(frozen=True, kw_only=True, eq=False)
class Page:
    """One page of an encyclopaedia."""

    url: str  # unique in its encyclopaedia
    title: str
    content: str  # plain text, 120 to 300 characters
    image: NDArray[np.uint8] | None = None  # [64, 64, 3], read-only: an emblem, for firms and towns


def encyclopaedia(seed: int) -> list[Page]:
    """The pages of encyclopaedia `seed`, 440, always in the same order. The latest few are cached."""
    return list(_pages(seed))


@lru_cache(maxsize=8)
def world(seed: int) -> World:
    """What encyclopaedia `seed` knows."""
    return draw_world(seed)


@lru_cache(maxsize=8)
def _pages(seed: int) -> tuple[Page, ...]:
    known = world(seed)
    pages = [
        *(page for start in known.starts for page in _about_start(start, seed)),
        *(_about_person(person) for person in known.people),
        *(page for town in known.towns for page in _about_town(town, seed)),
    ]
    order = random.Random(f"encyclopaedia/{seed}/order")
    return tuple(shuffled(order, pages))


def emblem(seed: int, owner: str) -> NDArray[np.uint8]:
    """The emblem of a firm (by name) or a town (by title) in encyclopaedia `seed`: [64, 64, 3]."""
    return from_pil(paint_emblem(random.Random(f"encyclopaedia/{seed}/emblem/{owner}"), EMBLEM_PX))


def _url(kind: str, title: str) -> str:
    return f"{SITE}/{kind}/" + re.sub("[(),]", "", title.lower().replace(" ", "-"))


def _page(kind: str, title: str, content: str, image: NDArray[np.uint8] | None = None) -> Page:
    return Page(url=_url(kind, title), title=title, content=content, image=image)


def _about_start(start: Start, seed: int) -> list[Page]:
    """The page that leads on, one that is out of date, and three that merely hold the name."""
    pages = {"firm": _about_firm, "building": _about_building, "ship": _about_ship}[start.kind](start, seed)
    rng = random.Random(f"encyclopaedia/{seed}/{start.name}")
    animal, month = pick(rng, ("moth", "beetle", "snail")), pick(rng, ("May", "June", "August"))
    name = start.name
    pages += [
        _page(
            "nature",
            f"{name} ({animal})",
            f"The {name} is a {animal} of the northern marshes. It is about {2 + int(rng.random() * 7)} "
            f"centimetres long, flies little and is mostly seen in {month}. The {start.kind} {name} has its "
            "name from elsewhere; the two are often mixed up.",
        ),
        _page(
            "sport",
            f"{name} Cup",
            f"The {name} Cup is a chess tournament for juniors, held every {month}. It has no tie to the "
            f"{start.kind} of the same name. Winners of the {name} Cup receive a wooden board.",
        ),
        _page(
            "language",
            f"{name} (word)",
            f"The word {name.lower()} meant a narrow path in an old dialect. Today {name} is known as a "
            f"proper name, above all that of a {start.kind}. Linguists do not agree on how {name} is stressed.",
        ),
    ]
    return pages


def _about_firm(start: Start, seed: int) -> list[Page]:
    name, town, old = start.name, start.town, start.old_town
    return [
        _page(
            "firms",
            f"{name} (firm)",
            f"{name} is a firm that makes {start.detail}. It was founded in {start.year} by the "
            f"{start.person.profession} {start.person.name}. Since 2015 the seat of {name} has been {town.name} "
            f"in {town.region}. The firm belongs to its staff and exports half of what it makes.",
            emblem(seed, name),
        ),
        _page(
            "register",
            f"{name}, company register of 2002",
            f"Entry of 2002. {name}, maker of {start.detail}, registered in {start.year}. Seat: {old.name} in "
            f"{old.region}. The register is no longer kept; entries show the state of 2002.",
        ),
    ]


def _about_building(start: Start, seed: int) -> list[Page]:
    name, town, old = start.name, start.town, start.old_town
    return [
        _page(
            "buildings",
            f"{name} ({start.detail})",
            f"{name} is a {start.detail} in {town.name} in {town.region}. It was designed by the "
            f"{start.person.profession} {start.person.name} and opened in {start.year}. Visitors to {name} praise "
            "its brick front and its staircase of oak.",
        ),
        _page(
            "plans",
            f"{name}, plans of 1970",
            f"In 1970 it was planned to put the {start.detail} {name} up in {old.name} in {old.region}. The plan "
            f"was given up for want of money, and {name} was built elsewhere later.",
        ),
    ]


def _about_ship(start: Start, seed: int) -> list[Page]:
    name, town, old = start.name, start.town, start.old_town
    return [
        _page(
            "ships",
            f"{name} (ship)",
            f"{name} is a river ship that carries {start.detail}. She was launched in {start.year}; her first "
            f"captain was the {start.person.profession} {start.person.name}. Since 2012 the home port of {name} "
            f"has been {town.name} in {town.region}.",
        ),
        _page(
            "harbours",
            f"{name}, harbour list of 2001",
            f"Harbour list of 2001. {name}, carries {start.detail}, launched in {start.year}. Home port: "
            f"{old.name} in {old.region}. The list shows the state of 2001.",
        ),
    ]


def _about_person(person: Person) -> Page:
    return _page(
        "people",
        person.title,
        f"{person.name} was a {person.profession}, born in {person.born} in {person.birthplace.name} in "
        f"{person.birthplace.region}. After years of learning at {person.school}, the {person.profession} "
        f"travelled widely and wrote letters that are still read. Another {person.name}, who had a different "
        "profession, is no relation.",
    )


def _about_town(town: Town, seed: int) -> list[Page]:
    return [
        _page(
            "towns",
            town.title,
            f"{town.name} is a town in {town.region} on the river {town.river}, at an elevation of "
            f"{town.elevation_m} metres. At the census of 2021, {town.name} had {town.population:,} inhabitants. "
            f"Mayor since 2020: {town.mayor}. Another {town.name} lies in a different region.",
            emblem(seed, town.title),
        ),
        _page(
            "guides",
            f"{town.name} in {town.region}, guide of 2003",
            f"Guide of 2003. {town.name} in {town.region} is a quiet place with {town.old_population:,} "
            f"inhabitants and a market on Fridays. Mayor: {town.old_mayor}. The guide is out of print.",
        ),
    ]
