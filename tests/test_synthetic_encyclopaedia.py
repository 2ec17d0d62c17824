"""The invented encyclopaedia: what its pages promise."""

import re

import numpy as np
import pytest

from axpo_env.tasks.synthetic.encyclopaedia import encyclopaedia, world


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
