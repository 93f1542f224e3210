"""Which columns of a dataset the model takes, and the errors that follow when none fits."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from trainwright.data.fingerprint import columns_of, is_table, rows_are_made
from trainwright.errors import DataError, did_you_mean

LABELS = ("label", "label_ids", "labels")
_TOKENIZE = "dataset = dataset.map(lambda rows: tokenizer(rows['{column}'], truncation=True), batched=True)"


def column_names(dataset: Any) -> list[str] | None:
    """Return the columns of a dataset, where they are known without fetching a row that the user's code makes."""
    if (getattr(dataset, "format", None) or {}).get("type") == "custom":
        return None  # a transform of datasets.Dataset makes other columns when rows are fetched
    names = getattr(dataset, "column_names", None)
    if names:
        return list(names)
    if isinstance(dataset, list | tuple) and dataset and isinstance(dataset[0], Mapping):
        return list(dataset[0])
    return None


class Selected:
    """A dataset whose rows are read with the wanted columns alone, where others can be left unread.

    That is where it is a table of `datasets` as it lies in Arrow; rows that a transform of the user's makes are made of
    all columns.

    Args:
        dataset: the rows.
        columns: names of the wanted ones; None for all.
    """

    def __init__(self, dataset: Any, columns: Collection[str] | None) -> None:
        self.dataset = dataset
        self.columns = columns
        self._is_table = columns is not None and is_table(dataset)
        self._format: Any = None
        self._selected = dataset

    def now(self) -> Any:
        """Return the dataset to read from; chosen anew when the user has changed the table's format."""
        if self._is_table and self._format != (found := self.dataset.format):
            self._format, self._selected = found, self._select()
        return self._selected

    def _select(self) -> Any:
        if rows_are_made(self.dataset):
            return self.dataset
        there = columns_of(self.dataset)
        wanted = [name for name in there if name in (self.columns or ())]
        return self.dataset.select_columns(wanted) if 0 < len(wanted) < len(there) else self.dataset


def check_columns(names: Collection[str], accepted: Collection[str], what: str) -> None:
    """Raise a DataError when none of the columns can be an input of the model.

    Args:
        names: columns of the data.
        accepted: names of the arguments of the model's forward.
        what: which data, for the message.
    """
    inputs = [name for name in accepted if name not in LABELS]
    if not inputs or any(name in inputs for name in names):
        return
    shown = ", ".join(f"'{name}'" for name in names)
    hints = "".join(did_you_mean(name, inputs) for name in names)
    if "input_ids" in inputs:
        text = next((name for name in names if name not in LABELS), "text")
        hints += f" If '{text}' is text, tokenise it first: {_TOKENIZE.format(column=text)}."
    raise DataError(
        f"No column of the {what} is an input of the model. It has {shown}; the model's forward takes "
        f"{', '.join(sorted(inputs))}.{hints}"
    )
