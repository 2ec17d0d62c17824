"""What the tests of the adapters share: a small task, its right actions, a processor of the built-in policy's size."""

import random
from typing import Any

import gymnasium as gym
import pytest

import axpo_env  # noqa: F401 - registers the environments

ENV_ID = "AXPO/ChartQA-Tools-v0"
NANO: dict[str, Any] = {"difficulty": "nano", "max_pixels": 48 * 48, "tools": ("image_zoom_in",)}
ZOOM = {"label": "bar", "bbox_2d": [500, 833, 667, 1000]}


def nano_task(index):
    env = gym.make(ENV_ID, **NANO).unwrapped
    env.reset(options={"index": index})
    return env.task


def demonstration(index):
    """Two action texts: a zoom, the right answer."""
    return nano_task(index).demonstrate(random.Random(0))


def tiny_processor(chat):
    """Qwen3-VL's processor, less video, around the built-in policy's tokenizer, with the released template."""
    transformers = pytest.importorskip("transformers")
    template = pytest.importorskip("trl.chat_template_utils").qwen3_vl_chat_template

    class ImagesOnly(transformers.Qwen3VLProcessor):
        def __init__(self, image_processor=None, tokenizer=None, chat_template=None):
            for name in ("image", "video", "vision_start", "vision_end"):
                token = f"<|{name}_pad|>" if name in ("image", "video") else f"<|{name}|>"
                setattr(self, f"{name}_token", token)
                setattr(self, f"{name}_token_id", tokenizer.convert_tokens_to_ids(token))
            transformers.ProcessorMixin.__init__(
                self, image_processor, tokenizer, chat_template=chat_template
            )

    return ImagesOnly(chat.image_processor, chat.tokenizer, chat_template=template)
