"""Sums that stay on the device until they are logged."""

from __future__ import annotations

from collections.abc import Callable

import torch

Total = Callable[[torch.Tensor], torch.Tensor]


class LossMeter:
    """The loss of the steps since the last log, and of the whole run."""

    def __init__(self) -> None:
        self.window: torch.Tensor | None = None
        self.logged = 0.0

    def add(self, share: torch.Tensor) -> None:
        """Add a micro-batch's share of its step's loss; a scalar, left on its device."""
        self.window = share.float() if self.window is None else self.window.add_(share)

    def read(self, total: Total, device: torch.device) -> float:
        """Return the sum of the window's losses over all processes, and begin a new window."""
        value = self._sum(total, device)
        self.window = None
        self.logged += value
        return value

    def _sum(self, total: Total, device: torch.device) -> float:
        window = torch.zeros((), device=device) if self.window is None else self.window
        return total(window).item()


class Records:
    """Named numbers besides the loss, averaged over the logging window."""

    def __init__(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, name: str, value: torch.Tensor | float) -> None:
        """Add one value; tensors stay on their device."""
        number = value.detach().float().mean() if isinstance(value, torch.Tensor) else torch.tensor(float(value))
        self.sums[name] = self.sums[name] + number if name in self.sums else number
        self.counts[name] = self.counts.get(name, 0) + 1

    def take(self) -> dict[str, tuple[float, int]]:
        """Return sum and count by name, and begin a new window."""
        taken = {name: (self.sums[name].item(), self.counts[name]) for name in self.sums}
        self.sums, self.counts = {}, {}
        return taken


def averages(per_rank: list[dict[str, tuple[float, int]]]) -> dict[str, float]:
    """Return the mean of every recorded number over the processes that recorded it."""
    names = dict.fromkeys(name for rank in per_rank for name in rank)
    found = {name: [rank[name] for rank in per_rank if name in rank] for name in names}
    return {name: sum(s for s, _ in pairs) / sum(n for _, n in pairs) for name, pairs in found.items()}
