"""Packed rows and prefix trees: log-probs and gradients of separate, padded rows, with fewer tokens."""

import numpy as np
import pytest
import torch

from axpo_algo.models.nano import NanoConfig, build_nano
from axpo_algo.models.qwen3_vl import PolicyError
from axpo_algo.packing import allowed, attention_mask, make_trees, pack, token_logprobs
from axpo_algo.types import Sample, Trajectory


@pytest.fixture(scope="module", params=[(), (0,)], ids=["plain", "deepstack"])
def policy(request):
    return build_nano(NanoConfig(vision_depth=2, deepstack=request.param), seed=3)


class Maker:
    """Trajectories of random tokens: a prompt with an image, then turns with images between them."""

    def __init__(self, policy, seed):
        self.policy, self.chat, self.rng = policy, policy.chat, np.random.default_rng(seed)

    def image(self, height=48, width=48):
        return self.chat.image(self.rng.integers(0, 256, (height, width, 3), dtype=np.uint8))

    def tokens(self, count):
        return [int(i) for i in self.rng.integers(300, 1000, count)]

    def shown(self, image, before=2):
        return [*self.tokens(before), *[self.chat.image_token_id] * image.num_tokens]

    def question(self, *, with_image=True):
        images = [self.image()] if with_image else []
        return [t for image in images for t in self.shown(image)] + self.tokens(5), images

    def trajectory(self, prompt, *, turns=2, length=7, given=(), crop=(32, 64)):
        made = Trajectory()
        made.append_observation(*prompt)
        for turn in range(turns):
            own = [*(given if turn == 0 else ()), *self.tokens(length)]
            made.append_action(own, [-1.0] * len(own), "", num_given=len(given) if turn == 0 else 0)
            if turn < turns - 1:
                image = self.image(*crop)
                made.append_observation(self.shown(image), [image])
        return made


def group(maker, *, continuations=3):
    """A question's samples as AXPO makes them: whole trajectories, a source's prefix, continuations behind it."""
    prompt = maker.question()
    whole = [maker.trajectory(prompt) for _ in range(3)]
    source = whole[0]
    start = source.turns[0].start
    prefix = source.token_ids[start : start + 4]
    copies = [maker.trajectory(prompt, given=prefix, length=5) for _ in range(continuations)]
    made = [Sample(trajectory=t, advantage=0.5, length=len(t.token_ids)) for t in whole[1:]]
    made.append(Sample(trajectory=source, advantage=1.0, length=start + 4))
    return made + [
        Sample(trajectory=t, advantage=-1.0, start=start + 4, length=len(t.token_ids)) for t in copies
    ]


def separately(policy, samples):
    """Log-probs and gradients of padded rows, one a sample; weights that tell the tokens apart."""
    sequences = []
    for sample in samples:
        shown = sample.trajectory.num_images_before(sample.length, policy.chat.image_token_id)
        sequences.append((sample.trajectory.token_ids[: sample.length], sample.trajectory.images[:shown]))
    places = [(row, column) for row, sample in enumerate(samples) for column in sample.trained_positions]
    rows, columns = torch.tensor(places).T
    return policy.token_logprobs(policy.batch(sequences), rows, columns), rows


def gradients(policy, loss):
    policy.model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None}


def worst(mine, reference):
    """Largest difference, relative to the largest entry."""
    assert mine.keys() == reference.keys()
    scale = max(g.abs().max() for g in reference.values())
    return float(max((mine[name] - g).abs().max() for name, g in reference.items()) / scale)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize(
    ("max_tokens", "max_width"), [(1, 4096), (300, 4096), (4096, 4096), (300, 50), (300, 32)]
)
def test_logprobs_and_gradients_are_those_of_separate_rows(policy, share, max_tokens, max_width):
    maker = Maker(policy, 0)
    text_only = maker.trajectory(maker.question(with_image=False), turns=1)
    samples = [*group(maker), *group(maker, continuations=1)]
    samples.append(Sample(trajectory=text_only, advantage=1.0, length=len(text_only.token_ids)))
    reference, rows = separately(policy, samples)
    weights = torch.linspace(0.5, 1.5, len(samples))
    wanted = gradients(policy, (reference * weights[rows]).sum())

    found = {}
    loss = 0.0
    trees = make_trees(policy, samples, share=share, max_width=max_width)
    assert all(tree.num_segments == 1 for tree in trees if len(tree.token_ids) > max_width)
    for batch in pack(policy, trees, max_tokens, max_width=max_width):
        assert batch.is_chain or batch.token_ids.shape[1] <= max_width
        logprobs = token_logprobs(policy, batch)
        numbers = torch.tensor([next(i for i, s in enumerate(samples) if s is own) for own in batch.samples])
        for number, own in enumerate(batch.samples):
            assert torch.equal(batch.owners == number, numbers[batch.owners] == numbers[number])
            found[int(numbers[number])] = logprobs[batch.owners == number]
            assert (batch.targets[batch.owners == number]).tolist() == [
                own.trajectory.token_ids[i] for i in own.trained_positions
            ]
        loss = loss + (logprobs * weights[numbers[batch.owners]]).sum()
    mine = torch.cat([found[number] for number in range(len(samples))])
    assert torch.allclose(mine, reference, atol=2e-5)
    assert worst(gradients(policy, loss), wanted) < 1e-5


def test_what_is_shared_stands_once(policy):
    maker = Maker(policy, 1)
    samples = group(maker, continuations=3)
    (tree,) = make_trees(policy, samples)
    prompt = samples[0].trajectory.turns[0].start
    alone = sum(sample.length - prompt for sample in samples)
    assert len(tree.token_ids) == prompt + alone - 3 * 4  # the prefix once, with its three continuations
    assert len(tree.images) == 1 + 2 + 3  # the prompt's once, and every crop but the source's, which is cut
    assert len({image.digest for image in tree.images}) == 6


def test_continuations_stay_together_where_their_prefix_leaves_room_for_them(policy):
    maker = Maker(policy, 7)
    prompt = maker.question()
    source = maker.trajectory(prompt, turns=1, length=60)
    start = source.turns[0].start
    prefix = source.token_ids[start : start + 50]
    copies = [maker.trajectory(prompt, turns=1, given=prefix) for _ in range(4)]
    for copy in copies:
        copy.source, copy.prefix_length = source, start + 50
    samples = [Sample(trajectory=t, advantage=1.0, length=len(t.token_ids)) for t in copies]
    width = start + 50 + 4 * 7
    (tree,) = make_trees(policy, samples, max_width=width)
    assert len(tree.token_ids) == width
    assert [len(tree.samples) for tree in make_trees(policy, samples, max_width=width - 1)] == [3, 1]
    (batch,) = pack(policy, [tree], 4096)
    assert torch.allclose(token_logprobs(policy, batch), separately(policy, samples)[0], atol=2e-5)


def test_two_images_of_one_size_are_told_apart(policy):
    maker = Maker(policy, 2)
    prompt = maker.question()
    first, second = (maker.trajectory(prompt) for _ in range(2))
    second.token_ids[: len(first.token_ids)] = first.token_ids  # all but the crop's pixels is equal
    samples = [Sample(trajectory=t, advantage=1.0, length=len(t.token_ids)) for t in (first, second)]
    (tree,) = make_trees(policy, samples)
    assert len(tree.images) == 3 and tree.num_segments == 3
    reference, _ = separately(policy, samples)
    (batch,) = pack(policy, [tree], 4096)
    assert torch.allclose(token_logprobs(policy, batch), reference, atol=2e-5)


def test_samples_without_a_trained_token_are_left_out(policy):
    maker = Maker(policy, 3)
    untrained = maker.trajectory(maker.question(), turns=1)
    untrained.loss_mask = [False] * len(untrained.token_ids)
    sample = Sample(trajectory=untrained, advantage=1.0, length=len(untrained.token_ids))
    assert make_trees(policy, [sample]) == [] and pack(policy, [], 100) == []


def test_a_row_that_branches_has_a_mask_and_a_plain_one_none(policy):
    maker = Maker(policy, 4)
    trees = make_trees(policy, group(maker))
    assert attention_mask(pack(policy, trees, 4096)[0]).shape[1] == 1
    chain = maker.trajectory(maker.question(), turns=1)
    alone = [Sample(trajectory=chain, advantage=1.0, length=len(chain.token_ids))]
    (batch,) = pack(policy, make_trees(policy, alone), 4096)
    assert batch.is_chain and attention_mask(batch) is None


def test_allowed_is_ancestry(policy):
    maker = Maker(policy, 5)
    (batch,) = pack(policy, make_trees(policy, [*group(maker), *group(maker)]), 10_000)
    mask = attention_mask(batch)[0, 0]
    index = torch.arange(mask.shape[0])
    first, last = batch.first[0], batch.last[0]
    for query in index[::17]:
        assert mask[query, query]
        assert torch.equal(mask[query], allowed(query, index, first, last))
        assert not mask[query, query + 1 :].any()


def test_placeholders_must_match_the_images(policy):
    maker = Maker(policy, 6)
    wrong = maker.trajectory(maker.question(), turns=1)
    wrong.images = []
    sample = Sample(trajectory=wrong, advantage=1.0, length=len(wrong.token_ids))
    with pytest.raises(PolicyError, match="image placeholders do not match"):
        make_trees(policy, [sample])
