"""Where the documents and targets of a batch lie. It is found on the host, before the batch goes to its device: there
it would have to be waited for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import ref

import torch

from trainwright.batch import IGNORED, map_tensors
from trainwright.devices import moved
from trainwright.objectives.padding_free import FLAT_INPUTS, Flat, ends_in_padding, flattened, known


@dataclass(frozen=True)
class Layout:
    """Where the documents and targets of a batch lie.

    Attributes:
        flat: the documents one after another; None where the model is given the batch's rows.
        shape: of the rows that the model is given: (rows, tokens).
        index: of every target among all positions but the first of every row, shape (targets,).
        targets: token numbers, shape (targets,).
        is_causal: whether no mask is needed for rows: their padding is at their ends, where no token of theirs sees it.
    """

    flat: Flat | None
    shape: tuple[int, int]
    index: torch.Tensor
    targets: torch.Tensor
    is_causal: bool = False


def layout_of(inputs: Mapping[str, Any], joins: bool, unpads: bool) -> Layout:
    """Return the layout of a batch.

    Args:
        inputs: `labels` of shape (rows, tokens), and the other inputs.
        joins: whether the model takes documents one after another.
        unpads: whether rows with padding are made such.
    """
    flat = flattened(inputs) if joins and unpads else known(inputs) if joins and set(inputs) == FLAT_INPUTS else None
    labels = inputs["labels"] if flat is None else flat.labels
    targets = labels[:, 1:].reshape(-1)
    index = (targets != IGNORED).nonzero().squeeze(1)
    return Layout(flat, (labels.shape[0], labels.shape[1]), index, targets[index])


@dataclass(frozen=True)
class Foreseen:
    """The layout of a batch that is on its way to a device, on that device.

    Attributes:
        labels: the batch's, there.
        version: of them, which every change in place raises.
        layout: found on the host.
    """

    labels: ref[torch.Tensor]
    version: int
    layout: Layout

    def is_of(self, labels: torch.Tensor) -> bool:
        """Whether labels, or those that they are a view of, are this batch's, and unchanged."""
        whole = labels if labels._base is None else labels._base
        return whole is self.labels() and whole._version == self.version


def foreseen(inputs: Mapping[str, Any], labels: torch.Tensor, joins: bool, unpads: bool) -> Foreseen:
    """Return the layout of a batch whose labels on the device are `labels`; `inputs` are on the host."""
    found = layout_of(inputs, joins, unpads)
    is_causal = joins and found.flat is None and ends_in_padding(inputs)
    flat = found.flat if found.flat is None else Flat(**sent(vars(found.flat), labels.device))
    there = sent({"index": found.index, "targets": found.targets}, labels.device)
    return Foreseen(ref(labels), labels._version, Layout(flat, found.shape, **there, is_causal=is_causal))


def sent(values: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Return values with their tensors on a device; the copies are only queued."""
    there: dict[str, Any] = map_tensors(values, lambda tensor: moved(tensor, device))
    return there
