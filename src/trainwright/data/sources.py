"""From the section `data` of a file to rows: files, folders and hub names, several datasets mixed, streams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainwright.config.schema import DatasetParams, DatasetSplitParams
from trainwright.data import splits
from trainwright.data.as_text import text_columns, without_dates
from trainwright.data.python_source import python_source
from trainwright.errors import DataError, missing_package

_BUILDERS = {
    ".json": "json", ".jsonl": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".arrow": "arrow",
    ".txt": "text",
}  # fmt: skip
_FORMATS = {
    "json": "json", "jsonl": "json", "csv": "csv", "tsv": "csv", "parquet": "parquet", "arrow": "arrow", "text": "text",
    "text_sft_jsonl": "json", "text_sft": "json", "preference_jsonl": "json",
}  # fmt: skip


_SAVED = ("dataset_info.json", "dataset_dict.json")
_NOT_ROWS = (*_SAVED, "dataset_infos.json", "config.json")


def read(split: DatasetSplitParams, seed: int) -> Any:
    """Return the rows of a split: a `datasets.Dataset`, or an IterableDataset where it is a stream.

    Args:
        split: the section.
        seed: of shuffling and mixing, where the section has none.

    Raises:
        DataError: something cannot be read, or the datasets do not fit together.
    """
    parts = [_limited(read_one(one, split.stream), one, seed) for one in split.datasets]
    if len(parts) == 1:
        return parts[0]
    parts = _alike(parts, [str(one.dataset_path or one.dataset_name) for one in split.datasets])
    proportions = [one.mixture_proportion for one in split.datasets]
    import datasets

    if proportions[0] is None:
        return datasets.concatenate_datasets(parts)
    return datasets.interleave_datasets(
        parts,
        probabilities=proportions,
        seed=split.seed if split.seed is not None else seed,
        stopping_strategy=split.mixture_strategy.value,
    )


def read_one(one: DatasetParams, stream: bool) -> Any:
    """Return one dataset as it lies on disk or on the hub.

    Raises:
        DataError: it cannot be read.
    """
    try:
        import datasets
    except ModuleNotFoundError:
        raise missing_package("datasets", "llm", "Reading data from a file") from None
    datasets.disable_progress_bars()
    if one.dataset_name == "python_source":
        return _python_source(one, stream)
    name, path = one.dataset_name or "", one.dataset_path
    where = Path(path or name).expanduser()
    try:
        if where.exists():
            return _local(one, where, stream)
        return datasets.load_dataset(
            name, one.subset, split=one.split, streaming=stream, data_dir=path, **one.dataset_kwargs
        )
    except DataError:
        raise
    except Exception as error:
        cause = error.__cause__ or error
        said = (str(cause).strip() or "no reason given").splitlines()[0]
        raise DataError(f"The dataset '{path or name}' cannot be read: {type(cause).__name__}: {said}") from error


def _local(one: DatasetParams, where: Path, stream: bool) -> Any:
    """Return the wanted split of a file, a folder, or a saved dataset."""
    where = _subset(one, where)
    what = f"'{where}'"
    if any((where / name).exists() for name in _SAVED):
        import datasets

        saved = datasets.load_from_disk(str(where))
        tables = dict(saved) if isinstance(saved, dict) else {splits.TRAIN: saved, str(saved.split): saved}
        return splits.chosen(
            one.split, tables, lambda name: tables[name].to_iterable_dataset() if stream else tables[name], what
        )
    builder, files = _files(where, _FORMATS.get(one.dataset_name or ""))
    if where.is_dir():
        found = splits.by_split(where, files)
    else:  # whoever names a file means it, whatever it is called
        found = dict.fromkeys([splits.TRAIN, splits.split_of([where.name]) or splits.TRAIN], [str(where)])
    return splits.chosen(one.split, found, lambda name: _load(builder, found[name], stream, one), what)


def _subset(one: DatasetParams, where: Path) -> Path:
    if one.subset is None or one.subset == "default":
        return where
    if not (where / one.subset).is_dir():
        raise DataError(f"subset '{one.subset}' is no folder in '{where}'; leave it out, or name one that is there.")
    return where / one.subset


def _load(builder: str, files: list[str], stream: bool, one: DatasetParams) -> Any:
    """Return the rows of some files of one kind."""
    import datasets

    if not any(Path(file).stat().st_size for file in files):
        raise DataError(f"'{files[0]}' is empty: it has no row.")
    given = {**(text_columns(files, one.dataset_kwargs) if builder == "csv" else {}), **one.dataset_kwargs}
    rows = datasets.load_dataset(builder, data_files=files, split="train", streaming=stream, **given)
    dated = without_dates(rows.features) if builder == "json" and "features" not in given else None
    if dated is None:
        return rows
    return datasets.load_dataset(
        builder, data_files=files, split="train", streaming=stream, **{**given, "features": dated}
    )


def _python_source(one: DatasetParams, stream: bool) -> Any:
    """Return the files of Python's standard library, or of `dataset_kwargs.root`; validation and test hold those that
    are never in train."""
    import datasets

    root = one.dataset_kwargs.get("root")
    corpus = python_source(Path(root).expanduser() if root else None)
    texts = {splits.TRAIN: corpus.train, "validation": corpus.held_out, "test": corpus.held_out}

    def load(name: str) -> Any:
        table = datasets.Dataset.from_dict({"text": texts[name]})
        return table.to_iterable_dataset() if stream else table

    return splits.chosen(one.split, texts, load, "python_source")


def local_files(split: DatasetSplitParams) -> list[str]:
    """Return the files here that a split is read from; none where a part of it lies elsewhere."""
    found = []
    for one in split.datasets:
        where = Path(one.dataset_path or one.dataset_name or "").expanduser()
        if not where.exists():
            return []
        found += [str(where)] if where.is_file() else [str(path) for path in sorted(where.rglob("*")) if path.is_file()]
    return found


def _files(where: Path, builder: str | None) -> tuple[str, list[Path]]:
    """Return the reader and the files of a path: of a folder, all files of the one kind that it holds."""
    if where.is_file():
        chosen = builder or _BUILDERS.get(where.suffix)
        if chosen is None:
            raise DataError(f"'{where}' ends with '{where.suffix}'; known are {', '.join(_BUILDERS)}.")
        return chosen, [where]
    found = sorted(path for path in where.rglob("*") if path.suffix in _BUILDERS and path.name not in _NOT_ROWS)
    kinds = dict.fromkeys(_BUILDERS[path.suffix] for path in found)
    if builder is not None:
        found, kinds = [path for path in found if _BUILDERS[path.suffix] == builder], {builder: None}
    if not found or len(kinds) > 1:
        what = f"files of {', '.join(kinds)}" if found else "no file of a known kind"
        raise DataError(
            f"The folder '{where}' holds {what}; it must hold files of one kind ({', '.join(_BUILDERS)}). Name the "
            "kind by dataset_name and the folder by dataset_path."
        )
    return next(iter(kinds)), found


def _limited(rows: Any, one: DatasetParams, seed: int) -> Any:
    """Return the rows that are wanted of a dataset: shuffled, and the first sample_count."""
    stream = not hasattr(rows, "__len__")
    if one.shuffle and not stream:  # a stream is shuffled where it is packed, where its place can be saved
        rows = rows.shuffle(seed=one.seed if one.seed is not None else seed)
    if one.sample_count is None:
        return rows
    return rows.take(one.sample_count) if stream else rows.select(range(min(one.sample_count, len(rows))))


def _alike(parts: list[Any], names: list[str]) -> list[Any]:
    """Return datasets with the columns that all of them have.

    Raises:
        DataError: they have none in common.
    """
    columns = [list(part.column_names or next(iter(part))) for part in parts]
    shared = [name for name in columns[0] if all(name in other for other in columns)]
    if not shared:
        listed = "; ".join(f"'{name}' has {', '.join(own)}" for name, own in zip(names, columns, strict=True))
        raise DataError(f"The datasets cannot be mixed, for they have no column in common: {listed}.")
    return [part.select_columns(shared) for part in parts]
