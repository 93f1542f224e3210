"""Pairs of whole texts of which one is better, for a model that scores them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from trainwright.batch import IGNORED
from trainwright.data.sources.formats import READY_PAIRS, Format, is_chat, of_one_kind, whole_numbers
from trainwright.data.text.encode import Steps
from trainwright.data.text.text_collators import padded
from trainwright.data.text.tokenize import TextRules
from trainwright.errors import DataError


@dataclass(frozen=True)
class ScoredRules(TextRules):
    """Both answers, each with its prompt where that stands apart, and by how much one should be better."""

    COLUMNS: ClassVar[tuple[str, ...]] = (*READY_PAIRS, "margin")
    LEARNED: ClassVar[tuple[str, ...]] = READY_PAIRS
    BEFORE: ClassVar[Mapping[str, str | None]] = {}
    FLOATS: ClassVar[tuple[str, ...]] = ("margin",)
    WHOLE: ClassVar[bool] = True

    @property
    def part(self) -> str:
        """Which tokens are learned, in words."""
        return "the two answers, compared by their scores"

    def encode(self, row: dict[str, Any]) -> Steps[dict[str, list[Any]]]:
        """Return the tokens of both answers, and the margin, 0 where there is none.

        Raises:
            DataError: the margin is no number.
        """
        margin = row.get("margin", 0.0)
        if isinstance(margin, bool) or not isinstance(margin, int | float) or not math.isfinite(margin):
            raise DataError(f"'margin' is {margin!r}; a number is expected.")
        if self.format is Format.TOKENS:
            chosen, rejected = (whole_numbers(row[name]) for name in READY_PAIRS)
        else:
            row = of_one_kind(row)
            chosen = yield from self._whole(row, "chosen")
            rejected = yield from self._whole(row, "rejected")
        return {"chosen_ids": chosen, "rejected_ids": rejected, "margin": [float(margin)]}

    def _whole(self, row: dict[str, Any], name: str) -> Steps[list[int]]:
        prompt, answer = row.get("prompt") or "", row[name]
        if is_chat(answer):  # which may begin with what the prompt says
            ids, _ = yield from self._conversation([*(prompt if is_chat(prompt) else []), *answer], row)
            return ids
        return (yield from self._encode(prompt + self._ended(answer)))


@dataclass(frozen=True)
class ScoredBatch:
    """Pairs of whole texts: input_ids, attention_mask and labels of shape (pairs, 2, tokens), the better one first;
    labels are the tokens. `margin` has shape (pairs,)."""

    pad_token_id: int
    multiple: int | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch of some pairs."""
        ids = [row[name] for row in rows for name in READY_PAIRS]
        batch = {
            "input_ids": padded(ids, self.pad_token_id, self.multiple),
            "attention_mask": padded([torch.ones_like(one) for one in ids], 0, self.multiple),
            "labels": padded(ids, IGNORED, self.multiple),
        }
        batch = {name: value.unflatten(0, (len(rows), 2)) for name, value in batch.items()}
        return {**batch, "margin": torch.cat([row["margin"] for row in rows])}
