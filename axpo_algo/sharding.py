"""The weights that are trained, where they are not the very ones that sample.

A policy in float32, trained by one process, is trained in place. Otherwise a second network is trained: its weights,
gradients and moments are float32 (in bfloat16 most steps of a small learning rate would round to nothing), each rank
holds a part of them, and FSDP2 gathers them block by block in the policy's dtype for forward and backward passes.
`copy_weights` then brings them to the network that samples, which is whole on every rank. Adapters (`lora`) are trained
in a second network as well.
"""

import copy
import itertools
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from axpo_algo.config import LoraConfig
from axpo_algo.distributed import Ranks, whole
from axpo_algo.lora import add_adapters, merged_weights
from axpo_algo.models.network import Network
from axpo_algo.models.qwen3_vl import Qwen3VLPolicy

__all__ = ["copy_weights", "frozen_network", "network_to_train"]


def network_to_train(
    policy: Qwen3VLPolicy,
    ranks: Ranks,
    lora: LoraConfig | None = None,
    *,
    seed: int = 0,
    offload: bool = False,
) -> Network:
    """The policy's own network, or another one that starts as a copy of it; see the module.

    lora: of rank above 0: the copy gets adapters, and only they are trained. seed: of their first values. offload: a
    sharded copy, its gradients and so the optimizer's state lie in host memory.
    """
    has_adapters = lora is not None and lora.rank > 0
    is_whole = policy.dtype == torch.float32 and ranks.size == 1
    if is_whole and not has_adapters:
        return policy.network
    network = copy.deepcopy(policy.network)
    if lora is not None and has_adapters:
        add_adapters(network, lora, seed=seed)
    if is_whole:
        return network
    return _shard(network, policy, ranks, masters=True, offload=offload)


def frozen_network(policy: Qwen3VLPolicy, ranks: Ranks) -> Network:
    """The network of a reference policy, which is sharded in place where there are several ranks."""
    return policy.network if ranks.size == 1 else _shard(policy.network, policy, ranks, masters=False)


@torch.no_grad()
def copy_weights(source: Network, target: Network) -> None:
    """Copies what is trained from a network, sharded or with adapters, into a whole one, in the dtype that this has."""
    own = dict(target.named_parameters())
    parameters = source.named_parameters()
    trained = ((name, whole(p)) for name, p in parameters if name in own and p.requires_grad)
    for name, weights in itertools.chain(trained, merged_weights(source)):  # one at a time
        own[name].copy_(weights)


def _shard(
    network: Network, policy: Qwen3VLPolicy, ranks: Ranks, *, masters: bool, offload: bool = False
) -> Network:
    mesh = _mesh(policy.device.type, ranks.size)
    # Inputs are not cast: Qwen3-VL computes the rotary tables of its vision blocks in float32.
    precision = MixedPrecisionPolicy(
        param_dtype=policy.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )

    where = CPUOffloadPolicy(pin_memory=torch.cuda.is_available()) if offload else OffloadPolicy()

    def wrap(module: torch.nn.Module, **options: Any) -> None:
        if masters:  # block by block, so that the whole model never exists in float32
            for parameter in module.parameters():
                if parameter.requires_grad and not isinstance(parameter, DTensor):
                    parameter.data = parameter.data.float()
        fully_shard(module, mesh=mesh, mp_policy=precision, offload_policy=where, **options)

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
