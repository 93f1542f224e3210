"""Number formats: the autocast context of the forward pass, and the loss scaler that float16 needs."""

from __future__ import annotations

import inspect
import logging
import math
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch

from trainwright.devices import skips_by_itself
from trainwright.errors import ConfigError

logger = logging.getLogger("trainwright")
Flag = torch.Tensor | bool


class Precision:
    """float32, or bfloat16 by autocast.

    Attributes:
        scales: whether losses are scaled, so that gradients do not tell whether one of another rank was finite.
    """

    scales = False

    def __init__(self, device: torch.device, dtype: torch.dtype | None) -> None:
        self.device = device
        self.dtype = dtype

    def begin(self) -> None:
        """Begin a run: what an earlier one has left is forgotten."""

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which losses are computed."""
        return nullcontext() if self.dtype is None else torch.autocast(self.device.type, dtype=self.dtype)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss."""
        loss.backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Give the gradients of an optimizer's parameters the size of the loss's own, before they are measured."""

    def is_bad(self, loss: torch.Tensor, norm: torch.Tensor, whole: bool) -> Flag:
        """Return whether a step must not change the parameters: on a CPU at once, else as a scalar of the device.

        Args:
            loss: the step's loss.
            norm: the norm of the gradients, equal on all ranks.
            whole: whether the loss is that of all ranks; otherwise it does not decide.
        """
        return not_finite(loss, norm) if whole else not_finite(norm)

    def step(self, optimizer: torch.optim.Optimizer, bad: Flag) -> bool:
        """Update the parameters unless the step is bad; return whether the schedule moves on, which it does here.

        Raises:
            ConfigError: the optimizer computes the loss itself, as LBFGS does.
        """
        if takes_closure(type(optimizer)):  # type: ignore[arg-type]  # classes have hashes
            raise ConfigError(
                f"{type(optimizer).__name__} computes the loss itself, several times a step: call its own "
                "step(closure), with a function that sets the gradients to zero and returns the loss of "
                "forward_backward."
            )
        if isinstance(bad, torch.Tensor) and skips_by_itself(bad) and is_fused(optimizer):
            optimizer.grad_scale, optimizer.found_inf = None, bad.float()  # type: ignore[attr-defined]  # as torch's own scaler does
            optimizer.step()
            del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]  # as torch's own scaler does
        elif not bad:
            optimizer.step()
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must keep."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""


class Float16(Precision):
    """float16 by autocast, with gradients scaled so that small ones survive (Micikevicius et al. 2018).

    Attributes:
        scaler: finds the scale, and leaves out the steps whose gradients overflow with it.
        scale: the present one, on the host; `first_scale` is that of a run's beginning.
        lost: whether the last step's loss was not finite.
    """

    scales = True

    def __init__(self, device: torch.device) -> None:
        super().__init__(device, torch.float16)
        self.scaler = torch.amp.GradScaler(device.type)
        self.first_scale = self.scale = self.scaler.get_scale()
        self.lost: Flag = False
        self._unscaled: set[int] = set()  # optimizers whose gradients have the loss's own size, by their ids

    def begin(self) -> None:
        """Begin with the first scale."""
        self._unscaled.clear()
        self.scaler.load_state_dict({**self.scaler.state_dict(), "scale": self.first_scale, "_growth_tracker": 0})
        self.scale = self.first_scale

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a scaled loss."""
        self.scaler.scale(loss).backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Undo the scaling."""
        self.scaler.unscale_(optimizer)
        self._unscaled.add(id(optimizer))

    def is_bad(self, loss: torch.Tensor, norm: torch.Tensor, whole: bool) -> Flag:
        """Return whether the loss itself is not finite, or the gradients are not with a scale that enlarges nothing.

        Gradients that overflow with a larger one are the scaler's business, which halves it.

        Raises:
            ConfigError: the norm is that of scaled gradients.
        """
        if not self._unscaled:
            raise ConfigError(
                f"The gradients are those of a loss times {self.scale:g}, and so is their norm: call "
                "precision.unscale(optimizer) before they are measured or clipped."
            )
        self.lost = not_finite(loss)
        return not_finite(loss, norm) if self.scale <= 1 else self.lost

    def step(self, optimizer: torch.optim.Optimizer, bad: Flag) -> bool:
        """Update the parameters unless the scaled gradients overflowed; return whether it was done.

        This waits for the device: the schedule must not move at a step that the scaler leaves out.

        Raises:
            ConfigError: the gradients of another optimizer are unscaled and not used yet, which this step ends.
        """
        if self._unscaled - {id(optimizer)}:
            raise ConfigError(
                "The gradients of several optimizers are unscaled by one precision, and its step takes them for scaled "
                "again from the second on. Give each optimizer one of its own: choose_precision(device, fp16=True)."
            )
        self._unscaled.clear()
        before = self.scale
        if self.lost:
            self.scaler.update(before)  # no scale is to blame for a loss that is not finite
            return True
        self.scaler.step(optimizer)
        self.scaler.update()
        self.scale = self.scaler.get_scale()
        return self.scale >= before

    def state_dict(self) -> dict[str, Any]:
        """Return the scale and its growth."""
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the scale and its growth."""
        if state:
            self.scaler.load_state_dict(state)
            self.scale = self.scaler.get_scale()


def not_finite(*values: torch.Tensor) -> Flag:
    """Return whether any of some scalars is inf or NaN: on a CPU at once, else as a bool scalar of the device."""
    if values[0].device.type == "cpu":
        return not all(math.isfinite(value.item()) for value in values)
    return ~torch.isfinite(torch.stack(values)).all()


@cache
def takes_closure(kind: Any) -> bool:
    """Whether a step of such an optimizer needs a function that computes the loss."""
    closure = inspect.signature(kind.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def is_fused(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer leaves an update out by itself where `found_inf` is set, without a word to the host."""
    return getattr(optimizer, "_step_supports_amp_scaling", False) and all(
        group.get("fused") for group in optimizer.param_groups
    )


def choose_precision(device: torch.device, bf16: bool = False, fp16: bool = False) -> Precision:
    """Return the number formats for a device; float16 needs a GPU, a CPU computes in float32 instead."""
    if bf16:
        return Precision(device, torch.bfloat16)
    if fp16 and device.type != "cpu":
        return Float16(device)
    if fp16:
        logger.warning("fp16=True needs a GPU; a CPU computes in float32 instead (bf16=True works there).")
    return Precision(device, None)
