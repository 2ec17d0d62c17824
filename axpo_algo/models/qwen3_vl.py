"""Qwen3-VL as a policy: loading and saving, positions, and padded batches for the network that sampling and
training share.

Works for any Qwen3-VL checkpoint by folder or hub id, and for the built-in `nano` one. Equal images are encoded once
(all trajectories of a question show the same one), and M-RoPE positions are always explicit. Wire format: `chat`.
The forward pass: `network`. Sampling: `engines`.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.utils import HFValidationError, validate_repo_id
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoTokenizer,
    Qwen2VLImageProcessorPil,
)
from transformers.utils import logging as transformers_logging

from axpo_algo.models.chat import Chat
from axpo_algo.models.network import Network, ShownImages
from axpo_algo.types import ProcessedImage

__all__ = ["PolicyError", "Qwen3VLPolicy", "SequenceBatch", "mrope_positions", "require_qwen3_vl"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class PolicyError(ValueError):
    """The checkpoint cannot be loaded or is not a Qwen3-VL, or sequences and images do not fit each other."""


def mrope_positions(
    token_ids: Sequence[int], grids: Sequence[tuple[int, int, int]], *, image_token_id: int, merge_size: int
) -> np.ndarray:
    """Interleaved-M-RoPE positions of one sequence: int64 [3, T] (time, height, width).

    Text advances all three by one; an image of grid (t, h, w) patches takes h/merge x w/merge positions from
    where it stands and text goes on max(h, w)/merge later. Agrees with transformers' `get_rope_index`. Raises
    PolicyError where the placeholders do not match the grids.
    """
    ids = np.asarray(token_ids)
    positions = np.empty((3, len(ids)), dtype=np.int64)
    is_image = ids == image_token_id
    at = 0
    offset = 0
    for time, height, width in grids:
        rows, columns = height // merge_size, width // merge_size
        placeholders = np.flatnonzero(is_image[at:])
        count = time * rows * columns
        start = at + int(placeholders[0]) if len(placeholders) else len(ids)
        if start + count > len(ids) or not is_image[start : start + count].all():
            raise PolicyError(
                f"{int(is_image.sum())} image placeholders do not match the images' grids {list(grids)}"
            )
        positions[:, at:start] = np.arange(offset, offset + start - at)
        offset += start - at
        index = np.arange(count)
        positions[0, start : start + count] = offset + index // (rows * columns)
        positions[1, start : start + count] = offset + index // columns % rows
        positions[2, start : start + count] = offset + index % columns
        offset += max(rows, columns)
        at = start + count
    if is_image[at:].any():
        raise PolicyError(
            f"{int(is_image.sum())} image placeholders do not match the images' grids {list(grids)}"
        )
    positions[:, at:] = np.arange(offset, offset + len(ids) - at)
    return positions


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceBatch:
    """B sequences padded to T tokens, with their distinct images."""

    token_ids: torch.Tensor
    """int64 [B, T]"""
    attention_mask: torch.Tensor
    """int64 [B, T], 0 on padding"""
    position_ids: torch.Tensor
    """int64 [4, B, T]: text row, then time, height, width"""
    next_positions: torch.Tensor
    """int64 [2, B]: where a token appended to each sequence stands, as text and as M-RoPE"""
    images: list[ProcessedImage]
    """each distinct image once"""
    shown: list[int]
    """index into `images` of each run of placeholders, in row-major order"""


class Qwen3VLPolicy:
    """A Qwen3-VL model with its tokenizer, template and image processor."""

    def __init__(self, model: Any, chat: Chat) -> None:
        if model.config.model_type != "qwen3_vl":
            raise PolicyError(f"the checkpoint is a {model.config.model_type!r}; this policy is 'qwen3_vl'")
        if model.config.image_token_id != chat.image_token_id:
            raise PolicyError(
                f"the model's image token is {model.config.image_token_id}, the tokenizer's {chat.image_token_id}"
            )
        self.model = model
        self.chat = chat
        self.merge_size: int = model.config.vision_config.spatial_merge_size
        banned = torch.zeros(model.config.text_config.vocab_size, dtype=torch.bool)
        banned[chat.banned_token_ids] = True
        banned[len(chat.tokenizer) :] = True  # rows that a padded embedding has beyond the tokenizer
        self.network = Network(model, banned.to(model.device))

    @classmethod
    def load(cls, path: str, *, dtype: str = "float32", device: str = "cpu") -> "Qwen3VLPolicy":
        """Loads a folder or hub id. Raises PolicyError naming the path where that fails or it is
        another architecture."""
        if dtype not in DTYPES:
            raise PolicyError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        require_qwen3_vl(path)
        transformers_logging.disable_progress_bar()
        try:
            tokenizer = AutoTokenizer.from_pretrained(path)
            image_processor = _load_image_processor(path)
            model: Any = AutoModelForImageTextToText.from_pretrained(path, dtype=DTYPES[dtype])
        except (OSError, ValueError) as error:
            raise PolicyError(f"no Qwen3-VL checkpoint could be loaded from {path!r}: {error}") from error
        model.to(device=device)
        return cls(model, Chat(tokenizer, image_processor))

    def save(self, folder: Path) -> None:
        """Writes weights, tokenizer, template and image processor so that `load` and transformers' Auto
        classes read them."""
        transformers_logging.disable_progress_bar()
        self.model.save_pretrained(folder)
        self.chat.tokenizer.save_pretrained(folder)
        self.chat.image_processor.save_pretrained(folder)

    def clone_frozen(self) -> "Qwen3VLPolicy":
        """A copy of the weights that no gradient reaches: the reference policy."""
        frozen = copy.deepcopy(
            self.model
        )  # buffers included, which a fresh model would hold in another precision
        frozen.requires_grad_(False).eval()
        return Qwen3VLPolicy(frozen, self.chat)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights; buffers such as rotary tables stay float32."""
        return self.model.dtype

    def batch(
        self, sequences: Sequence[tuple[Sequence[int], Sequence[ProcessedImage]]], *, pad_left: bool = False
    ) -> SequenceBatch:
        """Pads (token ids, images) pairs into one batch. Raises PolicyError where placeholders and
        images do not match."""
        width = max(len(ids) for ids, _ in sequences)
        rows = len(sequences)
        token_ids = np.full((rows, width), self.chat.tokenizer.pad_token_id or 0, dtype=np.int64)
        mask = np.zeros((rows, width), dtype=np.int64)
        positions = np.zeros((4, rows, width), dtype=np.int64)
        following = np.zeros((2, rows), dtype=np.int64)
        images: dict[str, int] = {}
        distinct: list[ProcessedImage] = []
        shown: list[int] = []
        for row, (ids, row_images) in enumerate(sequences):
            span = slice(width - len(ids), width) if pad_left else slice(0, len(ids))
            token_ids[row, span] = ids
            mask[row, span] = 1
            positions[0, row, span] = np.arange(len(ids))
            positions[1:, row, span] = mrope_positions(
                ids,
                [image.grid for image in row_images],
                image_token_id=self.chat.image_token_id,
                merge_size=self.merge_size,
            )
            following[:, row] = len(ids), positions[1:, row, span].max() + 1
            for image in row_images:
                if image.digest not in images:
                    images[image.digest] = len(distinct)
                    distinct.append(image)
                shown.append(images[image.digest])
        tensors = [
            torch.from_numpy(array).to(self.device) for array in (token_ids, mask, positions, following)
        ]
        return SequenceBatch(
            token_ids=tensors[0],
            attention_mask=tensors[1],
            position_ids=tensors[2],
            next_positions=tensors[3],
            images=distinct,
            shown=shown,
        )

    def images(self, images: Sequence[ProcessedImage], shown: Sequence[int]) -> ShownImages | None:
        """Distinct images as the network takes them; shown: index of the image behind each run of placeholders."""
        if not images:
            return None
        return ShownImages(
            pixel_values=self.chat.images.pixel_values(images, self.device),
            grids=torch.tensor([image.grid for image in images], device=self.device),
            sizes=[image.num_tokens for image in images],
            shown=shown,
        )

    def hidden_states(self, batch: SequenceBatch, *, cache: Any = None) -> torch.Tensor:
        """Last hidden states [B, T, hidden] of a batch; with a cache (transformers' Cache, empty), fills it."""
        images = self.images(batch.images, batch.shown)
        return self.network.hidden_states(
            batch.token_ids, batch.position_ids, batch.attention_mask, images, cache=cache
        )

    def extend(
        self, token_ids: torch.Tensor, position_ids: torch.Tensor, attention_mask: torch.Tensor, cache: Any
    ) -> torch.Tensor:
        """Hidden states [B, 1, hidden] of one more token each: token_ids [B, 1], position_ids [4, B,
        1], mask [B, T + 1]."""
        return self.network.hidden_states(token_ids, position_ids, attention_mask, cache=cache)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """See `Network.logits`."""
        return self.network.logits(hidden)

    def token_logprobs(
        self, batch: SequenceBatch, rows: torch.Tensor, columns: torch.Tensor, *, temperature: float = 1.0
    ) -> torch.Tensor:
        """Log-probs [M] of the tokens at (rows [M], columns [M]) given all before them; columns >= 1,
        right-padded batch. Training packs its rows: see `packing`."""
        return self.network(
            batch.token_ids,
            batch.position_ids,
            batch.attention_mask,
            self.images(batch.images, batch.shown),
            rows * batch.token_ids.shape[1] + columns - 1,
            batch.token_ids[rows, columns],
            temperature,
        )


def _load_image_processor(path: str) -> Any:
    """The checkpoint's image processor; the one without torchvision where that is missing."""
    try:
        return AutoImageProcessor.from_pretrained(path)
    except ImportError:
        return Qwen2VLImageProcessorPil.from_pretrained(path)


def require_qwen3_vl(path: str) -> None:
    """Raises PolicyError for what is neither a folder of such a checkpoint nor could be a hub id."""
    folder = Path(path)
    if not folder.is_dir():
        try:
            validate_repo_id(path)
        except HFValidationError:
            raise PolicyError(
                f"there is no folder {path!r}, and a hub id has the form 'owner/name'"
            ) from None
        return
    config = folder / "config.json"
    if not config.is_file():
        raise PolicyError(
            f"{str(folder)!r} holds no config.json; a checkpoint folder written by save_pretrained is needed"
        )
    model_type = json.loads(config.read_text()).get("model_type")
    if model_type != "qwen3_vl":
        raise PolicyError(f"{str(folder)!r} holds a {model_type!r}; this policy is 'qwen3_vl'")
