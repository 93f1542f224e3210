"""What training data holds, in a few bytes: so that a resumed run notices other data of the same length.

Only what lies in memory, in Arrow's files or in parts of ours is looked at, and no code of the user's runs: a row that
their code makes may draw, count, or give each row once. Of a dataset of their own nothing is said.
"""

from __future__ import annotations

import datetime
import decimal
import hashlib
import re
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Subset, TensorDataset

_VERSION = "3"  # of what is digested; contents of other versions are not compared
_ITEMS = 512  # of a sequence, rows of a dataset among them
_NUMBERS = 1 << 11  # of a list of plain values
_BYTES = 32 << 20  # in all; of what comes then, stripes
_TABLE = 8 << 20  # bytes of rows that are taken from a table
_STRIPES, _STRIPE = 16, 1 << 14
_NESTED = 8
_LONGEST_PATH = 4096
_PLAIN = {
    type(None), bool, int, float, complex, datetime.datetime, datetime.date, datetime.time, datetime.timedelta,
    decimal.Decimal,
}  # fmt: skip
_ABSOLUTE = re.compile(r"/|~|[A-Za-z]:\\|\w+://")
_was: dict[str, str] = {}  # what data held before runs of this process changed it in place


def content_of(dataset: Any, columns: Collection[str] | None = None) -> str | None:
    """Return a digest of what a dataset holds; what it held before, where a run of this process has changed it.

    Args:
        dataset: the rows.
        columns: the fields of a row that reach the collator, where the others are dropped; None for all of them.

    Returns:
        None where nothing can be said: of streams, and of rows that the user's code makes.
    """
    digest = _Digest(None if _is_ours(dataset) else columns)
    try:
        rows: Any = dataset.dataset if type(dataset) is Subset else None
        if type(rows) in (list, tuple):
            dataset = [rows[row] for row in dataset.indices]
        if not _is_known(dataset):
            return None
        digest.add(dataset)
    except Exception:  # of rows that cannot be looked at; training reads them too, and says what is wrong with them
        return None
    found = f"{_VERSION}:{digest.text}"
    return _was.get(found, found)


def row_digests(data: Any) -> list[str] | None:
    """Return digests of up to 512 rows, evenly spread; None where nothing can be said, or without rows."""
    numbers: Any = range(len(data)) if isinstance(data, Subset) or _is_plain_rows(data) else []
    chosen = [numbers[number] for number in _spread(len(numbers), _ITEMS)]
    while type(data) is Subset:
        chosen, data = [data.indices[number] for number in chosen], data.dataset
    if not chosen or not _is_plain_rows(data):
        return None
    found = []
    for number in chosen:
        digest = _Digest(None)
        if is_table(data):
            digest.add_row(data, int(number))
        else:
            row = [part[number] for part in data.tensors] if type(data) is TensorDataset else data[number]
            digest.add(row)
        found.append(digest.text)
    return found


def mark_of(rows: Any) -> float:
    """Return a whole number, above 0 and below 2^48, that tells rows or batches from others."""
    digest = _Digest(None)
    digest.add(rows)
    return float(int(digest.text[:12], 16) or 1)


def _is_plain_rows(data: Any) -> bool:
    """Whether the rows lie there as they are; those of a table do, whatever the user's code makes of them."""
    is_array = isinstance(data, np.ndarray | torch.Tensor) and data.ndim > 0
    return is_array or type(data) in (list, tuple, TensorDataset) or is_table(data)


def difference(before: Any, now: str | None) -> str | None:
    """Return in words what differs between two contents, or None where nothing is seen to."""
    if not isinstance(before, str) or now is None or before == now:
        return None
    return "its content is another" if before.partition(":")[0] == now.partition(":")[0] else None


def leave(before: str | None, after: str | None) -> None:
    """Note what a run has made of its data, so that this process takes the one for the other."""
    if before is not None and after is not None and after != before:
        _was[after] = before


def pieces_of_files(paths: Iterable[str | Path]) -> list[bytes]:
    """Return the sizes of files and stripes of what they hold."""
    pieces = []
    for path in paths:
        size = Path(path).stat().st_size
        pieces.append(str(size).encode())
        with Path(path).open("rb") as file:
            for start in _starts(size):
                file.seek(start)
                pieces.append(file.read(_STRIPE))
    return pieces


class _Digest:
    """Takes values in: all of them up to a number of bytes, then pieces of them.

    Args:
        columns: the fields that count of the mappings in a sequence, and of tables; None for all.
    """

    def __init__(self, columns: Collection[str] | None) -> None:
        self._columns = columns
        self._hash = hashlib.blake2b(digest_size=12)
        self._left = _BYTES

    @property
    def text(self) -> str:
        """What has come of it, in hexadecimal."""
        return self._hash.hexdigest()

    def add(self, value: Any, depth: int = 0) -> None:
        """Take a value in; of what is no plain value, array, table or part of ours, that there is one.

        The same content in another container of its kind is the same: a file that is mapped into memory, a tuple.
        """
        value = getattr(value, "content", value) if _is_ours(value) else value
        kind = type(value)
        if kind is str:
            self._bytes(_without_folder(value))
        elif kind is bytes:
            self._bytes(value)
        elif kind in (torch.Tensor, np.ndarray, np.memmap):
            self._array(value)
        elif kind in _PLAIN or isinstance(value, np.generic):
            self._hash.update(f"{_bare(value)!r};".encode())
        elif is_table(value):
            self._table(value)
        elif kind in (list, tuple) and (items := _plain_items(value)) is not None:
            self._hash.update(f"{len(value)}{items};".encode())
        elif depth < _NESTED:
            self._hash.update(b"holds;")
            for part in self._parts(value, depth):
                self.add(part, depth + 1)

    def _bytes(self, value: str | bytes | memoryview | torch.Tensor) -> None:
        plain = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        size = len(plain)
        self._hash.update(f"{size};".encode())
        if size <= self._left:
            self._hash.update(_in_memory(plain))
            self._left -= size
            return
        for start in _starts(size):
            self._hash.update(_in_memory(plain[start : start + _STRIPE]))

    def _array(self, value: torch.Tensor | np.ndarray) -> None:
        self._hash.update(f"{tuple(value.shape)}{str(value.dtype).removeprefix('torch.')};".encode())
        if isinstance(value, torch.Tensor):
            if value.layout is torch.strided and not value.is_meta and value.numel():
                plain = value.detach().resolve_conj().resolve_neg().contiguous()
                self._bytes(plain.flatten().view(torch.uint8))  # of what is large on a device, pieces come to memory
            return
        if value.dtype.hasobject:
            self.add(value.ravel()[:_ITEMS].tolist(), _NESTED - 1)
        elif value.size:
            self._bytes(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)

    def _table(self, dataset: Any) -> None:
        """Take in rows as Arrow holds them, of the columns that are read: their values, however they lie in memory."""
        table, order = dataset.data.table, dataset._indices
        seen = [name for name in sorted(columns_of(dataset)) if self._columns is None or name in self._columns]
        table = table.select(seen)
        most = _TABLE * len(table) // max(table.nbytes, 1)
        rows = _spread(len(dataset), min(max(most, 4), _ITEMS))
        rows = rows if order is None else order.column(0).take(rows).to_pylist()
        self._hash.update(f"{len(dataset)};".encode())
        for row in rows:
            self._row(table, row, seen)

    def add_row(self, dataset: Any, number: int) -> None:
        """Take in one row of a table."""
        table, order, seen = dataset.data.table, dataset._indices, sorted(columns_of(dataset))
        self._row(table.select(seen), number if order is None else order.column(0)[number].as_py(), seen)

    def _row(self, table: Any, row: int, seen: list[str]) -> None:
        for name, column in zip(seen, table.slice(row, 1).columns, strict=True):
            self.add(name, _NESTED)
            self.add(column[0].as_py(), 2)

    def _parts(self, value: Any, depth: int) -> Iterator[Any]:
        """Yield what a container, or an object of ours, holds: up to a number of parts."""
        if is_mapping(value):
            counted = [key for key in value if depth != 1 or self._columns is None or key in self._columns]
            for key in sorted(counted, key=repr)[:_ITEMS]:
                yield key
                yield value[key]
        elif type(value) in (list, tuple):
            yield len(value)
            yield from (value[number] for number in _spread(len(value), _ITEMS))
        elif type(value) is TensorDataset:
            yield from value.tensors
        elif _is_ours(value):
            yield from (part for name, part in vars(value).items() if not name.startswith("_") and _holds_rows(part))


def _is_known(dataset: Any) -> bool:
    """Whether rows can be looked at without code of the user."""
    if _is_ours(dataset):
        return getattr(dataset, "content", dataset) is not None
    return type(dataset) in (list, tuple, TensorDataset) or (is_table(dataset) and not rows_are_made(dataset))


def _in_memory(piece: Any) -> Any:
    return piece.cpu().numpy() if isinstance(piece, torch.Tensor) else piece


def _without_folder(text: str) -> str:
    """Return the last part of what looks like a path, and other text as it is: a restarted job has other folders."""
    is_path = len(text) <= _LONGEST_PATH and (_ABSOLUTE.match(text) or len(text.split(maxsplit=1)) == 1)
    return re.split(r"[/\\]", text)[-1] if is_path and "\n" not in text else text


def _plain_items(values: list[Any] | tuple[Any, ...]) -> list[Any] | None:
    """Return plain values as Python's own, up to a number of them; None where there are others."""
    some = values if len(values) <= _NUMBERS else [values[number] for number in _spread(len(values), _NUMBERS)]
    plain = all(type(item) in _PLAIN or isinstance(item, np.generic) for item in some)
    return [_bare(item) for item in some] if plain else None


def _bare(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def is_mapping(value: Any) -> bool:
    """Whether a value is a mapping with keys of text, none of the user's own class, which may make what it gives."""
    ready = type(value) in (dict, OrderedDict) or (
        isinstance(value, Mapping) and type(value).__module__.startswith("transformers.")
    )
    return ready and all(type(key) in (str, int) for key in value)


def _holds_rows(part: Any) -> bool:
    """Whether an attribute of ours may hold rows; names and paths do not, and differ where the data does not."""
    if isinstance(part, Mapping):
        return isinstance(next(iter(part.values()), None), torch.Tensor | np.ndarray)
    return isinstance(part, torch.Tensor | np.ndarray | list | tuple | int) or is_table(part) or _is_ours(part)


def is_table(value: Any) -> bool:
    """Whether a value is a Dataset of `datasets`, whose rows lie in Arrow."""
    return (type(value).__module__, type(value).__name__) == ("datasets.arrow_dataset", "Dataset")


def rows_are_made(table: Any) -> bool:
    """Whether the rows of a table are what a function of the user makes of them."""
    return bool(table.format["type"] == "custom")


def columns_of(table: Any) -> list[str]:
    """Return the names of the columns that a row of a table has."""
    return list(table.column_names if table.format["output_all_columns"] else table.format["columns"])


def _is_ours(value: Any) -> bool:
    return type(value).__module__.startswith("trainwright.")


def _spread(length: int, most: int) -> list[int]:
    """Return up to `most` numbers below `length`, evenly spread, the first and the last among them."""
    if length <= most:
        return list(range(length))
    return [number * (length - 1) // (most - 1) for number in range(most)]


def _starts(size: int) -> list[int]:
    """Return where the stripes of so many bytes begin: they cover all of them, up to a number."""
    return [stripe * _STRIPE for stripe in _spread(-(-size // _STRIPE), _STRIPES)]
