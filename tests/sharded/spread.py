"""FSDP2 as a strategy, as little as it takes."""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from trainwright.parallel.ddp import DataParallel


class Spread(DataParallel):
    """FSDP2, or with `replicate` HSDP."""

    shards_state = True

    def __init__(self, replicate=1):
        self.replicate = replicate

    def place(self, model):
        if hasattr(model, "set_requires_gradient_sync"):
            return model
        shape, names = (self.world.size,), ("shard",)
        if self.replicate > 1:
            shape, names = (self.replicate, self.world.size // self.replicate), ("replicate", "shard")
        self.mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
        for layers in [part for part in model.modules() if isinstance(part, nn.ModuleList)]:
            for layer in layers:
                fully_shard(layer, mesh=self.mesh)
        fully_shard(model, mesh=self.mesh)
        return model

    def prepare(self, model, recomputes=False):
        return model

    def accumulate(self, model, last):
        model.set_requires_gradient_sync(last)
        return nullcontext()

    def needs_zero_weight_step(self, last):
        return True

    def finish_gradients(self, parameters):
        pass

    def norms(self, tensors, order=2.0):
        held = [part if (part := tensor.to_local()).numel() else part.new_zeros(1) for tensor in tensors]
        parts = torch.stack(torch._foreach_norm(held, order))
        group = self.mesh.get_group("shard")
        if order == math.inf:
            distributed.all_reduce(parts, distributed.ReduceOp.MAX, group=group)
            return parts
        squares = parts**2
        distributed.all_reduce(squares, group=group)
        return squares.sqrt()
