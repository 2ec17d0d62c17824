"""The weights that are trained, where they are not the very ones that sample.

A policy in float32, trained by one process, is trained in place. Otherwise a second network is trained: its weights,
gradients and moments are float32 (in bfloat16 most steps of a small learning rate would round to nothing), each rank
holds a part of them, and FSDP2 gathers them block by block in the policy's dtype for forward and backward passes.
`copy_weights` then brings them to the network that samples, which is whole on every rank.
"""

import copy
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from axpo_algo.distributed import Ranks
from axpo_algo.models.network import Network
from axpo_algo.models.qwen3_vl import Qwen3VLPolicy

__all__ = ["copy_weights", "frozen_network", "local_part", "network_to_train", "whole"]


def network_to_train(policy: Qwen3VLPolicy, ranks: Ranks) -> Network:
    """The policy's own network, or a sharded copy of it with float32 weights; see the module."""
    if policy.dtype == torch.float32 and ranks.size == 1:
        return policy.network
    return _shard(copy.deepcopy(policy.network), policy, ranks, masters=True)


def frozen_network(policy: Qwen3VLPolicy, ranks: Ranks) -> Network:
    """The network of a reference policy, which is sharded in place where there are several ranks."""
    return policy.network if ranks.size == 1 else _shard(policy.network, policy, ranks, masters=False)


@torch.no_grad()
def copy_weights(source: Network, target: Network) -> None:
    """Copies all weights of a sharded network into one that is whole, in the dtype that this one has."""
    own = dict(target.named_parameters())
    for name, parameter in source.named_parameters():
        own[name].copy_(whole(parameter))


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A sharded tensor gathered from all ranks; another one as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this rank holds of a sharded tensor; another one as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _shard(network: Network, policy: Qwen3VLPolicy, ranks: Ranks, *, masters: bool) -> Network:
    mesh = _mesh(policy.device.type, ranks.size)
    # Inputs are not cast: Qwen3-VL computes the rotary tables of its vision blocks in float32.
    precision = MixedPrecisionPolicy(
        param_dtype=policy.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )

    def wrap(module: torch.nn.Module, **options: Any) -> None:
        if masters:  # block by block, so that the whole model never exists in float32
            for parameter in module.parameters():
                if parameter.requires_grad and not isinstance(parameter, DTensor):
                    parameter.data = parameter.data.float()
        fully_shard(module, mesh=mesh, mp_policy=precision, **options)

    for block in [*network.model.model.language_model.layers, *network.model.model.visual.blocks]:
        wrap(block)
    wrap(network, reshard_after_forward=False)
    # Ranks gather and reduce the same weights in the same order, whether or not their rows have images.
    network.needs_images = ranks.size > 1
    return network


def _mesh(device_type: str, size: int) -> DeviceMesh:
    if not dist.is_initialized():  # one process without torchrun
        backend = "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    return init_device_mesh(device_type, (size,))
