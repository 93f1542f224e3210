"""Rows of an encoder-decoder: a text that is read, and a text that is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from trainwright.batch import IGNORED
from trainwright.data.text.encode import Steps
from trainwright.data.text.text_collators import padded
from trainwright.data.text.tokenize import TextRules


@dataclass(frozen=True)
class SourceTarget(TextRules):
    """The tokens of `prompt` and of `completion`, each with the tokenizer's own marks; the second ends with the end
    token. Each is cut at a length of its own, the second in its batch."""

    COLUMNS: ClassVar[tuple[str, ...]] = ("input_ids", "target_ids")
    LEARNED: ClassVar[tuple[str, ...]] = ("target_ids",)
    BEFORE: ClassVar[Mapping[str, str | None]] = {"input_ids": None}

    @property
    def part(self) -> str:
        """What is learned, in words."""
        return "the completion"

    def encode(self, row: dict[str, Any]) -> Steps[dict[str, list[int]]]:
        """Return the tokens of both texts."""
        source = yield from self._encode(row["prompt"])
        target = yield from self._encode(self._ended(row["completion"]))
        return {"input_ids": source, "target_ids": target if source else []}  # nothing is written of nothing


@dataclass(frozen=True)
class SourceTargetBatch:
    """input_ids and attention_mask of shape (rows, tokens), labels of shape (rows, target tokens).

    Attributes:
        pad_token_id: what rows are filled up with.
        multiple: that widths are rounded up to.
        longest: tokens of a target; the end of a longer one is left out.
    """

    pad_token_id: int
    multiple: int | None = None
    longest: int | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch of some rows."""
        ids = [row["input_ids"] for row in rows]
        targets = [row["target_ids"][: self.longest] for row in rows]
        return {
            "input_ids": padded(ids, self.pad_token_id, self.multiple),
            "attention_mask": padded([torch.ones_like(one) for one in ids], 0, self.multiple),
            "labels": padded(targets, IGNORED, self.multiple),
        }
