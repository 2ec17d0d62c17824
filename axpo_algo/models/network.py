"""The network behind a policy: hidden states for sampling, log-probs for training.

Training asks for log-probs only through `Network.forward`, one call from pixels to log-probs: FSDP2 gathers the weights
that no block owns (embeddings, the head) around that call and around its backward pass, and nowhere else.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

__all__ = ["Network", "ShownImages"]

_LOGITS_PER_CHUNK = 1 << 26
"""float32 logits that exist at a time: 256 MiB, and as much again for each step of the softmax"""


@dataclass(frozen=True, kw_only=True, eq=False)
class ShownImages:
    """Distinct images, and where they are shown."""

    pixel_values: torch.Tensor
    """float32 [patches of all images, patch_dim]"""
    grids: torch.Tensor
    """int64 [images, 3]: patches in time, height, width"""
    sizes: Sequence[int]
    """placeholders of each image"""
    shown: Sequence[int]
    """index of the image behind each run of placeholders, in row-major order"""


class Network(torch.nn.Module):
    """A Qwen3-VL of transformers, called with explicit positions and masks.

    banned: bool [vocabulary], tokens that may not be written: their logits are -inf in sampling and training alike.
    """

    banned: torch.Tensor
    needs_images = False
    """whether the vision tower runs where there are no images too, on a blank one"""

    def __init__(self, model: Any, banned: torch.Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("banned", banned, persistent=False)
        # Transformers 5.24 renamed the argument, and warns of the old name until it goes.
        parameters = inspect.signature(model.model.language_model.forward).parameters
        self._cache_keyword = "cache" if "cache" in parameters else "past_key_values"

    def hidden_states(
        self,
        token_ids: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: Any,
        images: ShownImages | None = None,
        *,
        cache: Any = None,
    ) -> torch.Tensor:
        """Last hidden states [B, T, hidden]; a cache (transformers' Cache) is read and filled.

        token_ids: int64 [B, T]; position_ids: int64 [4, B, T], text then time, height, width; attention_mask: int64
        [B, tokens in the cache and these], bool [B, 1, T, T], or None for plain causal rows.
        """
        embeds = self.model.get_input_embeddings()(token_ids)
        visual_mask, deepstack = None, None
        if images is not None:
            visual_mask = token_ids == self.model.config.image_token_id
            embeds, deepstack = self._insert_images(images, embeds, visual_mask)
        elif self.needs_images:
            embeds = embeds + 0 * self._blank_image()
        return self.model.model.language_model(
            inputs_embeds=embeds,
            position_ids=position_ids,
            attention_mask=attention_mask,
            **{self._cache_keyword: cache},
            use_cache=cache is not None,
            visual_pos_masks=visual_mask,
            deepstack_visual_embeds=deepstack,
        ).last_hidden_state

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """float32 logits [..., vocabulary] with the tokens that may not be written at -inf."""
        return self.model.lm_head(hidden).float().masked_fill(self.banned, float("-inf"))

    def forward(
        self,
        token_ids: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: Any,
        images: ShownImages | None,
        sources: torch.Tensor,
        targets: torch.Tensor,
        temperature: float,
    ) -> torch.Tensor:
        """Log-probs float32 [M] of tokens `targets` [M], each after the position `sources` [M] of the flat [B * T].

        The head is applied to a few hundred positions at a time, and again in the backward pass: no tensor of all of
        them times the vocabulary exists.
        """
        hidden = self.hidden_states(token_ids, position_ids, attention_mask, images).flatten(0, 1)[sources]
        size = max(1, _LOGITS_PER_CHUNK // len(self.banned))
        if len(hidden) <= size:
            logprobs = [self._logprobs(hidden, targets, temperature)]
        else:
            chunks = zip(hidden.split(size), targets.split(size), strict=True)
            logprobs = [
                checkpoint(self._logprobs, *chunk, temperature, use_reentrant=False) for chunk in chunks
            ]
        return torch.cat(logprobs)

    def _logprobs(self, hidden: torch.Tensor, targets: torch.Tensor, temperature: float) -> torch.Tensor:
        logprobs = torch.log_softmax(self.logits(hidden) / temperature, dim=-1)
        return logprobs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)

    def _insert_images(
        self, images: ShownImages, embeds: torch.Tensor, visual_mask: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        features = self.model.model.get_image_features(images.pixel_values, images.grids, return_dict=True)

        def spread(per_image: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
            # Some versions of transformers give one tensor an image, others one for all.
            if isinstance(per_image, torch.Tensor):
                per_image = torch.split(per_image, list(images.sizes))
            return torch.cat([per_image[index] for index in images.shown]).to(embeds.dtype)

        embeds = embeds.masked_scatter(
            visual_mask.unsqueeze(-1).expand_as(embeds), spread(features.pooler_output)
        )
        return embeds, [spread(layer) for layer in features.deepstack_features]

    def _blank_image(self) -> torch.Tensor:
        """A sum over what the vision tower makes of the smallest image."""
        vision = self.model.config.vision_config
        size = vision.spatial_merge_size
        patch_dim = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        features = self.model.model.get_image_features(
            torch.zeros(size**2, patch_dim, device=self.banned.device),
            torch.tensor([[1, size, size]], device=self.banned.device),
            return_dict=True,
        )
        layers = [features.pooler_output, *features.deepstack_features]
        parts = [part for layer in layers for part in ([layer] if isinstance(layer, torch.Tensor) else layer)]
        return torch.stack([part.float().sum() for part in parts]).sum()
