"""The length of every row, for batches of similar lengths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from trainwright.data.columns import column_names
from trainwright.errors import DataError


def known_lengths(dataset: Any) -> Any:
    """Return a dataset's attribute `lengths` where it is one number for each row, shape (rows,); else it is something
    of the user's, and None is returned."""
    try:
        found = np.asarray(getattr(dataset, "lengths", None))
    except (TypeError, ValueError):  # lists of lists of different lengths
        return None
    return found if found.shape == (len(dataset),) and found.dtype.kind in "iuf" else None


def row_lengths(dataset: Any, args: Any, processing_class: Any) -> Any:
    """Return the length of every row where the arguments group by length, else None.

    Lengths come from the column `length_column_name`, or from one pass over the model's main input.

    Raises:
        DataError: the rows have neither.
    """
    if args.train_sampling_strategy != "group_by_length":
        return None
    if (known := known_lengths(dataset)) is not None:
        return known
    if args.length_column_name in (getattr(dataset, "column_names", None) or ()):
        return list(dataset[args.length_column_name])
    first = dataset[0] if isinstance(dataset[0], Mapping) else {}
    if args.length_column_name in first:
        return [int(row[args.length_column_name]) for row in (dataset[i] for i in range(len(dataset)))]
    name = processing_class.model_input_names[0] if processing_class is not None else "input_ids"
    if name not in first:
        raise DataError(
            f"train_sampling_strategy='group_by_length' needs the length of every row, but there is neither a column "
            f"'{args.length_column_name}' nor '{name}' (columns: {column_names(dataset)}). Add one, or set "
            "length_column_name."
        )
    columns = getattr(dataset, "column_names", None)
    rows = dataset[name] if columns else (dataset[index][name] for index in range(len(dataset)))
    return [len(row) for row in rows]
