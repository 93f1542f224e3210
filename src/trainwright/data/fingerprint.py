"""What training data holds, in a few bytes: so that a resumed run notices other data of the same length.

No code of the user's runs where the rows lie in memory or in Arrow's files. Of another dataset a few rows are read
twice under the same random numbers; what differs between the two is drawn anew each time, and is left out.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from trainwright.data.workers import reading, worker_init
from trainwright.randomness import Drawing

Content = str | dict[str, dict[str, str]]
READ = 4  # rows of a dataset of the user's own
_VERSION = "1"  # of what is digested; contents of other versions are not compared
_ITEMS = 512  # of a sequence
_BYTES = 32 << 20  # in all; of what comes then, stripes
_STRIPES, _STRIPE = 16, 1 << 14
_PATIENCE = 0.2  # seconds for reading rows
_NESTED = 8
_PLAIN = (type(None), bool, int, float, complex, np.generic)


def content_of(dataset: Any, workers: int = 0, context: Any = None) -> Content | None:
    """Return what a map-style dataset holds: one digest, or digests of some rows' fields by row and field.

    Args:
        dataset: the rows.
        workers: processes that read them in training; where there are some, a process of its own reads here too, since
            files that a dataset opens must not be shared with those.
        context: how those are started, as torch's DataLoader takes it. Only forked ones are imitated.

    Returns:
        None where nothing can be said, such as of a stream.
    """
    if _is_ours(dataset) and getattr(dataset, "content", dataset) is None:
        return None
    in_memory = isinstance(dataset, list | tuple | TensorDataset)
    if in_memory or _is_ours(dataset) or is_table(dataset):
        return f"{_VERSION}:{_digest_of(dataset)}"
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        return None
    sample = _Sample(dataset)
    if workers == 0:
        return sample[0]
    if getattr(context, "get_start_method", lambda: context or torch.multiprocessing.get_start_method())() != "fork":
        return None
    apart = torch.Generator()  # else a number of the global stream would be drawn
    one: Any = DataLoader(
        sample,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=1,
        worker_init_fn=worker_init(),
        generator=apart,
    )
    try:
        with reading(one) as items:
            return next(items)
    except Exception:  # a process that dies of its rows; training reads them too, and says what is wrong
        return None


def difference(before: Content | None, now: Content | None) -> str | None:
    """Return in words what differs between two contents, or None where nothing is seen to."""
    if isinstance(before, str) and isinstance(now, str):
        alike = before == now or before.partition(":")[0] != now.partition(":")[0]
        return None if alike else "its content is another"
    if not isinstance(before, dict) or not isinstance(now, dict):
        return None
    rows = [
        row
        for row in before.keys() & now.keys()
        if any(before[row][field] != now[row][field] for field in before[row].keys() & now[row].keys())
    ]
    compared = len(before.keys() & now.keys())
    return f"of {compared} rows compared, {', '.join(sorted(rows, key=int))} differ" if rows else None


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


class _Sample:
    """Reads the rows; a dataset of one item, so that a data worker can do it."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict[str, dict[str, str]]:
        drawing = Drawing(0, dataset=self.dataset)
        began, found = time.perf_counter(), {}
        for row in _spread(len(self.dataset), READ):
            first = self._read(drawing, row)
            if time.perf_counter() - began > _PATIENCE:
                break
            second = self._read(drawing, row)
            if same := {name: value for name, value in first.items() if second.get(name) == value}:
                found[str(row)] = same
        return found

    def _read(self, drawing: Drawing, row: int) -> dict[str, str]:
        try:
            made = drawing.make(lambda: self.dataset[row], row)
        except Exception:  # training reads it too, and says what is wrong with it
            return {}
        parts = made.items() if isinstance(made, Mapping) else [("", made)]
        return {str(name): _digest_of(value) for name, value in parts}


def _digest_of(value: Any) -> str:
    digest = _Digest()
    digest.add(value)
    return digest.text


class _Digest:
    """Takes values in: all of them up to a number of bytes, then pieces of them."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=12)
        self._left = _BYTES

    @property
    def text(self) -> str:
        """What has come of it, in hexadecimal."""
        return self._hash.hexdigest()

    def add(self, value: Any, depth: int = 0) -> None:
        """Take a value in; of what is no plain value, array, table or part of ours, its class alone.

        The same content in another container of its kind is the same: a file that is mapped into memory, a tuple.
        """
        value = getattr(value, "content", value) if _is_ours(value) else value
        self._hash.update(f"{_kind(value)};".encode())
        if isinstance(value, str | bytes):
            self._bytes(value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value)
        elif isinstance(value, torch.Tensor | np.ndarray):
            self._array(value)
        elif isinstance(value, _PLAIN):
            self._hash.update(repr(value.item() if isinstance(value, np.generic) else value).encode())
        elif is_table(value):
            self._table(value)
        elif depth < _NESTED:
            for part in _parts(value):
                self.add(part, depth + 1)

    def _bytes(self, plain: Any) -> None:
        size = len(plain)
        self._hash.update(f"{size};".encode())
        if size <= self._left:
            self._hash.update(plain)
            self._left -= size
            return
        for start in _starts(size):
            self._hash.update(plain[start : start + _STRIPE])

    def _array(self, value: torch.Tensor | np.ndarray) -> None:
        self._hash.update(f"{tuple(value.shape)}{str(value.dtype).removeprefix('torch.')};".encode())
        if isinstance(value, torch.Tensor):
            if value.layout is not torch.strided or value.numel() == 0:
                return
            value = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        if value.dtype.hasobject:
            self.add(value.ravel()[:_ITEMS].tolist(), _NESTED - 1)
        elif value.size:
            self._bytes(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)

    def _table(self, dataset: Any) -> None:
        """Take in the rows as they lie in Arrow, however they are cut into chunks; of a large table, some."""
        table, order = dataset.data.table, dataset._indices
        chosen = None if order is None else order.column(0).to_numpy()
        self._hash.update(f"{len(dataset)}{table.column_names};".encode())
        if table.nbytes <= self._left:
            self._left -= table.nbytes
            table = table if chosen is None else table.take(chosen)
            for batch in table.combine_chunks().to_batches():
                self._hash.update(batch.serialize())
            return
        for row in _spread(len(dataset), _ITEMS):
            for column in table.slice(row if chosen is None else int(chosen[row]), 1).columns:
                value = column[0].as_py()
                self.add(repr(value) if isinstance(value, list) else value)


def _parts(value: Any) -> Iterator[Any]:
    """Yield what a container, or an object of ours, holds: up to a number of parts."""
    if isinstance(value, Mapping):
        for key in list(value)[:_ITEMS]:
            yield str(key)
            yield value[key]
    elif isinstance(value, list | tuple):
        yield len(value)
        yield from (value[number] for number in _spread(len(value), _ITEMS))
    elif isinstance(value, TensorDataset):
        yield from value.tensors
    elif _is_ours(value):
        yield from (part for name, part in vars(value).items() if not name.startswith("_") and _holds_rows(part))


def _holds_rows(part: Any) -> bool:
    """Whether an attribute of ours may hold rows; names and paths do not, and differ where the data does not."""
    if isinstance(part, Mapping):
        return isinstance(next(iter(part.values()), None), torch.Tensor | np.ndarray)
    return isinstance(part, torch.Tensor | np.ndarray | list | tuple | int) or is_table(part) or _is_ours(part)


def is_table(value: Any) -> bool:
    """Whether a value is a Dataset of `datasets`, whose rows lie in Arrow."""
    return type(value).__module__.startswith("datasets.") and hasattr(value, "_indices")


def _kind(value: Any) -> str:
    """Return the kind of a value; its class, where that tells."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return "array"
    if isinstance(value, Mapping):
        return "mapping"
    if isinstance(value, list | tuple):
        return "sequence"
    return "plain" if isinstance(value, (*_PLAIN, str)) else type(value).__name__


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
