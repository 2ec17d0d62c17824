"""The invented encyclopaedia: what its pages promise."""

import re
import sqlite3

import numpy as np
import pytest

from axpo_env.tasks.base import SPLITS
from axpo_env.tasks.synthetic.encyclopaedia import encyclopaedia, world
from axpo_env.tasks.synthetic.families import make_generated


def words(text):
    return set(re.findall(r"\w+", text.lower()))


@pytest.mark.parametrize("seed", [0, 1, 77])
def test_first_hop_pages_hold_no_fact_and_fact_pages_no_start(seed):
    pages, known = encyclopaedia(seed), world(seed)
    for start in known.starts:
        naming = [page for page in pages if start.name.lower() in words(page.title + " " + page.content)]
        assert len(naming) == 5
        assert any(start.person.name in page.content for page in naming)
        assert any(f"{start.town.name} in {start.town.region}" in page.content for page in naming)
        person, town = start.person, start.town
        facts = {str(person.born), person.birthplace.name, person.school}
        facts |= {town.river, str(town.elevation_m), f"{town.population:,}", town.mayor}
        for page in naming:
            assert not any(re.search(rf"\b{fact}\b", page.content) for fact in facts)


def test_homonyms_and_outdated_pages():
    known = world(5)
    by_title = {page.title: page for page in encyclopaedia(5)}
    for town in known.towns:
        now, then = by_title[town.title], by_title[f"{town.name} in {town.region}, guide of 2003"]
        assert f"{town.population:,}" in now.content and f"{town.old_population:,}" in then.content
        assert town.mayor in now.content and town.mayor not in then.content
        assert sum(other.name == town.name for other in known.towns) == 2
    for person in known.people:
        twins = [other for other in known.people if other.name == person.name]
        assert len(twins) == 2 and len({twin.profession for twin in twins}) == 2
        assert len({twin.born for twin in twins}) == len({twin.birthplace.name for twin in twins}) == 2


def test_pages_have_their_own_addresses_and_worlds_their_own_names():
    first, second = encyclopaedia(0), encyclopaedia(3)
    assert len(first) == len({page.url for page in first}) == len({page.title for page in first}) == 440
    shared = {start.name for start in world(0).starts} & {start.name for start in world(3).starts}
    assert shared == set()
    assert second[0].content not in {page.content for page in first}


def test_emblems_differ_from_each_other_even_when_small():
    images = [page.image for page in encyclopaedia(2) if page.image is not None]
    assert len(images) == 60 and all(image.shape == (64, 64, 3) for image in images)
    small = [image.reshape(8, 8, 8, 8, 3).mean(axis=(1, 3)) for image in images]
    for index, image in enumerate(small):
        for other in small[:index]:
            assert np.abs(image - other).mean() > 4


def search(pages, query):
    """What a full-text search (SQLite's bm25, any of the query's words) tells: its five best pages' text."""
    table = sqlite3.connect(":memory:")
    table.execute("create virtual table pages using fts5(title, content)")
    table.executemany("insert into pages values (?, ?)", [(page.title, page.content) for page in pages])
    match = " OR ".join(f'"{word}"' for word in re.findall(r"\w+", query))
    rows = table.execute(
        "select title, content from pages where pages match ? order by rank limit 5", (match,)
    )
    return " ".join(f"{title} {content}" for title, content in rows).replace(",", "")


def test_it_takes_the_second_search_to_find_an_answer():
    source = make_generated(benchmark="mmsearch", source="synthetic", split="test", difficulty="easy")
    asked = [item for item in map(source.item, range(60)) if not item.details["plaques"]]
    assert len(asked) >= 20
    for item in asked:
        pages = encyclopaedia(item.details["encyclopaedia_seed"])
        first, second = item.details["queries"]
        assert item.answer in search(pages, second)
        # Neither the first search nor the whole question typed in says it.
        assert item.answer not in search(pages, first)
        assert item.answer not in search(pages, item.question)


def test_encyclopaedias_of_splits_differ():
    seeds = {}
    for split in SPLITS:
        source = make_generated(benchmark="mmsearch", source="synthetic", split=split, difficulty="easy")
        seeds[split] = {source.item(index).details["encyclopaedia_seed"] % 3 for index in (0, 1, 999, 1000)}
    assert list(seeds.values()) == [{0}, {1}, {2}]
