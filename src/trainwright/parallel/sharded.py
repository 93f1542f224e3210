"""Sharded training by FSDP2: a process holds its part of every parameter, gradient and moment.

A layer's parameters are gathered when it computes and let go afterwards, so every forward and backward pass is talk
between the processes: all of them run the model equally often.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from trainwright.errors import ConfigError
from trainwright.models.adapters import call_with_hooks
from trainwright.models.inspect import ALIKE, base_model, uncompiled
from trainwright.parallel import deferred
from trainwright.parallel.blocks import blocks_of
from trainwright.parallel.ddp import BUCKET, DataParallel, exact_norms
from trainwright.parallel.gathering import CountedGather
from trainwright.parallel.layouts.boxes import local
from trainwright.parallel.layouts.layout import REPLICATE, SHARD
from trainwright.parallel.layouts.sharding import Sharding
from trainwright.parallel.strategy import ProcessOptions
from trainwright.parallel.used import GIVES_ZEROS, Use, Watched, check_alike, check_hooks
from trainwright.world import DataShard, World

_FORMATS = {"bf16": torch.bfloat16, "fp32": torch.float32}


class Sharded(DataParallel):
    """Several processes under torchrun that share one model (FSDP), or several copies of it (HSDP).

    Args:
        sharding: how; without one the model is sharded over all processes.

    Attributes:
        layout: of the processes.
        mesh: of the processes, by the names of `parallel/layout.py`.
        divides: whether processes may compute one layer together.
    """

    shards_state = True
    divides = False

    def __init__(self, sharding: Sharding | None = None) -> None:
        self.sharding = sharding or Sharding()

    def setup(self, world: World, device: torch.device, options: ProcessOptions) -> None:
        """Join the other processes and lay them out.

        Raises:
            ConfigError: the layout is not that of the processes, or what is asked for cannot be done with it.
        """
        self.layout = self.sharding.layout_for(world.size, world.local_size)
        self.layout.check(world.size)
        if self.layout.tensor > 1 and not self.divides:
            raise ConfigError(f"tensor={self.layout.tensor} divides layers: give TensorSharded in place of Sharded.")
        if options.late and not hasattr(FSDPModule, "reset_iter_state"):
            raise ConfigError(
                f"auto_find_batch_size with a sharded model needs torch 2.13, and this is {torch.__version__}. Set "
                "per_device_train_batch_size."
            )
        super().setup(world, device, options)
        self.data_shard = DataShard(self.layout.data_index(world.rank), self.layout.data_ranks)
        self.gradient_divide_factor = 1  # gradients are added up
        self.mesh = self.layout.mesh(device.type)
        names = tuple(name for name in self.mesh.mesh_dim_names or () if name in (REPLICATE, SHARD))
        self.data_mesh = self.mesh if names == self.mesh.mesh_dim_names else self.mesh[names]
        self.gathers, self.watched = CountedGather(), Watched()

    def describe(self) -> str:
        """Return the number of processes and their layout."""
        return f"{self.world.size} processes, {self.layout.describe()}"

    # ---- the model

    def place(self, model: nn.Module) -> nn.Module:
        """Shard a model in place, block by block, so that the device holds one whole block at a time.

        Raises:
            ConfigError: it cannot be sharded.
        """
        root = base_model(model)  # which `generate` calls, inside of adapters
        if isinstance(root, FSDPModule):
            return model
        check(model)
        used, added = (_FORMATS.get(name or "") for name in (self.sharding.param_dtype, self.sharding.reduce_dtype))
        policy = MixedPrecisionPolicy(param_dtype=used, reduce_dtype=added)
        divide = self.dividing(root)
        drawn_alike = len(set(self.gather(deferred.fingerprint(model)))) == 1
        for block in [*blocks_of(root, self.sharding), root]:
            for tensor in deferred.draw(block):
                setattr(tensor, ALIKE, drawn_alike)
            keeps = None if block is root else self.sharding.reshard_after_forward
            self._same_everywhere(block)
            with keeping_attributes(block):
                divide(block)
                part = fully_shard(block, mesh=self.data_mesh, reshard_after_forward=keeps, mp_policy=policy)
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)  # gloo has no other with a factor
            if self.options.late:
                part.set_custom_all_gather(self.gathers)  # type: ignore[arg-type]  # its base class is private
        for tensor in deferred.draw(model):  # of what lies outside of it
            setattr(tensor, ALIKE, drawn_alike)
        self._same_everywhere(model)
        call_with_hooks(model)
        fully_shard.state(root)._lazy_init()  # type: ignore[attr-defined]  # else the first part that is called is the root
        return model

    def dividing(self, root: nn.Module) -> Callable[[nn.Module], None]:
        """Return what divides the layers of a block of a model over processes, before the block is sharded.

        Raises:
            ConfigError: they cannot be divided.
        """
        return lambda block: None

    def _same_everywhere(self, block: nn.Module) -> None:
        """Bring what is not sharded yet of a block to the device, with rank 0's numbers: a model may be drawn from
        another seed on every process. What all have read from the same file need not be sent: transformers maps it
        into memory, so each reads the part alone that it keeps."""
        own = [tensor for tensor in (*block.parameters(), *block.buffers()) if not isinstance(tensor, DTensor)]
        for tensor in own:
            tensor.data = tensor.data.to(self.device).contiguous()
        drawn = [tensor for tensor in own if not getattr(tensor, ALIKE, False)]
        kept = [tensor.data for tensor in drawn if tensor.layout is torch.strided and tensor.numel()]
        if kept:
            group = distributed.distributed_c10d._get_default_group()
            distributed._broadcast_coalesced(group, kept, BUCKET, 0)  # type: ignore[attr-defined]  # as DDP does

    def prepare(self, model: nn.Module, recomputes: bool = False) -> nn.Module:
        """Return the model itself, which `place` has sharded."""
        if GIVES_ZEROS:
            _root(model).set_reduce_scatter_unused_params(True)
        self.watched.watch(model)
        return model

    def rest(self, model: nn.Module) -> None:
        """Let go of what a forward pass without a backward pass has left gathered."""
        for part in model.modules():
            if isinstance(part, FSDPModule):
                part.reshard()

    @contextmanager
    def whole(self, model: nn.Module) -> Iterator[None]:
        """Gather all of a model, in the format in which it computes, and keep it so in the body."""
        root = _root(model)
        parts = [part for part in model.modules() if isinstance(part, FSDPModule)]
        for part in parts:
            part.unshard()
            part.set_reshard_after_forward(False, recurse=False)
        try:
            yield
        finally:
            for part in parts:
                part.set_reshard_after_forward(part is not root and self.sharding.reshard_after_forward, recurse=False)
            self.rest(model)

    def generating(self, model: nn.Module) -> dict[str, Any]:
        """Gather what lies outside of the blocks, as `generate` may call an encoder alone, and let all processes go on
        until the last has written its answer."""
        _root(model).unshard()
        return {"synced_gpus": True}

    def share_buffers(self, model: nn.Module) -> None:
        """Give all processes rank 0's buffers after a step, as DistributedDataParallel does, but for those that no
        state dict holds: they are computed, and alike."""
        kept = uncompiled(model).state_dict(keep_vars=True) if self.options.ddp.get("broadcast_buffers", True) else {}
        for buffer in kept.values():
            if not isinstance(buffer, nn.Parameter) and buffer.numel():
                distributed.broadcast(buffer, 0)

    # ---- gradients

    def accumulate(self, model: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Reduce gradients in the last micro-batch of a step, or a process's part of them in each; or after it, where a
        process may fail in its backward pass."""
        root = _root(model)
        root.set_requires_gradient_sync(not self.options.late and (last or self.sharding.reduce_often))
        if self.sharding.reduce_often and self.layout.replicate > 1:
            root.set_requires_all_reduce(last)
        if self.options.late:
            self._begin_anew(model)
            self.gathers.begin()
        return nullcontext()

    def _begin_anew(self, model: nn.Module) -> None:
        """Leave nothing of passes before, by which this one would gather other layers than one that begins anew."""
        self.rest(model)
        for state in _states(model):
            state._comm_ctx.post_forward_order.clear()
            for group in state._fsdp_param_groups:
                group._post_forward_indices.clear()

    def ran_out(self, model: nn.Module, failed: bool, last: bool, again: Callable[[], None]) -> bool:
        """Return whether memory has run out on any process in a micro-batch, after all have come to its end; else
        reduce the gradients where they are due."""
        root = _root(model)
        if failed:
            self.forget(model)
            self.gathers.again()
            again()
        if self.any(failed):
            return True
        if last or self.sharding.reduce_often:
            root.set_requires_gradient_sync(True)
            state: Any = fully_shard.state(root)  # type: ignore[attr-defined]  # as in `place`
            if hasattr(state._state_ctx, "manual_backward_finalization_active"):  # of torch 2.15; None in between
                state._state_ctx.manual_backward_finalization_active = False
            state._root_post_backward_final_callback()  # ends a backward pass
        return False

    def forget(self, model: nn.Module) -> bool:
        """Let go of gathered layers, and of gradients that are not reduced."""
        if not hasattr(FSDPModule, "reset_iter_state"):  # of torch 2.13
            return False
        _root(model).reset_iter_state()
        for group in (group for state in _states(model) for group in state._fsdp_param_groups):
            for one in group.fsdp_params:
                if "unsharded_accumulated_grad" in vars(one):  # of torch 2.13; in 2.15 it is the parameter's own
                    one.unsharded_accumulated_grad = None
                if hasattr(one, "_unsharded_param"):
                    one._unsharded_param.grad = None
        return True

    def needs_zero_weight_step(self, last: bool) -> bool:
        """Whether there are other processes: they wait for this one's part of every layer."""
        return self.is_distributed

    @contextmanager
    def silenced(self, model: nn.Module) -> Iterator[None]:
        """Let the backward passes of the body give gradients of 0: those of the gathered parameters, as they come."""
        handles: list[Any] = []
        self.watched.now = Use.SILENCED

        def silence(part: nn.Module, given: Any) -> None:
            here = [p for p in part.parameters() if p.requires_grad and self.is_gathered(p)]
            handles.extend(p.register_hook(torch.zeros_like) for p in here)

        hooks = [part.register_forward_pre_hook(silence) for part in model.modules() if isinstance(part, FSDPModule)]
        try:
            yield
        finally:
            self.watched.now = Use.WEIGHED
            for handle in [*hooks, *handles]:
                handle.remove()

    def explained(self, error: Exception) -> str | None:
        """As of `Strategy`: a layer's parameters that are used where it is not called."""
        if self.divides or "got mixed torch.Tensor and DTensor" not in str(error):
            return None
        return (
            "The model uses parameters of a layer without calling that layer (its forward), and those of a sharded "
            "model are gathered when it is called. Call it, or have the whole model gathered at once: "
            "fsdp_config={'auto_wrap_policy': 'NO_WRAP'}."
        )

    def is_gathered(self, parameter: nn.Parameter) -> bool:
        """Whether a parameter is one of a gathered block, in place of its parts."""
        return not isinstance(parameter, DTensor)

    def finish_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Add up the gradients of what is trained besides the model, and is not sharded, and leave none to what no
        process has used of the model.

        Raises:
            ConfigError: data decide which parameters are used, in a way that cannot be sharded.
        """
        super().finish_gradients([p for p in parameters if not isinstance(p, DTensor)])
        spread = [p for p in parameters if isinstance(p, DTensor)]
        mine = self.watched.look(spread)
        if not self.any(any(use < Use.WEIGHED for use in mine)):
            return
        everyone = self.agree(*mine)
        check_alike(spread, everyone)
        for parameter, uses in zip(spread, zip(*everyone, strict=True), strict=True):
            if max(uses) < Use.WEIGHED:
                parameter.grad = None

    def norms(self, tensors: list[torch.Tensor], order: float = 2.0) -> torch.Tensor:
        """Return the norm of every whole tensor: of the parts of each, added up over the processes that hold them."""
        held = [part if part.numel() else part.new_zeros(1) for part in map(local, tensors)]
        parts, group = exact_norms(held, order), self.mesh.get_group(SHARD)
        if order == math.inf:
            distributed.all_reduce(parts, distributed.ReduceOp.MAX, group=group)
        else:
            whole = [not isinstance(one, DTensor) for one in tensors]  # which every process holds
            others = torch.tensor(whole, device=parts.device) & (self.mesh.get_local_rank(SHARD) > 0)
            squares = parts.square().masked_fill_(others, 0)
            distributed.all_reduce(squares, group=group)
            parts = squares.sqrt()
        return parts.to(torch.promote_types(held[0].dtype, torch.float32))

    def held(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return this process's part of a tensor, detached."""
        return local(tensor)


def _root(model: nn.Module) -> FSDPModule:
    root = base_model(uncompiled(model))
    assert isinstance(root, FSDPModule)
    return root


def _states(model: nn.Module) -> list[Any]:
    """Return what FSDP2 knows of every part that it gathers."""
    return [fully_shard.state(part) for part in model.modules() if isinstance(part, FSDPModule)]  # type: ignore[attr-defined]  # as in `place`


@contextmanager
def keeping_attributes(block: nn.Module) -> Iterator[None]:
    """Let parameters that are replaced in the body have the attributes that were given to those before them, such as
    what a user's `create_optimizer` goes by."""
    given = [vars(parameter) for parameter in block.parameters()]
    yield
    for parameter, attributes in zip(block.parameters(), given, strict=True):
        vars(parameter).update(attributes)


def check(model: nn.Module) -> None:
    """Refuse a model that FSDP2 cannot shard.

    Raises:
        ConfigError: saying why, and what to do.
    """
    if getattr(model, "hf_quantizer", None) is not None:
        raise ConfigError("A quantized model cannot be sharded. Load it without quantization, or train without fsdp.")
    empty = next((name for name, p in model.named_parameters() if p.is_meta and not deferred.is_waiting(p)), None)
    if empty is not None:
        raise ConfigError(
            f"The parameter '{empty}' lies on the meta device, so it has no numbers. Build the model without "
            "torch.device('meta'), or with trainwright.deferred_init, so that each process draws its part alone."
        )
    scalar = next((name for name, p in model.named_parameters() if p.ndim == 0), None)
    if scalar is not None:
        raise ConfigError(f"The parameter '{scalar}' is a scalar, which cannot be sharded. Give it the shape (1,).")
    check_hooks(model.named_parameters())
    kinds = {p.dtype: name for name, p in model.named_parameters() if p.requires_grad}
    if len(kinds) > 1:
        several = ", ".join(f"{str(kind).removeprefix('torch.')} ('{name}')" for kind, name in kinds.items())
        raise ConfigError(f"A sharded model's trained parameters have one number format, and here are {several}.")
