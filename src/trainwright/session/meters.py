"""Sums that stay on the device until they are logged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from trainwright.devices import moved
from trainwright.errors import DataError
from trainwright.session.exact_sums import as_sum, as_tensor, at_once, begun, mean_of, number_of, plus, widened

Total = Callable[[torch.Tensor], torch.Tensor]


class LossMeter:
    """The loss of the steps since the last log, and of the whole run.

    Attributes:
        window: sum of the losses of this window: a number of the host, or on a device of that.
        logged: sum of the losses of all steps whose window is over.
        skipped: steps of this window that were skipped and have no loss.
        skipped_before: steps skipped in the windows before.
        empty: steps of this window that had no target, and so no loss.
        empty_before: those of the windows before.
        first_step: the step that the sums begin after: 0, unless the run goes on from another engine's checkpoint.
        logged_at: the step of the last log.
    """

    def __init__(self) -> None:
        self.window: torch.Tensor | float | None = None
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
        value = at_once(loss)
        self.window = begun(value) if self.window is None else plus(self.window, value)

    def read(self, total: Total, device: torch.device) -> tuple[float, int]:
        """Return the sum of the window's losses over all processes and its skipped steps; begin a new window."""
        window = 0.0 if self.window is None else self.window
        if not isinstance(window, torch.Tensor):
            window = as_sum(as_tensor(window), device)
        value, skipped = number_of(total(window)), self.skipped
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
            setattr(self, name, as_sum(value, device) if isinstance(value, torch.Tensor) else value)


_LOGGED_ANYWAY = frozenset({"loss", "grad_norm", "learning_rate", "epoch", "skipped_steps"})


class Records:
    """Named numbers besides the loss, averaged over the logging window as the loss is.

    What is recorded within a step counts when the step does: it is left out with a step that is skipped, and with an
    attempt for which memory ran out.

    Attributes:
        weight: of what is added next: a micro-batch's part of its step's items, or an evaluation batch's items.
        kinds: whether a number is a share of its step's, which add up, or a mean; those not named here are means.
    """

    def __init__(self) -> None:
        self.weight: float = 1
        self.kinds: dict[str, bool] = {}
        self._window = Sums()
        self._step: Sums | None = None

    def add(self, name: str, value: torch.Tensor | float, part: torch.Tensor | float = 1) -> None:
        """Add one value, which weighs a part of what is added now; tensors stay on their device.

        Raises:
            DataError: it is no number, or has the name of one that is logged anyway.
        """
        if name in _LOGGED_ANYWAY:
            raise DataError(f"'{name}' is logged anyway; a number recorded beside it needs another name.")
        if isinstance(value, torch.Tensor):
            number = mean_of(value.detach())
        else:
            try:
                number = float(value)
            except (TypeError, ValueError):
                raise DataError(
                    f"'{name}', recorded beside the loss, is a {type(value).__name__}; a number or a tensor is "
                    "expected."
                ) from None
        if self.weight:
            weight = self.weight * (widened(part) if isinstance(part, torch.Tensor) else part)
            (self._window if self._step is None else self._step).add(name, number * weight, number, weight)

    def begin_step(self) -> None:
        """Keep what is added from here on apart, and forget what a step that was not ended added."""
        self._step = Sums()

    def end_step(self, bad: torch.Tensor | bool) -> None:
        """Add what the step recorded to the window, unless the step was bad."""
        step, self._step = self._step, None
        if step is None or bad is True:
            return
        for name, mean in step.means.items():
            share, weight = step.shares[name], step.weights[name]
            if isinstance(bad, torch.Tensor):
                mean, share = (torch.where(bad, 0.0, moved(as_tensor(value), bad.device)) for value in (mean, share))
                weight = widened(~bad) * weight
            self._window.add(name, mean, share, weight)

    def take(self) -> dict[str, tuple[float, float]]:
        """Return sum and weight by name, and begin a new window."""
        window, self._window = self._window, Sums()
        sums = {name: window.shares if self.kinds.get(name) else window.means for name in window.means}
        weights = {name: number_of(weight) for name, weight in window.weights.items()}
        return {name: (number_of(sums[name][name]), weight) for name, weight in weights.items() if weight}

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must keep."""
        return {"kinds": dict(self.kinds), **{name: dict(values) for name, values in vars(self._window).items()}}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Restore what `state_dict` returned."""
        self.weight, self._step, self.kinds = 1, None, dict(state.get("kinds", {}))
        sums, weights = (
            state.get("means", state.get("sums", {})),
            state.get("weights", state.get("counts", {})),
        )  # of old
        values = (sums, state.get("shares", sums))
        means, shares = ({name: as_sum(as_tensor(value), device) for name, value in each.items()} for each in values)
        self._window = Sums(means, shares, {name: begun(weight) for name, weight in weights.items()})


@dataclass
class Sums:
    """Sums by name.

    Attributes:
        means: of values × weights.
        shares: of values.
        weights: of weights.
    """

    means: dict[str, Any] = field(default_factory=dict)
    shares: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, mean: Any, share: Any, weight: Any) -> None:
        """Add to all three, plain numbers or those of a device, which stay there."""
        for sums, value in ((self.means, mean), (self.shares, share), (self.weights, weight)):
            sums[name] = plus(sums[name], value) if name in sums else begun(value)


def averages(per_rank: list[dict[str, tuple[float, float]]]) -> dict[str, float]:
    """Return the mean of every recorded number over the processes that recorded it."""
    names = dict.fromkeys(name for rank in per_rank for name in rank)
    found = {name: [rank[name] for rank in per_rank if name in rank] for name in names}
    return {name: sum(s for s, _ in pairs) / sum(n for _, n in pairs) for name, pairs in found.items()}
