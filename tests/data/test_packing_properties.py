"""Packed rows of any documents, against plain Python."""

from __future__ import annotations

from operator import itemgetter
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainwright.batch import IGNORED
from trainwright.data.contents import Contents
from trainwright.data.sampling.packing import PackedRows
from trainwright.data.text.text_collators import FlatBatch

STRATEGIES = pytest.mark.parametrize("strategy", ["bfd", "bfd_split", "wrapped"])
DOCUMENTS = st.lists(st.integers(0, 12), min_size=1, max_size=40)


class Documents:
    """Documents of the given lengths, no two of whose tokens are equal; some of the tokens are learned."""

    def __init__(self, lengths, unlearned=frozenset()):
        ends = np.cumsum([0, *lengths]).tolist()
        self.rows = [torch.arange(start, end) for start, end in zip(ends, ends[1:], strict=False)]
        self.labels = [torch.tensor([IGNORED if i in unlearned else i for i in row.tolist()]).long()
                       for row in self.rows]  # fmt: skip
        self.lengths = np.array(lengths)
        self.learned = np.array([int((labels[1:] != IGNORED).sum()) for labels in self.labels])
        self.contents = Contents(rows=len(lengths), tokens=sum(lengths))

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.cut(index, 0, None)

    def cut(self, index, start, end):
        return {"input_ids": self.rows[index][start:end], "labels": self.labels[index][start:end]}

    def column(self, name, index):
        return self[index][name].numpy()


def best_fit(documents, capacity, split):
    """Best-fit decreasing as one would write it: of the bins with the least room, the one that has it for longest."""
    pieces = []
    for document in documents:
        cuts = range(0, len(document), capacity) if split else range(min(1, len(document)))
        pieces += [document[start : start + capacity] for start in cuts]
    bins = []  # [room, since when, pieces]
    for when, piece in enumerate(sorted(pieces, key=len, reverse=True)):
        if not any(room >= len(piece) for room, _, _ in bins):
            bins.append([capacity, when, []])
        chosen = min((one for one in bins if one[0] >= len(piece)), key=itemgetter(0, 1))
        chosen[:] = [chosen[0] - len(piece), when, [*chosen[2], piece]]
    return [row for _, _, row in bins]


def packed_in_python(documents, strategy, capacity):
    """The rows of a group of documents, each a list of pieces."""
    if strategy != "wrapped":
        return best_fit(documents, capacity, strategy == "bfd_split")
    tokens = [token for document in documents for token in document]
    return [[tokens[start : start + capacity]] for start in range(0, len(tokens), capacity)]


@STRATEGIES
@given(DOCUMENTS, st.integers(1, 15), st.integers(1, 20))
def test_packed_rows_are_those_of_a_plain_packer(strategy, lengths, capacity, group):
    documents = Documents(lengths)
    with patch("trainwright.data.sampling.packing.GROUP", group):
        rows = PackedRows(documents, strategy, capacity)
    whole = [row.tolist() for row in documents.rows]
    wanted = [row for start in range(0, len(whole), group)
              for row in packed_in_python(whole[start : start + group], strategy, capacity)]  # fmt: skip
    assert [row["input_ids"].tolist() for row in rows] == [[t for piece in row for t in piece] for row in wanted]
    if strategy != "wrapped":
        assert [row["seq_lengths"] for row in rows] == [[len(piece) for piece in row] for row in wanted]


@STRATEGIES
@given(DOCUMENTS, st.integers(1, 15), st.sets(st.integers(0, 200)))
def test_every_token_is_packed_once_in_order_and_positions_begin_anew(strategy, lengths, capacity, unlearned):
    documents = Documents(lengths, unlearned)
    rows = PackedRows(documents, strategy, capacity)
    assert all(0 < len(row["input_ids"]) <= capacity for row in rows)
    assert rows.lengths.tolist() == [len(row["input_ids"]) for row in rows]
    most = capacity if strategy == "bfd" else 200
    tokens = [token for row in rows for token in row["input_ids"].tolist()]
    assert sorted(tokens) == [token for row in documents.rows for token in row.tolist()[:most]]
    batches = [FlatBatch()([row]) for row in rows]
    for row, batch in zip(rows, batches, strict=True):
        ids, positions = (batch[name][0].tolist() for name in ("input_ids", "position_ids"))
        parts = row.get("seq_lengths", [len(ids)])
        assert positions == [place for length in parts for place in range(length)]
        for before, token, place in zip(ids, ids[1:], positions[1:], strict=False):
            assert token == before + 1 or place == 0 or strategy == "wrapped"
        wanted = [token if place and token not in unlearned else IGNORED
                  for token, place in zip(ids, positions, strict=True)]  # fmt: skip
        assert batch["labels"][0].tolist() == wanted
    firsts = {int(row[0]) for row in documents.rows if len(row)}
    if len(rows) and not (strategy == "wrapped" and firsts & unlearned):  # it is counted as learned there
        assert rows.contents.learned == sum(int((batch["labels"] != IGNORED).sum()) for batch in batches)
