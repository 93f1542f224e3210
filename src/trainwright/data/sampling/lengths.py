"""The length of every row, for batches of similar lengths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from trainwright.data.columns import column_names
from trainwright.data.fingerprint import is_table, rows_are_made
from trainwright.data.token_rows import places_of
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

    Lengths come from the column `length_column_name`, or from one pass over the model's main input; of tables of
    `datasets` Arrow knows them, and no row is read.

    Raises:
        DataError: the rows have neither, or a table has None there.
    """
    if args.train_sampling_strategy != "group_by_length":
        return None
    if (known := known_lengths(dataset)) is not None:
        return known
    as_stored = is_table(dataset) and not rows_are_made(dataset)
    if args.length_column_name in (getattr(dataset, "column_names", None) or ()):
        stored = _stored_numbers(dataset, args.length_column_name) if as_stored else None
        return list(dataset[args.length_column_name]) if stored is None else stored
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
    if as_stored and (stored := _stored_lengths(dataset, name)) is not None:
        return stored
    columns = getattr(dataset, "column_names", None)
    rows = dataset[name] if columns else (dataset[index][name] for index in range(len(dataset)))
    return [len(row) for row in rows]


def _stored_lengths(table: Any, name: str) -> Any:
    """Return the length of every list or text of a table's column as Arrow knows them; int64, shape (rows,). None
    where it holds something else."""
    import pyarrow
    import pyarrow.compute

    column, types = table.data.column(name), pyarrow.types
    if types.is_list(column.type) or types.is_large_list(column.type) or types.is_fixed_size_list(column.type):
        return _in_order(table, name, pyarrow.compute.list_value_length(column))
    if types.is_string(column.type) or types.is_large_string(column.type):
        return _in_order(table, name, pyarrow.compute.utf8_length(column))
    return None


def _stored_numbers(table: Any, name: str) -> Any:
    """Return a table's column of numbers, shape (rows,); None where it holds something else."""
    import pyarrow

    column, types = table.data.column(name), pyarrow.types
    is_number = types.is_integer(column.type) or types.is_floating(column.type)
    return _in_order(table, name, column) if is_number else None


def _in_order(table: Any, name: str, column: Any) -> Any:
    """Return numbers that lie in Arrow in the order of the table's rows."""
    places = places_of(table)
    if column.null_count:
        empty = np.flatnonzero(column.is_null().to_numpy()[places])
        if len(empty):
            raise DataError(f"Row {empty[0]} has None in '{name}'. Drop the row or fill it in.")
    return column.to_numpy()[places]
