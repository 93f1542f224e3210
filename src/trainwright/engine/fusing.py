"""Whether a run computes its loss without building the logits: decided at its start, and checked at its first batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from trainwright.batch import row_count
from trainwright.engine.memory import split
from trainwright.errors import TrainwrightError
from trainwright.models.head import language_head
from trainwright.objectives.language import FusedLoss
from trainwright.objectives.model_loss import call_model, loss_of

if TYPE_CHECKING:
    from trainwright.engine.trainer import Trainer

_CLOSE = {4: 1e-4, 2: 3e-2}  # relative difference from the model's own loss, by bytes of the number format


def prepare(trainer: Trainer) -> None:
    """Switch the fused loss on where it applies; say why not where a causal language model goes without it."""
    trainer.objective.fused = None
    args, objective = trainer.args, trainer.objective
    if not args.use_fused_loss or objective.loss_function is not None or objective.label_smoothing > 0:
        return
    head = language_head(trainer.model)
    if isinstance(head, str):
        if objective.shifted:
            switch_off(trainer, head)
    elif args.torch_compile:
        switch_off(trainer, "torch_compile compiles the whole model")
    else:
        objective.fused = FusedLoss(head)


def before_loss(trainer: Trainer, inputs: Any) -> None:
    """Count a batch's targets on the host; compare the first batch's fused loss with the model's own."""
    fused = trainer.objective.fused
    if fused is None or not fused.fits(inputs):
        return
    if not fused.checked:
        fused.checked = True
        reason = difference(trainer, fused, inputs)
        if reason is not None:
            trainer.objective.fused = None
            switch_off(trainer, reason)
            return
    if trainer.strategy.device.type == "cuda":
        fused.count = trainer.objective.count(inputs)


@torch.no_grad()
def difference(trainer: Trainer, fused: FusedLoss, inputs: Any) -> str | None:
    """Return why the fused loss is not the model's own on the first row with a target, or None where it is."""
    rows = split(inputs, row_count(inputs))
    row = next((row for row in rows if trainer.objective.count(row)), None)
    if row is None:
        fused.checked = False
        return None
    row, model = trainer.strategy.to_device(row), trainer.model
    training = model.training
    model.eval()
    try:
        with trainer.compute_loss_context_manager():
            own = loss_of(call_model(model, row), row).float()
            ours = fused.share(model, row, None).float()
    except (TrainwrightError, RuntimeError, IndexError, ValueError, TypeError) as error:
        return f"the model cannot be run without its logits ({type(error).__name__}: {str(error).splitlines()[0]})"
    finally:
        model.train(training)
    low = trainer.precision.dtype is not None or next(model.parameters()).dtype.itemsize < 4
    if (own - ours).abs() <= _CLOSE[2 if low else 4] * own.abs().clamp(min=1.0):
        return None
    return f"it would be {float(ours):.6g} where the model's own loss is {float(own):.6g}"


def switch_off(trainer: Trainer, reason: str) -> None:
    """Say once that the logits are built, and why."""
    trainer.note(f"use_fused_loss is off: {reason}.")
