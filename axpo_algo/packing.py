"""Samples as rows for one forward pass: what samples of a question have in common stands there once.

The samples of a question share their prompt and its images, and AXPO's continuations their source's prefix. They make a
tree, laid out in one row, parents before children; each token sees its own ancestors alone (`allowed`), at the
positions it has in its own sequence. So log-probs and gradients are those of separate rows. Trees are packed into rows
of one width, as many as fit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from axpo_algo.models.network import Network
from axpo_algo.models.qwen3_vl import PolicyError, Qwen3VLPolicy, mrope_positions
from axpo_algo.types import ProcessedImage, Sample, Trajectory

__all__ = [
    "MAX_WIDTH",
    "PackedBatch",
    "Tree",
    "allowed",
    "attention_mask",
    "blank_batch",
    "make_trees",
    "pack",
    "token_logprobs",
]

MAX_WIDTH = 4096
"""tokens of a row with a dense mask; on GPUs a larger one costs gigabytes and the fast kernels"""
_IMAGE = 1 << 24
"""above the placeholders that an image can have"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tree:
    """Samples that share a prompt, laid out as one sequence of T tokens."""

    samples: list[Sample]
    token_ids: np.ndarray
    """int64 [T]"""
    position_ids: np.ndarray
    """int64 [4, T]"""
    first: np.ndarray
    """int64 [T]: the segment each token is of; segments are numbered parents first"""
    last: np.ndarray
    """int64 [T]: one past the last segment below it"""
    images: list[ProcessedImage]
    """in the order of their placeholders"""
    sources: np.ndarray
    """int64 [M]: where the token before each trained token stands"""
    targets: np.ndarray
    """int64 [M]: the trained tokens"""
    owners: np.ndarray
    """int64 [M]: index of the sample that trains it"""
    sampling_logprobs: np.ndarray
    """float32 [M]"""

    @property
    def num_segments(self) -> int:
        return int(self.last[0])


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedBatch:
    """Trees in R rows of T tokens, padded on the right, on the policy's device; see `Tree` for the rest."""

    samples: list[Sample]
    token_ids: torch.Tensor
    """int64 [R, T]"""
    position_ids: torch.Tensor
    """int64 [4, R, T]"""
    first: torch.Tensor
    """int64 [R, T]"""
    last: torch.Tensor
    """int64 [R, T]"""
    is_chain: bool
    """every row is one sequence: plain causal attention is all it needs"""
    images: list[ProcessedImage]
    """each distinct image once"""
    shown: list[int]
    """index into `images` of each run of placeholders, in row-major order"""
    sources: torch.Tensor
    """int64 [M]: of the flat [R * T]"""
    targets: torch.Tensor
    owners: torch.Tensor
    sampling_logprobs: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class _Segment:
    """Tokens [begin, end) of the sequences of `members`, which they all share."""

    members: list[int]
    begin: int
    end: int


def make_trees(
    policy: Qwen3VLPolicy, samples: Sequence[Sample], *, share: bool = True, max_width: int = MAX_WIDTH
) -> list[Tree]:
    """Trees in order of appearance: for each prompt one, or several where one would have more than `max_width` tokens;
    without `share` one for each sample.

    Samples without a trained token are left out.
    """
    trees: list[list[Sample]] = []
    open_trees: dict[object, list[Sample]] = {}
    widths: dict[object, int] = {}
    for number, sample in enumerate(samples):
        if not sample.trained_positions:
            continue
        prompt = _prompt(sample.trajectory)
        key = prompt if share else number
        members = open_trees.get(key, [])
        # At most: the tree may share more than a prompt, or a source's prefix.
        added = sample.length - max(len(prompt[0]), _shared_prefix(sample, members))
        if not members or widths[key] + added > max_width:
            open_trees[key] = members = []
            trees.append(members)
            widths[key], added = 0, sample.length
        members.append(sample)
        widths[key] += added
    return [_tree(policy, members) for members in trees]


def pack(
    policy: Qwen3VLPolicy, trees: Sequence[Tree], max_tokens: int, *, max_width: int = MAX_WIDTH
) -> list[PackedBatch]:
    """Batches of at most `max_tokens` tokens, padding included, unless one tree alone has more.

    Rows are as wide as the largest tree left; smaller ones fill them up, the largest first. A tree beyond `max_width`
    is a single sample, and has its row for itself.
    """
    left = sorted(trees, key=lambda tree: len(tree.token_ids), reverse=True)
    batches = []
    while left:
        width = len(left[0].token_ids)
        rows: list[list[Tree]] = [[] for _ in range(max(1, max_tokens // width))]
        room = [width] * len(rows)
        remaining = []
        for tree in left:
            size = len(tree.token_ids)
            fits = (
                number
                for number, free in enumerate(room)
                if size <= free and (width <= max_width or (not rows[number] and size > max_width))
            )
            row = next(fits, None)
            if row is None:
                remaining.append(tree)
            else:
                rows[row].append(tree)
                room[row] -= size
        batches.append(_batch(policy, [row for row in rows if row], width))
        left = remaining
    return batches


def blank_batch(policy: Qwen3VLPolicy) -> PackedBatch:
    """A row of two tokens that no sample owns, for a rank that has to take part in a forward pass."""
    row = torch.full((1, 2), policy.chat.end_of_turn_id, device=policy.device)
    nothing = torch.zeros(1, dtype=torch.int64, device=policy.device)
    return PackedBatch(
        samples=[],
        token_ids=row,
        position_ids=torch.arange(2, device=policy.device).expand(4, 1, 2),
        first=torch.zeros_like(row),
        last=torch.ones_like(row),
        is_chain=True,
        images=[],
        shown=[],
        sources=nothing,
        targets=row[0, 1:],
        owners=nothing,
        sampling_logprobs=nothing.float(),
    )


def allowed(query: torch.Tensor, key: torch.Tensor, first: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """Whether the token at index `query` of a row may see that at `key`: itself, and what its sequence has before it.

    query, key: int64, of shapes that broadcast; first, last: int64 [T] of the row. Also flex attention's `mask_mod`.
    """
    return (key <= query) & (first[key] <= first[query]) & (first[query] < last[key])


def attention_mask(batch: PackedBatch) -> torch.Tensor | None:
    """Who sees whom: bool [R, 1, T, T]; None where causal attention says it."""
    if batch.is_chain:
        return None
    index = torch.arange(batch.token_ids.shape[1], device=batch.first.device)
    rows = zip(batch.first, batch.last, strict=True)
    return torch.stack([allowed(index[:, None], index[None, :], first, last) for first, last in rows])[
        :, None
    ]


def token_logprobs(
    policy: Qwen3VLPolicy, batch: PackedBatch, *, network: Network | None = None, temperature: float = 1.0
) -> torch.Tensor:
    """Log-probs float32 [M] of the trained tokens, by the policy's own network or another one of its kind."""
    return (network or policy.network)(
        batch.token_ids,
        batch.position_ids,
        attention_mask(batch),
        policy.images(batch.images, batch.shown),
        batch.sources,
        batch.targets,
        temperature,
    )


def _prompt(trajectory: Trajectory) -> tuple[tuple[int, ...], str]:
    """What the trajectories of a question have in common, and no others."""
    start = trajectory.turns[0].start if trajectory.turns else len(trajectory.token_ids)
    return tuple(trajectory.token_ids[:start]), trajectory.images[0].digest if trajectory.images else ""


def _shared_prefix(sample: Sample, members: Sequence[Sample]) -> int:
    """Tokens of its source's prefix that a continuation finds in a tree of `members`: all of them or 0."""
    source, length = sample.trajectory.source, sample.trajectory.prefix_length
    related = (m for m in members if source is not None and source in (m.trajectory, m.trajectory.source))
    return length if any(member.length >= length for member in related) else 0


def _tree(policy: Qwen3VLPolicy, samples: list[Sample]) -> Tree:
    image_token = policy.chat.image_token_id
    images = [_images(sample, image_token) for sample in samples]
    numbers = {image.digest: n for n, image in enumerate(i for shown in images for i in shown)}
    by_number = {numbers[image.digest]: image for shown in images for image in shown}
    keys = [_keys(sample, shown, numbers, image_token) for sample, shown in zip(samples, images, strict=True)]
    positions = [
        mrope_positions(
            sample.trajectory.token_ids[: sample.length],
            [image.grid for image in shown],
            image_token_id=image_token,
            merge_size=policy.merge_size,
        )
        for sample, shown in zip(samples, images, strict=True)
    ]
    segments: list[_Segment] = []
    last: list[int] = []
    _grow(keys, list(range(len(samples))), 0, segments, last)
    lengths = [segment.end - segment.begin for segment in segments]
    num_tokens = sum(lengths)
    row_keys, position_ids = np.empty(num_tokens, np.int64), np.empty((4, num_tokens), np.int64)
    flat = [np.empty(sample.length, np.int64) for sample in samples]
    offset = 0
    for segment, length in zip(segments, lengths, strict=True):
        here, there = slice(offset, offset + length), slice(segment.begin, segment.end)
        row_keys[here] = keys[segment.members[0]][there]
        position_ids[0, here] = np.arange(segment.begin, segment.end)
        position_ids[1:, here] = positions[segment.members[0]][:, there]
        for member in segment.members:
            flat[member][there] = np.arange(offset, offset + length)
        offset += length
    trained = [np.array(sample.trained_positions) for sample in samples]
    sources = [where[own - 1] for where, own in zip(flat, trained, strict=True)]
    targets = [where[own] for where, own in zip(flat, trained, strict=True)]
    logprobs = [
        np.asarray(sample.trajectory.sampling_logprobs, np.float32)[own]
        for sample, own in zip(samples, trained, strict=True)
    ]
    token_ids = np.where(row_keys < 0, image_token, row_keys)
    places = -1 - row_keys[row_keys < 0]
    return Tree(
        samples=samples,
        token_ids=token_ids,
        position_ids=position_ids,
        first=np.repeat(np.arange(len(segments)), lengths),
        last=np.repeat(np.array(last), lengths),
        images=[by_number[place // _IMAGE] for place in places.tolist() if place % _IMAGE == 0],
        sources=np.concatenate(sources),
        targets=token_ids[np.concatenate(targets)],
        owners=np.repeat(np.arange(len(samples)), [len(own) for own in trained]),
        sampling_logprobs=np.concatenate(logprobs),
    )


def _images(sample: Sample, image_token: int) -> list[ProcessedImage]:
    trajectory = sample.trajectory
    if sample.length == len(trajectory.token_ids):
        return trajectory.images
    return trajectory.images[: trajectory.num_images_before(sample.length, image_token)]


def _keys(
    sample: Sample, images: Sequence[ProcessedImage], numbers: Mapping[str, int], image_token: int
) -> np.ndarray:
    """What has to be equal for two sequences to go on together: int64 [length], token ids, and below zero which
    placeholder of which image."""
    keys = np.array(sample.trajectory.token_ids[: sample.length], dtype=np.int64)
    places = [numbers[image.digest] * _IMAGE + n for image in images for n in range(image.num_tokens)]
    is_image = keys == image_token
    if is_image.sum() != len(places):
        raise PolicyError(
            f"{int(is_image.sum())} image placeholders do not match the images' {len(places)} tokens"
        )
    keys[is_image] = -1 - np.array(places, dtype=np.int64)
    return keys


def _grow(
    keys: Sequence[np.ndarray], members: list[int], begin: int, segments: list[_Segment], last: list[int]
) -> None:
    """Adds the segment that `members` share from `begin` on, and behind it those of its branches."""
    end = _common_length(keys, members, begin)
    number = len(segments)
    segments.append(_Segment(members=members, begin=begin, end=end))
    last.append(0)
    branches: dict[int, list[int]] = {}
    for member in members:
        if len(keys[member]) > end:
            branches.setdefault(int(keys[member][end]), []).append(member)
    for branch in branches.values():
        _grow(keys, branch, end, segments, last)
    last[number] = len(segments)


def _common_length(keys: Sequence[np.ndarray], members: Sequence[int], begin: int) -> int:
    """Length of the longest common prefix, known to be at least `begin`."""
    own = keys[members[0]]
    end = len(own)
    for member in members[1:]:
        other = keys[member]
        end = min(end, len(other))
        different = np.flatnonzero(own[begin:end] != other[begin:end])
        if len(different):
            end = begin + int(different[0])
    return end


def _batch(policy: Qwen3VLPolicy, rows: Sequence[Sequence[Tree]], width: int) -> PackedBatch:
    shape = (len(rows), width)
    token_ids = np.full(shape, policy.chat.tokenizer.pad_token_id or 0, dtype=np.int64)
    position_ids = np.zeros((4, *shape), dtype=np.int64)
    first, last = np.full(shape, -1), np.zeros(shape, dtype=np.int64)
    samples: list[Sample] = []
    images: dict[str, int] = {}
    distinct: list[ProcessedImage] = []
    shown: list[int] = []
    trained: list[tuple[np.ndarray, ...]] = []
    for number, trees in enumerate(rows):
        column, segment = 0, 0
        for tree in trees:
            span = slice(column, column + len(tree.token_ids))
            token_ids[number, span] = tree.token_ids
            position_ids[:, number, span] = tree.position_ids
            first[number, span] = tree.first + segment
            last[number, span] = tree.last + segment
            for image in tree.images:
                if image.digest not in images:
                    images[image.digest] = len(distinct)
                    distinct.append(image)
                shown.append(images[image.digest])
            sources = tree.sources + number * width + column
            trained.append((sources, tree.targets, tree.owners + len(samples), tree.sampling_logprobs))
            samples += tree.samples
            column, segment = span.stop, segment + tree.num_segments
    tensors = [
        torch.from_numpy(np.concatenate(parts)).to(policy.device) for parts in zip(*trained, strict=True)
    ]
    return PackedBatch(
        samples=samples,
        token_ids=torch.from_numpy(token_ids).to(policy.device),
        position_ids=torch.from_numpy(position_ids).to(policy.device),
        first=torch.from_numpy(first).to(policy.device),
        last=torch.from_numpy(last).to(policy.device),
        is_chain=all(len(trees) == 1 and trees[0].num_segments == 1 for trees in rows),
        images=distinct,
        shown=shown,
        sources=tensors[0],
        targets=tensors[1],
        owners=tensors[2],
        sampling_logprobs=tensors[3],
    )
