"""Rows of tokens as batches: padded, flat (documents one after another), or pairs of answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from trainwright.batch import IGNORED


def padded(rows: Sequence[torch.Tensor], value: int, multiple: int | None) -> torch.Tensor:
    """Return rows side by side, filled up on the right; shape (rows, longest), rounded up to a multiple."""
    width = max(len(row) for row in rows)
    if multiple:
        width = -(-width // multiple) * multiple
    full = pad_sequence(list(rows), batch_first=True, padding_value=value)
    return functional.pad(full, (0, width - full.shape[1]), value=value)


@dataclass(frozen=True)
class PaddedBatch:
    """Rows padded to the longest: input_ids, attention_mask and labels of shape (rows, tokens)."""

    pad_token_id: int
    multiple: int | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch of some rows."""
        ids = [row["input_ids"] for row in rows]
        return {
            "input_ids": padded(ids, self.pad_token_id, self.multiple),
            "attention_mask": padded([torch.ones_like(one) for one in ids], 0, self.multiple),
            "labels": padded([row["labels"] for row in rows], IGNORED, self.multiple),
        }


@dataclass(frozen=True)
class FlatBatch:
    """Documents one after another in a single row, positions restarting with each: shape (1, tokens).

    There is no attention mask: the positions tell the documents apart, here and in transformers, where no cache is
    used. The first label of a document is no target.
    """

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch of some rows, packed or not."""
        lengths = [n for row in rows for n in row.get("seq_lengths", [len(row["input_ids"])])]
        positions = torch.cat([torch.arange(length) for length in lengths])
        labels = torch.cat([row["labels"] for row in rows])
        return {
            "input_ids": torch.cat([row["input_ids"] for row in rows])[None],
            "labels": labels.masked_fill(positions == 0, IGNORED)[None],
            "position_ids": positions[None],
            "use_cache": False,
        }


@dataclass(frozen=True)
class PairBatch:
    """Preferences: input_ids, attention_mask and labels of shape (pairs, 2, tokens), the chosen answer first.

    Labels are the answers' tokens. `reference` has shape (pairs, 2) where rows bring the reference's log-probabilities.
    """

    pad_token_id: int
    multiple: int | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch of some pairs."""
        ids, labels = [], []
        for row in rows:
            prompt = row["prompt_ids"]
            for name in ("chosen_ids", "rejected_ids"):
                ids.append(torch.cat([prompt, row[name]]))
                labels.append(torch.cat([torch.full_like(prompt, IGNORED), row[name]]))
        batch = {
            "input_ids": padded(ids, self.pad_token_id, self.multiple),
            "attention_mask": padded([torch.ones_like(one) for one in ids], 0, self.multiple),
            "labels": padded(labels, IGNORED, self.multiple),
        }
        batch = {name: value.unflatten(0, (len(rows), 2)) for name, value in batch.items()}
        if "reference" in rows[0]:
            batch["reference"] = torch.stack([row["reference"] for row in rows])
        return batch
