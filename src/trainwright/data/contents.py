"""What training data holds: how many rows and tokens, and which of them are learned. No pass over the data is made for
it, and no code of the user runs: of rows that are not prepared, the first thousand are looked at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from trainwright.batch import IGNORED
from trainwright.data.fingerprint import is_mapping, is_table, rows_are_made
from trainwright.data.introspection import is_stream, length_of

FIRST = 1000
_IDS, _LABELS, _MASK = "input_ids", "labels", "attention_mask"


@dataclass(frozen=True)
class Contents:
    """What data holds, as far as it is known.

    Attributes:
        rows: of the data; None for a stream.
        tokens: of the rows that were counted.
        learned: those of them that are targets.
        counted: the first rows, which tokens and learned are of; None where they are of all.
        cut: rows whose end was cut off, and rows in all that were tokenised.
        part: which tokens are learned, in words.
    """

    rows: int | None = None
    tokens: int | None = None
    learned: int | None = None
    counted: int | None = None
    cut: tuple[int, int] | None = None
    part: str = ""


def contents_of(dataset: Any, collator: Any = None, shifted: bool = False) -> Contents:
    """Return what a dataset holds.

    Args:
        dataset: prepared rows of ours, which know it; a list of mappings or a table of `datasets`, whose first rows are
            counted; of others the rows alone are said.
        collator: that makes batches of it, and perhaps the labels.
        shifted: whether the first label of a row is no target.
    """
    known: Contents | None = (
        getattr(dataset, "contents", None) if type(dataset).__module__.startswith("trainwright.") else None
    )
    if known is not None:
        return known
    if dataset is None or is_stream(dataset):
        return Contents()
    rows = length_of(dataset)
    some = list(_first(dataset))
    if not some or not all(_IDS in row for row in some):
        return Contents(rows)
    counts = [_count(row, collator, shifted) for row in some]
    if any(count is None for count in counts):
        return Contents(rows)
    tokens, learned = zip(*(count for count in counts if count is not None), strict=True)
    is_known = all(one is not None for one in learned)
    return Contents(
        rows,
        sum(tokens),
        sum(learned) if is_known else None,
        None if rows == len(some) else len(some),
        part="those with a label" if is_known else "",
    )


def _first(dataset: Any) -> Iterable[Mapping[str, Any]]:
    """Yield the first rows as they lie in memory or in Arrow's files."""
    if is_table(dataset):
        if rows_are_made(dataset) or _IDS not in dataset.column_names:
            return
        names = [name for name in (_IDS, _LABELS, _MASK) if name in dataset.column_names]
        some = dataset.select(range(min(FIRST, len(dataset)))).select_columns(names).with_format(None)[:]
        yield from ({name: some[name][number] for name in names} for number in range(len(some[_IDS])))
    elif type(dataset) in (list, tuple):
        yield from (row for row in islice(dataset, FIRST) if is_mapping(row))


def _count(row: Mapping[str, Any], collator: Any, shifted: bool) -> tuple[int, int | None] | None:
    """Return the tokens of a row without padding, and its targets where that is known; None where it has no tokens."""
    ids, labels, mask = (_array(row.get(name)) for name in (_IDS, _LABELS, _MASK))
    if ids is None or ids.ndim != 1:
        return None
    tokens = len(ids) if mask is None else int(mask.sum())
    if labels is None and _labels_are_ids(collator):
        labels = np.where(ids == collator.tokenizer.pad_token_id, IGNORED, ids)
    if labels is None or labels.shape != ids.shape:
        return tokens, None
    return tokens, int(((labels[1:] if shifted else labels) != IGNORED).sum())


def _array(value: Any) -> np.ndarray | None:
    """Return whole numbers as an array; None where there are none, which training says where it matters."""
    try:
        array = np.asarray(value.cpu() if hasattr(value, "cpu") else value)
    except ValueError:  # lists of different lengths
        return None
    return array if array.dtype.kind in "iub" else None


def _labels_are_ids(collator: Any) -> bool:
    """Whether a collator learns every token that is no padding: transformers' own, without masks."""
    return type(collator).__name__ == "DataCollatorForLanguageModeling" and not collator.mlm
