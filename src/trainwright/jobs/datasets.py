"""The data of a job, by the parameter `dataset_name`: files and folders of this machine, or a name of the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainwright.errors import DataError, missing_package

_KINDS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
_SPLITS = {"train": "train", "test": "test", "valid": "valid", "validation": "valid", "dev": "valid", "eval": "valid"}
_HELD_OUT = 0.2


def load(name: str, splits: Sequence[str], config: str | None = None) -> dict[str, Any]:
    """Return the datasets of some splits, by split.

    Files go by their names: train.jsonl, test-1.parquet; one that says nothing is training data. Without a `valid` one
    the last fifth of the training data is held out.

    Raises:
        DataError: there is no such data, or no such split.
    """
    path = Path(name).expanduser()
    found = _local(path) if path.exists() else _hub(name, config)
    given = {_SPLITS.get(split, split): rows for split, rows in found.items()}
    wanted = {split: _SPLITS.get(split, split) for split in splits}
    if "valid" in wanted.values() and "valid" not in given and "train" in given:
        cut = int(len(given["train"]) * (1 - _HELD_OUT))
        whole = given["train"]
        given |= {"train": whole.select(range(cut)), "valid": whole.select(range(cut, len(whole)))}
    missing = [split for split, key in wanted.items() if key not in given]
    if missing:
        raise DataError(f"The dataset '{name}' has no split '{missing[0]}'; it has {', '.join(sorted(given))}.")
    return {split: given[key] for split, key in wanted.items()}


def _library() -> Any:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise missing_package("datasets", "llm", "load_dataset()") from error
    return datasets


def _local(path: Path) -> dict[str, Any]:
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.suffix in _KINDS)
    if not files or files[0].suffix not in _KINDS:
        raise DataError(f"The dataset '{path}' holds no file that is one of {', '.join(_KINDS)}.")
    kinds = {_KINDS[file.suffix] for file in files}
    if len(kinds) > 1:
        raise DataError(f"The dataset '{path}' holds files of several kinds ({', '.join(sorted(kinds))}); keep one.")
    by_split: dict[str, list[str]] = {}
    for file in files:
        by_split.setdefault(split_of(file, path), []).append(str(file))
    return dict(_library().load_dataset(kinds.pop(), data_files=by_split))


def split_of(file: Path, root: Path) -> str:
    """Return the split that a file's name, or that of its folder below `root`, says: train where nothing does."""
    parts = file.relative_to(root).with_suffix("").parts if file != root else (file.stem,)
    for part in reversed(parts):
        word = part.lower().replace("-", "_").split("_")[0].split(".")[0]
        if word in _SPLITS:
            return _SPLITS[word]
    return "train"


def _hub(name: str, config: str | None) -> dict[str, Any]:
    library = _library()
    try:
        return dict(library.load_dataset(name, config))
    except Exception as error:
        raise DataError(
            f"The dataset '{name}' is no file or folder here (looked for from {Path.cwd()}), and the hub gave: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error
