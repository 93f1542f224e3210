"""Which columns of a dataset the model takes, and the errors that follow when none fits."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from trainwright.data.loader import is_stream, length_of
from trainwright.errors import DataError, did_you_mean

_LABELS = ("label", "label_ids", "labels")
_TOKENIZE = "dataset = dataset.map(lambda rows: tokenizer(rows['{column}'], truncation=True), batched=True)"


def column_names(dataset: Any) -> list[str] | None:
    """Return the columns of a dataset: from the dataset itself, or from its first row if it has rows by number."""
    if (getattr(dataset, "format", None) or {}).get("type") == "custom":
        return None  # a transform of datasets.Dataset makes other columns when rows are fetched
    names = getattr(dataset, "column_names", None)
    if names:
        return list(names)
    if is_stream(dataset) or not length_of(dataset):
        return None
    rows = getattr(dataset, "rows", dataset if isinstance(dataset, list | tuple) else None)
    return list(rows[0]) if rows and isinstance(rows[0], Mapping) else None


def check_columns(dataset: Any, accepted: Collection[str], what: str) -> None:
    """Raise a DataError when none of the columns can be an input of the model.

    Args:
        dataset: the rows.
        accepted: names of the arguments of the model's forward.
        what: which dataset, for the message.
    """
    names = column_names(dataset)
    inputs = [name for name in accepted if name not in _LABELS]
    if names is None or not inputs or any(name in inputs for name in names):
        return
    shown = ", ".join(f"'{name}'" for name in names)
    hints = "".join(did_you_mean(name, inputs) for name in names)
    if "input_ids" in inputs:
        text = next((name for name in names if name not in _LABELS), names[0])
        hints += f" If '{text}' is text, tokenise it first: {_TOKENIZE.format(column=text)}."
    raise DataError(
        f"No column of the {what} is an input of the model. It has {shown}; the model's forward takes "
        f"{', '.join(sorted(inputs))}.{hints}"
    )
