"""Who is resampled: trigger, ranking, budget, breadth first."""

import math
import random

import pytest

from axpo_algo.selection import Candidate, all_wrong, choose_prefixes


def tool(confidence, reward=0.0):
    return Candidate(reward=reward, used_tool=True, confidence=confidence)


def plain(reward):
    return Candidate(reward=reward, used_tool=False)


def test_only_all_wrong_tool_using_subgroups_trigger():
    assert all_wrong([tool(0.5), plain(1)])  # right without a tool does not save it
    assert not all_wrong([tool(0.5), tool(0.5, reward=1.0)])
    assert not all_wrong([plain(0), plain(0)])  # an empty subgroup is not all-wrong
    assert all_wrong([plain(0), tool(0.5, reward=1.0)], used_tool=False)
    assert not all_wrong([tool(0.5, reward=math.nan)])  # an outage is not wrong


def test_least_confident_first_and_breadth_before_depth():
    groups = [
        [tool(0.9), tool(0.2), tool(0.5), plain(1)],
        [tool(0.1, reward=1.0), tool(0.1), plain(0), plain(0)],
        [plain(0), tool(0.7), tool(0.6), plain(0)],
    ]
    # Budget: 12 trajectories * 1.0 / 2 = 6 prefixes; five sources in two triggered groups.
    chosen = choose_prefixes(groups, extra_budget=1.0, continuations=2)
    assert chosen == [(0, 1), (2, 2), (0, 2), (2, 1), (0, 0)]


def test_the_budget_buys_whole_prefixes_only():
    groups = [[tool(0.4), plain(0)] for _ in range(4)]  # 8 trajectories
    assert choose_prefixes(groups, extra_budget=0.25, continuations=4) == []
    assert choose_prefixes(groups, extra_budget=0.5, continuations=4) == [(0, 0)]
    assert choose_prefixes(groups, extra_budget=0.99, continuations=4) == [(0, 0)]
    assert choose_prefixes(groups, extra_budget=1.0, continuations=4) == [(0, 0), (1, 0)]


def test_the_papers_budget():
    groups = [[tool(0.5)] * 8 for _ in range(16)]
    assert len(choose_prefixes(groups, extra_budget=0.25, continuations=4)) == 8  # 0.25 * 128 / 4


def test_where_a_round_is_cut_the_least_confident_groups_come_first():
    groups = [[tool(0.9), plain(0)], [tool(0.3), plain(0)], [tool(0.6), plain(0)]]
    assert choose_prefixes(groups, extra_budget=1.0, continuations=3) == [(1, 0), (2, 0)]


def test_ties_stand_by_position():
    assert choose_prefixes([[tool(0.5), tool(0.5)]], extra_budget=1.0, continuations=2) == [(0, 0)]


def test_a_source_needs_a_prefix_and_a_grade():
    group = [Candidate(reward=0.0, used_tool=True), tool(0.5, reward=math.nan), tool(0.8)]
    assert choose_prefixes([group], extra_budget=2.0, continuations=2) == [(0, 2)]


def test_random_ranking_is_seeded_and_ignores_confidence():
    groups = [[tool(i / 10) for i in range(10)]]
    pick = {
        choose_prefixes(groups, extra_budget=0.2, continuations=2, ranking="random", rng=random.Random(s))[0]
        for s in range(20)
    }
    assert len(pick) > 3
    same = [
        choose_prefixes(groups, continuations=1, ranking="random", rng=random.Random(7)) for _ in range(2)
    ]
    assert same[0] == same[1]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="needs rng"):
        choose_prefixes([], ranking="random")
    with pytest.raises(ValueError, match="'uncertain'"):
        choose_prefixes([], ranking="uncertain")
    with pytest.raises(ValueError, match="continuations >= 1"):
        choose_prefixes([], continuations=0)
