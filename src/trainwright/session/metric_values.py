"""What logs and metrics may hold: numbers of any library, texts, and lists and dictionaries of them."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch

from trainwright.errors import ConfigError, DataError
from trainwright.session.session import Session


def plain(value: Any, name: str) -> Any:
    """Return a value in the types of JSON: numbers of other libraries as Python's, arrays as lists, keys as text.

    A tensor or array of one element is a number.

    Raises:
        DataError: it is, or holds, something else; `name` is what it is called.
    """
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        value = value.item() if np.prod(value.shape) == 1 else value.tolist()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(entry, f"{name}.{key}") for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry, f"{name}[{place}]") for place, entry in enumerate(value)]
    if isinstance(value, Real):
        return int(value) if isinstance(value, int) else float(value)
    if isinstance(value, str):
        return str(value)
    raise DataError(
        f"'{name}' is a {type(value).__name__}; logs and metrics hold numbers, texts, and lists and dictionaries of "
        "them."
    )


def fit(session: Session, entries: Mapping[str, Any], refuse: bool = False) -> dict[str, Any]:
    """Return entries with plain values. One that cannot be kept is left out and named once, so that no run ends by it.

    Raises:
        DataError: with `refuse`, there is one that cannot be kept.
    """
    kept: dict[str, Any] = {}
    for name, value in entries.items():
        try:
            kept[str(name)] = plain(value, str(name))
        except DataError as error:
            if refuse:
                raise
            if name not in session.left_out:
                session.left_out.add(name)
                session.note(f"{error} It is left out.")
    return kept


def as_named(metrics: Any, prefix: str) -> dict[str, Any]:
    """Return what a metrics function returned, every name with the prefix.

    Raises:
        ConfigError: it is no mapping.
    """
    if not isinstance(metrics, Mapping):
        raise ConfigError(
            f"compute_metrics returned {type(metrics).__name__}; it must return a dict of name and number."
        )
    return {k if str(k).startswith(f"{prefix}_") else f"{prefix}_{k}": v for k, v in metrics.items()}
