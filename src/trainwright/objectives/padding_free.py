"""Padded batches without their padding: all documents in one row, each with its own positions; and where the targets of
a batch lie, found on the host before the batch goes to its device: there it would have to be waited for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import ref

import torch
from torch.nn.utils.rnn import pad_sequence

from trainwright.batch import IGNORED, map_tensors
from trainwright.devices import moved

_INPUTS = {"input_ids", "attention_mask", "labels"}
FLAT_INPUTS = {"input_ids", "labels", "position_ids", "use_cache"}
KERNEL_INPUTS = {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx"}
"""What kernels are told of the documents besides their positions, which say the same."""


@dataclass(frozen=True)
class Flat:
    """Documents one after another.

    Attributes:
        input_ids: shape (1, tokens).
        position_ids: the column each token had, shape (1, tokens).
        labels: shape (1, tokens); the first of every document is no target.
        lengths: tokens of every document.
        begins: of every document, which one it goes on from, or None; None where none does.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor
    lengths: list[int]
    begins: list[int | None] | None = None


def flattened(inputs: Mapping[str, Any]) -> Flat | None:
    """Return a batch without its padding, or None where there is none, or where that would change the loss.

    The rows must be padded on the right, with labels of -100 at the padding, and have no other inputs. A batch that is
    flat already keeps its documents.
    """
    if set(inputs) == FLAT_INPUTS and len(inputs["input_ids"]) == 1:
        return known(inputs)
    if not ends_in_padding(inputs):
        return None
    real = inputs["attention_mask"].bool()
    if bool(real.all()):
        return None
    lengths = real.sum(dim=1)
    columns = torch.arange(real.shape[1], device=real.device).expand_as(real)
    labels = inputs["labels"][real]
    labels[lengths.cumsum(0)[:-1]] = IGNORED
    return Flat(inputs["input_ids"][real][None], columns[real][None], labels[None], lengths.tolist())


def ends_in_padding(inputs: Mapping[str, Any]) -> bool:
    """Whether a batch's rows have their padding, if any, at their ends, with labels of -100, and no other inputs."""
    mask = inputs.get("attention_mask")
    if set(inputs) != _INPUTS or not isinstance(mask, torch.Tensor) or mask.shape != inputs["labels"].shape:
        return False
    real = mask.bool()
    if not bool(real[:, 0].all()) or bool((real[:, 1:] & ~real[:, :-1]).any()):
        return False
    return not bool((inputs["labels"][~real] != IGNORED).any())


def known(inputs: Mapping[str, Any]) -> Flat:
    """Return a batch of one row whose documents begin where its positions begin anew."""
    positions = inputs["position_ids"]
    return Flat(inputs["input_ids"], positions, inputs["labels"], document_lengths(positions))


def document_lengths(positions: torch.Tensor) -> list[int]:
    """Return the tokens of every document; positions of shape (1, tokens), counting from any number in each."""
    begins = positions[0, 1:] != positions[0, :-1] + 1
    starts = [0, *(begins.nonzero().squeeze(1) + 1).tolist()]
    ends = [*starts[1:], positions.shape[1]]
    return [b - a for a, b in zip(starts, ends, strict=True)]


def padded_documents(inputs: Mapping[str, Any], pad_token_id: int) -> dict[str, Any]:
    """Return a flat batch as padded rows, one for each document; shape (documents, longest)."""
    lengths = document_lengths(inputs["position_ids"])
    filler = {"input_ids": pad_token_id, "labels": IGNORED, "attention_mask": 0}
    columns = {"attention_mask": torch.ones_like(inputs["input_ids"])}
    columns |= {name: inputs[name] for name in ("input_ids", "labels") if name in inputs}
    padded = {
        name: pad_sequence(list(value[0].split(lengths)), batch_first=True, padding_value=filler[name])
        for name, value in columns.items()
    }
    return padded | ({"use_cache": inputs["use_cache"]} if "use_cache" in inputs else {})


@dataclass(frozen=True)
class Layout:
    """Where the documents and targets of a batch lie.

    Attributes:
        flat: the documents one after another; None where the model is given the batch's rows.
        shape: of the rows that the model is given: (rows, tokens).
        index: of every target among all positions but the first of every row, shape (targets,).
        targets: token numbers, shape (targets,).
        is_causal: whether no mask is needed for rows: their padding is at their ends, where no token of theirs sees it.
        owners: the row of every target, shape (targets,), where documents are parts of rows; else None.
    """

    flat: Flat | None
    shape: tuple[int, int]
    index: torch.Tensor
    targets: torch.Tensor
    is_causal: bool = False
    owners: torch.Tensor | None = None


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


def sharing(rows: Mapping[str, torch.Tensor]) -> Layout | None:
    """Return rows one after another, what several begin with once; None where none do, or a row has no label.

    Args:
        rows: input_ids, attention_mask and labels, padded on the right; shape (rows, tokens).
    """
    targets = rows["labels"] != IGNORED
    if not ends_in_padding(rows) or not bool(targets.any(dim=1).all()) or bool(targets[:, 0].any()):
        return None
    ends, starts = rows["attention_mask"].sum(dim=1).tolist(), targets.int().argmax(dim=1).tolist()
    parts, positions, begins = list[torch.Tensor](), list[torch.Tensor](), list[int | None]()
    places, index = dict[tuple[int, ...], tuple[int, int]](), list[torch.Tensor]()
    width = 0
    for ids, wanted, start, end in zip(rows["input_ids"], targets, starts, ends, strict=True):
        prompt = tuple(ids[:start].tolist())
        if prompt not in places:
            places[prompt] = len(parts), width + start - 1  # its document, and its last token in the row
            parts.append(ids[:start])
            positions.append(torch.arange(start))
            begins.append(None)
            width += start
        document, last = places[prompt]
        before = torch.cat([torch.tensor([last]), torch.arange(width, width + end - start - 1)])  # what predicts each
        index.append(before[wanted[start:end]])
        parts.append(ids[start:end])
        positions.append(torch.arange(start, end))
        begins.append(document)
        width += end - start
    if len(places) == len(ends):
        return None
    row = torch.cat(parts)[None]
    flat = Flat(row, torch.cat(positions)[None], torch.full_like(row, IGNORED), list(map(len, parts)), begins)
    owners = targets.nonzero()[:, 0]
    return Layout(flat, (1, width), torch.cat(index), rows["labels"][targets], owners=owners)


@dataclass(frozen=True)
class Foreseen:
    """The layout of a batch that is on its way to a device, on that device.

    Attributes:
        labels: the batch's, there.
        version: of them, which every change in place raises.
        shape: in which the objective takes them.
        layout: found on the host.
    """

    labels: ref[torch.Tensor]
    version: int
    shape: torch.Size
    layout: Layout

    def is_of(self, labels: torch.Tensor) -> bool:
        """Whether labels, or those that they are a view of, are this batch's, all of them and unchanged."""
        whole = labels if labels._base is None else labels._base
        if whole is not self.labels() or whole._version != self.version:
            return False
        return labels.shape == self.shape and labels.numel() == whole.numel() and labels.is_contiguous()


def foreseen(inputs: Mapping[str, Any], labels: torch.Tensor, joins: bool, unpads: bool) -> Foreseen:
    """Return the layout of a batch whose labels on the device are `labels`; `inputs` are on the host."""
    found = layout_of(inputs, joins, unpads)
    is_causal = joins and found.flat is None and ends_in_padding(inputs)
    flat = found.flat if found.flat is None else Flat(**sent(vars(found.flat), labels.device))
    there = sent({"index": found.index, "targets": found.targets}, labels.device)
    return Foreseen(
        ref(labels), labels._version, inputs["labels"].shape, Layout(flat, found.shape, **there, is_causal=is_causal)
    )


def sent(values: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Return values with their tensors on a device; the copies are only queued."""
    there: dict[str, Any] = map_tensors(values, lambda tensor: moved(tensor, device))
    return there
