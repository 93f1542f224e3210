"""Which parameters of a sharded model a step uses: data may decide it, and other processes have other data.

FSDP2 adds up the gradients of a block as one row of numbers, of those parameters alone that have one: a process that
has used others would add its numbers to other parameters'. `set_reduce_scatter_unused_params` of torch gives the rest
zeros, and afterwards nobody knows which were used at all; and what no process uses must not be decayed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from trainwright.errors import ConfigError

GIVES_ZEROS = hasattr(FSDPModule, "set_reduce_scatter_unused_params")  # of torch 2.13
_MARK = "_use_in_this_step"


class Use(IntEnum):
    """What a process has done with a parameter in a step."""

    NONE = 0
    SILENCED = 1
    WEIGHED = 2


@dataclass
class Mark:
    """An attribute of a parameter: its name, the block with which it is gathered, empty for the rest of the model, and
    what was done with it in this step."""

    name: str
    block: str
    use: Use = Use.NONE


class Watched:
    """Knows what this process has done with the parameters of a model since the last look.

    Attributes:
        now: what a backward pass does with those that it comes to.
    """

    def __init__(self) -> None:
        self.now = Use.WEIGHED

    def watch(self, model: nn.Module) -> None:
        """Watch the parameters of a sharded model, gathering each block once; done again, it changes nothing."""
        blocks: list[tuple[str, Any]] = [
            (name, part) for name, part in model.named_modules() if isinstance(part, FSDPModule)
        ]
        for number, (name, block) in enumerate(blocks):
            spread = list(block.named_parameters(prefix=name))
            if all(hasattr(parameter, _MARK) for _, parameter in spread):
                continue
            block.unshard()
            for (path, own), whole in zip(spread, block.parameters(), strict=True):
                if whole is not own:
                    self._watch(own, whole, Mark(path, name if number else ""))
            block.reshard()

    def _watch(self, own: nn.Parameter, whole: nn.Parameter, mark: Mark) -> None:
        """Have the backward pass say when it comes to a gathered parameter; also to one that is trained later on."""
        setattr(own, _MARK, mark)
        if whole.is_floating_point() or whole.is_complex():
            is_trained = whole.requires_grad
            whole.requires_grad_(True).register_post_accumulate_grad_hook(partial(self._note, mark))
            whole.requires_grad_(is_trained)

    def _note(self, mark: Mark, whole: Any) -> None:
        mark.use = max(mark.use, self.now)

    def look(self, parameters: Sequence[nn.Parameter]) -> list[Use]:
        """Return what was done with some parameters that are watched, and forget it.

        Raises:
            ConfigError: one has got a hook since, which nobody has called.
        """
        marks: list[Mark] = [getattr(parameter, _MARK) for parameter in parameters]
        check_hooks((mark.name, parameter) for mark, parameter in zip(marks, parameters, strict=True))
        found = [mark.use for mark in marks]
        for mark in marks:
            mark.use = Use.NONE
        return found


def check_hooks(parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
    """See whether gradients of some parameters, by their names, have hooks: of those that are spread torch calls none.

    Raises:
        ConfigError: one has.
    """
    for name, parameter in parameters:
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            raise ConfigError(
                f"The parameter '{name}' has a hook on its gradient (register_hook), and torch calls none of a sharded "
                "model's. Change gradients in a callback's on_pre_optimizer_step, or train without fsdp."
            )


def check_alike(parameters: Sequence[nn.Parameter], everyone: Sequence[Sequence[float]]) -> None:
    """See whether all processes have called the same blocks: else they have gathered others in each other's place.

    Args:
        parameters: those that are trained, and watched.
        everyone: of every process what it has done with each.

    Raises:
        ConfigError: they have not; or they have used other parameters of a block, and torch cannot tell them apart.
    """
    inside: dict[str, list[int]] = {}
    for number, parameter in enumerate(parameters):
        inside.setdefault(getattr(parameter, _MARK).block, []).append(number)
    for block, numbers in inside.items():
        called = [any(row[number] for number in numbers) for row in everyone]
        if block and any(called) and not all(called):
            raise ConfigError(
                f"Rank {called.index(True)} has used '{block}' in this step, and rank {called.index(False)} has not, "
                "but a block of a sharded model is gathered from all processes when it is called. Let all of them call "
                "it, or have the whole model gathered at once: fsdp_config={'auto_wrap_policy': 'NO_WRAP'}."
            )
    if not GIVES_ZEROS and any(0 < sum(map(bool, uses)) < len(uses) for uses in zip(*everyone, strict=True)):
        raise ConfigError(
            "Processes have used other parameters of a sharded model in this step, as their data decided, and "
            f"torch {torch.__version__} adds up their gradients as if they were the same. Update to torch 2.13, or "
            "train without fsdp."
        )
