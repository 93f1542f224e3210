"""From the section `data` of a file to rows: files, folders and hub names, several datasets mixed, streams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainwright.config.schema import DatasetParams, DatasetSplitParams
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
        if where.is_dir() and (where / "dataset_info.json").exists():
            found = datasets.load_from_disk(str(where))
            found = found[one.split] if isinstance(found, dict) else found
            return found.to_iterable_dataset() if stream else found
        if where.exists():
            builder, files = _files(where, _FORMATS.get(name))
            if not any(Path(file).stat().st_size for file in files):
                raise DataError(f"'{where}' is empty: it has no row.")
            options = {"sep": "\t"} if files[0].endswith(".tsv") else {}
            given = {**options, **one.dataset_kwargs}
            return datasets.load_dataset(builder, data_files=files, split="train", streaming=stream, **given)
        return datasets.load_dataset(
            name, one.subset, split=one.split, streaming=stream, data_dir=path, **one.dataset_kwargs
        )
    except DataError:
        raise
    except Exception as error:
        cause = error.__cause__ or error
        said = (str(cause).strip() or "no reason given").splitlines()[0]
        raise DataError(f"The dataset '{path or name}' cannot be read: {type(cause).__name__}: {said}") from error


def _python_source(one: DatasetParams, stream: bool) -> Any:
    """Return the files of Python's standard library, or of `dataset_kwargs.root`; other splits than train hold those
    that are never in it."""
    import datasets

    root = one.dataset_kwargs.get("root")
    corpus = python_source(Path(root).expanduser() if root else None)
    texts = corpus.train if one.split == "train" else corpus.held_out
    table = datasets.Dataset.from_dict({"text": texts})
    return table.to_iterable_dataset() if stream else table


def local_files(split: DatasetSplitParams) -> list[str]:
    """Return the files here that a split is read from; none where a part of it lies elsewhere."""
    found = []
    for one in split.datasets:
        where = Path(one.dataset_path or one.dataset_name or "").expanduser()
        if not where.exists():
            return []
        found += [str(where)] if where.is_file() else [str(path) for path in sorted(where.rglob("*")) if path.is_file()]
    return found


def _files(where: Path, builder: str | None) -> tuple[str, list[str]]:
    """Return the reader and the files of a path: of a folder, all files of the one kind that it holds."""
    if where.is_file():
        chosen = builder or _BUILDERS.get(where.suffix)
        if chosen is None:
            raise DataError(f"'{where}' ends with '{where.suffix}'; known are {', '.join(_BUILDERS)}.")
        return chosen, [str(where)]
    found = sorted(path for path in where.rglob("*") if path.suffix in _BUILDERS)
    kinds = dict.fromkeys(_BUILDERS[path.suffix] for path in found)
    if builder is not None:
        found, kinds = [path for path in found if _BUILDERS[path.suffix] == builder], {builder: None}
    if not found or len(kinds) > 1:
        what = f"files of {', '.join(kinds)}" if found else "no file of a known kind"
        raise DataError(
            f"The folder '{where}' holds {what}; it must hold files of one kind ({', '.join(_BUILDERS)}). Name the "
            "kind by dataset_name and the folder by dataset_path."
        )
    return next(iter(kinds)), [str(path) for path in found]


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
