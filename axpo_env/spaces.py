"""Spaces that Gymnasium lacks: any unicode text, and any number of images of any size.

They only describe; converting text to tokens or images to patches is left to the policy.
"""

from typing import Any

import numpy as np
from gymnasium.spaces import Space
from numpy.typing import NDArray


class UnicodeText(Space[str]):
    """Every `str`: any characters, any length.

    Samples have at most `sample_chars` characters, no surrogates.
    """

    def __init__(self, *, sample_chars: int = 64, seed: int | np.random.Generator | None = None) -> None:
        super().__init__(shape=None, dtype=None, seed=seed)
        self.sample_chars = sample_chars

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A random text; masks and probabilities have no meaning here and are refused."""
        _refuse_weights(mask, probability)
        length = int(self.np_random.integers(self.sample_chars + 1))
        # Half ASCII, half anything below the surrogates, so that samples look like both kinds of bad text.
        limits = np.where(self.np_random.random(length) < 0.5, 0x7F, 0xD7FF)
        return "".join(chr(int(code)) for code in self.np_random.integers(0, limits, endpoint=True))

    def contains(self, x: Any) -> bool:
        return isinstance(x, str)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnicodeText)

    def __repr__(self) -> str:
        return "UnicodeText()"


class Images(Space[tuple[NDArray[np.uint8], ...]]):
    """Tuples of any length of uint8 arrays [H, W, 3] with H, W >= 1.

    Samples are at most 3 images of 8 x 8.
    """

    def __init__(self, *, seed: int | np.random.Generator | None = None) -> None:
        super().__init__(shape=None, dtype=None, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def sample(self, mask: Any = None, probability: Any = None) -> tuple[NDArray[np.uint8], ...]:
        """Random images; masks and probabilities have no meaning here and are refused."""
        _refuse_weights(mask, probability)
        rng = self.np_random
        sides = [rng.integers(1, 8, size=2, endpoint=True) for _ in range(int(rng.integers(4)))]
        return tuple(
            rng.integers(0, 256, size=(int(height), int(width), 3), dtype=np.uint8) for height, width in sides
        )

    def contains(self, x: Any) -> bool:
        return isinstance(x, tuple) and all(
            isinstance(image, np.ndarray)
            and image.dtype == np.uint8
            and image.ndim == 3
            and image.shape[2] == 3
            and image.size > 0
            for image in x
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Images)

    def __repr__(self) -> str:
        return "Images()"


def _refuse_weights(mask: Any, probability: Any) -> None:
    if mask is not None or probability is not None:
        raise ValueError("this space samples without mask or probability")
