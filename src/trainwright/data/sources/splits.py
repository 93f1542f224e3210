"""Which rows of local data a split names: files and folders by what they are called, as `datasets` reads them, and
slices such as `train[:10%]`."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from trainwright.errors import DataError

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_NAMES = {
    TRAIN: TRAIN, "training": TRAIN, VALIDATION: VALIDATION, "valid": VALIDATION, "val": VALIDATION, "dev": VALIDATION,
    TEST: TEST, "testing": TEST, "eval": TEST, "evaluation": TEST,
}  # fmt: skip
_SHARD = re.compile(r"data/([\w.]+)-\d{5}-of-\d{5}.*\..*")
_WORDS = re.compile(r"[-._ 0-9]+")


def named_split(name: str) -> str | None:
    """Return the split that a name means by itself; None for one that means none."""
    return _NAMES.get(name.lower())


def split_of(parts: Sequence[str]) -> str | None:
    """Return the split that the nearest of a file's folders says, or else its name; None where nothing does.

    Args:
        parts: the names of the folders from the top, and of the file.
    """
    shard = _SHARD.fullmatch("/".join(parts[-2:]))
    if shard:  # the hub's data/<split>-00000-of-00001.parquet
        return _NAMES.get(shard[1].lower(), shard[1])
    for part in [*reversed(parts[:-1]), parts[-1]]:
        for word in _WORDS.split(part.lower()):
            if word in _NAMES:
                return _NAMES[word]
    return None


def by_split(folder: Path, files: Sequence[Path]) -> dict[str, list[str]]:
    """Return the files of a folder by split; one that says nothing belongs to `train`."""
    found: dict[str, list[str]] = {}
    for file in files:
        found.setdefault(split_of(file.relative_to(folder).parts) or TRAIN, []).append(str(file))
    return found


def chosen(wanted: str, known: Collection[str], load: Callable[[str], Any], what: str) -> Any:
    """Return the rows of a split, of a slice of one, or of several joined by `+`.

    Args:
        wanted: such as `train`, `val`, `train[:10%]`, `train+test[100:]`.
        known: names of the splits that there are.
        load: gives the `datasets.Dataset` of a name, or its stream.
        what: the data, for messages.

    Raises:
        DataError: there is no such split, or no slice of a stream.
    """
    import datasets

    spec = "+".join(_known_name(part.strip(), known, what) for part in wanted.split("+"))
    tables = {name: load(name) for name in dict.fromkeys(part.partition("[")[0] for part in spec.split("+"))}
    if spec in tables:
        return tables[spec]
    if not all(hasattr(table, "__len__") for table in tables.values()):
        raise DataError(
            f"{what}: a stream has no slices, and split is '{wanted}'. Write sample_count for its first rows, or "
            "stream: false."
        )
    try:
        lengths = {name: len(table) for name, table in tables.items()}
        parts = datasets.ReadInstruction.from_spec(spec).to_absolute(lengths)
    except (ValueError, AssertionError) as error:
        raise DataError(f"{what}: split '{wanted}' cannot be read: {error} Write it like train[:100].") from None
    rows = [tables[part.splitname].select(range(part.from_, part.to)) for part in parts]
    return rows[0] if len(rows) == 1 else datasets.concatenate_datasets(rows)


def _known_name(part: str, known: Collection[str], what: str) -> str:
    """Return one part of a split with the name that the data has for it."""
    asked, bracket, rest = part.partition("[")
    name = known_name(asked, known)
    if name is None:
        raise DataError(f"{what} has no split '{asked}'; it has {', '.join(sorted(known))}.")
    return name + bracket + rest


def known_name(asked: str, known: Collection[str]) -> str | None:
    """Return the name that the data has for a split, `validation` for `val` and the reverse; None for none."""
    if asked in known:
        return asked
    alike = [name for name in known if _NAMES.get(name) == _NAMES.get(asked, asked)]
    return alike[0] if alike else None
