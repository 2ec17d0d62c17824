"""The one forward pass: against transformers' own, and saved and loaded."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from axpo_algo.config import PolicyConfig
from axpo_algo.models.nano import NanoConfig, build_nano
from axpo_algo.models.qwen3_vl import PolicyError, Qwen3VLPolicy, mrope_positions
from axpo_algo.policies import load_policy


@pytest.fixture(scope="module", params=[(), (0,)], ids=["plain", "deepstack"])
def policy(request):
    return build_nano(NanoConfig(vision_depth=2, deepstack=request.param), seed=3)


def sequence(policy, seed, *, sizes=((48, 48),), tail=6):
    """Tokens with an image of each size in them, and the processed images."""
    rng = np.random.default_rng(seed)
    ids, images = [], []
    for height, width in sizes:
        image = policy.chat.image(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        ids += [300 + int(rng.integers(100)), *[policy.chat.image_token_id] * image.num_tokens]
        images.append(image)
    return ids + [int(i) for i in rng.integers(300, 1000, tail)], images


def test_positions_agree_with_transformers(policy):
    for seed, sizes in enumerate([(), ((48, 48),), ((32, 64), (64, 16)), ((48, 48), (48, 48), (16, 16))]):
        ids, images = sequence(policy, seed, sizes=sizes)
        token_ids = torch.tensor([ids])
        expected = torch.arange(len(ids)).expand(3, -1)
        if images:
            expected, _ = policy.model.model.get_rope_index(
                token_ids,
                (token_ids == policy.chat.image_token_id).int(),
                image_grid_thw=torch.tensor([image.grid for image in images]),
            )
            expected = expected[:, 0]
        mine = mrope_positions(
            ids, [i.grid for i in images], image_token_id=policy.chat.image_token_id, merge_size=2
        )
        assert mine.tolist() == expected.tolist()


@pytest.mark.parametrize("pad_left", [False, True])
def test_hidden_states_agree_with_transformers(policy, pad_left):
    """Ragged rows, some sharing an image, padded on either side, against one unpadded row at a time."""
    shared = sequence(policy, 1)
    rows = [
        shared,
        (shared[0] + [400, 401], shared[1]),
        sequence(policy, 2, sizes=((32, 64), (48, 48))),
        ([500], []),
    ]
    batch = policy.batch(rows, pad_left=pad_left)
    assert len(batch.images) == 3  # the shared one once
    with torch.no_grad():
        hidden = policy.hidden_states(batch)
        for row, (ids, images) in enumerate(rows):
            extra = {}
            if images:
                extra = {
                    "pixel_values": policy.chat.images.pixel_values(images, "cpu"),
                    "image_grid_thw": torch.tensor([image.grid for image in images]),
                    "mm_token_type_ids": (torch.tensor([ids]) == policy.chat.image_token_id).int(),
                }
            policy.model.model.rope_deltas = None
            reference = policy.model.model(input_ids=torch.tensor([ids]), **extra).last_hidden_state[0]
            mine = hidden[row, batch.attention_mask[row].bool()]
            assert torch.allclose(mine, reference, atol=2e-5)


def test_tokens_that_may_not_be_written_have_no_probability(policy):
    logits = policy.logits(torch.randn(2, policy.model.config.text_config.hidden_size))
    for tag in ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_start|>"):
        assert torch.isinf(logits[:, policy.chat.tokenizer.convert_tokens_to_ids(tag)]).all()
    assert torch.isfinite(logits[:, policy.chat.end_of_turn_id]).all()


@pytest.mark.parametrize("wrong", ["too few", "too many", "cut"])
def test_placeholders_must_match_the_images(policy, wrong):
    ids, images = sequence(policy, 4)
    if wrong == "too few":
        images = []
    elif wrong == "too many":
        images = images * 2
    else:
        ids = ids[:5]
    with pytest.raises(PolicyError, match="do not match the images' grids"):
        policy.batch([(ids, images)])


def test_gradients_reach_the_eyes(policy):
    ids, images = sequence(policy, 5)
    batch = policy.batch([(ids, images)])
    policy.model.zero_grad()
    policy.token_logprobs(batch, torch.tensor([0]), torch.tensor([len(ids) - 1])).sum().backward()
    assert policy.model.model.visual.patch_embed.proj.weight.grad.abs().sum() > 0


def test_saved_and_loaded_it_is_the_same_policy(policy, tmp_path):
    policy.save(tmp_path)
    assert AutoModelForImageTextToText.from_pretrained(tmp_path).config.model_type == "qwen3_vl"
    loaded = load_policy(PolicyConfig(path=str(tmp_path), device="cpu"), seed=0)
    ids, images = sequence(policy, 6)
    assert loaded.chat.action("zoom green 20") == policy.chat.action("zoom green 20")
    with torch.no_grad():
        mine = policy.hidden_states(policy.batch([(ids, images)]))
        theirs = loaded.hidden_states(loaded.batch([(ids, [loaded.chat.image(i.pixels) for i in images])]))
    assert torch.equal(mine, theirs)


def test_nano_is_a_real_qwen3_vl_of_about_a_million_parameters_and_seeded():
    nano, again, other = build_nano(seed=0), build_nano(seed=0), build_nano(seed=1)
    assert 1_000_000 <= sum(p.numel() for p in nano.model.parameters()) <= 2_000_000
    weight = "model.language_model.layers.0.mlp.up_proj.weight"
    assert torch.equal(nano.model.state_dict()[weight], again.model.state_dict()[weight])
    assert not torch.equal(nano.model.state_dict()[weight], other.model.state_dict()[weight])


def test_what_cannot_be_loaded_is_named(tmp_path):
    with pytest.raises(PolicyError, match=r"there is no folder '.*nowhere', and a hub id has the form"):
        Qwen3VLPolicy.load(str(tmp_path / "nowhere"))
    with pytest.raises(PolicyError, match=r"holds no config\.json"):
        Qwen3VLPolicy.load(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(PolicyError, match="holds a 'llama'"):
        Qwen3VLPolicy.load(str(tmp_path))
    with pytest.raises(PolicyError, match="float32, bfloat16, got 'int4'"):
        Qwen3VLPolicy.load(str(tmp_path), dtype="int4")


def test_a_frozen_copy_is_the_same_model_in_bfloat16_too(policy, tmp_path):
    policy.save(tmp_path)
    half = Qwen3VLPolicy.load(str(tmp_path), dtype="bfloat16")
    ids, images = sequence(half, 7, tail=200)
    with torch.no_grad():
        mine, theirs = (p.hidden_states(p.batch([(ids, images)])) for p in (half, half.clone_frozen()))
    assert torch.equal(mine, theirs)
