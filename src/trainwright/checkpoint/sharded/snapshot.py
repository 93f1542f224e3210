"""What one process writes of a state that is spread over several: copied to the host, so that training can go on.

Weights are exchanged, so that each file holds whole tensors and any reader can load it. Nothing is ever whole on more
than one process, and no process holds more than its share and what is on its way to it. Moments and averages are kept
as they lie, without an exchange.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from trainwright.checkpoint.layout import Share
from trainwright.checkpoint.sharded import plan
from trainwright.devices import queued
from trainwright.parallel.layouts.boxes import Box, box_of, is_spread, local
from trainwright.parallel.strategy import Strategy

_WINDOW = 64 << 20  # bytes that are on their way at once, or one tensor


@dataclass
class Owned:
    """Host memory for the whole tensors that a process owns; the next save reuses it.

    Attributes:
        tensors: by name; complete when `ready` was called.
    """

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    _events: list[torch.Event] = field(default_factory=list)

    def take(self, strategy: Strategy, tensors: Mapping[str, torch.Tensor], owner: Mapping[str, int]) -> None:
        """Bring every tensor whole to the process that owns it; all processes call it at the same place.

        Args:
            strategy: how the processes exchange.
            tensors: by name, spread or the same on all processes; the same names and shapes on each.
            owner: the process that each goes to.
        """
        mine = strategy.share
        self.tensors = {n: self._memory(n, tensors[n]) for n in tensors if owner[n] == mine.index}
        everyone = strategy.gather({name: box_of(tensor) for name, tensor in tensors.items()})
        sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()}
        for window in plan.in_groups(sizes, _WINDOW):  # the same on all processes
            self._exchange(strategy, {name: tensors[name] for name in window}, owner, everyone)
        self._events = [queued(strategy.device)] if strategy.device.type != "cpu" else []

    def ready(self) -> None:
        """Wait until the copies from a device have arrived."""
        for event in self._events:
            event.synchronize()

    def _memory(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        before = self.tensors.get(name)
        if before is not None and (before.shape, before.dtype) == (tensor.shape, tensor.dtype):
            return before
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=local(tensor).is_cuda)

    def _exchange(
        self,
        strategy: Strategy,
        tensors: Mapping[str, torch.Tensor],
        owner: Mapping[str, int],
        everyone: Sequence[Mapping[str, Box]],
    ) -> None:
        mine = strategy.share.index
        sent: list[tuple[int, torch.Tensor]] = []
        received: list[tuple[int, torch.Tensor]] = []
        copies: list[tuple[torch.Tensor, torch.Tensor]] = []
        for name, tensor in tensors.items():
            held = local(tensor)
            if not is_spread(tensor):
                copies += [(self.tensors[name], held)] if owner[name] == mine else []
                continue
            for box, process in plan.sources(name, owner[name], everyone).items():
                if owner[name] != mine:
                    sent += [(owner[name], held.contiguous())] if process == mine else []
                    continue
                part = self.tensors[name][box.slices]
                if process == mine:
                    copies.append((part, held))
                elif part.is_contiguous() and held.device == part.device:
                    received.append((process, part))
                else:
                    arrived = torch.empty(box.shape, dtype=tensor.dtype, device=held.device)
                    received.append((process, arrived))
                    copies.append((part, arrived))
        strategy.exchange(sent, received)
        for part, source in copies:
            part.copy_(source, non_blocking=True)


def own_slices(
    strategy: Strategy, spread: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, tuple[int, ...]]]:
    """Return what this process writes of tensors that are spread, still the run's own memory, and where each part
    begins in its whole tensor. All processes call it at the same place."""
    everyone = strategy.gather({name: box_of(tensor) for name, tensor in spread.items()})
    widths = {name: tensor.element_size() for name, tensor in spread.items()}
    mine: Share = strategy.share
    chosen = plan.writers(everyone, widths)[mine.index]
    boxes = everyone[mine.index]
    return {n: local(spread[n]) for n in spread if n in chosen}, {n: boxes[n].offsets for n in spread if n in chosen}
