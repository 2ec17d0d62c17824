"""Are log-probs and gradients of the learner, in bfloat16 at real widths, as exact as those of plain padded rows?

    python -m benchmarks.learner_exactness [--size 2b-2-layers] [--device cpu] [--paths packed,...] [--json PATH]

The float32 computation is on padded rows, one a sample, from the same weights: those that bfloat16 can hold. Errors
are differences from it: `L2` the norm of all differences by the norm of the values, `max` the largest difference by the
largest value; `worst tensor` the largest L2 error of one parameter's gradient. Each may be at most 1.2 times that of
the plain bfloat16 path, which is `padded`. The rotary tables that the vision tower's attention gets have to be the
float32 ones, bit for bit. Exit status 1 where one of this fails.

The model has Qwen3-VL-2B's widths and vocabulary, two layers a tower and random weights. A path is a function in
`PATHS` from a case to what it found; it takes its policy from the case, and may change it as it likes.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from axpo_algo.config import PolicyConfig
from axpo_algo.distributed import SINGLE, whole
from axpo_algo.loss import sequence_mean
from axpo_algo.models import network
from axpo_algo.models.qwen3_vl import Qwen3VLPolicy
from axpo_algo.packing import make_trees, pack, token_logprobs
from axpo_algo.policies import load_policy
from axpo_algo.run.tables import markdown_table, write_json
from axpo_algo.sharding import network_to_train
from axpo_algo.types import Sample
from axpo_sandbox.names import unknown_name
from benchmarks.learner_cases import SIZES, TrajectoryMaker, build_policy, unban

BOUND = 1.2
ERRORS = ("log-probs L2, %", "log-probs max, %", "gradients L2, %", "gradients max, %", "worst tensor, %")
COLUMNS = ("path", "tokens", "CPU s", *ERRORS, "largest ratio", "rotary tables", "holds")
MAX_TOKENS = 300  # of a micro-batch: gradients add up over several


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What a path makes of the samples."""

    logprobs: torch.Tensor
    """float32 [M] of the trained tokens, in the order of the samples"""
    gradients: dict[str, torch.Tensor]
    """of `Case.loss`, by the parameter's name"""
    rotary: torch.Tensor
    """[N, head_dim of the vision tower * 2]: the distinct cosines and sines that its attention got"""
    num_tokens: int
    """of all forward passes, padding included"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One set of weights and samples."""

    folder: Path
    """checkpoint"""
    samples: Sequence[Sample]
    device: str
    dtype: str = "bfloat16"

    def policy(self, **settings: Any) -> Qwen3VLPolicy:
        """The checkpoint as training loads it; settings are those of `PolicyConfig`."""
        common: dict[str, Any] = {"path": str(self.folder), "dtype": self.dtype, "device": self.device}
        policy = load_policy(PolicyConfig(**common, **settings), seed=0)
        unban(policy)
        policy.model.train()
        return policy

    def loss(self, logprobs: torch.Tensor, owners: torch.Tensor) -> torch.Tensor:
        """The policy gradient's, log-probs [M] of the samples `owners` [M]: each sample's mean, by its advantage."""
        advantages = torch.tensor([sample.advantage for sample in self.samples], device=logprobs.device)
        return -(advantages * sequence_mean(logprobs, owners, len(self.samples))).sum()


def padded(case: Case) -> Found:
    """A row for each sample, all logits at once: the plain path that the others are measured by."""
    policy = case.policy()
    sequences = []
    for sample in case.samples:
        trajectory = sample.trajectory
        shown = trajectory.num_images_before(sample.length, policy.chat.image_token_id)
        sequences.append((trajectory.token_ids[: sample.length], trajectory.images[:shown]))
    batch = policy.batch(sequences)
    places = [(row, at) for row, sample in enumerate(case.samples) for at in sample.trained_positions]
    rows, columns = torch.tensor(places, device=policy.device).T
    with rotary_tables(policy.network) as tables, positions_per_chunk(policy, len(rows)):
        logprobs = policy.token_logprobs(batch, rows, columns)
        case.loss(logprobs, rows).backward()
    return found(policy.network, logprobs, tables, batch.token_ids.numel())


def packed(case: Case) -> Found:
    return in_rows(case, case.policy(), share=False)


def prefix_tree(case: Case) -> Found:
    return in_rows(case, case.policy(), share=True)


def checkpointed(case: Case) -> Found:
    return in_rows(case, case.policy(gradient_checkpointing=True), share=True)


def chunked_head(case: Case) -> Found:
    policy = case.policy()
    with positions_per_chunk(policy, 37):
        return in_rows(case, policy, share=True)


def sharded(case: Case) -> Found:
    """Float32 weights behind FSDP2, one rank: what is trained in bfloat16. In float32 it is the policy itself."""
    policy = case.policy(gradient_checkpointing=True)
    trained = network_to_train(policy, SINGLE)
    trained.train()
    return in_rows(case, policy, share=True, trained=trained)


PATHS: dict[str, Callable[[Case], Found]] = {
    "padded": padded,
    "packed": packed,
    "prefix-tree": prefix_tree,
    "prefix-tree + checkpointing": checkpointed,
    "prefix-tree + chunked head": chunked_head,
    "prefix-tree + checkpointing + FSDP2": sharded,
}


def in_rows(
    case: Case, policy: Qwen3VLPolicy, *, share: bool, trained: network.Network | None = None
) -> Found:
    """What the learner does: trees in micro-batches whose gradients add up. trained: None is the policy's own."""
    trained = trained or policy.network
    index = {id(sample): number for number, sample in enumerate(case.samples)}
    trees = make_trees(policy, case.samples, share=share)
    by_sample: dict[int, torch.Tensor] = {}
    num_tokens = 0
    with rotary_tables(trained) as tables:
        for batch in pack(policy, trees, MAX_TOKENS):
            numbers = torch.tensor([index[id(sample)] for sample in batch.samples], device=policy.device)
            owners = numbers[batch.owners]
            logprobs = token_logprobs(policy, batch, network=trained)
            case.loss(logprobs, owners).backward()
            by_sample |= {int(n): logprobs[owners == n].detach() for n in numbers}
            num_tokens += batch.token_ids.numel()
    logprobs = torch.cat([by_sample[number] for number in range(len(case.samples))])
    return found(trained, logprobs, tables, num_tokens)


def found(
    trained: network.Network, logprobs: torch.Tensor, tables: Sequence[torch.Tensor], num_tokens: int
) -> Found:
    parameters = trained.model.named_parameters()
    return Found(
        logprobs=logprobs.detach(),
        gradients={name: whole(p.grad) for name, p in parameters if p.grad is not None},
        rotary=torch.unique(torch.cat(list(tables)), dim=0),
        num_tokens=num_tokens,
    )


@contextmanager
def rotary_tables(trained: network.Network) -> Iterator[list[torch.Tensor]]:
    """The tables [patches, 2 * head_dim] that the last vision block's attention gets meanwhile."""
    tables: list[torch.Tensor] = []

    def keep(module: Any, args: Any, kwargs: Any) -> None:
        tables.append(torch.cat(kwargs["position_embeddings"], dim=-1).detach())

    attention = trained.model.model.visual.blocks[-1].attn
    handle = attention.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield tables
    finally:
        handle.remove()


@contextmanager
def positions_per_chunk(policy: Qwen3VLPolicy, count: int) -> Iterator[None]:
    """The head is applied to at most `count` positions at a time meanwhile."""
    before = network._LOGITS_PER_CHUNK
    network._LOGITS_PER_CHUNK = count * len(policy.network.banned)
    try:
        yield
    finally:
        network._LOGITS_PER_CHUNK = before


def errors(mine: Found, exact: Found) -> dict[str, float | None]:
    """By the names of `ERRORS`. Those of gradients are None for a path that has none; raises ValueError where it has
    those of other parameters."""
    logprobs, wanted = mine.logprobs.double(), exact.logprobs.double()
    difference = logprobs - wanted
    values: dict[str, float | None] = dict.fromkeys(ERRORS)
    values["log-probs L2, %"] = 100 * float(difference.norm() / wanted.norm())
    values["log-probs max, %"] = 100 * float(difference.abs().max() / wanted.abs().max())
    if not mine.gradients:
        return values
    if mine.gradients.keys() != exact.gradients.keys():
        raise ValueError(
            f"gradients of other parameters: {sorted(mine.gradients.keys() ^ exact.gradients.keys())}"
        )
    squares = norms = largest = scale = worst = 0.0
    for name, gradient in exact.gradients.items():
        gap = mine.gradients[name].float() - gradient
        square, norm = float(gap.norm()) ** 2, float(gradient.norm()) ** 2
        squares, norms = squares + square, norms + norm
        worst = max(worst, (square / norm) ** 0.5 if norm else 0.0)
        largest = max(largest, float(gap.abs().max()))
        scale = max(scale, float(gradient.abs().max()))
    values["gradients L2, %"] = 100 * (squares / norms) ** 0.5
    values["gradients max, %"] = 100 * largest / scale
    values["worst tensor, %"] = 100 * worst
    return values


def row(path: str, mine: Found, exact: Found, plain: dict[str, float | None]) -> dict[str, Any]:
    """A line of the table; plain: the errors of the padded bfloat16 path."""
    measured = errors(mine, exact)
    ratios = [value / (plain[name] or 0.0) for name, value in measured.items() if value is not None]
    same_tables = mine.rotary.dtype == torch.float32 and torch.equal(mine.rotary, exact.rotary)
    return {
        "path": path,
        "tokens": mine.num_tokens,
        **measured,
        "largest ratio": max(ratios),
        "rotary tables": "equal" if same_tables else f"differ, {mine.rotary.dtype}",
        "holds": same_tables and max(ratios) <= BOUND,
    }


def make_samples(policy: Qwen3VLPolicy, seed: int) -> list[Sample]:
    """Two questions with images as AXPO trains them, and one of text alone."""
    maker = TrajectoryMaker(policy, seed)
    first = maker.observation(40, maker.image(height=4, width=5))
    second = maker.observation(56, maker.image(height=6, width=4))
    return [
        *maker.axpo_samples(
            first, whole=[[30, 13], [21]], prefix=20, continuations=[[20, 11], [17, 9], [34], [8, 15]]
        ),
        *maker.axpo_samples(second, whole=[[40]], prefix=33, continuations=[[25], [14, 10]]),
        *maker.axpo_samples(maker.observation(24), whole=[[28], [17]], prefix=0, continuations=[]),
    ]


def measure(size: str, paths: Sequence[str], *, device: str = "cpu", seed: int = 0) -> list[dict[str, Any]]:
    """A line for each path, `padded` first."""
    with tempfile.TemporaryDirectory() as folder:
        policy = build_policy(SIZES[size], seed=seed)
        samples = make_samples(policy, seed)
        policy.model.to(torch.bfloat16)
        policy.save(Path(folder))
        del policy
        case = Case(folder=Path(folder), samples=samples, device=device)
        exact = padded(replace(case, dtype="float32"))
        plain: dict[str, float | None] = {}
        rows = []
        for name in ["padded", *(path for path in paths if path != "padded")]:
            start_s = time.process_time()
            mine = PATHS[name](case)
            cpu_s = time.process_time() - start_s
            plain = plain or errors(mine, exact)
            rows.append({**row(name, mine, exact, plain), "CPU s": cpu_s})
    return rows


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="2b-2-layers")
    parser.add_argument("--paths", default=",".join(PATHS), help="comma-separated")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0, help="of weights and samples")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    paths = options.paths.split(",")
    for path in paths:
        if path not in PATHS:
            parser.error(unknown_name("path", path, PATHS))
    rows = measure(options.size, paths, device=options.device, seed=options.seed)
    print(markdown_table(rows, columns=COLUMNS))
    if options.json:
        write_json(options.json, {"size": options.size, "bound": BOUND, "rows": rows})
    return rows


if __name__ == "__main__":
    sys.exit(0 if all(line["holds"] for line in main()) else 1)
