"""What code draws, as PNG: figures shown or left open, and images that are a cell's last value.

Runs beside untrusted code. Sizes are checked before anything is drawn or encoded.
"""

import base64
import io
import sys
from typing import Any

from axpo_sandbox.pictures import to_rgb


class Gallery:
    """The images of one cell, up to a number and a size."""

    def __init__(self, *, num_images: int, image_pixels: int, total_bytes: int) -> None:
        self.encoded: list[str] = []
        self.warnings: list[str] = []
        self._num_images = num_images
        self._image_pixels = image_pixels
        self._bytes_left = total_bytes
        self._num_left_out = 0

    def add_figure(self, figure: Any) -> None:
        """Draw a matplotlib figure."""
        width, height = (int(inches * figure.dpi) for inches in figure.get_size_inches())
        self._add("a figure", width, height, lambda file: figure.savefig(file, format="png"))

    def add_picture(self, picture: Any) -> None:
        """Encode a PIL image."""
        width, height = picture.size
        self._add("an image", width, height, lambda file: to_rgb(picture).save(file, format="PNG"))

    def finish(self) -> None:
        """Say how many did not fit."""
        if self._num_left_out:
            self.warnings.append(f"{self._num_left_out} more images left out: at most {self._num_images}")

    def _add(self, what: str, width: int, height: int, encode: Any) -> None:
        if len(self.encoded) >= self._num_images:
            self._num_left_out += 1
            return
        if width * height > self._image_pixels:
            self.warnings.append(f"{what} of {width} x {height} px left out: at most {self._image_pixels} px")
            return
        file = io.BytesIO()
        try:
            encode(file)
        except Exception as error:
            self.warnings.append(f"{what} left out: {type(error).__name__}: {error}"[:500])
            return
        data = file.getvalue()
        if len(data) > self._bytes_left:
            self.warnings.append(f"{what} left out: the images of one cell are too large together")
            return
        self._bytes_left -= len(data)
        self.encoded.append(base64.b64encode(data).decode())


_current: Gallery | None = None


def begin(gallery: Gallery) -> None:
    """Take `gallery` for what is shown from now on."""
    global _current
    _current = gallery


def show(*_arguments: Any, **_options: Any) -> None:
    """What `plt.show()` does here."""
    draw_open()


def draw_open() -> list[Any]:
    """Draw the open figures, in order, and close them. Returns them."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None or _current is None:
        return []
    figures = [pyplot.figure(number) for number in pyplot.get_fignums()]
    for figure in figures:
        _current.add_figure(figure)
    pyplot.close("all")
    return figures


def show_one(figure: Any, *_arguments: Any, **_options: Any) -> None:
    """What `figure.show()` does here."""
    if _current is not None:
        _current.add_figure(figure)
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.close(figure)


def add_last_value(gallery: Gallery, value: Any, drawn: list[Any]) -> bool:
    """Take `value` if it is an image, or a figure that is not among those `drawn`; returns whether it was either."""
    image_module = sys.modules.get("PIL.Image")
    if image_module is not None and isinstance(value, image_module.Image):
        gallery.add_picture(value)
        return True
    figure_module = sys.modules.get("matplotlib.figure")
    if figure_module is not None and isinstance(value, figure_module.Figure):
        if not any(value is figure for figure in drawn):
            gallery.add_figure(value)
        return True
    return False


def hook_matplotlib() -> None:
    """Make `show` draw, in a pyplot that is already imported."""
    pyplot = sys.modules["matplotlib.pyplot"]
    pyplot.show = show  # type: ignore[attr-defined]
    sys.modules["matplotlib.figure"].Figure.show = show_one
