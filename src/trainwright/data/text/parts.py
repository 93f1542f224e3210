"""Rows of tokens on disk, in parts: what is finished stays when a process is killed, and the next one goes on there.

The parts of a table lie in a folder of their own, each a file of Arrow named by its rows. A part appears whole or not
at all, and ends with the sum of its bytes, which readers of Arrow do not read; whatever else lies in the folder while
nobody has its lock is what a process that died has left.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from trainwright.bars import counting
from trainwright.data.in_processes import in_processes
from trainwright.errors import DataError

Part = tuple[int, int]  # first row, end
Rules = Callable[[Mapping[str, list[Any]], Sequence[int]], Mapping[str, list[Any]]]

_BYTES = 4 << 20  # of a table, in a part
_BATCH = 1 << 10  # rows that are read at once, and the least of a part
_MOST = 512  # parts
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_SUM = xxhash.xxh3_128
_SUMMED = _SUM().digest_size  # bytes
_LOW = 1000  # rows below which more processes cost more than they save


@dataclass(frozen=True)
class Parts:
    """A table, and where what its rows become is kept.

    Attributes:
        table: a `datasets.Dataset`.
        rules: make columns of columns, for some rows and their numbers.
        features: of the columns that they make.
        folder: of the parts.
        batch: rows that are read at once.
    """

    table: Any
    rules: Rules
    features: Any
    folder: Path
    batch: int

    def write(self, part: Part, tell: Callable[[int], Any]) -> None:
        """Write one part, whole or not at all, and tell of the rows that are done."""
        import pyarrow

        schema, file = self.features.arrow_schema, path_of(self.folder, part)
        unfinished = file.with_name(f"{file.name}.{os.getpid()}.unfinished")
        try:
            with pyarrow.OSFile(str(unfinished), "wb") as sink, pyarrow.ipc.new_stream(sink, schema) as writer:
                for start in range(*part, self.batch):
                    numbers = range(start, min(start + self.batch, part[1]))
                    made = self.rules(self.table[numbers.start : numbers.stop], numbers)
                    columns = [pyarrow.array(made[field.name], field.type) for field in schema]
                    writer.write_batch(pyarrow.record_batch(columns, schema=schema))
                    tell(len(numbers))
            with unfinished.open("r+b") as whole:
                with mmap.mmap(whole.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    found = _SUM(content).digest()
                whole.seek(0, os.SEEK_END)
                whole.write(found)
                whole.flush()
                os.fsync(whole.fileno())  # lest a power cut leaves its length without what is in it
            unfinished.replace(file)
        finally:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)


def tokens_of(
    table: Any,
    rules: Rules,
    features: Any,
    folder: Path,
    *,
    processes: int | None = None,
    what: str = "data",
    note: Callable[[str], None],
) -> Any:
    """Return what the rows of a table become, as a `datasets.Dataset` mapped into memory, from parts that are there or
    are made; of several processes on a machine one makes them, and the others wait and read.

    Args:
        table: a `datasets.Dataset`.
        rules: make columns of columns, for some rows and their numbers.
        features: of the columns that they make.
        folder: of the parts, named by all that decides what is made.
        processes: that make them, or None for this one, in which a tokenizer has threads of its own.
        what: which data, for messages and the progress bar.
        note: is told of parts that are not as they were written.

    Raises:
        DataError: a part cannot be written, a process that makes them died, or what `rules` raise.
    """
    from filelock import FileLock

    if table.format["type"] != "custom":  # a transform of the user's makes what the rows are
        table = table.with_format(None)
    rows = rows_of_a_part(table)
    parts = [(first, min(first + rows, len(table))) for first in range(0, len(table), rows)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(_lock_of(folder)):
            sweep(folder, parts)
            sweep_others(folder)
            missing = [part for part in parts if not is_whole(path_of(folder, part))]
            if damaged := [path_of(folder, part).name for part in missing if path_of(folder, part).exists()]:
                there = f"Of the tokens of the {what} kept in '{folder}' {_some(damaged)}"
                note(f"{there} {'is' if len(damaged) == 1 else 'are'} not as written, and made anew.")
            make = Parts(table, rules, features, folder, min(rows, _BATCH))
            try:
                _write(make, missing, processes, what)
            finally:
                with suppress(OSError):  # the next run sweeps, too
                    sweep(folder)  # what a process was at when it was ended because of another one
            return joined([opened(folder, part) for part in parts], features, folder.name)
    except OSError as error:
        if error.errno not in (*_FULL, *_FORBIDDEN):
            raise
        raise DataError(
            f"The tokens of the {what} cannot be written to '{folder}': {os.strerror(error.errno)}. "
            f"{'Make room' if error.errno in _FULL else 'Make it writable'}, or name another place by "
            "HF_DATASETS_CACHE, and start again: what is finished is kept."
        ) from error


def rows_of_a_part(table: Any) -> int:
    """Return how many rows a part has: a power of two, so that it does not hang on a few bytes of the table's size."""
    each: int = max(1, table.data.nbytes // max(1, len(table.data)))
    rows: int = max(min(_BYTES // each, len(table)), len(table) // _MOST, 1)
    return 1 << (rows - 1).bit_length()


def path_of(folder: Path, part: Part) -> Path:
    """Return the file of a part."""
    return folder / f"{part[0]}-{part[1]}.arrow"


def is_whole(file: Path) -> bool:
    """Whether a part is there and as it was written."""
    try:
        with (
            file.open("rb") as part,
            mmap.mmap(part.fileno(), 0, access=mmap.ACCESS_READ) as content,
            memoryview(content) as seen,
            seen[:-_SUMMED] as kept,
        ):
            return _SUM(kept).digest() == content[-_SUMMED:]
    except (OSError, ValueError):  # an empty file cannot be mapped
        return False


def opened(folder: Path, part: Part) -> Any:
    """Return a finished part as a `datasets.Dataset`."""
    import datasets

    return datasets.Dataset.from_file(str(path_of(folder, part)))


def joined(parts: Sequence[Any], features: Any, key: str) -> Any:
    """Return parts as one `datasets.Dataset`, which is known by a key."""
    import datasets

    made = datasets.concatenate_datasets(parts) if parts else datasets.Dataset.from_dict(
        {name: [] for name in features}, features=features
    )  # fmt: skip
    made._fingerprint = key
    return made


def sweep(folder: Path, parts: Iterable[Part] | None = None) -> None:
    """Remove what no process will use, from a folder whose lock is held: what is unfinished, and other parts."""
    wanted = None if parts is None else {path_of(folder, part).name for part in parts}
    for path in folder.iterdir():
        dead = path.name.endswith(".unfinished")
        if dead or (path.suffix == ".arrow" and wanted is not None and path.name not in wanted):
            path.unlink(missing_ok=True)


def sweep_others(folder: Path) -> None:
    """Remove what is unfinished in the folders beside, where nobody is at work."""
    from filelock import FileLock, Timeout

    for other in {path.parent for path in folder.parent.glob("*/*.unfinished")} - {folder}:
        with suppress(Timeout, OSError), FileLock(_lock_of(other), timeout=0):
            sweep(other)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _write(make: Parts, missing: Sequence[Part], processes: int | None, what: str) -> None:
    """Write the parts that are missing."""
    rows = sum(end - first for first, end in missing)
    with counting(rows, f"rows of the {what} tokenised") as tell:
        if processes and processes > 1 and rows >= _LOW:
            in_processes(make.write, missing, processes, tell)
            return
        for part in missing:
            make.write(part, tell)


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
