"""Padded batches without their padding: all documents in one row, each with its own positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from trainwright.batch import IGNORED

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
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor
    lengths: list[int]


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
