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
    from axpo_env.tasks.base import Task
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


def zoom_aim(task: "Task", arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """Where a zoom into the task's first image looked, and where it should have. For analysis, not for the policy.

    Returns `on_target` (whether it shows half or more of a gold box), `place` and `target` (indices into the task's
    places of the one looked at and of the only gold box; None where the task does not know its places or needs
    several). None for a task without gold boxes and for another image. `arguments` are those of a call that was run.
    """
    box = arguments["bbox_2d"]
    if not task.gold_boxes or arguments.get("img_idx", 0) != 0:
        return None
    target = task.places.index(task.gold_boxes[0]) if task.places and len(task.gold_boxes) == 1 else None
    place = None
    if task.places:
        order = range(len(task.places))
        place = max(
            order, key=lambda index: (_overlap(box, task.places[index]), -_apart(box, task.places[index]))
        )
    on_target = any(2 * _overlap(box, gold) >= _overlap(gold, gold) for gold in task.gold_boxes)
    return {"on_target": on_target, "place": place, "target": target}


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """The area that two boxes share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0)


def _apart(one: Sequence[float], other: Sequence[float]) -> float:
    """The squared distance of two boxes' centres, times four."""
    return (one[0] + one[2] - other[0] - other[2]) ** 2 + (one[1] + one[3] - other[1] - other[3]) ** 2


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
