"""How an evaluation generates, and what it has seen of the rows before: what the model predicts under the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch

from trainwright.batch import IGNORED
from trainwright.errors import ConfigError
from trainwright.world import DataShard

VERIFY = ("all", "failures", "none")
Checker = Callable[[str, str, str], bool]


@dataclass
class Generation:
    """How an evaluation generates.

    Attributes:
        max_length: tokens that are generated at most, the answer's end among them.
        num_beams: 1 for greedy decoding.
        verify: which rows are really generated: all, the failures of teacher forcing, or none.
        checker: `f(problem, reference, generated)` tells whether an answer is right that is not the same text; it is
            not asked about answers that nothing generated.
        worked: whether an evaluation of this run has succeeded; only then is a later failure passed over.
        failed: whether such a failure was logged already.
    """

    max_length: int = 512
    num_beams: int = 1
    verify: str = "failures"
    checker: Checker | None = None
    worked: bool = field(default=False, init=False)
    failed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if self.verify not in VERIFY:
            raise ConfigError(f"verify_generation '{self.verify}' is not known; known: {', '.join(VERIFY)}.")


@dataclass
class Row:
    """One row of an evaluation.

    Attributes:
        place: its number in the evaluation set.
        given: tokens that the model is given: the encoder's input, or the prompt.
        target: the reference's tokens.
        argmax: what teacher forcing predicts in their places.
        written: what was generated, or what is known of it without; None until then.
    """

    place: int
    given: list[int]
    target: list[int]
    argmax: list[int]
    written: list[int] | None = None

    @property
    def proven(self) -> bool:
        """Whether teacher forcing alone shows that greedy decoding writes the reference."""
        return self.argmax == self.target


class TeacherForcedRows:
    """The rows of an evaluation with what the model predicts under the reference, collected batch by batch.

    Attributes:
        shard: which batches of the loader this process reads.
        batch_size: rows of one.
        order: the rows of the set in the order in which they are read; None where that is their own.
        shifted: whether the model predicts the token after each place, as those without an encoder do.
    """

    def __init__(self, shard: DataShard, batch_size: int, order: np.ndarray | None, shifted: bool) -> None:
        self.shard = shard
        self.batch_size = batch_size
        self.order = order
        self.shifted = shifted
        self.rows: list[Row] = []
        self.batches = 0

    def add(self, batch: dict[str, Any], logits: Any) -> None:
        """Add a batch of this rank: its inputs, and the logits of shape (rows, tokens, vocabulary), or with more."""
        logits = logits[0] if isinstance(logits, tuple) else logits
        first = (self.batches * self.shard.num_shards + self.shard.index) * self.batch_size
        self.batches += 1
        rows = list(_rows(self.shifted, batch, logits.argmax(-1).cpu(), first))
        if self.order is not None:
            for row in rows:
                row.place = int(self.order[row.place])
        self.rows += rows


def _rows(shifted: bool, batch: dict[str, Any], argmax: torch.Tensor, first: int) -> Iterator[Row]:
    """Yield the rows of a batch, the first of which is row `first` of the set."""
    ids, mask, labels = (batch[name].cpu() for name in ("input_ids", "attention_mask", "labels"))
    if shifted:
        labels, argmax = labels[:, 1:], argmax[:, :-1]
    wanted = labels != IGNORED
    targets, predicted = (_cut(values, wanted) for values in (labels, argmax))
    if shifted:
        given = [ids[i, : int(row.nonzero()[0]) + 1].tolist() for i, row in enumerate(wanted)]
    else:
        given = _cut(ids, mask.bool())
    for i, parts in enumerate(zip(given, targets, predicted, strict=True)):
        yield Row(first + i, *parts)


def _cut(values: torch.Tensor, kept: torch.Tensor) -> list[list[int]]:
    """Return the values of every row that are kept; both of shape (rows, tokens)."""
    flat = iter(values[kept].tolist())
    return [list(islice(flat, count)) for count in kept.sum(1).tolist()]
