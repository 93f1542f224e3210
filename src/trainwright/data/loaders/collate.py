"""The collator used when the user gives none and there is no tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from trainwright.data.labels import is_float
from trainwright.errors import DataError


def default_data_collator(features: list[Any], return_tensors: str = "pt") -> Any:
    """Stack the fields of rows that all have the same shapes; of rows that are tuples, their places, as torch does.

    `label` becomes `labels` (int64 where all are whole numbers, else float32), `label_ids` too; texts and None are left
    out.

    Args:
        features: rows as mappings, dataclasses, objects with attributes, or tuples.
        return_tensors: only "pt".

    Returns:
        One tensor for each field, shape (rows, *field shape).

    Raises:
        DataError: a label that is a text, or a row without fields.
    """
    if return_tensors != "pt":
        raise ValueError(f"return_tensors={return_tensors!r} is not supported; the engine takes 'pt' (torch).")
    if isinstance(features[0], tuple | list):
        return default_collate(features)
    rows = [_as_mapping(feature) for feature in features]
    first = rows[0]
    batch: dict[str, Any] = {}
    if first.get("label") is not None:
        labels = [row["label"] for row in rows]
        batch["labels"] = torch.tensor(labels, dtype=_label_type(labels))
    elif first.get("label_ids") is not None:
        batch["labels"] = _stack([row["label_ids"] for row in rows])
    for name, value in first.items():
        if name in ("labels", "label_ids") and isinstance(value, str):
            raise _text_as_label(value)
        if value is None and any(row[name] is not None for row in rows):
            raise ValueError(f"'{name}' is None in some rows, and not in others.")
        if name not in ("label", "label_ids") and value is not None and not isinstance(value, str):
            batch[name] = _stack([row[name] for row in rows])
    return batch


def _as_mapping(feature: Any) -> Mapping[str, Any]:
    if isinstance(feature, Mapping):
        return feature
    if isinstance(feature, torch.Tensor) or not hasattr(feature, "__dict__"):
        raise DataError(
            f"A row is a {type(feature).__name__}, and has no fields by name. Give rows as dicts, dataclasses or "
            "tuples, or a collator that makes batches of these (data_collator= of a Trainer, collate= of batches)."
        )
    return asdict(feature) if is_dataclass(feature) and not isinstance(feature, type) else vars(feature)


def _text_as_label(text: str) -> DataError:
    return DataError(f"A label is the text {text!r}; turn labels into numbers first, classes into 0, 1, 2, ….")


def _label_type(labels: list[Any]) -> torch.dtype:
    text = next((label for label in labels if isinstance(label, str)), None)
    if text is not None:
        raise _text_as_label(text)
    several = any(isinstance(label, list | tuple) for label in labels)  # of one row, as transformers has it
    return torch.float if several or any(map(is_float, labels)) else torch.long


def _stack(values: list[Any]) -> torch.Tensor:
    if isinstance(values[0], torch.Tensor):
        return torch.stack(values)
    if isinstance(values[0], np.ndarray):
        return torch.from_numpy(np.stack(values))
    return torch.tensor(values)
