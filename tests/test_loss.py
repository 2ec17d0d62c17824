"""The clipped surrogate and the KL estimate on hand-worked numbers."""

import math

import pytest
import torch

from axpo_algo.loss import clipped_surrogate, kl_to_reference, sequence_mean


def log(*values):
    return torch.log(torch.tensor(values, dtype=torch.float64))


def test_clip_bounds_differ_above_and_below():
    # Ratios 0.5, 1, 1.3, 2 with positive, then negative advantages; bounds 0.8 and 1.4.
    policy, sampling = log(0.1, 0.2, 0.26, 0.4), log(0.2, 0.2, 0.2, 0.2)
    ones = torch.ones(4, dtype=torch.float64)
    assert clipped_surrogate(policy, sampling, ones).tolist() == pytest.approx([-0.5, -1.0, -1.3, -1.4])
    assert clipped_surrogate(policy, sampling, -ones).tolist() == pytest.approx([0.8, 1.0, 1.3, 2.0])


def test_a_clipped_token_has_no_gradient():
    policy = log(0.4, 0.2).requires_grad_()
    clipped_surrogate(policy, log(0.2, 0.2), torch.ones(2, dtype=torch.float64)).sum().backward()
    assert policy.grad.tolist() == pytest.approx([0.0, -1.0])


def test_kl_is_zero_at_equality_and_positive_elsewhere():
    policy, reference = log(0.5, 0.5, 0.5), log(0.5, 0.25, 1.0)
    expected = [0.0, 0.5 + math.log(2) - 1, 2 - math.log(2) - 1]
    assert kl_to_reference(policy, reference).tolist() == pytest.approx(expected)


def test_kl_is_unbiased_on_samples_of_the_policy():
    policy, reference = torch.tensor([0.7, 0.3]), torch.tensor([0.4, 0.6])
    estimate = (policy * kl_to_reference(policy.log(), reference.log())).sum()
    assert float(estimate) == pytest.approx(float((policy * (policy / reference).log()).sum()), abs=1e-6)


def test_a_sequence_counts_once_whatever_its_length():
    values = torch.tensor([1.0, 3.0, 10.0])
    assert sequence_mean(values, torch.tensor([0, 0, 2]), 3).tolist() == [2.0, 0.0, 10.0]


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="shapes differ"):
        clipped_surrogate(torch.zeros(2), torch.zeros(3), torch.zeros(2))
    with pytest.raises(ValueError, match=r"must both be \[T\]"):
        sequence_mean(torch.zeros(2), torch.zeros(3), 1)
