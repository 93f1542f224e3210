"""Streams of text: read in blocks, each tokenised, shuffled and packed as a whole.

So a place in the stream is the place where the block began and a number of rows: nothing of the shuffle buffer or of
open bins is lost on resuming, and at most one block is read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from trainwright.batch import IGNORED
from trainwright.data.contents import Contents
from trainwright.data.fingerprint import pieces_of_files
from trainwright.data.sampling.packing import GROUP, join, packer
from trainwright.data.text.tokenize import TextRules


class BlockStream(IterableDataset[Any]):
    """A stream of rows of tokens with a state.

    Args:
        source: an iterable of rows of text with `state_dict` and `load_state_dict`, such as those of `datasets`.
        rules: how rows are tokenised.
        packing: (strategy, tokens of a row), or None.
        buffer: rows that are shuffled among each other; 0 for the order of the source.
        seed: of the shuffling.
        files: that the source reads, as far as they lie here.
    """

    def __init__(
        self,
        source: Any,
        rules: TextRules,
        packing: tuple[str, int] | None,
        *,
        buffer: int,
        seed: int,
        files: Sequence[str] = (),
    ) -> None:
        self.source = source
        self.files = files
        self.rules = rules
        self.pack: Callable[..., Any] | None = packer(*packing) if packing else None
        self.apart = packing is not None and packing[0] != "wrapped"
        self.buffer = buffer
        self.seed = seed
        self.epoch = 0
        self.begin: Any = None  # place of the source where the present block began; None for the start
        self.read = 0  # rows of the source before the present block
        self.given = 0  # rows that the present block has given
        self._resumed: tuple[Any, int, int] | None = None

    @property
    def content(self) -> list[bytes] | None:
        """Pieces of what the files hold; None where they are not known."""
        return pieces_of_files(self.files) if self.files else None

    @property
    def contents(self) -> Contents:
        """What is known of the stream: which tokens are learned."""
        return Contents(part=self.rules.part)

    def set_epoch(self, epoch: int) -> None:
        """Shuffle anew in another pass."""
        self.epoch = epoch
        if getattr(self.source, "epoch", epoch) != epoch:  # datasets shares its epoch between workers
            self.source.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the place: that of the block, and how many of its rows were given."""
        return {"begin": self.begin, "read": self.read, "given": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a place."""
        if state["begin"] is not None:
            self.source.load_state_dict(state["begin"])
        self._resumed = (state["begin"], state["read"], state["given"])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        resumed, self._resumed = self._resumed, None
        self.begin, self.read, skip = resumed or (None, 0, 0)
        rows = iter(self.source)
        while True:
            self.given = 0
            block = list(islice(rows, self.buffer or GROUP))
            if not block:
                return
            for row in self._rows_of(block):
                self.given += 1
                if self.given > skip:
                    yield row
            skip = 0
            self.begin, self.read = self.source.state_dict(), self.read + len(block)

    def _rows_of(self, block: list[Any]) -> Iterator[dict[str, Any]]:
        """Yield what a block becomes: its rows in a new order, or packed."""
        rows = [row for row in self._tokens(block) if self._is_learned(row)]
        if self.buffer:
            generator = np.random.default_rng([self.seed, self.epoch, self.read])
            rows = [rows[number] for number in generator.permutation(len(rows))]
        if self.pack is None:
            yield from rows
            return
        for start in range(0, len(rows), GROUP):
            group = rows[start : start + GROUP]
            for pieces in self.pack([len(row["input_ids"]) for row in group]):
                yield join(pieces, partial(_cut, group), self.apart)

    def _is_learned(self, row: dict[str, torch.Tensor]) -> bool:
        """Whether there is something to learn in every column that needs it."""
        return all(
            bool((row[name][1:] != IGNORED).any()) if name == "labels" else len(row[name]) > 0
            for name in self.rules.LEARNED
        )

    def _tokens(self, block: list[Any]) -> Iterator[dict[str, torch.Tensor]]:
        for start in range(0, len(block), GROUP):
            some = block[start : start + GROUP]
            for row in self.rules.rows(some, range(self.read + start, self.read + start + len(some))):
                yield {name: torch.tensor(row[name], dtype=torch.int64) for name in self.rules.COLUMNS}


def _cut(group: list[dict[str, torch.Tensor]], row: int, start: int, end: int) -> dict[str, torch.Tensor]:
    return {name: column[start:end] for name, column in group[row].items()}
