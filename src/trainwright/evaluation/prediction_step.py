"""What the model says of one batch: its loss and predictions, as metrics take them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from trainwright.args.signatures import check_returned, is_of
from trainwright.batch import row_count
from trainwright.inputs import document_isolation
from trainwright.losses import fused_loss
from trainwright.losses.diagnose import takes
from trainwright.losses.loss_source import moved_by, overrides_loss, own_copy
from trainwright.models.inspect import base_model, forward_columns
from trainwright.objectives.model_loss import call_model, labels_of, named_loss, named_outputs
from trainwright.session.session import Hooks, Session

_PREDICTIONS = (torch.Tensor, np.ndarray, int, float, Mapping, list, tuple, type(None))
"""What a prediction can be; other objects in an output, of whatever name, are the model's cache."""


def prediction_step(
    session: Session, model: nn.Module, inputs: Any, loss_only: bool, ignore_keys: list[str] | None
) -> tuple[Any, Any, Any]:
    """Return (loss, logits, labels) of a batch, detached; see `Trainer.prediction_step`.

    The loss is a scalar, or where the model gives one for every row, these: shape (rows,).
    """
    labels = labels_of(inputs, session.label_names)
    asked_for = isinstance(inputs, Mapping) and bool(inputs.get("return_loss"))  # by a collator, as for CLIP
    of_itself = session.can_return_loss or asked_for
    only_runs = session.evaluation.predicts and takes(base_model(session.model).forward, inputs)
    has_loss = labels is not None or of_itself or (session.hooks.has_own_loss and not only_runs)
    with_logits = not loss_only or overrides_loss(session.hooks)
    if has_loss and not with_logits:
        fused_loss.before_loss(session, inputs)
    inputs = document_isolation.kept_apart(session, inputs, None if with_logits else session.objective.fused)
    labels, items = labels_of(inputs, session.label_names), session.objective.count(inputs)
    given, inputs = inputs, moved_by(session.hooks, inputs)
    if not with_logits:
        fused_loss.foresee(session, given, inputs)
    found = labels_of(inputs, session.label_names)
    labels = session.strategy.to_device(labels) if found is None else found
    inputs = own_copy(session.strategy.device, inputs) if session.hooks.has_own_loss else inputs
    loss = outputs = None
    with torch.no_grad(), session.hooks.compute_loss_context_manager():
        if has_loss:
            share: dict[str, Any] = {"num_items_in_batch": max(items, 1)} if session.takes_num_items else {}
            if with_logits:
                pair = session.hooks.compute_loss(model, inputs, return_outputs=True, **share)
                name = f"{type(session.hooks).__name__}.compute_loss"
                check_returned(_of(pair, 2), pair, name, "(loss, outputs) where return_outputs is true")
                loss, outputs = pair
            else:
                loss = session.hooks.compute_loss(model, inputs, **share)
            loss = loss.detach() if is_of_rows(loss, inputs) else session.hooks.one_loss(loss).detach().mean()
        else:
            loss = named_loss(outputs := call_model(model, inputs))
    if loss_only:
        return loss, None, None
    if labels is None and of_itself and not knows_labels(session.model, session.label_names):
        labels = ()  # as transformers has it: such a model's metrics are those of its predictions
    ignored = ["loss", *(ignore_keys or session.keys_to_ignore)]
    return loss, predictions_of(outputs, ignored, has_loss), labels


def of_step(hooks: Hooks, returned: Any) -> tuple[Any, Any, Any]:
    """Return what `prediction_step`, which may be overridden, has returned.

    Raises:
        ConfigError: not three values.
    """
    check_returned(_of(returned, 3), returned, f"{type(hooks).__name__}.prediction_step", "(loss, logits, labels)")
    loss, logits, labels = returned
    return loss, logits, labels


def _of(value: Any, count: int) -> bool:
    return isinstance(value, tuple | list) and len(value) == count


def reads_alone(hooks: Hooks) -> bool:
    """Whether none of the user's code sees an evaluation's batch itself."""
    return is_of(hooks.prediction_step, "trainwright") and is_of(hooks._prepare_inputs, "trainwright")


def knows_labels(model: nn.Module, names: Collection[str]) -> bool:
    """Whether the model's forward takes any labels."""
    return any(name in (forward_columns(model) or ()) for name in names)


def is_of_rows(loss: Any, inputs: Any) -> bool:
    """Whether a loss is one for every row of a batch."""
    return isinstance(loss, torch.Tensor) and loss.ndim == 1 and len(loss) == row_count(inputs)


def predictions_of(outputs: Any, ignored: list[str], has_loss: bool) -> Any:
    """Return what is left of a model's outputs without the loss and the cache: a tensor, or a tuple of several."""
    named = named_outputs(outputs, "loss")
    if named is not None:
        left = tuple(value for name, value in named.items() if name not in ignored)
    elif isinstance(outputs, list | tuple):
        left = tuple(outputs[1:] if has_loss else outputs)
    else:
        left = (outputs,)
    left = tuple(value for value in left if isinstance(value, _PREDICTIONS))
    return left[0] if len(left) == 1 else left
