"""What the policy sees of an image, and conversions between arrays and encoded images.

Downscaling is deterministic (area averaging) and keeps the aspect ratio. Patching is left to the policy's
processor.
"""

import hashlib
import io
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from axpo_env.caches import SizedCache
from axpo_sandbox.pictures import to_rgb

STRIP_PIXELS = 2**18  # of the full image that are averaged at once
_LARGE_PIXELS = 2**22  # from here on two threads share the strips: Pillow lets others run meanwhile
MAX_PNG_BYTES = 256 * 2**20  # of encoded images that are kept

_png_cache: SizedCache[bytes] = SizedCache(MAX_PNG_BYTES, size=len)


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
    """A read-only array [H, W, 3] of an image of any mode, as `axpo_sandbox.pictures.to_rgb` reads it."""
    return freeze(np.array(to_rgb(image), dtype=np.uint8))


def freeze(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    image.flags.writeable = False
    return image


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """PNG bytes, lightly compressed: they only travel to a process next door. Kept for the next who asks.

    All rollouts of a question hand the same images to their interpreters.
    """
    pixels = np.ascontiguousarray(image)
    return _png_cache.get((pixels.shape, hashlib.sha256(pixels.data).digest()), lambda: _encode(pixels))


def _encode(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    PILImage.fromarray(image).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def decode_image(data: bytes, *, max_pixels: int) -> NDArray[np.uint8]:
    """Decode an image of at most `max_pixels` pixels; the size is checked before any pixel is decoded.

    Raises ValueError for bytes that are no image, a damaged one, or too large a one.
    """
    # Decoders meet damaged bytes with any error there is.
    try:
        image = PILImage.open(io.BytesIO(data))
    except PILImage.UnidentifiedImageError as error:
        raise ValueError("not a readable image: no format that Pillow reads") from error
    except PILImage.DecompressionBombError as error:
        raise ValueError(f"the image is too large: {error}") from error
    except Exception as error:
        raise ValueError(f"not a readable image: {type(error).__name__}: {error}") from error
    with image:
        if image.width * image.height > max_pixels:
            given = f"{image.width} x {image.height}"
            raise ValueError(f"the image is too large: {given} pixels, at most {max_pixels} are allowed")
        try:
            return from_pil(image)
        except Exception as error:
            raise ValueError(f"not a readable image: {type(error).__name__}: {error}") from error
