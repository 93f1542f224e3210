"""What is given for a dataset and is none, told with the line that makes one of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy import ndarray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trainwright.errors import DataError


def check_dataset(given: Any, name: str) -> None:
    """Raise a DataError for what is no dataset.

    Args:
        given: for `train_dataset` or `eval_dataset`; of several evaluation sets, one.
        name: of the argument.
    """
    reason = _reason(given, name)
    if reason is not None:
        raise DataError(f"{name} is {reason}")


def _reason(given: Any, name: str) -> str | None:
    """Return what is given and what to write instead; None for a dataset, as far as that is seen without reading it."""
    if isinstance(given, DataLoader):
        loader = name.partition("_")[0].partition("[")[0] + "_loader"
        return (
            f"a DataLoader, which brings whole batches. Give it as {loader}=, or its dataset as {name}=loader.dataset."
        )
    if isinstance(given, str | Path):
        return (
            f"the path '{given}'. Read it first: datasets.load_dataset('json', data_files={str(given)!r})['train'] for "
            "JSON lines, 'csv' or 'parquet' for these."
        )
    if type(given).__name__ == "DataFrame":
        return f"a DataFrame. Make a dataset of it: {name}=datasets.Dataset.from_pandas(frame)."
    if isinstance(given, Tensor | ndarray):
        return f"a {type(given).__name__} of shape {tuple(given.shape)}. {_of_array(name)}"
    if isinstance(given, type) or (callable(given) and not hasattr(given, "__getitem__") and not _is_read(given)):
        what = getattr(given, "__name__", type(given).__name__)
        return f"the function or class '{what}'. Call it, and give what it returns: {name}={what}(…)."
    if isinstance(given, Mapping) and name == "train_dataset" and not isinstance(given, Dataset):
        return f"a mapping with {', '.join(map(repr, list(given)[:4]))}. {_of_mapping(given)}"
    if isinstance(given, list | tuple) and given:
        return _reason_of_list(given, name)
    return None


def _of_array(name: str) -> str:
    return f"Make rows of it, with its targets: {name}=torch.utils.data.TensorDataset(X, y)."


def _is_read(given: Any) -> bool:
    return hasattr(given, "__iter__")


def _of_mapping(given: Mapping[Any, Any]) -> str:
    if any(isinstance(value, Dataset) or hasattr(value, "column_names") for value in given.values()):
        return f"Give one of its sets: train_dataset=sets[{next(iter(given))!r}]."
    return "Make a dataset of its columns: datasets.Dataset.from_dict(columns)."


def _reason_of_list(given: list[Any] | tuple[Any, ...], name: str) -> str | None:
    if all(isinstance(one, Dataset) or hasattr(one, "column_names") for one in given):
        return f"a {type(given).__name__} of datasets. Join them: {name}=torch.utils.data.ConcatDataset(sets)."
    arrays = [one for one in given if hasattr(one, "shape") and getattr(one, "ndim", 0) > 0]
    if isinstance(given, tuple) and len(arrays) == len(given) == 2:
        return (
            f"a tuple of inputs and targets. Make rows of them: {name}=torch.utils.data.TensorDataset(X, y), or with "
            "the names that the model's forward takes: [{'x': a, 'y': b} for a, b in zip(X, y)]."
        )
    return None
