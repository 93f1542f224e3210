"""Sums that stay on the device until they are logged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Total = Callable[[torch.Tensor], torch.Tensor]


class LossMeter:
    """The loss of the steps since the last log, and of the whole run.

    Attributes:
        logged: sum of the losses of all steps whose window is over.
        skipped: steps of this window that were skipped and have no loss.
        skipped_before: steps skipped in the windows before.
        empty: steps of this window that had no target, and so no loss.
        empty_before: those of the windows before.
        first_step: the step that the sums begin after: 0, unless the run goes on from another engine's checkpoint.
        logged_at: the step of the last log.
    """

    def __init__(self) -> None:
        self.window: torch.Tensor | None = None
        self.logged = 0.0
        self.skipped = 0
        self.skipped_before = 0
        self.empty = 0
        self.empty_before = 0
        self.first_step = 0
        self.logged_at = 0

    def add(self, loss: torch.Tensor, bad: torch.Tensor | bool) -> None:
        """Add a step's loss unless the step was bad; scalars, left on their device."""
        if isinstance(bad, torch.Tensor):
            loss = torch.where(bad, 0.0, loss)
        elif bad:
            return
        self.window = loss.float() if self.window is None else self.window + loss

    def read(self, total: Total, device: torch.device) -> tuple[float, int]:
        """Return the sum of the window's losses over all processes and its skipped steps; begin a new window."""
        window = torch.zeros((), device=device) if self.window is None else self.window
        value, skipped = total(window).item(), self.skipped
        self.logged += value
        self.skipped_before += skipped
        self.empty_before += self.empty
        self.window, self.skipped, self.empty = None, 0, 0
        return value, skipped

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must keep."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Restore what `state_dict` returned."""
        for name, value in state.items():
            setattr(self, name, value.to(device) if isinstance(value, torch.Tensor) else value)


class Records:
    """Named numbers besides the loss, averaged over the logging window.

    Attributes:
        weight: of what is added next; an evaluation weighs its batches as its loss does.
    """

    def __init__(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}
        self.counts: dict[str, float] = {}
        self.weight: float = 1

    def add(self, name: str, value: torch.Tensor | float) -> None:
        """Add one value; tensors stay on their device."""
        number = value.detach().float().mean() if isinstance(value, torch.Tensor) else torch.tensor(float(value))
        if not self.weight:
            return
        number = number * self.weight
        self.sums[name] = self.sums[name] + number if name in self.sums else number
        self.counts[name] = self.counts.get(name, 0) + self.weight

    def take(self) -> dict[str, tuple[float, float]]:
        """Return sum and count by name, and begin a new window."""
        taken = {name: (self.sums[name].item(), self.counts[name]) for name in self.sums}
        self.sums, self.counts = {}, {}
        return taken

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must keep."""
        return {"sums": dict(self.sums), "counts": dict(self.counts)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Restore what `state_dict` returned."""
        self.sums = {name: value.to(device) for name, value in state["sums"].items()}
        self.counts = dict(state["counts"])


def averages(per_rank: list[dict[str, tuple[float, float]]]) -> dict[str, float]:
    """Return the mean of every recorded number over the processes that recorded it."""
    names = dict.fromkeys(name for rank in per_rank for name in rank)
    found = {name: [rank[name] for rank in per_rank if name in rank] for name in names}
    return {name: sum(s for s, _ in pairs) / sum(n for _, n in pairs) for name, pairs in found.items()}
