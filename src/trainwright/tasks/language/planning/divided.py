"""A model on the meta device as one of the processes has it that divide its layers, and what these send each other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from trainwright.models.inspect import base_model


@dataclass
class Talk:
    """Bytes that a process sends to those it divides layers with, of the forward passes that it is told of.

    Attributes:
        processes: that divide layers.
        forward: sent in a forward pass.
        backward: sent in its backward pass.
        hidden: of these, for the hidden states of a batch, once.
    """

    processes: int
    forward: float = 0.0
    backward: float = 0.0
    hidden: float = 0.0

    def again(self, layers: int) -> float:
        """Return what is sent where so many layers are computed again, each up to what its backward pass needs: neither
        the embedding nor a layer's own outputs."""
        return self.forward - (layers + 1) * self.hidden

    def added_up(self, tensor: Tensor) -> float:
        """Return what a ring sends of a tensor that is added up: twice what it does of one that is gathered."""
        return 2 * self.gathered(tensor)

    def gathered(self, tensor: Tensor) -> float:
        """Return what a ring sends of a tensor, given whole, of which each process has a part."""
        return tensor.numel() * tensor.element_size() * (self.processes - 1) / self.processes


def divide(model: nn.Module, processes: int) -> Talk:
    """Leave of a model's layers what the first of some processes has of them (`parallel/tensor.py`), in place.

    Its forward pass then keeps what that process keeps for its backward pass: transformers' layers go by the widths of
    what they are given.

    Returns:
        What is sent, which grows with every forward pass.

    Raises:
        ConfigError: the model cannot be divided so.
    """
    from trainwright.parallel.tensor import COLUMNS, ROWS, styles_of  # FSDP2 and DTensor are loaded where they are used

    talk, cut = Talk(processes), dict[int, nn.Parameter]()
    for module, style in styles_of(base_model(model), processes).items():
        own: Any = module
        whole = getattr(own, "out_features", 0)
        for name, parameter in [*module.named_parameters(recurse=False)]:
            if style in COLUMNS or style == "embedding_rowwise":
                part = parameter[: -(-len(parameter) // processes)]
            elif style in ROWS and name == "weight":
                part = parameter[:, : -(-parameter.shape[1] // processes)]
            else:
                continue
            kept = cut.setdefault(id(parameter), nn.Parameter(part.detach().clone(), parameter.requires_grad))
            setattr(module, name, kept)
        if style in COLUMNS:
            module.register_forward_hook(partial(_columns, talk, None if style == "colwise" else whole))
        elif style in ROWS:
            if style == "rowwise_split_input":
                module.register_forward_pre_hook(partial(_split, processes))
            module.register_forward_hook(partial(_rows, talk))
        elif style == "embedding_rowwise":
            own.padding_idx = None  # may lie in another process's part
            module.register_forward_hook(partial(_rows, talk))
    root: Any = base_model(model)
    root.get_decoder().register_forward_hook(partial(_head, talk))
    return talk


def _head(talk: Talk, module: nn.Module, given: Any, output: Any) -> None:
    """Count what the gradient of the output layer's inputs is added up by."""
    talk.hidden = talk.added_up(output[0])
    talk.backward += talk.hidden


def _columns(talk: Talk, whole: int | None, module: nn.Module, given: Any, output: Tensor) -> Tensor:
    """Count what the gradient of a layer's inputs is added up by, and gather its outputs to a whole width."""
    if given[0].requires_grad:
        talk.backward += talk.added_up(given[0])
    if whole is None:
        return output
    output = functional.pad(output, (0, whole - output.shape[-1]))
    talk.forward += talk.gathered(output)
    return output


def _rows(talk: Talk, module: nn.Module, given: Any, output: Tensor) -> None:
    """Count what a layer's outputs are added up by."""
    talk.forward += talk.added_up(output)


def _split(processes: int, module: nn.Module, given: Any) -> Any:
    """Leave of a layer's inputs a process's part."""
    return (given[0][..., : -(-given[0].shape[-1] // processes)], *given[1:])
