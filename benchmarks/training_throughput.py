"""How many tokens per second does an update train, beside a plain loop over transformers' own forward pass?

    python -m benchmarks.training_throughput [--size small] [--device cpu] [--dtype float32] [--repeats 5] [--json PATH]

The batch is of AXPO's shape: questions with images, rollouts, prefixes with continuations, uneven lengths. All paths
train the same tokens of it with gradient checkpointing and torch's AdamW, in micro-batches of at most the same number
of tokens, sorted by length:

- `axpo_algo` is `Learner.update` without a reference (no KL term): the clipped loss on prefix trees;
- `transformers, packed` gives `Qwen3VLForConditionalGeneration` several samples in one row with positions that start
  anew, and their labels; `transformers, padded` one sample a row, padded.

`trained` are tokens with loss, `processed` those of all forward passes, padding included. Memory is the most that is
held at a time beyond weights and moments: on a GPU as torch's allocator counts it, on the CPU the resident set's.
Times are medians, measured in turn in one run, by the process's CPU time on a CPU and by the clock on a GPU. `ratio`
is axpo_algo's trained tokens per second by the path's; `memory ratio` the path's by axpo_algo's.
"""

import argparse
import ctypes
import gc
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from axpo_algo.config import LossConfig, OptimizerConfig
from axpo_algo.learner import Learner
from axpo_algo.models.qwen3_vl import DTYPES, Qwen3VLPolicy, mrope_positions
from axpo_algo.run.tables import markdown_table, write_json
from axpo_algo.types import ProcessedImage, Sample
from benchmarks.learner_cases import SIZES, TrajectoryMaker, build_policy, interleaved

COLUMNS = (
    "path", "trained", "processed", "s", "trained/s", "processed/s", "ratio", "memory MB", "memory ratio",
)  # fmt: skip
OURS = "axpo_algo"
IGNORED = -100  # the label of a token without loss, as transformers has it


def make_samples(policy: Qwen3VLPolicy, num_questions: int, *, scale: int = 1, seed: int = 0) -> list[Sample]:
    """Of each question four rollouts, a prefix and four continuations; `scale` times as many tokens to a turn as 8 to
    60."""
    maker = TrajectoryMaker(policy, seed)

    def turns(count: int) -> list[list[int]]:
        return [
            [int(n) * scale for n in maker.rng.integers(8, 60, maker.rng.integers(1, 4))]
            for _ in range(count)
        ]

    samples: list[Sample] = []
    for _ in range(num_questions):
        prompt = maker.observation(60 * scale, maker.image(height=5, width=7))
        samples += maker.axpo_samples(prompt, whole=turns(4), prefix=30 * scale, continuations=turns(4))
    return samples


def labels(sample: Sample) -> list[int]:
    """int [length]: the trained tokens, IGNORED elsewhere; transformers moves them by one itself."""
    tokens = sample.trajectory.token_ids[: sample.length]
    trained = set(sample.trained_positions)
    return [token if at in trained else IGNORED for at, token in enumerate(tokens)]


class PlainLoop:
    """What one writes with transformers alone: the model's own loss, summed over micro-batches, one AdamW step."""

    def __init__(
        self, policy: Qwen3VLPolicy, samples: Sequence[Sample], max_tokens: int, *, pack: bool
    ) -> None:
        self.policy, self.max_tokens, self.pack = policy, max_tokens, pack
        self.samples = sorted(samples, key=lambda sample: sample.length)
        self.optimizer = torch.optim.AdamW(policy.model.parameters(), lr=OptimizerConfig().learning_rate)
        self.num_trained = sum(len(sample.trained_positions) for sample in samples)

    def update(self) -> int:
        """One step; returns the number of processed tokens."""
        self.policy.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        num_tokens = 0
        for samples in self.micro_batches():
            inputs = self.packed(samples) if self.pack else self.padded(samples)
            self.loss(inputs).backward()
            num_tokens += inputs["input_ids"].numel()
        torch.nn.utils.clip_grad_norm_(self.policy.model.parameters(), 1.0)
        self.optimizer.step()
        return num_tokens

    def loss(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The share of these inputs in the mean over all trained tokens."""
        # With a cache, transformers would not look for where positions start anew.
        return self.policy.model(**inputs, use_cache=False, num_items_in_batch=self.num_trained).loss

    def micro_batches(self) -> Iterator[list[Sample]]:
        """Neighbours in length, as many as `max_tokens` allows."""
        batch: list[Sample] = []
        for sample in self.samples:
            taken = [*batch, sample]
            width = sum(s.length for s in taken) if self.pack else sample.length * len(taken)
            if batch and width > self.max_tokens:
                yield batch
                taken = [sample]
            batch = taken
        yield batch

    def padded(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        sequences = [(s.trajectory.token_ids[: s.length], self.images(s)) for s in samples]
        batch = self.policy.batch(sequences)
        wanted = torch.full_like(batch.token_ids, IGNORED)
        for row, sample in enumerate(samples):
            wanted[row, : sample.length] = torch.tensor(labels(sample))
        return {
            "input_ids": batch.token_ids,
            "attention_mask": batch.attention_mask,
            "position_ids": batch.position_ids,
            "labels": wanted,
            **self.pixels(samples),
        }

    def packed(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """One row; transformers masks what lies before each place where the text positions start anew."""
        positions = []
        for sample in samples:
            mrope = mrope_positions(
                sample.trajectory.token_ids[: sample.length],
                [image.grid for image in self.images(sample)],
                image_token_id=self.policy.chat.image_token_id,
                merge_size=self.policy.merge_size,
            )
            text = torch.arange(sample.length)[None]
            positions.append(torch.cat([text, torch.from_numpy(mrope)]))
        tokens = [t for s in samples for t in s.trajectory.token_ids[: s.length]]
        wanted = [label for sample in samples for label in labels(sample)]
        device = self.policy.device
        return {
            "input_ids": torch.tensor([tokens], device=device),
            "position_ids": torch.cat(positions, dim=1)[:, None].to(device),
            "labels": torch.tensor([wanted], device=device),
            **self.pixels(samples),
        }

    def images(self, sample: Sample) -> list[ProcessedImage]:
        count = sample.trajectory.num_images_before(sample.length, self.policy.chat.image_token_id)
        return sample.trajectory.images[:count]

    def pixels(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """The images of each sample, as the processor would give them."""
        shown = [image for sample in samples for image in self.images(sample)]
        device = self.policy.device
        return {
            "pixel_values": self.policy.chat.images.pixel_values(shown, device),
            "image_grid_thw": torch.tensor([image.grid for image in shown], device=device),
        }


def make_paths(
    size: str, samples: Sequence[Sample], max_tokens: int, *, device: str, dtype: torch.dtype
) -> dict[str, Callable[[], int]]:
    """Updates by the names of their paths, each on a policy of its own; they return the number of processed tokens."""

    def policy() -> Qwen3VLPolicy:
        made = build_policy(SIZES[size])
        for (
            parameter
        ) in made.model.parameters():  # alone: rotary frequencies stay float32, as in a checkpoint
            parameter.data = parameter.data.to(device, dtype)
        made.model.to(device)
        enable = getattr(made.model, "activation_checkpointing_enable", None)  # its name since 5.24
        (enable or made.model.gradient_checkpointing_enable)({"use_reentrant": False})
        banned = made.network.banned.to(device)
        made = Qwen3VLPolicy(made.model, made.chat)
        made.network.banned = banned
        return made

    loss = LossConfig(kl_coefficient=0.0, max_tokens_per_micro_batch=max_tokens)
    learner = Learner(policy(), None, loss=loss, optimizer=OptimizerConfig())
    packed, padded = (PlainLoop(policy(), samples, max_tokens, pack=pack) for pack in (True, False))
    return {
        OURS: lambda: int(learner.update(samples, num_trajectories=len(samples))["num_forward_tokens"]),
        "transformers, packed": packed.update,
        "transformers, padded": padded.update,
    }


def peak_mb(action: Callable[[], Any], device: torch.device) -> float:
    """The most memory in MB that `action` holds beyond what is held before it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        action()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew, see man 5 proc
    before_mb = _status_mb("VmRSS")
    action()
    return _status_mb("VmHWM") - before_mb


def _status_mb(name: str) -> float:
    match = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1]) / 1024


def measure(
    size: str, *, num_questions: int, scale: int, max_tokens: int, repeats: int, device: str, dtype: str
) -> list[dict[str, Any]]:
    """A line for each path."""
    samples = make_samples(build_policy(SIZES[size]), num_questions, scale=scale)
    num_trained = sum(len(sample.trained_positions) for sample in samples)
    paths = make_paths(size, samples, max_tokens, device=device, dtype=DTYPES[dtype])
    where = torch.device(device)
    processed = {name: update() for name, update in paths.items()}  # and AdamW's moments are there
    peaks = {name: peak_mb(update, where) for name, update in paths.items()}
    times = interleaved(paths, repeats=repeats, device=where)
    rows = []
    for name in paths:
        seconds, ours = (times[path][where.type == "cuda"] for path in (name, OURS))
        rows.append(
            {
                "path": name,
                "trained": num_trained,
                "processed": processed[name],
                "s": seconds,
                "trained/s": num_trained / seconds,
                "processed/s": processed[name] / seconds,
                "ratio": seconds / ours,
                "memory MB": peaks[name],
                "memory ratio": peaks[name] / peaks[OURS],
            }
        )
    return rows


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, help="of weights; bfloat16 on a GPU, else float32")
    parser.add_argument("--questions", type=int, default=4)
    parser.add_argument("--scale", type=int, default=1, help="times 8 to 60 tokens a turn")
    parser.add_argument("--max-tokens", type=int, default=4096, help="of a micro-batch, padding included")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    dtype = options.dtype or ("float32" if options.device == "cpu" else "bfloat16")
    rows = measure(
        options.size,
        num_questions=options.questions,
        scale=options.scale,
        max_tokens=options.max_tokens,
        repeats=options.repeats,
        device=options.device,
        dtype=dtype,
    )
    print(markdown_table(rows, columns=COLUMNS))
    if options.json:
        document = {"size": options.size, "device": options.device, "dtype": dtype, "rows": rows}
        write_json(options.json, document)
    return rows


if __name__ == "__main__":
    main()
