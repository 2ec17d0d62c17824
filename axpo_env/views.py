"""What the policy sees of an image, and conversions between arrays and encoded images.

Downscaling is deterministic (area averaging) and keeps the aspect ratio. Patching is left to the policy's
processor.
"""

import io
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

STRIP_PIXELS = 2**18  # of the full image that are averaged at once
_LARGE_PIXELS = 2**22  # from here on two threads share the strips: Pillow lets others run meanwhile


def view_size(width_px: int, height_px: int, max_pixels: int) -> tuple[int, int]:
    """The (width, height) in pixels at which an image is shown.

    Its own, or the largest within `max_pixels`.
    """
    if width_px * height_px <= max_pixels:
        return width_px, height_px
    scale = math.sqrt(max_pixels / (width_px * height_px))
    width, height = max(1, int(width_px * scale)), max(1, int(height_px * scale))
    # A sliver is one pixel thin and as long as allowed.
    return max(1, min(width, max_pixels // height)), max(1, min(height, max_pixels // width))


def downscale(image: NDArray[np.uint8], max_pixels: int) -> NDArray[np.uint8]:
    """A fresh read-only copy of `image` [H, W, 3] with at most `max_pixels` pixels."""
    full_height, full_width = image.shape[:2]
    width, height = view_size(full_width, full_height, max_pixels)
    if (width, height) == (full_width, full_height):
        return freeze(image.copy())
    # Strip by strip, because what fits the processor's cache takes half the time of a large image in one piece.
    scale = full_height / height
    strip_height = max(1, int(STRIP_PIXELS / (full_width * scale)))
    tops = range(0, height, strip_height)

    def average(top: int) -> NDArray[np.uint8]:
        bottom = min(top + strip_height, height)
        first, last = int(top * scale), min(math.ceil(bottom * scale), full_height)
        strip = PILImage.fromarray(image[first:last])
        rows = (0, top * scale - first, full_width, min(bottom * scale, full_height) - first)
        return np.asarray(strip.resize((width, bottom - top), PILImage.Resampling.BOX, box=rows))

    if full_width * full_height < _LARGE_PIXELS:
        return freeze(np.concatenate([average(top) for top in tops]))
    with ThreadPoolExecutor(max_workers=2) as threads:
        return freeze(np.concatenate(list(threads.map(average, tops))))


def from_pil(image: PILImage.Image) -> NDArray[np.uint8]:
    """A read-only array [H, W, 3]; transparency is laid over white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layers = image.convert("RGBA")
        paper = PILImage.new("RGBA", layers.size, "white")
        paper.alpha_composite(layers)
        image = paper
    return freeze(np.array(image if image.mode == "RGB" else image.convert("RGB"), dtype=np.uint8))


def freeze(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    image.flags.writeable = False
    return image


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """PNG bytes, lightly compressed: they only travel to a process next door."""
    buffer = io.BytesIO()
    PILImage.fromarray(image).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def decode_image(data: bytes, *, max_pixels: int) -> NDArray[np.uint8]:
    """Decode an image of at most `max_pixels` pixels; the size is checked before any pixel is decoded.

    Raises ValueError for bytes that are no image, or too large a one.
    """
    try:
        with PILImage.open(io.BytesIO(data)) as image:
            if image.width * image.height > max_pixels:
                raise ValueError(
                    f"the image has {image.width} x {image.height} pixels, the limit is {max_pixels}"
                )
            return from_pil(image)
    except (OSError, SyntaxError, PILImage.DecompressionBombError) as error:
        raise ValueError(f"not a readable image: {error}") from error
