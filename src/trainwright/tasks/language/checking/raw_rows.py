"""Rows of files that lie here, read one after another without torch or `datasets`, as `check` looks at them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from trainwright.config.schema import DatasetParams
from trainwright.data import mixture
from trainwright.data.sources import files, registered
from trainwright.errors import DataError

_FIRST = 16  # whose columns are those of all
_WHOLE = 1 << 23  # bytes of a list of JSON that is read as a whole

Row = dict[str, Any]


def file_of(one: DatasetParams) -> Path | None:
    """Return the first file of a dataset that lies here; None where it does not, or is read in a way of its own."""
    where = Path(one.dataset_path or one.dataset_name or "").expanduser()
    own_reader = registered.find(one.dataset_name, one.dataset_path) is None and one.dataset_kwargs
    if not where.exists() or own_reader or one.dataset_name == "python_source":
        return None
    return where if where.is_file() else next(iter(files.rows_files(where)), None)


@dataclass(frozen=True)
class RawTable:
    """Rows in the columns that are learned from.

    Attributes:
        columns: of the first ones.
        rows: one after another.
        is_shaped: whether they are made of others, by what is known of their dataset or of such columns.
    """

    columns: list[str]
    rows: Iterator[Row]
    is_shaped: bool


def learned_from(rows: Iterator[Row], one: DatasetParams, text_column: str) -> RawTable:
    """Return rows in the columns that are learned from; what the first ones hold says which these are.

    Raises:
        DataError: they are none, or, when they are read, a row has not what its dataset's rows have.
    """
    first = list(islice(rows, _FIRST))
    if not first:
        return RawTable([], iter(()), False)
    within = mixture.named_within(one, _columns(first))
    names, shape, settings = mixture.reshaping(one, [*_columns(first), *within], text_column)
    what = str(Path(one.dataset_path or one.dataset_name or "").expanduser())
    known: Any = {"shape": shape, "settings": settings, "subset": one.subset, "name": what}

    def made(row: Row, number: int) -> Row:
        row = {**row, **mixture.with_named_within(row, number, within)} if within else row
        row = {names.get(name, name): value for name, value in row.items()}
        return row if shape is None else mixture.shaped_row(row, number, **known)

    head = [made(row, number) for number, row in enumerate(first)]
    rest = (made(row, number) for number, row in enumerate(rows, len(first)))
    return RawTable(_columns(head), chain(head, rest), shape is not None)


def _columns(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def rows_in(file: Path) -> Iterator[Row]:
    """Yield the rows of a file; none of a kind that is not read so.

    Raises:
        DataError: it has no row, or one that cannot be read.
    """
    read = _READERS.get(file.suffix.lower())
    if read is None:
        return
    if not file.stat().st_size:
        raise DataError(f"'{file}' is empty: it has no row.")
    try:
        yield from read(file)
    except UnicodeDecodeError as error:
        raise DataError(f"'{file}' cannot be read: it is no UTF-8 ({error.reason}). Save it as UTF-8.") from None
    except (json.JSONDecodeError, csv.Error) as error:
        raise DataError(f"'{file}' cannot be read: {error}.") from None


def _json(file: Path) -> Iterator[Row]:
    with file.open(encoding="utf-8-sig") as lines:
        first = next((line for line in lines if line.strip()), "")
    if first.lstrip().startswith("["):
        found = json.loads(file.read_text(encoding="utf-8-sig")) if file.stat().st_size < _WHOLE else []
        yield from (row for row in found if isinstance(row, dict))
    elif file.suffix.lower() == ".jsonl" or first.rstrip().endswith("}"):
        yield from _lines(file)


def _lines(file: Path) -> Iterator[Row]:
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"'{file}' cannot be read: line {number} is not JSON: {error}.") from None
            if not isinstance(row, dict):
                raise DataError(f"'{file}' cannot be read: a line is no row, which is {{...}}.")
            yield row


def _csv(file: Path) -> Iterator[Row]:
    csv.field_size_limit(_WHOLE)
    with file.open(encoding="utf-8-sig", newline="") as lines:
        table = csv.DictReader(lines, delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
        for number, row in enumerate(table, 1):
            if None in row:
                raise DataError(f"'{file}' cannot be read: row {number} has more cells than there are columns.")
            yield row


def _text(file: Path) -> Iterator[Row]:
    with file.open(encoding="utf-8-sig") as lines:
        yield from ({"text": line.rstrip("\n")} for line in lines)


def _parquet(file: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        for batch in ParquetFile(file).iter_batches(batch_size=256):
            yield from batch.to_pylist()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"'{file}' cannot be read: {error}") from None


def _arrow(file: Path) -> Iterator[Row]:
    import pyarrow

    try:
        with pyarrow.memory_map(str(file)) as content:
            for batch in pyarrow.ipc.open_stream(content):
                yield from batch.to_pylist()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"'{file}' cannot be read: {error}") from None


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".json": _json, ".jsonl": _json, ".csv": _csv, ".tsv": _csv, ".txt": _text, ".parquet": _parquet, ".arrow": _arrow,
}  # fmt: skip
