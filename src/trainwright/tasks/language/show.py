"""Rows as the model sees them, with what is learned marked."""

from __future__ import annotations

import sys
from typing import Any

import torch

from trainwright.data.sampling.packing import PackedRows
from trainwright.data.text.text_stream import BlockStream
from trainwright.tasks.language.method import Part, Text

_TOKENS = 400
LEGEND = "Learned: [[...]]"


def show_rows(text: Text, count: int) -> str:
    """Return the first rows as text, what is learned in double brackets, on a terminal in green."""
    rows = text.train
    if isinstance(rows, BlockStream):
        from itertools import islice

        first = list(islice(iter(rows), count))
    else:
        first = [rows[number] for number in range(min(count, len(rows)))]
    blocks = []
    for number, row in enumerate(first):
        for title, part in _parts(text, row, number):
            shown = mark(text.tokenizer, part.ids, part.learned)
            blocks.append(f"--- {title}, {len(part.ids)} tokens, {int(part.learned.sum())} learned\n{shown}")
    return "\n".join(blocks)


def _parts(text: Text, row: dict[str, Any], number: int) -> list[tuple[str, Part]]:
    """Return (title, sequence) of a row: of itself, or of its documents."""
    if isinstance(text.train, PackedRows):
        documents = text.train.documents(number)
        names = [f"row {number}, document {place} of {len(documents)}" for place in range(1, len(documents) + 1)]
    else:
        documents, names = [row], [f"row {number}"]
    return [
        (f"{name}, {part.name}" if part.name else name, part)
        for name, one in zip(names, documents, strict=True)
        for part in text.method.parts(one)
    ]


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
