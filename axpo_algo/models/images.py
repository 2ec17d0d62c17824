"""Images as the vision tower takes them: kept as bytes, made into floats only when a forward pass needs them.

A patch is kept once, as uint8; its copies in time and its floats, eight times as many bytes, are made on the device.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from axpo_algo.types import ProcessedImage

__all__ = ["ImageError", "Images"]


class ImageError(ValueError):
    """The checkpoint's image processor does more to a pixel than a table of 256 values a channel can say."""


class Images:
    """Resizes and cuts images as the checkpoint's processor says. Recent ones are kept by content.

    image_processor: one of the Qwen2-VL family. max_cached_bytes: of pixels and patches. Raises ImageError where the
    processor cannot be followed exactly.
    """

    def __init__(self, image_processor: Any, *, max_cached_bytes: int = 256 << 20) -> None:
        self.processor = image_processor
        self.max_cached_bytes = max_cached_bytes
        self.num_cached_bytes = 0
        self._cached: OrderedDict[str, ProcessedImage] = OrderedDict()
        self._num_frames: int = image_processor.temporal_patch_size
        self._values = self._table()

    def process(self, pixels: np.ndarray) -> ProcessedImage:
        """uint8 [H, W, 3] -> patches."""
        digest = hashlib.sha1(
            repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()
        ).hexdigest()
        if digest in self._cached:
            self._cached.move_to_end(digest)
            return self._cached[digest]
        patches, grid = self._patches(_not_too_thin(pixels), do_rescale=False, do_normalize=False)
        image = ProcessedImage(
            digest=digest,
            patches=patches[:, :, 0].to(torch.uint8).contiguous(),
            grid=grid,
            num_tokens=grid[0] * grid[1] * grid[2] // self.processor.merge_size**2,
            pixels=pixels,
        )
        self._cached[digest] = image
        self.num_cached_bytes += image.num_bytes
        while self.num_cached_bytes > self.max_cached_bytes and len(self._cached) > 1:
            _, oldest = self._cached.popitem(last=False)
            self.num_cached_bytes -= oldest.num_bytes
        return image

    def pixel_values(self, images: Sequence[ProcessedImage], device: torch.device | str) -> torch.Tensor:
        """The processor's own floats: float32 [patches of all images, patch_dim]."""
        table = self._values.to(device)
        channels = torch.arange(len(table), device=device)[:, None]
        found = []
        for image in images:
            values = table[channels, image.patches.to(device).long()]  # [patches, channels, pixels]
            frames = values.unsqueeze(2).expand(-1, -1, self._num_frames, -1)
            found.append(frames.reshape(len(values), -1))
        return torch.cat(found)

    def _patches(self, pixels: np.ndarray, **options: bool) -> tuple[torch.Tensor, tuple[int, int, int]]:
        """Float patches [patches, channels, frames, pixels of one], and the grid."""
        features = self.processor(
            images=[pixels], input_data_format="channels_last", return_tensors="pt", **options
        )
        time, height, width = (int(n) for n in features["image_grid_thw"][0])
        values = features["pixel_values"]
        return values.view(len(values), 3, self._num_frames, -1), (time, height, width)

    def _table(self) -> torch.Tensor:
        """float32 [channels, 256]: what the processor makes of each byte. Raises ImageError, see the class."""
        side = self.processor.patch_size * self.processor.merge_size
        ramp = np.arange(-(-256 // side) * side).clip(max=255).astype(np.uint8)
        pixels = np.tile(ramp[None, :, None], (side, 1, 3))
        bytes_, _ = self._patches(pixels, do_resize=False, do_rescale=False, do_normalize=False)
        floats, _ = self._patches(pixels, do_resize=False)
        table = torch.full((3, 256), torch.nan)
        channels = torch.arange(3)[None, :, None, None]
        known = bytes_.round().long().clamp(0, 255)
        table[channels.expand_as(known), known] = floats.to(torch.float32)
        exact = torch.equal(table[channels.expand_as(known), known], floats.to(torch.float32))
        if not (exact and torch.equal(known.to(bytes_.dtype), bytes_) and table.isfinite().all()):
            raise ImageError(
                f"{type(self.processor).__name__} does not map each byte of an image to one value"
            )
        return table


def _not_too_thin(pixels: np.ndarray, max_ratio: int = 100) -> np.ndarray:
    """The image [H, W, 3], its short side padded with white where the processor would refuse it (beyond 200 to 1)."""
    height, width = pixels.shape[:2]
    least = -(-max(height, width) // max_ratio)
    return np.pad(
        pixels, ((0, max(0, least - height)), (0, max(0, least - width)), (0, 0)), constant_values=255
    )
