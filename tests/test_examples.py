"""The examples do what they say."""

import numpy as np

from axpo_env.examples.reinforce import choose, train


def test_choose_gives_the_gradient_of_the_log_probability():
    logits = np.array([0.3, -1.0, 2.0])
    option, slope = choose(logits, np.random.default_rng(0))
    for index in range(3):
        moved = logits + 1e-6 * np.eye(3)[index]
        change = (moved - np.logaddexp.reduce(moved)) - (logits - np.logaddexp.reduce(logits))
        np.testing.assert_allclose(slope[index], change[option] / 1e-6, atol=1e-5)


def test_reinforce_learns_to_look_and_to_read():
    rewards = train(num_questions=150, seed=0)
    assert len(rewards) == 150
    assert np.mean(rewards[:20]) < 0.5  # at random: 1 in 54 to 1 in 20
    assert np.mean(rewards[-50:]) > 0.7
    assert rewards[:30] == train(num_questions=30, seed=0)  # nothing but the seed decides
