"""The loss of a causal language model from the labelled positions alone: the logits are never built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import nn

from trainwright.devices import moved
from trainwright.errors import DataError
from trainwright.objectives.linear.loss import linear_cross_entropy, linear_log_probs
from trainwright.objectives.linear.rows import TokenStatistics
from trainwright.objectives.padding_free import Foreseen, Layout, foreseen, layout_of, sharing

_SAME = {4: 1e-4, 2: 5e-2}  # difference of hidden states by their size, by bytes of a number


class OutputLayer(Protocol):
    """A model's head, as `models.head.Head` describes it."""

    @property
    def layer(self) -> nn.Linear:
        """The layer whose outputs are the logits, before scale and cap."""

    @property
    def weight(self) -> torch.Tensor:
        """The layer's matrix, whole, shape (classes, width)."""

    @property
    def bias(self) -> torch.Tensor | None:
        """The layer's bias, whole, shape (classes,)."""

    @property
    def scale(self) -> float:
        """The factor of the logits."""

    @property
    def cap(self) -> float | None:
        """The bound of the logits, or None."""

    @property
    def parts(self) -> Sequence[nn.Module]:
        """The modules whose forward knows of labels or logits, the layer last."""

    def of_rows(
        self, loss: Callable[..., torch.Tensor], hidden: torch.Tensor, targets: torch.Tensor, watch: Any
    ) -> torch.Tensor:
        """Return a loss of rows, called with hidden states, weight and targets."""

    def intercepted(self) -> AbstractContextManager[list[torch.Tensor]]:
        """Give the layer nothing to do, and collect the hidden states it was called with."""


class FlatInputs(Protocol):
    """How a model takes documents one after another, as `models.packed_attention.FlatRows` says it."""

    @property
    def unpads(self) -> bool:
        """Whether rows with padding are better put one after another."""

    @property
    def goes_on(self) -> bool:
        """Whether a document may go on from another."""

    def inputs(self, lengths: list[int] | None, begins: list[int | None] | None = None) -> dict[str, Any]:
        """Return what the model is told of the documents of its row, and which they go on from; None for rows padded at
        their ends."""


@dataclass(frozen=True)
class Labelled:
    """The targets of a batch.

    Attributes:
        hidden: what predicts them, shape (targets, width).
        targets: token numbers, shape (targets,).
        index: of each among all positions but the first of every row, shape (targets,).
        width: tokens of a row.
        lengths: of the documents in the one row of a flat batch, or None.
        owners: the row of every target, shape (targets,), where documents are parts of rows; else None.
    """

    hidden: torch.Tensor
    targets: torch.Tensor
    index: torch.Tensor
    width: int
    lengths: list[int] | None
    owners: torch.Tensor | None = None

    @property
    def rows(self) -> torch.Tensor:
        """The row or document of every target, shape (targets,)."""
        if self.owners is not None:
            return self.owners
        if self.lengths is None:
            return self.index // (self.width - 1)
        ends = moved(torch.tensor(self.lengths).cumsum(0), self.index.device)
        return torch.searchsorted(ends, self.index + 1, right=True)


@dataclass
class FusedLoss:
    """Output layer and cross-entropy in one, over the positions that have a target.

    Attributes:
        head: the model's output layer.
        flat_rows: how the model takes documents one after another, without padding; None where it does not.
        checked: whether the model was in training mode when its loss was compared with the model's own; empty before.
        coming: what the host has found out of the coming batch, so that a device need not be asked.
        shares: whether what several rows begin with may be computed once; None before it was tried.
    """

    head: OutputLayer
    flat_rows: FlatInputs | None = None
    checked: set[bool] = field(default_factory=set)
    coming: Foreseen | None = None
    shares: bool | None = None
    _owners: WeakKeyDictionary[nn.Module, bool] = field(default_factory=WeakKeyDictionary)

    def fits(self, model: nn.Module, inputs: Any) -> bool:
        """Whether the head is this model's (a teacher has its own), and the batch has labels at every position."""
        labels = inputs.get("labels") if isinstance(inputs, Mapping) else None
        if not isinstance(labels, torch.Tensor) or labels.ndim != 2 or "shift_labels" in inputs:
            return False
        if model not in self._owners:
            self._owners[model] = any(part is self.head.layer for part in model.modules())
        return self._owners[model]

    def share(self, model: nn.Module, inputs: Mapping[str, Any], num_items: float | None) -> torch.Tensor:
        """Return the sum of the losses of a batch's targets, divided by `num_items`, or by their number.

        Raises:
            DataError: the model does not give every position to its output layer.
        """
        return self.share_of(self.labelled(model, inputs), num_items)

    def share_of(
        self, labelled: Labelled, num_items: float | None, watch: TokenStatistics | None = None
    ) -> torch.Tensor:
        """Return the sum of the losses of some targets, divided by `num_items`, or by their number."""
        loss = partial(linear_cross_entropy, **self._bent())
        total = self.head.of_rows(loss, labelled.hidden, labelled.targets, watch)
        return total / (len(labelled.targets) if num_items is None else num_items)

    def log_probs(
        self, labelled: Labelled, watch: TokenStatistics | None = None, temperature: float = 1.0
    ) -> torch.Tensor:
        """Return the log-probability of every target, of logits divided by `temperature`; shape (targets,)."""
        log_probs = partial(linear_log_probs, **self._bent(temperature))
        return self.head.of_rows(log_probs, labelled.hidden, labelled.targets, watch)

    def _bent(self, temperature: float = 1.0) -> dict[str, Any]:
        """Return what becomes of the layer's outputs; cap / t · tanh(z / cap) is that of z / t and cap / t."""
        cap = self.head.cap if self.head.cap is None else self.head.cap / temperature
        return {"scale": self.head.scale / temperature, "cap": cap}

    def labelled(self, model: nn.Module, inputs: Mapping[str, Any], layout: Layout | None = None) -> Labelled:
        """Return the targets of a batch, and the hidden states that predict them.

        Args:
            model: whose head this is.
            inputs: the batch.
            layout: another than is usual.

        Raises:
            DataError: the model does not give every position to its output layer.
        """
        layout = self._layout(inputs) if layout is None else layout
        with self.head.intercepted() as seen:
            self._run(model, inputs, layout)
        if len(seen) != 1 or seen[0].shape[:2] != layout.shape:
            raise DataError("The model does not give all positions to its output layer; set use_fused_loss=False.")
        index, targets = (tensor.to(seen[0].device) for tensor in (layout.index, layout.targets))
        hidden = seen[0][:, :-1].reshape(-1, seen[0].shape[-1]).index_select(0, index)
        lengths = None if layout.flat is None else layout.flat.lengths
        return Labelled(hidden, targets, index, layout.shape[1], lengths, layout.owners)

    def answers(self, model: nn.Module, rows: Mapping[str, torch.Tensor]) -> Labelled:
        """Return the targets of rows, as `labelled`, where several may answer one prompt.

        What rows are alike in before their first label is computed once, where the kernel can and the model gives the
        same so, which is tried once. Not in float64, which is asked for where a step is to be the same to many digits
        however it is cut: transformers' norms are of float32, and the last bit of what they are given changes those.
        """
        may = self.shares is not False and self.head.layer.weight.element_size() in _SAME
        layout = sharing(rows) if may and self.flat_rows is not None and self.flat_rows.goes_on else None
        if layout is not None and self.shares is None:
            self.shares = self._gives_the_same(getattr(model, "module", model), rows, layout)
        return self.labelled(model, rows, layout if self.shares else None)

    @torch.no_grad()
    def _gives_the_same(self, model: nn.Module, rows: Mapping[str, torch.Tensor], layout: Layout) -> bool:
        """Whether hidden states are the same in a layout of shared prompts: not where tokens meet otherwise than by
        attention."""
        usual, found = self.labelled(model, rows).hidden, self.labelled(model, rows, layout).hidden
        return bool((usual - found).abs().max() <= _SAME[usual.element_size()] * usual.abs().max())

    def foresee(self, inputs: Mapping[str, Any], labels: torch.Tensor) -> None:
        """Find out, from a batch's inputs on the host, what is needed of its labels on a device."""
        self.coming = foreseen(inputs, labels, self.flat_rows is not None, self._unpads)

    @property
    def _unpads(self) -> bool:
        return self.flat_rows is not None and self.flat_rows.unpads

    def _layout(self, inputs: Mapping[str, Any]) -> Layout:
        if self.coming is not None and self.coming.is_of(inputs["labels"]):
            return self.coming.layout
        return layout_of(inputs, self.flat_rows is not None, self._unpads)

    def _run(self, model: nn.Module, inputs: Mapping[str, Any], layout: Layout) -> None:
        flat, told = layout.flat, self.flat_rows
        if told is not None and flat is not None:
            told_of = told.inputs(flat.lengths, flat.begins)
            model(input_ids=flat.input_ids, position_ids=flat.position_ids, **told_of)
        elif told is not None and layout.is_causal:
            model(input_ids=inputs["input_ids"], **told.inputs(None))
        else:
            model(**{name: value for name, value in inputs.items() if name != "labels"})
