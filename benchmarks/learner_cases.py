"""Policies and samples for the learner's benchmarks: Qwen3-VL in several sizes, random weights, random tokens.

Nothing is downloaded: the tokenizer is the built-in one, and rows of the vocabulary beyond it are tokens as well.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import Qwen2VLImageProcessorPil, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from axpo_algo.models.chat import Chat
from axpo_algo.models.nano import build_nano
from axpo_algo.models.qwen3_vl import Qwen3VLPolicy
from axpo_algo.types import ProcessedImage, Sample, Trajectory

__all__ = ["SIZES", "Size", "TrajectoryMaker", "build_policy", "interleaved", "unban"]

Observation = tuple[list[int], list[ProcessedImage]]
"""token ids, and the images in the order of their placeholders"""

FIRST_TOKEN = 300
"""below are tags and single bytes"""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Widths of both towers."""

    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    num_layers: int
    vision_hidden_size: int
    vision_intermediate_size: int
    vision_heads: int
    vision_depth: int
    deepstack: tuple[int, ...]
    """vision layers whose features also enter the decoder"""
    patch_px: int
    vocab_size: int | None = None
    """None: the tokenizer's"""


_QWEN3_VL_2B = dict(
    hidden_size=2048,
    intermediate_size=6144,
    num_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    vision_hidden_size=1024,
    vision_intermediate_size=4096,
    vision_heads=16,
    patch_px=16,
    vocab_size=151_936,
)
SIZES = {
    "tiny": Size(
        hidden_size=64,
        intermediate_size=128,
        num_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        num_layers=2,
        vision_hidden_size=64,
        vision_intermediate_size=128,
        vision_heads=2,
        vision_depth=2,
        deepstack=(0,),
        patch_px=8,
    ),
    "small": Size(
        hidden_size=256,
        intermediate_size=768,
        num_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        num_layers=4,
        vision_hidden_size=128,
        vision_intermediate_size=384,
        vision_heads=4,
        vision_depth=2,
        deepstack=(0,),
        patch_px=16,
        vocab_size=8192,
    ),
    "2b-2-layers": Size(**_QWEN3_VL_2B, num_layers=2, vision_depth=2, deepstack=(0,)),
    "2b": Size(**_QWEN3_VL_2B, num_layers=28, vision_depth=24, deepstack=(5, 11, 17)),
}


def build_policy(size: Size, *, seed: int = 0) -> Qwen3VLPolicy:
    """A float32 policy on the CPU with random weights and tied embeddings. Activations keep a scale near 1 through all
    layers: weights have a standard deviation of about 1 / sqrt(hidden_size)."""
    tokenizer = build_nano().chat.tokenizer
    image_processor = Qwen2VLImageProcessorPil(
        patch_size=size.patch_px,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": (2 * size.patch_px) ** 2, "longest_edge": 1024 * 1024},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    chat = Chat(tokenizer, image_processor)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3VLForConditionalGeneration(_config(size, chat))
    policy = Qwen3VLPolicy(model.eval(), chat)
    unban(policy)
    return policy


def unban(policy: Qwen3VLPolicy) -> None:
    """Allows the tokens that the embeddings have beyond the tokenizer, so that the softmax is over the whole
    vocabulary."""
    policy.network.banned[len(policy.chat.tokenizer) :] = False


def _config(size: Size, chat: Chat) -> Qwen3VLConfig:
    std = size.hidden_size**-0.5
    section = size.head_dim * 5 // 32  # Qwen3-VL: 24 of 64 frequencies for time, 20 each for height and width
    ids = {
        f"{name}_token_id": chat.tokenizer.convert_tokens_to_ids(f"<|{tag}|>")
        for name, tag in {
            "image": "image_pad",
            "video": "video_pad",
            "vision_start": "vision_start",
            "vision_end": "vision_end",
        }.items()
    }
    return Qwen3VLConfig(
        text_config=dict(
            vocab_size=size.vocab_size or len(chat.tokenizer),
            hidden_size=size.hidden_size,
            intermediate_size=size.intermediate_size,
            num_hidden_layers=size.num_layers,
            num_attention_heads=size.num_heads,
            num_key_value_heads=size.num_key_value_heads,
            head_dim=size.head_dim,
            max_position_embeddings=32_768,
            initializer_range=std,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_interleaved": True,
                "mrope_section": [size.head_dim // 2 - 2 * section, section, section],
            },
            tie_word_embeddings=True,
            pad_token_id=chat.tokenizer.pad_token_id,
            eos_token_id=chat.tokenizer.eos_token_id,
        ),
        vision_config=dict(
            depth=size.vision_depth,
            hidden_size=size.vision_hidden_size,
            intermediate_size=size.vision_intermediate_size,
            num_heads=size.vision_heads,
            patch_size=size.patch_px,
            spatial_merge_size=2,
            temporal_patch_size=2,
            out_hidden_size=size.hidden_size,
            num_position_embeddings=2304,
            deepstack_visual_indexes=list(size.deepstack),
            initializer_range=size.vision_hidden_size**-0.5,
        ),
        tie_word_embeddings=True,
        **ids,
    )


class TrajectoryMaker:
    """Trajectories of random tokens and images, all decided by `seed`."""

    def __init__(self, policy: Qwen3VLPolicy, seed: int = 0) -> None:
        self.chat = policy.chat
        self.vocab_size = len(policy.network.banned)
        self.rng = np.random.default_rng(seed)

    def tokens(self, count: int) -> list[int]:
        """Tokens without a meaning of their own, from the whole vocabulary."""
        special = self.chat.tokenizer.all_special_ids
        found = self.rng.integers(FIRST_TOKEN, self.vocab_size, count)
        return [int(token) if token not in special else FIRST_TOKEN for token in found]

    def image(self, *, height: int, width: int) -> ProcessedImage:
        """Random pixels; height and width in visual tokens."""
        side = self.chat.image_processor.patch_size * self.chat.image_processor.merge_size
        return self.chat.image(self.rng.integers(0, 256, (height * side, width * side, 3), dtype=np.uint8))

    def observation(self, num_tokens: int, image: ProcessedImage | None = None) -> Observation:
        """An image and what is written behind it, `num_tokens` tokens together."""
        if image is None:
            return self.tokens(num_tokens), []
        placeholders = [self.chat.image_token_id] * image.num_tokens
        return [*placeholders, *self.tokens(num_tokens - image.num_tokens)], [image]

    def trajectory(
        self, prompt: Observation, turns: Sequence[int], *, given: Sequence[int] = ()
    ) -> Trajectory:
        """Turns of so many tokens, the first behind the tokens `given`; between them observations of 10 tokens, 6 of
        them an image's."""
        made = Trajectory()
        made.append_observation(*prompt)
        for number, count in enumerate(turns):
            repeated = [] if number else list(given)
            if number:
                made.append_observation(*self.observation(10, self.image(height=2, width=3)))
            tokens = [*repeated, *self.tokens(count)]
            made.append_action(tokens, [-1.0] * len(tokens), "", num_given=len(repeated))
        return made

    def axpo_samples(
        self,
        prompt: Observation,
        *,
        whole: Sequence[Sequence[int]],
        prefix: int,
        continuations: Sequence[Sequence[int]],
    ) -> list[Sample]:
        """A question's samples: whole trajectories, the `prefix` tokens that a source thought before its call, and what
        was resampled behind them. Turns of each by their numbers of tokens."""
        made = [self.trajectory(prompt, turns) for turns in whole]
        samples = [
            Sample(trajectory=t, advantage=1.0 - n, length=len(t.token_ids)) for n, t in enumerate(made)
        ]
        if not continuations:
            return samples
        source = self.trajectory(prompt, [prefix + 1])
        start = len(prompt[0])
        source.branch_point = start + prefix
        given = source.token_ids[start : source.branch_point]
        samples.append(Sample(trajectory=source, advantage=0.5, length=source.branch_point))
        for number, turns in enumerate(continuations):
            copy = self.trajectory(prompt, turns, given=given)
            copy.source, copy.prefix_length = source, source.branch_point
            samples.append(
                Sample(
                    trajectory=copy,
                    advantage=number - 0.5,
                    start=source.branch_point,
                    length=len(copy.token_ids),
                )
            )
        return samples


def interleaved(
    actions: Mapping[str, Callable[[], object]], *, repeats: int, device: torch.device
) -> dict[str, tuple[float, float]]:
    """Median seconds of each action, of this process's CPU time and by the clock: once each in turn, `repeats` times
    over. Run each once before. Other processes move the clock's seconds more than the CPU's."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in actions}
    for _ in range(repeats):
        for name, action in actions.items():
            _synchronize(device)
            cpu_s, wall_s = time.process_time(), time.perf_counter()
            action()
            _synchronize(device)
            taken[name].append((time.process_time() - cpu_s, time.perf_counter() - wall_s))
    return {
        name: (statistics.median(cpu for cpu, _ in times), statistics.median(wall for _, wall in times))
        for name, times in taken.items()
    }


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
