"""REINFORCE with a tool, whole and in numpy: observations, text actions, `env.step`, reward, gradient.

    python -m axpo_env.examples.reinforce            # learns to look and to read in a few seconds
    python -m axpo_env.examples.reinforce --guess    # may also guess; this seed then never learns to look

The policy is as small as one can be that still looks at pixels: it picks one of a few texts, first where to
zoom in, then which number to answer. A chart's numbers cannot be read without the zoom. All rollouts of a
question start from one snapshot, and their mean reward is the baseline. Put a language model in the place of
`Policy` and the loop stays as it is; `axpo_algo` is that, with tokens, batches and a clipped loss.
"""

import argparse
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

import axpo_env  # noqa: F401 - registers the environment
from axpo_env.messages import format_action, format_answer, format_call
from axpo_env.tasks.synthetic.chart_data import PALETTE

Floats = NDArray[np.float64]
Gradients = dict[str, Floats]  # of one rollout's log-probability, by the name of the weights

NUM_SLOTS = 6  # bars of a nano chart, side by side, each with its number at the bottom
NUMBERS = [str(number) for number in range(10, 100, 10)]  # what a nano chart may show
GUESS = "50"  # the most frequent of them
STEP = {"look": 0.3, "guess": 0.3, "read": 1.0}  # learning rates
ZOOMS = [
    format_call(
        "image_zoom_in", {"label": "bar", "bbox_2d": [1000 * slot // 6, 833, 1000 * (slot + 1) // 6, 1000]}
    )
    for slot in range(NUM_SLOTS)
]


def choose(logits: Floats, rng: np.random.Generator) -> tuple[int, Floats]:
    """An option drawn from softmax(`logits`) [n], and d log p(option) / d logits [n]: one-hot minus p."""
    p = np.exp(logits - logits.max())
    p /= p.sum()
    option = int(rng.choice(len(p), p=p))
    return option, np.eye(len(p))[option] - p


class Policy:
    """Two softmaxes, linear in what is seen. Reading starts at random, looking with a hunch: like colours."""

    def __init__(self, *, may_guess: bool) -> None:
        self.may_guess = may_guess
        self.weights = {"look": np.ones(1), "guess": np.zeros(1), "read": np.zeros((24 * 24, len(NUMBERS)))}
        self._mean_crop, self._num_crops = np.zeros(24 * 24), 0

    def first(self, observation: dict[str, Any], rng: np.random.Generator) -> tuple[str, Gradients]:
        """Zoom into a slot, by how close its bar's colour is to the one asked for; or guess."""
        asked = next(color for name, color in PALETTE.items() if name in observation["text"])
        slots = observation["images"][0].reshape(48, NUM_SLOTS, 8, 3)[34:39, :, 2:6]  # a bar's foot in each
        close = -np.abs(slots.mean(axis=(0, 2)) - asked).sum(axis=1) / 255
        logits = self.weights["look"] * close
        if self.may_guess:
            logits = np.append(logits, self.weights["guess"])
        option, slope = choose(logits, rng)
        gradients = {"look": close @ slope[:NUM_SLOTS, None], "guess": slope[NUM_SLOTS:]}
        if option == NUM_SLOTS:
            return format_action("guess", format_answer(GUESS)), gradients
        return format_action("look", ZOOMS[option]), gradients

    def second(self, observation: dict[str, Any], rng: np.random.Generator) -> tuple[str, Gradients]:
        """Answer by the crop's pixels: dark ones, less what crops have in common."""
        crop = 1 - observation["images"][0].mean(axis=2).reshape(24, 2, 24, 2).mean(axis=(1, 3)).ravel() / 255
        self._num_crops += 1
        self._mean_crop += (crop - self._mean_crop) / self._num_crops
        pixels = crop - self._mean_crop
        pixels /= np.linalg.norm(pixels) + 1e-6
        option, slope = choose(pixels @ self.weights["read"], rng)
        return format_action("read", format_answer(NUMBERS[option])), {"read": np.outer(pixels, slope)}


def rollout(env: Any, start: Any, policy: Policy, rng: np.random.Generator) -> tuple[float, Gradients]:
    """One episode from the snapshot `start`: its reward, and the gradient of its log-probability."""
    observation, _ = env.restore(start)
    action, gradients = policy.first(observation, rng)
    observation, reward, terminated, truncated, _ = env.step(action)
    if not (terminated or truncated):
        action, more = policy.second(observation, rng)
        gradients |= more
        _, reward, _, _, _ = env.step(action)
    return reward, gradients


def train(
    *, num_questions: int = 400, num_rollouts: int = 8, seed: int = 0, may_guess: bool = False
) -> list[float]:
    """Train a fresh policy, one gradient step per question. Returns each question's mean reward."""
    env: Any = gym.make(
        "AXPO/ChartQA-Tools-v0", difficulty="nano", tools=("image_zoom_in",), max_turns=2, max_pixels=48 * 48
    ).unwrapped
    env.reset(seed=seed)
    rng, policy, history = np.random.default_rng(seed), Policy(may_guess=may_guess), []
    for _ in range(num_questions):
        env.reset()
        start = env.snapshot()
        rollouts = [rollout(env, start, policy, rng) for _ in range(num_rollouts)]
        history.append(sum(reward for reward, _ in rollouts) / num_rollouts)
        for reward, gradients in rollouts:
            for name, gradient in gradients.items():
                if gradient.size:
                    policy.weights[name] += STEP[name] * (reward - history[-1]) * gradient
    env.close()
    return history


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="REINFORCE on nano charts")
    parser.add_argument("--guess", action="store_true", help="offer a guess among the actions")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rewards = train(seed=given.seed, may_guess=given.guess)
    for end in range(50, len(rewards) + 1, 50):
        print(f"questions {end - 50:3} to {end - 1:3}: mean reward {np.mean(rewards[end - 50 : end]):.2f}")
