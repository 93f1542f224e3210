"""The data of a job, by the parameter `dataset_name`: files and folders of this machine, or a name of the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainwright.data.sources import files
from trainwright.data.sources.reach import ask_at_once
from trainwright.data.sources.splits import TRAIN, VALIDATION, known_name
from trainwright.errors import DataError

_HELD_OUT = 0.2
_divided: dict[tuple[str, str | None], bool] = {}  # whether this process has divided a dataset, or given all of it


def load(name: str, splits: Sequence[str], config: str | None = None) -> dict[str, Any]:
    """Return the datasets of some splits, by the names that were asked for.

    Where the data has no validation, and it is asked for, the last fifth of the training rows is held out. What one
    call of this process holds out is training data in none.

    Raises:
        DataError: there is no such data, no such split, or what is to be held out was given to train on.
    """
    path = Path(name).expanduser()
    found = files.find(path, files.Reader(), subset=config) if path.exists() else _hub(name, config)
    train = known_name(TRAIN, found.names)
    divisible = train is not None and known_name(VALIDATION, found.names) is None
    asked: dict[str, str] = {}
    for split in splits:
        own = known_name(split, [*found.names, VALIDATION] if divisible else found.names)
        if own is None:
            raise DataError(f"The dataset '{name}' has no split '{split}'; it has {', '.join(sorted(found.names))}.")
        asked[split] = own
    given = {own: found.load(own) for own in asked.values() if own in found.names}
    if divisible and {train, VALIDATION} & set(asked.values()):
        key = (str(path.resolve()) if path.exists() else name, config)
        if _divides(name, key, VALIDATION in asked.values()):
            given |= _parts(name, found.load(str(train)))
    return {split: given[own] for split, own in asked.items()}


def _divides(name: str, key: tuple[str, str | None], holds_out: bool) -> bool:
    """Return whether a dataset's training rows are divided, by this call or an earlier one.

    Raises:
        DataError: an earlier one gave all of them.
    """
    if not _divided.setdefault(key, holds_out) and holds_out:
        raise DataError(
            f"The dataset '{name}' has no validation rows, and all its rows were given as training rows before; ask "
            'for both in one call, load_dataset(["train", "valid"]), which holds the last fifth out.'
        )
    return _divided[key]


def _parts(name: str, whole: Any) -> dict[str, Any]:
    """Return the first four fifths of some rows as training rows, and the rest."""
    cut = int(len(whole) * (1 - _HELD_OUT))
    if cut == 0:
        raise DataError(f"The dataset '{name}' has {len(whole)} row, of which none can be held out for validation.")
    return {TRAIN: whole.select(range(cut)), VALIDATION: whole.select(range(cut, len(whole)))}


def _hub(name: str, config: str | None) -> files.Found:
    library = files.library()
    missing = ask_at_once(name)
    try:
        tables = dict(library.load_dataset(name, config))
    except Exception as error:
        raise DataError(
            f"The dataset '{name}' is no file or folder here (looked for from {Path.cwd()}), and the hub gave: "
            f"{missing or (str(error).splitlines()[0] if str(error) else type(error).__name__)}"
        ) from error
    return files.Found(list(tables), lambda split: tables[split])
