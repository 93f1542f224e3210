"""Completions that are each good or bad: of rows with a judgement, or of pairs of which one answer is the better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset

from trainwright.batch import IGNORED
from trainwright.data.sources.formats import canonical, is_chat, of_one_kind, with_prompt
from trainwright.data.text.encode import Steps
from trainwright.data.text.text_collators import padded
from trainwright.data.text.tokenize import TextRules, shared_length
from trainwright.data.token_rows import TokenRows
from trainwright.errors import DataError

TRLS_BLOCK = 1000
"""Pairs whose better answers TRL puts before their worse ones."""
_KEPT = ("tools", "chat_template_kwargs")


def unpaired(table: Any, block: int | None = None) -> Any:
    """Return a table of pairs as one of judged completions, two rows for each; of conversations with a judgement the
    last answer is the completion; others stay as they are.

    Args:
        table: a `datasets.Dataset`.
        block: pairs whose better answers stand before their worse ones; None lets the two of a pair stand together.

    Raises:
        DataError: a row is no pair, or has no prompt.
    """
    if {"label"} & set(table.column_names) and {"messages", "conversations"} & set(table.column_names):
        return table.map(_of_turns, with_indices=True, remove_columns=table.column_names)
    if not {"chosen", "rejected"} <= set(table.column_names):
        return table
    kept = [name for name in _KEPT if name in table.column_names]
    return table.map(
        _judged,
        batched=True,
        batch_size=block or TRLS_BLOCK,
        with_indices=True,
        remove_columns=table.column_names,
        fn_kwargs={"together": block is None, "kept": kept},
    )


def _of_turns(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return a conversation with a judgement as its last answer and what it answers."""
    turns = canonical(row, number)["messages"]
    if len(turns) < 2 or turns[-1].get("role") != "assistant":
        raise DataError(f"Row {number} is no judged answer: a conversation that ends with the assistant is expected.")
    kept = {name: row[name] for name in _KEPT if row.get(name) is not None}
    return {"prompt": turns[:-1], "completion": turns[-1:], "label": row["label"], **kept}


def _judged(
    batch: Mapping[str, list[Any]], numbers: Sequence[int], together: bool, kept: Sequence[str]
) -> dict[str, list[Any]]:
    """Return pairs, in columns, as completions with a judgement."""
    pairs = [_with_prompt({name: batch[name][i] for name in batch}, number) for i, number in enumerate(numbers)]
    order = (
        [(pair, better) for pair in pairs for better in (True, False)]
        if together
        else [(pair, better) for better in (True, False) for pair in pairs]
    )
    return {
        "prompt": [pair["prompt"] for pair, _ in order],
        "completion": [pair["chosen" if better else "rejected"] for pair, better in order],
        "label": [better for _, better in order],
        **{name: [pair.get(name) for pair, _ in order] for name in kept},
    }


def _with_prompt(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    try:
        return with_prompt(canonical(row, number))
    except (KeyError, TypeError) as error:
        raise DataError(f"Row {number} is no preference: {type(error).__name__} {error}.") from error
    except DataError as error:
        raise DataError(f"Row {number}: {error}" if "Row" not in str(error) else str(error)) from error


@dataclass(frozen=True)
class UnpairedRules(TextRules):
    """A prompt, its completion, and whether that is desirable: 1 or 0."""

    COLUMNS: ClassVar[tuple[str, ...]] = ("prompt_ids", "completion_ids", "label")
    LEARNED: ClassVar[tuple[str, ...]] = ("completion_ids",)
    BEFORE: ClassVar[Mapping[str, str | None]] = {"prompt_ids": None, "completion_ids": "prompt_ids"}

    @property
    def part(self) -> str:
        """What is learned, in words."""
        return "the completion, as it was judged"

    def encode(self, row: dict[str, Any]) -> Steps[dict[str, list[int]]]:
        """Return the tokens of prompt and completion, and the judgement.

        Raises:
            DataError: there is none.
        """
        row = of_one_kind(row)
        label = row.get("label")
        if label not in (True, False):
            raise DataError(f"'label' is {label!r}; true (desirable) or false is expected.")
        prompt, completion = row["prompt"], row["completion"]
        if is_chat(prompt):
            before = yield from self._rendered_prompt(prompt, row)
            ids, _ = yield from self._conversation([*prompt, *completion], row)
        else:
            before = yield from self._encode(prompt)
            ids = yield from self._encode(prompt + self._ended(completion))
        start = shared_length(before, ids)
        return {"prompt_ids": ids[:start], "completion_ids": ids[start:], "label": [int(label)]}


@dataclass(frozen=True)
class UnpairedBatch:
    """Judged completions: input_ids, attention_mask and labels of shape (rows, tokens), labels those of the completion;
    `good`, which are desirable, of shape (rows,).

    Where rows bring a completion of another prompt (`other_ids`), their own prompt with it comes beside, under names
    that begin with `kl_`; where they bring the reference's log-probability, it is `reference`, of shape (rows,).

    Attributes:
        pad_token_id: what rows are filled up with.
        multiple: that their width is rounded up to.
        limit: tokens of the longest row with another prompt's completion.
    """

    pad_token_id: int
    multiple: int | None = None
    limit: int | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch of some rows."""
        batch = self._padded(rows, "completion_ids") | {"good": torch.cat([row["label"] for row in rows]).bool()}
        if "other_ids" in rows[0]:
            batch |= {f"kl_{name}": values for name, values in self._padded(rows, "other_ids").items()}
        if "reference" in rows[0]:
            batch["reference"] = torch.stack([row["reference"] for row in rows])
        return batch

    def _padded(self, rows: list[dict[str, Any]], name: str) -> dict[str, torch.Tensor]:
        ids = [torch.cat([row["prompt_ids"], row[name]])[: self.limit] for row in rows]
        labels = [torch.cat([torch.full_like(row["prompt_ids"], IGNORED), row[name]])[: self.limit] for row in rows]
        return {
            "input_ids": padded(ids, self.pad_token_id, self.multiple),
            "attention_mask": padded([torch.ones_like(one) for one in ids], 0, self.multiple),
            "labels": padded(labels, IGNORED, self.multiple),
        }


class Neighbours(Dataset[Any]):
    """Rows with the completion of another one, by TRL's rule: of every `size` rows in their order each has that of the
    row before it, and the first that of the last; the same in every pass. They are whole, and cut with the prompt.

    Args:
        rows: judged completions.
        size: rows of a micro-batch.
    """

    def __init__(self, rows: TokenRows, size: int) -> None:
        self.rows = rows
        self.size = size

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        start = index - index % self.size
        other = index - 1 if index > start else min(start + self.size, len(self)) - 1
        ids = self.rows.whole("completion_ids", other)
        return {**self.rows[index], "other_ids": torch.from_numpy(ids.astype(np.int64))}

    @property
    def content(self) -> Any:
        """What of it is data."""
        return self.rows

    @property
    def lengths(self) -> Any:
        """Tokens of every row."""
        return self.rows.lengths

    @property
    def contents(self) -> Any:
        """What the rows hold."""
        return self.rows.contents
