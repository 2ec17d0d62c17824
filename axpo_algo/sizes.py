"""What a Qwen3-VL weighs: its parameters by part, and the bytes that one forward and backward pass takes.

Arithmetic on a config.json alone; no weights. `benchmarks/learner_memory.py` measures the same. What a run
needs in all, and whether that fits, is `plan`.
"""

from dataclasses import dataclass
from typing import Any

__all__ = ["MicroBatch", "Sizes", "UpdateBytes", "update_bytes"]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Widths of a Qwen3-VL, and what follows from them. Parameters are counted, not bytes."""

    hidden: int
    intermediate: int
    num_layers: int
    query: int
    """heads times their width"""
    key: int
    """key-value heads times their width"""
    head_dim: int
    vocabulary: int
    tied: bool
    vision_hidden: int
    vision_intermediate: int
    vision_depth: int
    num_deepstack: int
    patch_dim: int
    """values of a patch: channels x frames x side x side"""
    merge: int
    """patches of one visual token"""
    patch_px: int
    num_positions: int
    attention_bias: bool = False

    @classmethod
    def from_config(cls, config: Any) -> "Sizes":
        """Of transformers' Qwen3VLConfig."""
        text, vision = config.text_config, config.vision_config
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return cls(
            hidden=text.hidden_size,
            intermediate=text.intermediate_size,
            num_layers=text.num_hidden_layers,
            query=text.num_attention_heads * head_dim,
            key=text.num_key_value_heads * head_dim,
            head_dim=head_dim,
            vocabulary=text.vocab_size,
            tied=bool(config.tie_word_embeddings),
            vision_hidden=vision.hidden_size,
            vision_intermediate=vision.intermediate_size,
            vision_depth=vision.depth,
            num_deepstack=len(vision.deepstack_visual_indexes),
            patch_dim=vision.in_channels * vision.temporal_patch_size * vision.patch_size**2,
            merge=vision.spatial_merge_size**2,
            patch_px=vision.patch_size,
            num_positions=vision.num_position_embeddings,
            attention_bias=bool(text.attention_bias),
        )

    @property
    def embeddings(self) -> int:
        return self.vocabulary * self.hidden

    @property
    def head(self) -> int:
        """0 where it is the embeddings."""
        return 0 if self.tied else self.embeddings

    @property
    def decoder_block(self) -> int:
        attention = self.hidden * (2 * self.query + 2 * self.key) + 2 * self.head_dim
        biases = (self.query + 2 * self.key + self.hidden) if self.attention_bias else 0
        return attention + biases + 3 * self.hidden * self.intermediate + 2 * self.hidden

    @property
    def decoder(self) -> int:
        """Blocks and the norm after them."""
        return self.num_layers * self.decoder_block + self.hidden

    @property
    def vision_block(self) -> int:
        v, m = self.vision_hidden, self.vision_intermediate
        return 4 * v * v + 2 * v * m + 9 * v + m

    @property
    def vision_root(self) -> int:
        """Patch embedding, position embeddings and mergers: what no block owns."""
        v = self.vision_hidden
        merged = self.merge * v
        merger = merged * merged + merged + merged * self.hidden + self.hidden
        norms = 2 * v + self.num_deepstack * 2 * merged
        return v * (self.patch_dim + 1) + v * self.num_positions + (1 + self.num_deepstack) * merger + norms

    @property
    def vision(self) -> int:
        return self.vision_depth * self.vision_block + self.vision_root

    @property
    def total(self) -> int:
        return self.embeddings + self.head + self.decoder + self.vision

    @property
    def root(self) -> int:
        """What no block owns: embeddings, head, last norm, and the vision tower's root."""
        return self.embeddings + self.head + self.hidden + self.vision_root

    def adapters(self, rank: int, *, vision: bool) -> int:
        """Parameters of LoRA adapters of `rank` on every linear layer of the decoder blocks, and the vision blocks'."""
        h, v = self.hidden, self.vision_hidden
        language = 2 * (h + self.query) + 2 * (h + self.key) + 3 * (h + self.intermediate)
        tower = 4 * v + 2 * v + 2 * (v + self.vision_intermediate) if vision else 0
        return rank * (self.num_layers * language + self.vision_depth * tower)

    def image_tokens(self, pixels: int) -> int:
        """Visual tokens of an image with this many pixels."""
        return max(1, round(pixels / (self.patch_px**2 * self.merge)))

    def kv_bytes(self, width: int) -> int:
        """Bytes that a token takes in the key-value cache, in numbers of `width` bytes."""
        return 2 * self.num_layers * self.key * width


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """What one forward and backward pass is of."""

    num_tokens: int
    """padding and images included"""
    num_trained: int
    """tokens with loss"""
    num_patches: int = 0
    """of all images"""
    mask_width: int = 0
    """tokens of a row with a dense mask; 0 for plain causal rows"""


@dataclass(frozen=True, kw_only=True)
class UpdateBytes:
    """Bytes that an update takes beyond weights, gradients and moments: kept from the forward pass, then at work."""

    pixels: int
    decoder: int
    """activations that its blocks keep"""
    vision: int
    """activations that the tower keeps, deepstack features among them"""
    mask: int
    head_work: int
    """beyond what is kept: logits of one chunk, and the head's gradient"""
    decoder_work: int
    """beyond what is kept: one block in its backward pass"""
    vision_work: int
    """the same for a block of the tower, when the decoder's are gone"""

    @property
    def phases(self) -> dict[str, int]:
        """The three moments that may be the fullest, and what lives then."""
        kept = self.pixels + self.decoder + self.vision + self.mask
        return {
            "head": kept + self.head_work,
            "decoder": kept + self.decoder_work,
            "vision": self.pixels + self.vision + self.vision_work,
        }

    @property
    def peak(self) -> int:
        return max(self.phases.values())


def decoder_block_bytes(sizes: Sizes, width: int, *, masked: bool = False) -> int:
    """Bytes a token that a decoder block keeps for its backward pass, in numbers of `width` bytes.

    A norm keeps its input in float32, that rounded, and its output; the queries' and keys' norms all but the last.
    Attention keeps rotated queries and keys, values and output; the MLP gate, up, activation and product.
    """
    queries_keys = sizes.query + sizes.key
    norms = (4 + 2 * width) * (2 * sizes.hidden + queries_keys)
    repeated = 2 * width * (sizes.query - sizes.key) if masked else 0  # keys and values, once for each head
    return norms + width * queries_keys + repeated + 4 * width * sizes.intermediate


def vision_block_bytes(sizes: Sizes, width: int) -> int:
    """Bytes a patch that a vision block keeps: norms' inputs and outputs, queries, keys, values, output; the MLP's."""
    return width * (11 * sizes.vision_hidden + 2 * sizes.vision_intermediate)


def update_bytes(
    sizes: Sizes,
    batch: MicroBatch,
    *,
    width: int,
    checkpointing: bool,
    chunk_tokens: int,
    train_head: bool = True,
    train_vision: bool = True,
    gradient_held: bool = False,
    lora: bool = False,
) -> UpdateBytes:
    """What one micro-batch's forward and backward pass takes on top of the training state.

    width: bytes of a weight and of an activation. chunk_tokens: positions that the head is applied to at a time.
    train_head, train_vision: whether embeddings and head, and the tower, take gradients. gradient_held: the root's
    gradient has been counted elsewhere. lora: linear layers keep their inputs in float32 for adapters.
    """
    h, i, tokens, patches = sizes.hidden, sizes.intermediate, batch.num_tokens, batch.num_patches
    v, m = sizes.vision_hidden, sizes.vision_intermediate
    block = decoder_block_bytes(sizes, width, masked=bool(batch.mask_width)) * tokens
    if lora:
        block += 4 * (5 * h + sizes.query + i) * tokens
    tower_block = vision_block_bytes(sizes, width) * patches
    last_norm = (4 + 2 * width) * h * tokens
    kept_in_blocks = sizes.num_layers * (width * h * tokens if checkpointing else block)
    mergers = 3 * width * v * patches * (1 + sizes.num_deepstack)
    features = width * h * (patches // sizes.merge) * sizes.num_deepstack
    tower = sizes.vision_depth * (width * v * patches if checkpointing else tower_block)
    head_gradient = width * sizes.embeddings if train_head else 0
    chunk = min(batch.num_trained, chunk_tokens)
    is_chunked = batch.num_trained > chunk_tokens
    # The sum over chunks so far, a chunk's own and the new sum; the first is the gradient's place in the root.
    in_flight = head_gradient if is_chunked and not gradient_held else 0
    sums = head_gradient * (2 if is_chunked else 1)
    softmax = 3 * 4 * chunk * sizes.vocabulary  # log-probs, their gradient and the logits'
    waiting = head_gradient if sizes.tied and not gradient_held else 0
    return UpdateBytes(
        pixels=patches * sizes.patch_dim * (4 + (width if width < 4 else 0)),
        decoder=kept_in_blocks + last_norm + width * h * batch.num_trained,
        vision=(tower + width * v * patches + mergers + features if train_vision else features),
        mask=tokens * batch.mask_width * (1 + width),
        head_work=in_flight + max(softmax, sums),
        decoder_work=(block if checkpointing else 0) - last_norm + 2 * width * (i + h) * tokens + waiting,
        vision_work=(tower_block if checkpointing or not train_vision else 0)
        + width * (m + 2 * v) * patches
        + waiting,
    )
