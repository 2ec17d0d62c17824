"""Low-rank adapters on a network's linear layers (LoRA, arXiv 2106.09685), by peft: W + (alpha / rank) * B A.

Only the network that is trained has them. The one that samples holds their product, merged; the reference is the
trained one with the adapters off. peft is imported where it is needed: it is an extra.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from axpo_algo.config import LoraConfig
from axpo_algo.distributed import whole
from axpo_algo.models.network import Network

__all__ = ["add_adapters", "merged_weights", "without_adapters"]

_LANGUAGE = r".*language_model\.layers\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
_VISION = r".*visual\.blocks\..*\.(qkv|proj|linear_fc1|linear_fc2)"
_NAME = "default"  # peft's, of a model's only adapter


def add_adapters(network: Network, config: LoraConfig, *, seed: int) -> None:
    """Puts adapters into `network`, which then changes nothing until they are trained; all else is frozen.

    seed: of A's first values; B is zero.
    """
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    for parameter in network.parameters():
        parameter.requires_grad_(False)
    target = f"{_LANGUAGE}|{_VISION}" if config.vision else _LANGUAGE
    adapters = PeftConfig(r=config.rank, lora_alpha=config.alpha, target_modules=target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(adapters, network.model)


def merged_weights(network: Network) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and float32 weights of the layers that have adapters, as a network without them has them."""
    for name, layer in _adapted(network):
        a, b = (whole(part[_NAME].weight.detach()).float() for part in (layer.lora_A, layer.lora_B))
        yield (
            f"{name}.weight",
            whole(layer.base_layer.weight.detach()).float() + layer.scaling[_NAME] * (b @ a),
        )


@contextmanager
def without_adapters(network: Network) -> Iterator[None]:
    """Within, `network` computes what it did before it had adapters."""
    layers = [layer for _, layer in _adapted(network)]
    scales = [layer.scaling[_NAME] for layer in layers]
    try:
        for layer in layers:  # switched off by peft's own means their parameters would be frozen as well
            layer.scaling[_NAME] = 0.0
        yield
    finally:
        for layer, scale in zip(layers, scales, strict=True):
            layer.scaling[_NAME] = scale


def _adapted(network: Network) -> Iterator[tuple[str, Any]]:
    for name, module in network.named_modules():
        if hasattr(module, "lora_A"):
            yield name, module
