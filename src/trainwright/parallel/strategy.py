"""How a run is spread over processes: what the loop asks of it, with one process as the plain case."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from trainwright.batch import map_tensors
from trainwright.devices import moved
from trainwright.errors import TrainwrightError
from trainwright.world import World


class Strategy:
    """One process on one device. Subclasses override what differs with several."""

    def __init__(self, world: World, device: torch.device) -> None:
        self.world = world
        self.device = device

    def prepare(self, model: nn.Module, recomputes: bool = False) -> nn.Module:
        """Return the module whose `forward` the loop calls; `recomputes`: whether its backward pass runs it again."""
        return model

    def accumulate(self, model: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Return the context of one micro-batch: gradients are shared between processes only in the last."""
        return nullcontext()

    def finish_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Share the gradients between processes, where the backward passes have not done it."""

    def with_main_buffers(self, model: nn.Module) -> AbstractContextManager[None]:
        """Return the context in which the model has the same buffers on all processes: rank 0's."""
        return nullcontext()

    def agree(self, *values: float) -> list[list[float]]:
        """Return the values of every process, rank by rank; one small exchange between hosts, never the devices."""
        return [list(values)]

    def sum_tensor(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over all processes."""
        return value

    def gather(self, value: Any) -> list[Any]:
        """Return an object of every process, rank by rank."""
        return [value]

    def from_main(self, value: Any) -> Any:
        """Return rank 0's object on every process."""
        return value

    def on_main(self, call: Callable[[], Any]) -> Any:
        """Call a function on rank 0 and return its result on every process; its error is raised on all of them."""
        result, error = None, None
        if self.world.is_main:
            try:
                result = call()
            except TrainwrightError as raised:
                error = raised
        result, error = self.from_main((result, error))
        if error is not None:
            raise error
        return result

    def barrier(self) -> None:
        """Wait until every process is here."""

    def tell(self, word: str) -> None:
        """Leave a word for the other processes, which hear it when they look; for where no exchange is due."""

    def heard(self, word: str) -> bool:
        """Whether a process has left a word; looked for twice a second."""
        return False

    def all_here(self, place: str, value: Any) -> list[Any] | None:
        """Return the value of every process, where all come to the same place within seconds; else None.

        For when something failed: no exchange that may hang in the middle of another one is used.
        """
        return [value]

    def wait_for(self, word: str) -> None:
        """Wait until a process has left a word."""

    def to_device(self, batch: Any) -> Any:
        """Return the batch with every tensor on the device; containers keep their kind."""
        return map_tensors(batch, lambda tensor: moved(tensor, self.device))

    def share_buffers(self, model: nn.Module) -> None:
        """Let all processes have the buffers of the first, where the forward passes of a step do not do it."""
