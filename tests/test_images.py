"""Images kept as bytes: the floats a forward pass gets are the processor's own, to the bit."""

import numpy as np
import pytest
import torch
from transformers import Qwen2VLImageProcessorPil

from axpo_algo.models.images import ImageError, Images

NANO = {"patch_size": 8, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
REAL = {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
CLIP = {"patch_size": 14, "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}


def processor(options, **more):
    size = {"shortest_edge": 32 * 32, "longest_edge": 128 * 128}
    return Qwen2VLImageProcessorPil(merge_size=2, temporal_patch_size=2, size=size, **options, **more)


@pytest.mark.parametrize("options", [NANO, REAL, CLIP], ids=["nano", "qwen3-vl", "clip"])
@pytest.mark.parametrize("shape", [(64, 64), (37, 300), (500, 400), (1, 90)])
def test_the_floats_are_the_processors_own(options, shape):
    images = Images(processor(options))
    shape = (max(shape[0], 2), shape[1])
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    image = images.process(pixels)
    expected = images.processor(images=[pixels], input_data_format="channels_last", return_tensors="pt")
    assert torch.equal(images.pixel_values([image, image], "cpu"), expected["pixel_values"].repeat(2, 1))
    assert image.grid == tuple(expected["image_grid_thw"][0].tolist())
    assert image.patches.dtype == torch.uint8
    assert image.patches.nbytes * 8 == expected["pixel_values"].nbytes


def test_a_processor_that_mixes_pixels_is_refused():
    class Dithers(Qwen2VLImageProcessorPil):
        def __call__(self, *arguments, **options):
            features = super().__call__(*arguments, **options)
            if options.get("do_normalize", True):
                features["pixel_values"] += torch.rand_like(features["pixel_values"])
            return features

    dithers = Dithers(merge_size=2, temporal_patch_size=2, **NANO)
    with pytest.raises(ImageError, match="Dithers does not map each byte"):
        Images(dithers)


def test_recent_images_are_kept_up_to_a_number_of_bytes():
    images = Images(processor(NANO), max_cached_bytes=40_000)
    pixels = [np.full((48, 48, 3), value, dtype=np.uint8) for value in range(8)]
    first = images.process(pixels[0])
    assert images.process(pixels[0].copy()) is first
    for one in pixels:
        images.process(one)
        assert images.num_cached_bytes <= 40_000
    assert images.process(pixels[-1]) is images.process(pixels[-1].copy())
    assert images.process(pixels[0]) is not first
    assert images.process(np.zeros((300, 300, 3), dtype=np.uint8)).num_tokens  # one beyond it is kept alone
    assert first.num_bytes == 2 * 48 * 48 * 3
