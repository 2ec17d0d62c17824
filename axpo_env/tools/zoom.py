"""`image_zoom_in`: a crop of one of the episode's images, cut from its full resolution.

Downscaling the crop for the policy is left to `dynamics`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from axpo_env.names import shorten
from axpo_env.tools.base import ArgumentError, ToolResult, function_schema
from axpo_env.views import freeze

if TYPE_CHECKING:
    from axpo_env.state import EpisodeState
    from axpo_env.tools.interpreter import Interpreter

MIN_CROP_PX = 32  # one visual token of Qwen3-VL
BOX_SCALE = 1000  # boxes are given in thousandths of width and height


class ZoomTool:
    """Crop `bbox_2d` out of image `img_idx`; sides below 32 px are grown about their centre."""

    name = "image_zoom_in"
    schema = function_schema(
        "image_zoom_in",
        "Zoom in on a region of an image by cropping it at full resolution.",
        {
            "bbox_2d": {
                "type": "array",
                "items": {"type": "number", "minimum": 0, "maximum": BOX_SCALE},
                "minItems": 4,
                "maxItems": 4,
                "description": "[x1, y1, x2, y2] in 0-1000 of the image's width and height",
            },
            "label": {"type": "string", "description": "what is looked for"},
            "img_idx": {"type": "integer", "description": "which image, counted from 0", "default": 0},
        },
        required=("bbox_2d", "label"),
    )

    def run(
        self, arguments: Mapping[str, Any], state: "EpisodeState", interpreter: "Interpreter"
    ) -> ToolResult:
        box, index = arguments["bbox_2d"], arguments.get("img_idx", 0)
        if not 0 <= index < len(state.images):
            raise ArgumentError(f"img_idx is {shorten(index)}, images are 0 to {len(state.images) - 1}")
        for axis, low, high in (("x", box[0], box[2]), ("y", box[1], box[3])):
            if high <= low:
                raise ArgumentError(f"bbox_2d: {axis}2 ({high}) must be greater than {axis}1 ({low})")
        image = state.images[index]
        left, top, right, bottom = crop_box(box, width_px=image.shape[1], height_px=image.shape[0])
        return ToolResult(images=(freeze(np.ascontiguousarray(image[top:bottom, left:right])),))


def crop_box(box: Sequence[float], *, width_px: int, height_px: int) -> tuple[int, int, int, int]:
    """Pixels (left, top, right, bottom) of a 0-1000 `box`.

    Inside the image, at least 32 px a side if it has them.
    """
    left, right = _side(box[0], box[2], width_px)
    top, bottom = _side(box[1], box[3], height_px)
    return left, top, right, bottom


def _side(low: float, high: float, size_px: int) -> tuple[int, int]:
    start, end = round(low * size_px / BOX_SCALE), round(high * size_px / BOX_SCALE)
    least = min(MIN_CROP_PX, size_px)
    if end - start < least:
        start = round((low + high) / 2 * size_px / BOX_SCALE - least / 2)
        start = min(max(start, 0), size_px - least)
        end = start + least
    return start, end
