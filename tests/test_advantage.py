"""The paper's credit on hand-worked numbers."""

import math

import pytest
import torch

from axpo_algo.advantage import axpo_advantages, group_advantages

ROOT3 = math.sqrt(3)


def near(tensor, expected):
    assert tensor.dtype == torch.float64
    assert tensor.tolist() == pytest.approx(expected, abs=1e-6)


def test_a_group_is_normalised_by_its_population_std():
    near(group_advantages([0, 0, 1, 0]), [-1 / ROOT3, -1 / ROOT3, ROOT3, -1 / ROOT3])
    near(group_advantages(torch.tensor([1.0, 0.0])), [1, -1])


def test_sample_std_divides_by_n_minus_1():
    near(group_advantages([1, 0], std="sample"), [0.5 * math.sqrt(2), -0.5 * math.sqrt(2)])


@pytest.mark.parametrize("rewards", [[0, 0, 0, 0], [1, 1, 1], [0.1] * 7, [1], []])
def test_equal_rewards_give_no_advantage(rewards):
    near(group_advantages(rewards), [0] * len(rewards))


def test_ungraded_rewards_are_left_out():
    near(group_advantages([1, math.nan, 0]), [1, 0, -1])
    near(group_advantages([math.nan, 1]), [0, 0])


def test_first_worked_case_all_wrong_one_recovered():
    advantages, continuations = axpo_advantages([0, 0, 0, 0], {0: [0, 1, 0, 0]})
    near(advantages, [1.7320508, 0, 0, 0])
    near(continuations[0], [-0.5773503, 1.7320508, -0.5773503, -0.5773503])


def test_second_worked_case_others_keep_the_original_rewards():
    advantages, continuations = axpo_advantages([0, 0, 1, 0], {0: [0, 1]})
    near(advantages, [1.0, -0.5773503, 1.7320508, -0.5773503])
    near(continuations[0], [-1, 1])


def test_third_worked_case_nothing_recovered():
    advantages, continuations = axpo_advantages([0, 0, 0, 0], {0: [0, 0, 0, 0]})
    near(advantages, [0, 0, 0, 0])
    near(continuations[0], [0, 0, 0, 0])


def test_two_sources_are_replaced_each_on_its_own():
    # Were both replaced at once, each prefix would get +1 instead of +1.7320508.
    advantages, _ = axpo_advantages([0, 0, 0, 0], {0: [1, 0], 1: [0, 1]})
    near(advantages, [ROOT3, ROOT3, 0, 0])
    advantages, _ = axpo_advantages([0, 0, 0, 0], {0: [1, 0], 1: [0, 0]})
    near(advantages, [ROOT3, 0, 0, 0])


def test_an_unrecovered_prefix_keeps_its_groups_ordinary_advantage():
    advantages, _ = axpo_advantages([0, 0, 1, 0], {1: [0, 0]})
    near(advantages, [-1 / ROOT3, -1 / ROOT3, ROOT3, -1 / ROOT3])


def test_ungraded_continuations():
    advantages, continuations = axpo_advantages([0, 0, 1, 0], {0: [math.nan, 1], 1: [math.nan, math.nan]})
    near(advantages, [1.0, 0.0, ROOT3, -1 / ROOT3])
    near(continuations[0], [0, 0])
    near(continuations[1], [0, 0])


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="'populaton'"):
        group_advantages([0, 1], std="populaton")
    with pytest.raises(ValueError, match=r"shape \[N\], got \[2, 1\]"):
        group_advantages([[0], [1]])
    with pytest.raises(IndexError, match="source 4 is not in a group of 2"):
        axpo_advantages([0, 1], {4: [1]})
