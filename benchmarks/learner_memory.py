"""How much memory does an update take beyond weights, gradients, moments and reference: planned, and measured.

    python benchmarks/learner_memory.py [--layers 4] [--no-compute] [--json PATH]

One micro-batch at the widths of Qwen3-VL-2B in bfloat16, forward and backward on the CPU: a sequence of 8,192 tokens
of which 3,500 are trained, with four images of a megapixel. Three ways: checkpointed blocks and a head in chunks, as
the learner runs, and each of the two alone. Measured are the bytes of the tensors that live at a time, by
their storages, so that neither the allocator nor other processes matter; scratch memory inside a kernel is not seen.
--no-compute leaves arithmetic out and follows the shapes: the same numbers within 1 %, in minutes rather than hours.
"""

import argparse
import contextlib
import dataclasses
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from axpo_algo import sizes
from axpo_algo.models import network
from axpo_algo.models.network import Network, ShownImages
from axpo_algo.run.tables import markdown_table, write_json

WIDTHS_2B: dict[str, Any] = dict(
    hidden_size=2048,
    intermediate_size=6144,
    num_hidden_layers=4,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=151_936,
    vision_depth=4,
    vision_hidden_size=1024,
    vision_heads=16,
    vision_intermediate_size=4096,
    deepstack=(1, 2),
    tied=True,
)


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """What one forward and backward pass is of."""

    num_tokens: int = 8192
    """of one sequence, images included"""
    num_trained: int = 3500
    """tokens with loss, the last ones"""
    num_images: int = 4
    grid: tuple[int, int] = (64, 64)
    """patches of an image: height, width"""


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages that operations inside the block have made and that still live; their largest sum.

    known: tensors that were there before. compute: whether arithmetic on floats is done; otherwise its results have the
    right shape and no meaning.
    """

    def __init__(self, known: Sequence[torch.Tensor], *, compute: bool = True) -> None:
        super().__init__()
        self.compute = compute
        self.now = self.peak = 0
        self._known = weakref.WeakSet(tensor.untyped_storage() for tensor in known)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, torch.Tensor):
                self._known.add(tensor.untyped_storage())
        skipped = not self.compute and _is_arithmetic(function, args, kwargs)
        result = _uncomputed(function, args, kwargs) if skipped else function(*args, **kwargs)
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, storage.nbytes())

    def _free(self, num_bytes: int) -> None:
        self.now -= num_bytes


def model_config(widths: dict[str, Any]) -> Any:
    """The configuration of a Qwen3-VL of these widths, `WIDTHS_2B`'s keys."""
    head_dim = widths["head_dim"]
    third = head_dim // 8
    return Qwen3VLConfig(
        text_config=dict(
            **{key: widths[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers")},
            **{key: widths[key] for key in ("num_attention_heads", "num_key_value_heads", "vocab_size")},
            head_dim=head_dim,
            tie_word_embeddings=widths["tied"],
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_interleaved": True,
                "mrope_section": [head_dim // 2 - 2 * third, third, third],
            },
        ),
        vision_config=dict(
            depth=widths["vision_depth"],
            hidden_size=widths["vision_hidden_size"],
            num_heads=widths["vision_heads"],
            intermediate_size=widths["vision_intermediate_size"],
            out_hidden_size=widths["hidden_size"],
            deepstack_visual_indexes=list(widths["deepstack"]),
        ),
        image_token_id=5,
        video_token_id=6,
        vision_start_token_id=7,
        vision_end_token_id=8,
        tie_word_embeddings=widths["tied"],
    )


def inputs(config: Any, batch: MicroBatch) -> dict[str, Any]:
    """Arguments of `Network.forward` for one sequence that begins with its images."""
    height, width = batch.grid
    vision: Any = config.vision_config
    size = height * width // vision.spatial_merge_size**2
    ids = torch.full((1, batch.num_tokens), 20)
    ids[0, : size * batch.num_images] = config.image_token_id
    patch_dim = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    images = ShownImages(
        pixel_values=torch.zeros(batch.num_images * height * width, patch_dim),
        grids=torch.tensor([[1, height, width]] * batch.num_images),
        sizes=[size] * batch.num_images,
        shown=list(range(batch.num_images)),
    )
    last = torch.arange(batch.num_tokens - batch.num_trained, batch.num_tokens)
    return dict(
        token_ids=ids,
        position_ids=torch.arange(batch.num_tokens).expand(4, 1, -1),
        attention_mask=None,
        images=images,
        sources=last - 1,
        targets=ids[0, last],
        temperature=1.0,
    )


def _is_arithmetic(function: Any, args: Any, kwargs: Any) -> bool:
    """Whether all that `function` does with these arguments is to make floats of floats."""
    schema = function._schema
    makes_views = any(value.alias_info is not None for value in schema.returns)
    tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
    floats = tensors and all(tensor.is_floating_point() for tensor in tensors)
    return bool(floats) and not (makes_views or schema.is_mutable) and kwargs.get("device") is None


def _uncomputed(function: Any, args: Any, kwargs: Any) -> Any:
    """What `function` returns, with memory of the same sizes and no values in it."""

    def to_meta(value: Any) -> Any:
        return value.to("meta") if isinstance(value, torch.Tensor) else value

    def to_cpu(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)

    return tree_map(to_cpu, function(*tree_map(to_meta, args), **tree_map(to_meta, kwargs)))


WAYS = {
    "checkpointing and chunks": (True, True),
    "checkpointing alone": (True, False),
    "chunks alone": (False, True),
}


@contextlib.contextmanager
def logits_per_chunk(number: int) -> Iterator[None]:
    """The network's logits come in chunks of `number` inside the block."""
    before = network._LOGITS_PER_CHUNK
    network._LOGITS_PER_CHUNK = number
    try:
        yield
    finally:
        network._LOGITS_PER_CHUNK = before


def planned_bytes(
    widths: dict[str, Any], batch: MicroBatch, *, checkpointing: bool, num_logits: int, width: int = 2
) -> int:
    """What `axpo_algo.sizes` says that the micro-batch takes. num_logits: of a chunk of the head."""
    planned = sizes.MicroBatch(
        num_tokens=batch.num_tokens,
        num_trained=batch.num_trained,
        num_patches=batch.num_images * batch.grid[0] * batch.grid[1],
    )
    return sizes.update_bytes(
        sizes.Sizes.from_config(model_config(widths)),
        planned,
        width=width,
        checkpointing=checkpointing,
        chunk_tokens=max(1, num_logits // widths["vocab_size"]),
    ).peak


def measured_bytes(
    widths: dict[str, Any],
    batch: MicroBatch,
    *,
    checkpointing: bool,
    num_logits: int,
    dtype: torch.dtype = torch.bfloat16,
    compute: bool = True,
) -> int:
    """Bytes that a micro-batch's forward and backward pass take beyond weights and gradients, there before."""
    config = model_config(widths)
    model: Any = Qwen3VLForConditionalGeneration._from_config(config, dtype=dtype).train()
    if checkpointing:
        enable = getattr(model, "activation_checkpointing_enable", None)
        (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
    net = Network(model, torch.zeros(widths["vocab_size"], dtype=torch.bool))
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)  # a later micro-batch: gradients add up
    known = [tensor for p in net.parameters() for tensor in (p, p.grad) if tensor is not None]
    arguments = inputs(config, batch)
    with logits_per_chunk(num_logits), LiveBytes([*known, *net.buffers()], compute=compute) as live:
        pixels = arguments["images"].pixel_values.clone()
        arguments["images"] = dataclasses.replace(arguments["images"], pixel_values=pixels)
        net(**arguments).sum().backward()
    return live.peak


def measure(
    widths: dict[str, Any], batch: MicroBatch, *, num_logits: int, compute: bool = True
) -> list[dict[str, Any]]:
    """A row for each of `WAYS`. num_logits: of a chunk of the head, where there are chunks."""
    rows = []
    for way, (checkpointing, has_chunks) in WAYS.items():
        logits = num_logits if has_chunks else batch.num_trained * widths["vocab_size"]
        planned = planned_bytes(widths, batch, checkpointing=checkpointing, num_logits=logits)
        measured = measured_bytes(
            widths, batch, checkpointing=checkpointing, num_logits=logits, compute=compute
        )
        rows.append(
            {
                "way": way,
                "planned, GB": planned / 1e9,
                "measured, GB": measured / 1e9,
                "measured / planned": measured / planned,
            }
        )
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=4, help="blocks of the decoder and of the vision tower")
    parser.add_argument("--no-compute", action="store_true", help="follow shapes alone")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    widths = {**WIDTHS_2B, "num_hidden_layers": options.layers, "vision_depth": options.layers}
    rows = measure(widths, MicroBatch(), num_logits=network._LOGITS_PER_CHUNK, compute=not options.no_compute)
    print(markdown_table(rows))
    if options.json:
        write_json(options.json, {"widths": widths, "compute": not options.no_compute, "rows": rows})


if __name__ == "__main__":
    main()
