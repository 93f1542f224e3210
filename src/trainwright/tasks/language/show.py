"""Rows as the model sees them, with what is learned marked."""

from __future__ import annotations

import sys
from typing import Any

import torch

from trainwright.batch import IGNORED
from trainwright.data.blocks import BlockStream
from trainwright.data.packing import PackedRows

_TOKENS = 400
LEGEND = "Learned: [[...]]"


def show_rows(tokenizer: Any, rows: Any, count: int) -> str:
    """Return the first rows as text, what is learned in double brackets, on a terminal in green."""
    if isinstance(rows, BlockStream):
        from itertools import islice

        first = list(islice(iter(rows), count))
    else:
        first = [rows[number] for number in range(min(count, len(rows)))]
    blocks = []
    for number, row in enumerate(first):
        for title, ids, learned in parts_of(row, rows, number):
            text = mark(tokenizer, ids, learned)
            blocks.append(f"--- {title}, {len(ids)} tokens, {int(learned.sum())} learned\n{text}")
    return "\n".join(blocks)


def parts_of(row: dict[str, Any], rows: Any, number: int) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """Return (title, tokens, what is learned) of a row: itself, its documents, or its two answers."""
    if "chosen_ids" in row:
        prompt = row["prompt_ids"]
        return [
            (
                f"row {number}, {name}",
                torch.cat([prompt, row[f"{name}_ids"]]),
                torch.cat([torch.zeros_like(prompt), torch.ones_like(row[f"{name}_ids"])]).bool(),
            )
            for name in ("chosen", "rejected")
        ]
    if isinstance(rows, PackedRows):
        documents = rows.documents(number)
        titles = [f"row {number}, document {place} of {len(documents)}" for place in range(1, len(documents) + 1)]
    else:
        documents, titles = [row], [f"row {number}"]
    found = []
    for title, one in zip(titles, documents, strict=True):
        learned = one["labels"] != IGNORED
        learned[:1] = False  # nothing comes before the first token
        found.append((title, one["input_ids"], learned))
    return found


def mark(tokenizer: Any, ids: torch.Tensor, learned: torch.Tensor) -> str:
    """Return tokens as text, with the learned ones between marks."""
    left, right = ("\x1b[32m", "\x1b[0m") if sys.stdout.isatty() else ("[[", "]]")
    shown, text, start = ids[:_TOKENS], "", 0
    while start < len(shown):
        end = start + 1
        while end < len(shown) and learned[end] == learned[start]:
            end += 1
        piece = tokenizer.decode(shown[start:end], skip_special_tokens=False)
        text += f"{left}{piece}{right}" if learned[start] else piece
        start = end
    return text + (f" ... ({len(ids) - _TOKENS} more)" if len(ids) > _TOKENS else "")
