"""Text stays text: what readers of CSV and JSON would make numbers, dates or nothing of is read as it stands there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_HEADER = ("sep", "delimiter", "header", "names", "skiprows", "quotechar", "encoding", "comment", "usecols", "dialect")


def text_columns(files: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings by which `datasets` reads every column of CSV files as text, `NA` and `0010` too.

    Args:
        files: of the same columns.
        given: settings that go before.
    """
    import pandas
    from datasets import Features, Value

    if "features" in given:
        return {}
    header = {name: given[name] for name in _HEADER if name in given}
    if "delimiter" in header:
        header.pop("sep", None)
    columns = pandas.read_csv(files[0], nrows=0, **header).columns
    return {"keep_default_na": False, "features": Features({str(name): Value("string") for name in columns})}


def without_dates(features: Any) -> Any:
    """Return columns in which no text is a date, or None where that is so already."""
    from datasets import Features

    if features is None:
        return None
    changed = {name: _as_text(feature) for name, feature in features.items()}
    return None if changed == dict(features) else Features(changed)


def _as_text(feature: Any) -> Any:
    import datasets

    if isinstance(feature, datasets.Value):  # Json keeps a text to the letter; a cast would write the date anew
        return datasets.Json() if feature.dtype.startswith(("timestamp", "date", "time")) else feature
    if isinstance(feature, datasets.List):
        return datasets.List(_as_text(feature.feature))
    if isinstance(feature, Mapping):
        return {name: _as_text(one) for name, one in feature.items()}
    return feature
