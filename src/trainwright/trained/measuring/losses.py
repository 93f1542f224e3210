"""The loss of every row: how likely a model finds what it is to write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from trainwright.bars import counting
from trainwright.batch import IGNORED
from trainwright.data.text.text_collators import PaddedBatch
from trainwright.devices import widest_float
from trainwright.errors import ConfigError, DataError
from trainwright.models.head import Head, language_head
from trainwright.models.inspect import shifts_labels
from trainwright.objectives.language import FusedLoss
from trainwright.objectives.linear.rows import new_watch
from trainwright.objectives.row_log_probs import plain_log_probs
from trainwright.objectives.targets import sums_of_rows

_TOKENS = 4096  # of a batch, with its padding


@dataclass(frozen=True)
class RowLoss:
    """What was measured of a row.

    Attributes:
        row: its number.
        nll: sum over its targets of -log p, in nats.
        tokens: its targets.
        right: of these, how many the model finds the likeliest.
        size: bytes of the text that the targets are, by which models with different tokens are compared.
    """

    row: int
    nll: float
    tokens: int
    right: int
    size: int


def row_losses(model: Any, tokenizer: Any, rows: Sequence[Mapping[str, Sequence[int]]]) -> list[RowLoss]:
    """Return what was measured of every row that has a target; those without are left out.

    Args:
        model: a causal language model, in evaluation mode.
        tokenizer: its tokenizer.
        rows: `input_ids` and `labels`, of which -100 is no target, and the first of a row neither.

    Raises:
        ConfigError: the model is none that predicts each token from those before.
        DataError: no row has a target.
    """
    if not shifts_labels(model):
        raise ConfigError(f"A {type(model).__name__} predicts no next token, so no loss of rows of text is measured.")
    pad, head = PaddedBatch(tokenizer.pad_token_id), language_head(model)
    fused = FusedLoss(head) if isinstance(head, Head) else None
    measured = [number for number, row in enumerate(rows) if any(label != IGNORED for label in row["labels"][1:])]
    if not measured:
        raise DataError("No row has anything to measure: every label is masked.")
    found: list[RowLoss] = []
    with counting(len(measured), "rows measured") as tell:
        for some in _batches(measured, [len(row["input_ids"]) for row in rows]):
            tensors = [{name: torch.tensor(rows[n][name]) for name in ("input_ids", "labels")} for n in some]
            sums = _measure(model, pad(tensors), fused)
            for number, (nll, tokens, right) in zip(some, sums, strict=True):
                targets = [label for label in rows[number]["labels"][1:] if label != IGNORED]
                size = len(tokenizer.decode(targets, skip_special_tokens=True).encode())
                found.append(RowLoss(number, nll, int(tokens), int(right), size))
            tell(len(some))
    return sorted(found, key=lambda one: one.row)


def as_rows(rows: Sequence[RowLoss]) -> list[dict[str, Any]]:
    """Return rows as they are kept."""
    return [{**asdict(row), "loss": row.nll / row.tokens} for row in rows]


def _batches(numbers: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield the numbers of rows that are measured together, the longest first: if one is too much, it is seen early."""
    some: list[int] = []
    for number in sorted(numbers, key=lambda one: -lengths[one]):
        if some and lengths[some[0]] * (len(some) + 1) > _TOKENS:
            yield some
            some = []
        some.append(number)
    if some:
        yield some


@torch.no_grad()
def _measure(model: Any, batch: dict[str, torch.Tensor], fused: FusedLoss | None) -> list[list[float]]:
    """Return (-log p, targets, likeliest) of the rows of a batch."""
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    if fused is not None:
        labelled = fused.labelled(model, batch)
        watch = new_watch(("top1",), labelled.targets)
        log_probs, owners = fused.log_probs(labelled, watch), labelled.rows
    else:
        log_probs, owners, watch = plain_log_probs(model, batch, ("top1",))
    exact = log_probs.to(widest_float(log_probs.device))
    each = torch.stack([-exact, torch.ones_like(exact), watch["top1"].to(exact.dtype)], dim=1)
    found: list[list[float]] = sums_of_rows(each, owners, len(batch["labels"])).tolist()
    return found
