"""Tensor parallelism: processes that compute each layer together, on the same rows, by transformers' plans of a model.

A layer's matrices are divided into columns or rows; FSDP2 shards the divided parts further. Every parameter is spread
over one mesh, also those that all processes of a layer hold whole, so optimizers, norms and checkpoints know one kind.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any, TypeVar

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate

from trainwright.checkpoint.layout import of_rank
from trainwright.errors import ConfigError
from trainwright.models.inspect import is_pretrained
from trainwright.parallel.ddp import exact_norms
from trainwright.parallel.layouts.boxes import local
from trainwright.parallel.layouts.layout import SHARD, TENSOR
from trainwright.parallel.sharded import Sharded
from trainwright.parallel.strategy import ProcessOptions
from trainwright.world import World

T = TypeVar("T")
_PARTIAL = "replicated_with_grad_allreduce"  # transformers' adds up a gradient once more in every micro-batch
COLUMNS, ROWS = ("colwise", "colwise_gather_output", "colwise_rep"), ("rowwise", "rowwise_split_input", "rowwise_rep")
_WHOLE = (_PARTIAL, "replicate")
_STYLES = (*COLUMNS, *ROWS, "embedding_rowwise", *_WHOLE)
_HEADS = ("num_attention_heads", "num_key_value_heads")
_SMALL = 1e-3  # of the largest norm: what is smaller may be rounding alone
_CLOSE = {4: 1e-3, 2: 5e-2}  # by bytes of the format: relative difference of norms that are the same


class TensorSharded(Sharded):
    """Several processes under torchrun that compute one model's layers together, and share or copy it further."""

    divides, computes_alone = True, False

    def setup(self, world: World, device: torch.device, options: ProcessOptions) -> None:
        """Join the other processes and lay them out.

        Raises:
            ConfigError: the layout is not that of the processes, or what is asked for cannot be done with it.
        """
        if options.late:
            raise ConfigError(
                "auto_find_batch_size cannot be used with tensor parallelism: where memory runs out on one process, "
                "the others wait in the middle of a layer. Set per_device_train_batch_size."
            )
        super().setup(world, device, options)
        # a model's own output is one, which nothing changes in place before the backward pass has begun elsewhere
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
        self.tensor_mesh = self.mesh[TENSOR]
        self.leads_shard = self.tensor_mesh.get_local_rank() == 0
        self.unproven = True

    # ---- data

    def one_per_shard(self, everyone: Sequence[T]) -> Sequence[T]:
        """Return, of values of every process, those of the first of each layer's processes."""
        return everyone[:: self.layout.tensor]

    def sum_tensor(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over the shards of the data."""
        total = value.clone()
        for name in self.data_mesh.mesh_dim_names or ():
            distributed.all_reduce(total, group=self.mesh.get_group(name))
        return total

    # ---- state

    def own_file(self) -> str:
        """Return the name of the file in a checkpoint with what the processes keep that see the same rows: they draw
        the same numbers, also where they go on from a run in which each drew its own."""
        return of_rank(self.data_shard.index, self.data_shard.num_shards)

    # ---- the model

    def dividing(self, root: nn.Module) -> Callable[[nn.Module], None]:
        """Return what divides the layers of a block of a model.

        Raises:
            ConfigError: the model has no plan for that, or its heads cannot be divided.
        """
        return partial(divide, styles_of(root, self.layout.tensor), self.tensor_mesh)

    def is_gathered(self, parameter: nn.Parameter) -> bool:
        """Whether a parameter is one of a gathered block, which is divided alone."""
        return not isinstance(parameter, DTensor) or parameter.device_mesh.ndim == 1

    # ---- gradients

    def finish_gradients(self, parameters: list[nn.Parameter]) -> None:
        """As of `Sharded`; after the first step see whether the processes of a layer have the same gradients of what
        each of them holds whole.

        Raises:
            ConfigError: they have not, so that the model's plan is wrong.
        """
        super().finish_gradients(parameters)
        if self.unproven:
            self.unproven = False
            whole = [p.grad for p in parameters if isinstance(p.grad, DTensor) and p.grad.placements[-1].is_replicate()]
            if self.any(bool(whole) and differ([local(one) for one in whole], self.tensor_mesh)):
                raise ConfigError(
                    "The processes that compute a layer together have other gradients of a parameter that each of them "
                    "holds whole: the model's plan of tensor parallelism is wrong for training, or its code draws "
                    "numbers that differ between them. Use shard= in place of tensor=."
                )

    def norms(self, tensors: list[torch.Tensor], order: float = 2.0) -> torch.Tensor:
        """Return the norm of every whole tensor: of the parts of each, added up over the processes that hold them."""
        held = [part if part.numel() else part.new_zeros(1) for part in map(local, tensors)]
        parts = exact_norms(held, order)
        operation = distributed.ReduceOp.MAX if order == math.inf else distributed.ReduceOp.SUM
        if order != math.inf:
            others = [any(self.mesh.get_local_rank(name) for name in held_whole(one)) for one in tensors]
            parts = parts.square().masked_fill_(torch.tensor(others, device=parts.device), 0)
        for name in (SHARD, TENSOR):
            distributed.all_reduce(parts, operation, group=self.mesh.get_group(name))
        parts = parts if order == math.inf else parts.sqrt()
        return parts.to(torch.promote_types(held[0].dtype, torch.float32))


def held_whole(tensor: torch.Tensor) -> Iterator[str]:
    """Yield the dimensions of the mesh, but for copies of the model, along which every process holds the same of a
    tensor."""
    for name in (SHARD, TENSOR):
        if (
            not isinstance(tensor, DTensor)
            or tensor.placements[(tensor.device_mesh.mesh_dim_names or ()).index(name)].is_replicate()
        ):
            yield name


def differ(tensors: list[torch.Tensor], mesh: DeviceMesh) -> bool:
    """Whether the norms of any of some tensors are apart on the processes of a mesh."""
    norms = exact_norms([one if one.numel() else one.new_zeros(1) for one in tensors], 2.0)
    most, least = norms.clone(), norms.clone()
    distributed.all_reduce(most, distributed.ReduceOp.MAX, group=mesh.get_group())
    distributed.all_reduce(least, distributed.ReduceOp.MIN, group=mesh.get_group())
    close = _CLOSE[2 if tensors[0].dtype.itemsize < 4 else 4]
    return bool((most - least > close * most.clamp(min=_SMALL * float(most.max()))).any())


def check_library() -> None:
    """See whether transformers divides models that are built already.

    Raises:
        ConfigError: it is older.
    """
    try:
        from transformers.distributed.tensor_parallel import TensorParallelLayer

        is_new = hasattr(TensorParallelLayer, "install_forward") and hasattr(TensorParallelLayer, "shard_param")
    except ImportError:
        is_new = False
    if not is_new:
        raise ConfigError(
            "Tensor parallelism needs a transformers that divides models which are built already, such as 5.24, and "
            f"this is {version('transformers')}. Update it, or use shard= in place of tensor=."
        )


def styles_of(root: nn.Module, processes: int) -> dict[nn.Module, str]:
    """Return in which of transformers' ways each module of a model is divided, after its plan; adapters after that of
    the layer that they are added to.

    Raises:
        ConfigError: the model has no plan, or one that cannot be followed, or heads that do not divide.
    """
    check_library()
    name, plan = type(root).__name__, dict(getattr(root, "tp_plan", None) or {}) if is_pretrained(root) else {}
    if not plan:
        raise ConfigError(
            f"{name} has no plan of tensor parallelism in transformers {version('transformers')}. Use shard= in place "
            "of tensor=, or a model that has one, such as Llama, Qwen or Mistral."
        )
    other = next((f"{path}: {style}" for path, style in plan.items() if style not in _STYLES), None)
    if other is not None:
        raise ConfigError(
            f"{name} divides a layer in a way that is not supported ('{other}', of experts, or of matrices that are "
            "packed together). Use shard= in place of tensor=."
        )
    config: Any = root.config.get_text_config()  # type: ignore[operator, union-attr]  # a PreTrainedModel
    if any("att" in path and style == "colwise" for path, style in plan.items()):
        for one in _HEADS:
            heads = getattr(config, one, None)
            if any(count % processes for count in (heads if isinstance(heads, list) else [heads or 0])):
                raise ConfigError(
                    f"{name} has {one}={heads}, which {processes} processes cannot divide (tensor={processes}). Set "
                    "tensor to a number that divides it."
                )
    found: dict[nn.Module, str] = {}
    for path, module in root.named_modules():
        style = plan.get(re.sub(r"\.\d+(?=\.|$)", ".*", path))
        if style is not None:
            check_width(path, module, style, processes)
            found |= dict(_with_adapters(path, module, style))
    if not any(style in ROWS for style in found.values()):
        raise ConfigError(
            f"{name}'s plan of tensor parallelism divides none of its layers. Use shard= in place of tensor=."
        )
    return found


def check_width(path: str, module: Any, style: str, processes: int) -> None:
    """See whether a layer's inner activations are divided into equal parts: else what dropout draws of them would leave
    the processes' streams of random numbers in other places.

    Raises:
        ConfigError: they are not.
    """
    width = getattr(module, {"colwise": "out_features", "rowwise": "in_features"}.get(style, ""), 0)
    if width % processes:
        raise ConfigError(
            f"'{path}' has {width} {'out' if style == 'colwise' else 'in'}puts, which {processes} processes cannot "
            f"divide evenly (tensor={processes}). Set tensor to a number that divides it."
        )


def _with_adapters(path: str, module: Any, style: str) -> Iterator[tuple[nn.Module, str]]:
    """Yield the modules that a planned one is made of, with their ways: of LoRA's low-rank pair the second is divided
    as the layer's outputs are, or the first as its inputs."""
    if not hasattr(module, "base_layer"):
        if not isinstance(module, nn.Linear | nn.Embedding) and style not in _WHOLE:
            raise ConfigError(
                f"'{path}' is {type(module).__name__}, which cannot be divided; a Linear or Embedding, or LoRA on a "
                "Linear can. Use shard= in place of tensor=."
            )
        yield module, style
        return
    from peft.tuners import lora

    if type(module) is not lora.Linear or getattr(module, "lora_variant", None) or style == "embedding_rowwise":
        raise ConfigError(
            f"'{path}' has adapters ({type(module).__name__}) that cannot be divided; plain LoRA on a Linear can. Use "
            "shard= in place of tensor=, or other target modules."
        )
    yield module.get_base_layer(), style
    divided = module.lora_B if style in COLUMNS else module.lora_A
    yield from ((part, style) for part in divided.values())


def divide(styles: Mapping[nn.Module, str], mesh: DeviceMesh, block: nn.Module) -> None:
    """Divide the parameters of a block over the processes of a mesh, in place, and have its modules compute with them;
    those that others than the plan's hold are kept whole. What was divided before stays.

    Raises:
        ConfigError: transformers cannot do so, or two layers that share a matrix divide it apart.
    """
    from transformers.distributed.tensor_parallel import ALL_PARALLEL_STYLES

    made: dict[int, nn.Parameter] = {}
    before: list[nn.Parameter] = []  # kept, so that none has another one's place
    for module in block.modules():
        own = {name: p for name, p in module._parameters.items() if p is not None and not isinstance(p, DTensor)}
        if not own:
            continue
        style = styles.get(module, "replicate")
        for name, parameter in own.items():
            before.append(parameter)
            if style not in _WHOLE:
                ALL_PARALLEL_STYLES[style].shard_param(module, name, mesh)
            now: Any = module._parameters[name]
            if not isinstance(now, DTensor):
                whole = DTensor.from_local(parameter.detach(), mesh, [Replicate()], run_check=False)
                now = nn.Parameter(whole, parameter.requires_grad)
            kept: Any = made.setdefault(id(parameter), now)
            module._parameters[name] = kept
            if kept.placements != now.placements:
                raise ConfigError(
                    f"{type(block).__name__} shares a matrix between layers that divide it apart. Use shard= in place "
                    "of tensor=."
                )
        if style in _WHOLE:
            _computes_with_its_own(module, Partial() if style == _PARTIAL else Replicate())
        elif "forward" in vars(module):
            kind = type(module).__name__
            raise ConfigError(f"The forward of a {kind} was replaced, so it cannot be divided (tensor={mesh.size()}).")
        else:
            ALL_PARALLEL_STYLES[style].install_forward(module, mesh)


def _computes_with_its_own(module: nn.Module, gradient: Any) -> None:
    """Let a module compute with what this process holds of its parameters.

    Args:
        module: whose parameters all processes hold whole.
        gradient: whether the gradient of each is that of the whole, or they add up to it.
    """
    stack: list[dict[str, Any]] = []

    def enter(module: nn.Module, given: Any) -> None:
        own: dict[str, Any] = {name: p for name, p in module._parameters.items() if isinstance(p, DTensor)}
        stack.append(own)
        module._parameters.update({name: p.to_local(grad_placements=[gradient]) for name, p in own.items()})

    def leave(module: nn.Module, given: Any, output: Any) -> None:
        if stack:  # else a hook before this one has raised
            module._parameters.update(stack.pop())

    module.register_forward_pre_hook(enter)
    module.register_forward_hook(leave, always_call=True)
