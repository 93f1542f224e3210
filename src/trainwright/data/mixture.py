"""From the section `data` of a file to rows: files, folders and hub names, several datasets mixed, streams."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainwright.config.schema import DatasetParams, DatasetSplitParams
from trainwright.data.sources import files, registered, splits
from trainwright.data.sources.filled import without_filled
from trainwright.data.sources.formats import LEARNED_FROM
from trainwright.data.sources.python_source import python_source
from trainwright.data.sources.reach import ask_at_once
from trainwright.errors import DataError

_FORMATS = {
    "json": "json", "jsonl": "json", "csv": "csv", "tsv": "tsv", "parquet": "parquet", "arrow": "arrow", "text": "text",
    "text_sft_jsonl": "json", "text_sft": "json", "TextSftJsonLinesDataset": "json", "text_dpo_jsonl": "json",
    "preference_jsonl": "json",
}  # fmt: skip


def read(split: DatasetSplitParams, seed: int, text_column: str = "text") -> Any:
    """Return the raw rows of a split, its datasets mixed: a `datasets.Dataset`, or an IterableDataset for a stream.

    Raises:
        DataError: something cannot be read, or the datasets have not the same columns to learn from.
    """
    return mix(_alike(read_parts(split, seed, text_column), names_of(split)), split, seed)


def read_parts(split: DatasetSplitParams, seed: int, text_column: str = "text") -> list[Any]:
    """Return the rows of every dataset of a split, in columns that are learned from.

    Args:
        split: the section.
        seed: of shuffling, where the section has none.
        text_column: of plain text, which stays as it is.

    Raises:
        DataError: something cannot be read.
    """
    return [shaped(_limited(read_one(one, split.stream), one, seed), one, text_column) for one in split.datasets]


def names_of(split: DatasetSplitParams) -> list[str]:
    """Return what the datasets of a split are called, for messages."""
    return [str(one.dataset_path or one.dataset_name) for one in split.datasets]


def mix(parts: list[Any], split: DatasetSplitParams, seed: int) -> Any:
    """Return the datasets of a split, of the same columns, as one: one after another, or drawn by their proportions.

    Args:
        seed: of drawing, where the section has none.
    """
    if len(parts) == 1:
        return parts[0]
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
    """Return one dataset as it lies on disk or on the hub, its tool calls with the keys that they have.

    Raises:
        DataError: it cannot be read.
    """
    return without_filled(_read(one, stream))


def _read(one: DatasetParams, stream: bool) -> Any:
    datasets = files.library()
    if one.dataset_name == "python_source":
        return _python_source(one, stream)
    name, path = one.dataset_name or "", one.dataset_path
    entry, settings = _registered(one)
    if entry is not None and entry.make is not None:
        made = datasets.Dataset.from_list(entry.make(settings))
        return made.to_iterable_dataset() if stream else made
    name = getattr(settings, "hf_dataset_path", "") or name
    given = {} if entry else one.dataset_kwargs
    where, missing = Path(path or name).expanduser(), ""
    try:
        if where.exists():
            reader = files.Reader(stream, True, given)
            apart = one.subset if entry is None or (where / (one.subset or "")).is_dir() else None
            found = files.find(where, reader, _FORMATS.get(name), apart)
            known = {**dict.fromkeys(found.names), **({splits.TRAIN: None} if found.whole else {})}
            return splits.chosen(
                one.split, known, lambda split: found.load(found.names[0] if found.whole else split), f"'{where}'"
            )
        subset = one.subset or (entry.subset if entry else None)
        alone = entry.files.get(subset or "") if entry else None
        if alone is not None:
            subset, given = None, {"data_files": {"train": alone}}
        missing = ask_at_once(name)
        return datasets.load_dataset(name, subset, split=one.split, streaming=stream, data_dir=path, **given)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"The dataset '{path or name}' cannot be read: {missing or files.reason(error)}") from error


def _registered(one: DatasetParams) -> tuple[registered.Registered | None, Any]:
    """Return what is known of a dataset by its name, and its settings; None and None of one's own."""
    entry = registered.find(one.dataset_name, one.dataset_path)
    return entry, None if entry is None else entry.settings(**one.dataset_kwargs)


def shaped(rows: Any, one: DatasetParams, text_column: str) -> Any:
    """Return rows in columns that are learned from: by `column_map`, by the dataset's name, else by its columns.

    Raises:
        DataError: a column that is to be renamed is not there, or a row has not what its dataset's rows have.
    """
    columns = columns_of(rows, one.dataset_path or one.dataset_name)
    within = named_within(one, columns)
    if within:
        rows, columns = rows.map(with_named_within, with_indices=True, fn_kwargs={"names": within}), [*columns, *within]
    names, shape, settings = reshaping(one, columns, text_column)
    if names:
        rows, columns = _renamed(rows, names, columns), [names.get(name, name) for name in columns]
    if shape is None:
        return rows
    given = {"shape": shape, "settings": settings, "subset": one.subset, "name": one.dataset_path or one.dataset_name}
    return rows.map(shaped_row, with_indices=True, remove_columns=columns, fn_kwargs=given)


def named_within(one: DatasetParams, columns: list[str]) -> list[str]:
    """Return the names of `column_map` that stand within a column, such as `translation.en`."""
    return [name for name in one.column_map if name not in columns and name.partition(".")[0] in columns]


def with_named_within(row: Any, number: int, names: list[str]) -> dict[str, Any]:
    """Return a row with columns of what stands within others.

    Raises:
        DataError: a row has not that, with its number.
    """
    found = {}
    for name in names:
        column, _, key = name.partition(".")
        held = row.get(column)
        if not isinstance(held, Mapping) or key not in held:
            raise DataError(f"Row {number} has no '{name}' in column_map: '{column}' holds {held!r:.60}.")
        found[name] = held[key]
    return {**row, **found}


def _renamed(rows: Any, names: dict[str, str], columns: list[str]) -> Any:
    """Return rows with columns of other names; a stream renames no two of them in each other's place at once."""
    if hasattr(rows, "__len__") or not set(names.values()) & set(columns):
        return rows.rename_columns(names)
    return rows.rename_columns({old: f"{new}\0" for old, new in names.items()}).rename_columns(
        {f"{new}\0": new for new in names.values()}
    )


def reshaping(one: DatasetParams, columns: list[str], text_column: str) -> tuple[dict[str, str], Any, Any]:
    """Return how rows with some columns come into those that are learned from: new names by old ones, and then what
    makes a row of a row, with its settings, or None.

    Raises:
        DataError: a column that is to be renamed is not there.
    """
    entry, settings = _registered(one)
    names = dict(one.column_map)
    column = getattr(settings, "dataset_text_field", None) or (entry.text if entry else "text")
    if column != "text":
        names.setdefault(column, "text")
    missing = [name for name in names if name not in columns]
    twice = [new for old, new in names.items() if new != old and new in columns and new not in names]
    if missing or twice:
        what = f"no column '{missing[0]}'" if missing else f"a column '{twice[0]}' already"
        raise DataError(
            f"'{one.dataset_path or one.dataset_name}' has {what}; its columns are {', '.join(columns)}. Look at "
            "column_map."
        )
    shape = entry.shape if entry is not None else None
    named = [names.get(name, name) for name in columns]
    return names, shape or registered.shape_of(named, {*LEARNED_FROM, text_column}), settings


def shaped_row(row: Any, number: int, *, shape: Any, settings: Any, subset: str | None, name: str) -> dict[str, Any]:
    """Return a row in columns that are learned from.

    Raises:
        DataError: it has not what its dataset's rows have, with its number.
    """
    try:
        made: dict[str, Any] = shape(row, settings, subset)
    except DataError as error:
        raise DataError(f"Row {number} of '{name}': {error}.") from None
    return made


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
        found += [str(where)] if where.is_file() else [str(path) for path in files.rows_files(where)]
    return found


def _limited(rows: Any, one: DatasetParams, seed: int) -> Any:
    """Return the rows that are wanted of a dataset: the first sample_count, which are all of them several times where
    there are fewer; with `shuffle`, in another order each time round."""
    import numpy as np

    stream = not hasattr(rows, "__len__")
    seed = one.seed if one.seed is not None else seed
    if one.shuffle and not stream:  # a stream is shuffled where it is packed, where its place can be saved
        rows = rows.shuffle(seed=seed)
    if one.sample_count is None:
        return rows
    if stream:
        return rows.repeat(None).take(one.sample_count)
    if len(rows) == 0:
        return rows
    rounds = range(-(-one.sample_count // len(rows)))
    order = [
        np.random.default_rng([seed, number]).permutation(len(rows)) if one.shuffle and number else np.arange(len(rows))
        for number in rounds
    ]
    return rows.select(np.concatenate(order)[: one.sample_count])


def columns_of(rows: Any, name: str | None) -> list[str]:
    """Return the names of the columns of a dataset, or of a stream's first row.

    Raises:
        DataError: a stream has no row, or its first one cannot be read.
    """
    if rows.column_names:
        return list(rows.column_names)
    try:
        first = next(iter(rows), None)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"The first row of '{name}' cannot be read: {files.reason(error)}") from error
    if not first:
        raise DataError(f"'{name}' has no rows.")
    return list(first)


def _alike(parts: list[Any], names: list[str]) -> list[Any]:
    """Return datasets with the columns that all of them have.

    Raises:
        DataError: what is learned from is not in all of them.
    """
    columns = [columns_of(part, name) for part, name in zip(parts, names, strict=True)]
    shared = [name for name in columns[0] if all(name in other for other in columns)]
    apart = {name for own in columns for name in own if name not in shared}
    if not shared or apart & set(LEARNED_FROM):
        listed = "; ".join(f"'{name}' has {', '.join(own)}" for name, own in zip(names, columns, strict=True))
        raise DataError(
            f"The datasets cannot be mixed for a trainer of another library, for their columns differ: {listed}. Our "
            "own trainers read each by its own columns."
        )
    return [part.select_columns(shared) for part in parts] if apart else parts
