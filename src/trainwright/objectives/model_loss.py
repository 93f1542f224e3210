"""The default objective: the loss that the model itself returns, or a function of its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from trainwright.batch import IGNORED, MAPPINGS, MeanOver, by_name, row_count
from trainwright.errors import ConfigError, DataError
from trainwright.objectives.language import FusedLoss
from trainwright.objectives.linear.rows import new_watch
from trainwright.objectives.objective import Loss, Objective
from trainwright.objectives.targets import targets_of

LossFunction = Callable[..., torch.Tensor]


@dataclass
class ModelLoss(Objective):
    """Loss of a model's outputs, and the count of its items.

    Attributes:
        label_names: the inputs that are labels.
        shifted: whether the model shifts the labels by one position.
        loss_function: `compute_loss_func(outputs, labels, num_items_in_batch=...)`, whose result is a share already.
        label_smoothing: share of the target probability spread over all classes.
        needs_labels: whether the model makes its decoder's inputs from the labels.
        fused: computes a causal language model's loss without its logits.
        over: what the model's loss is a mean over.
        ignored: the label that is no target.
        asked: how often it was looked up in a batch what the loss is a mean over, see `losses/units.py`.
        token_metrics: whether the fused loss brings token accuracy and entropy, by TRL's names.
    """

    label_names: Sequence[str] = ("labels",)
    shifted: bool = False
    loss_function: LossFunction | None = None
    label_smoothing: float = 0.0
    needs_labels: bool = False
    fused: FusedLoss | None = None
    over: MeanOver = MeanOver.TARGETS
    ignored: int = IGNORED
    asked: int = 0
    token_metrics: bool = False

    @property
    def fusable(self) -> bool:
        """Whether the loss is the model's own."""
        return self.loss_function is None and self.label_smoothing == 0

    @property
    def sums(self) -> bool:
        """Whether the loss of a batch is a sum."""
        return self.over is MeanOver.NOTHING

    def unfused(self) -> ModelLoss:
        """Return this objective, computed from the model's outputs."""
        return self if self.fused is None else replace(self, fused=None)

    def count(self, batch: Any) -> int:
        """Return the number of items that this batch's loss is a mean over."""
        targets = self._targets(batch)
        return row_count(batch) if targets is None else int(targets.sum())

    def _targets(self, batch: Any) -> torch.Tensor | None:
        """Return where the targets are that the loss is a mean over; None where that is rows, or nothing."""
        if self.over is not MeanOver.TARGETS:
            return None
        return targets_of(batch, self.label_names, self.shifted, self.ignored)

    def loss(self, model: nn.Module, batch: Any, num_items: float | None) -> Loss:
        """Return this batch's share of the loss, and the model's outputs where the logits are built."""
        if self.fused is not None and self.fused.fits(model, batch):
            if self.token_metrics:
                return _with_metrics(self.fused, model, batch, num_items)
            return Loss(self.fused.share(model, batch, num_items))
        if self.loss_function is not None and isinstance(batch, list | tuple) and len(batch) > 1:
            outputs = call_model(model, batch[:-1])
            return Loss(self.loss_function(outputs, batch[-1], num_items_in_batch=num_items), outputs)
        if self.loss_function is not None:
            labels = labels_of(batch, self.label_names)
            outputs = call_model(model, batch if self.needs_labels else without(batch, self.label_names))
            return Loss(self.loss_function(outputs, labels, num_items_in_batch=num_items), outputs)
        outputs = call_model(model, batch)
        if self.label_smoothing > 0 and (labels := labels_of(batch, self.label_names)) is not None:
            mean = smoothed_cross_entropy(logits_of(outputs), labels, self.label_smoothing, self.shifted)
        else:
            mean = loss_of(outputs, batch)
        return Loss(mean if num_items is None else self._share(mean, batch, num_items), outputs)

    def _share(self, mean: torch.Tensor, inputs: Any, num_items: float) -> torch.Tensor:
        """Return mean × own items / items of the step; counted on the device, which is not waited for. A sum is its own
        share."""
        if self.over is MeanOver.NOTHING:
            return mean
        targets = self._targets(inputs)
        if targets is not None:
            return mean * targets.sum() / num_items
        rows = row_count(inputs)
        return mean if rows == num_items else mean * (rows / num_items)


def _with_metrics(fused: FusedLoss, model: nn.Module, inputs: Any, num_items: float | None) -> Loss:
    labelled = fused.labelled(model, inputs)
    watch = new_watch(("top1", "entropy"), labelled.targets)
    share = fused.share_of(labelled, num_items, watch)
    count = max(len(labelled.targets), 1)
    means = {"mean_token_accuracy": watch["top1"].sum() / count, "entropy": watch["entropy"].sum() / count}
    return Loss(share, terms=means)


def call_model(model: nn.Module, inputs: Any) -> Any:
    """Call a model with a batch: mappings by name, sequences by position, anything else as the one argument."""
    if isinstance(inputs, MAPPINGS):
        return model(**inputs)
    if isinstance(inputs, list | tuple):
        return model(*inputs)
    return model(inputs)


def without(inputs: Any, names: Sequence[str]) -> Any:
    """Return a batch without some of its inputs."""
    return {k: v for k, v in inputs.items() if k not in names} if isinstance(inputs, Mapping) else inputs


def named_loss(outputs: Any) -> torch.Tensor | None:
    """Return a scalar that a model gives as `loss`; None where it gives none."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else None
    return loss.detach() if isinstance(loss, torch.Tensor) and loss.ndim == 0 else None


def loss_of(outputs: Any, inputs: Any = None) -> torch.Tensor:
    """Return the loss among a model's outputs: what is named `loss`, a tuple's first element, or a bare scalar.

    Where nothing is learned from it, it may be one for every row.

    Raises:
        DataError: the outputs hold no scalar loss.
    """
    named = named_outputs(outputs, "loss")
    if named is not None:
        loss = named.get("loss")
    elif isinstance(outputs, list | tuple):
        loss = outputs[0] if outputs else None
    else:
        loss = outputs if isinstance(outputs, torch.Tensor) else getattr(outputs, "loss", None)
    if isinstance(loss, torch.Tensor) and loss.numel() == 1:
        return loss.reshape(()) if loss.ndim else loss
    if isinstance(loss, torch.Tensor) and loss.ndim == 1 and not loss.requires_grad:
        return loss
    got = f"keys {sorted(named)}" if named is not None else type(outputs).__name__
    given = f" The batch had {sorted(inputs)}." if isinstance(inputs, Mapping) else ""
    if isinstance(loss, torch.Tensor):
        raise DataError(f"The model's loss has shape {tuple(loss.shape)}; reduce it to a scalar (loss.mean()).")
    if loss is not None and named is not None:
        raise DataError(
            f"The model's loss is a {type(loss).__name__}; it must be a scalar tensor, from which gradients flow back "
            "(no .item(), no float())."
        )
    raise DataError(
        f"The model returned no loss ({got}).{given} Most models need the column 'labels'; a model without its own "
        "loss needs compute_loss_func= or a Trainer subclass with compute_loss."
    )


def named_outputs(outputs: Any, name: str) -> Mapping[str, Any] | None:
    """Return a model's outputs by their names, those of an object its attributes; None where they are told by their
    places: a tuple's are, unless it is a named one that has the name."""
    named = by_name(outputs)
    if named is None and not isinstance(outputs, torch.Tensor) and hasattr(outputs, name):
        return getattr(outputs, "__dict__", None)
    return None if isinstance(outputs, tuple) and name not in (named or {}) else named


def logits_of(outputs: Any) -> torch.Tensor:
    """Return the logits among a model's outputs; shape (..., classes)."""
    named = named_outputs(outputs, "logits")
    if named is not None:
        if "logits" in named:
            logits: torch.Tensor = named["logits"]
            return logits
    elif isinstance(outputs, list | tuple):
        second: torch.Tensor = outputs[1 if isinstance(outputs[0], torch.Tensor) and outputs[0].ndim == 0 else 0]
        return second
    elif isinstance(outputs, torch.Tensor):
        return outputs
    raise ConfigError("label_smoothing_factor needs a model that returns logits; set it to 0.")


def labels_of(inputs: Any, label_names: Sequence[str]) -> Any:
    """Return the labels of a batch: the one, a tuple of several, or None; those that are None are none."""
    named = by_name(inputs) or {}
    found = [named[name] for name in label_names if named.get(name) is not None]
    return None if not found else found[0] if len(found) == 1 else tuple(found)


def smoothed_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, smoothing: float, shifted: bool) -> torch.Tensor:
    """Return the mean label-smoothed cross-entropy (Szegedy et al. 2016, arXiv:1512.00567, section 7).

    Args:
        logits: shape (..., classes).
        labels: class indices, shape (...); -100 is no target.
        smoothing: share of the target probability spread evenly over all classes.
        shifted: whether logits at t predict the label at t + 1.

    Raises:
        DataError: the labels are not classes.
    """
    if not isinstance(labels, torch.Tensor) or labels.is_floating_point() or labels.shape != logits.shape[:-1]:
        given = f"{labels.dtype} of shape {tuple(labels.shape)}" if isinstance(labels, torch.Tensor) else "several"
        raise DataError(
            f"label_smoothing_factor needs labels that are classes, whole numbers of shape {tuple(logits.shape[:-1])} "
            f"for logits of shape {tuple(logits.shape)}, but they are {given}. Set it to 0."
        )
    if shifted:
        logits, labels = logits[..., :-1, :], labels[..., 1:]
    return functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(),
        labels.reshape(-1),
        ignore_index=IGNORED,
        label_smoothing=smoothing,
    )
