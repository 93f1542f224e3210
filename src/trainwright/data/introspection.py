"""What kind of data a dataset or loader is."""

from __future__ import annotations

from typing import Any

_STEADY_COLLATORS = {
    "default_data_collator", "default_collate", "default_convert", "DefaultDataCollator", "DataCollatorWithPadding",
    "DataCollatorForSeq2Seq", "DataCollatorForTokenClassification", "DataCollatorForMultipleChoice",
    "DataCollatorWithFlattening", "PaddedBatch", "FlatBatch", "PairBatch",
}  # fmt: skip
_KNOWN_LIBRARIES = ("torch.", "transformers.", "datasets.", "trainwright.")


def length_of(data: Any) -> int | None:
    """Return the length of a dataset or loader, or None where it has none."""
    try:
        return len(data)
    except (TypeError, NotImplementedError, AttributeError):
        return None


def is_stream(dataset: Any) -> bool:
    """Whether a dataset is read in its own order: an IterableDataset, or an iterable without `__getitem__`."""
    from torch.utils.data import IterableDataset

    return isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__")


def asks_for_its_worker(stream: Any) -> bool:
    """Whether the code by which a stream is read asks torch which worker reads it, and so may divide the stream."""
    code = getattr(type(stream).__iter__, "__code__", None)
    return "get_worker_info" in getattr(code, "co_names", ())


def tellable(data: Any) -> list[Any]:
    """Return what hears of passes by `set_epoch`: the data itself, or what torch's Subset, ConcatDataset and the like
    hold."""
    if hasattr(data, "set_epoch"):
        return [data]
    if not type(data).__module__.startswith("torch.utils.data"):
        return []
    held = getattr(data, "datasets", [getattr(data, "dataset", None)])
    parts = held.values() if isinstance(held, dict) else held if isinstance(held, list | tuple) else []
    return [one for part in parts for one in tellable(part)]


def has_state(data: Any) -> bool:
    """Whether a stream or loader can say where it stands and go on from there."""
    if getattr(data, "use_stateful_dataloader", None) is False:
        return False  # one of accelerate, which has the methods all the same
    return hasattr(data, "state_dict") and hasattr(data, "load_state_dict") and not _shuffles_in_a_buffer(data)


def _shuffles_in_a_buffer(data: Any) -> bool:
    """Whether a stream of `datasets` has a shuffle buffer, which its state leaves out."""
    part = getattr(data, "_ex_iterable", None)
    while part is not None:
        if type(part).__name__ == "BufferShuffledExamplesIterable":
            return True
        part = getattr(part, "ex_iterable", None)
    return False


def is_of_library(value: Any) -> bool:
    """Whether an object is of a class of torch or of another library that is known here."""
    return type(value).__module__.startswith((*_KNOWN_LIBRARIES, "accelerate."))


def uses_random_numbers(dataset: Any, collator: Any) -> bool:
    """Whether fetching or collating may draw random numbers: wherever one of them is code of the user."""
    return not (_is_steady_dataset(dataset) and _is_steady_collator(collator))


def _is_steady_dataset(dataset: Any) -> bool:
    kind = type(dataset)
    if kind in (list, tuple) or kind.__module__.startswith("trainwright.data."):
        return True
    if kind.__module__.startswith("torch.utils.data") and kind.__name__ == "Subset":
        return _is_steady_dataset(dataset.dataset)
    if kind.__module__.startswith("torch.utils.data"):
        return kind.__name__ == "TensorDataset"
    if kind.__module__.startswith("datasets.") and kind.__name__ == "Dataset":
        return (dataset.format or {}).get("type") != "custom"  # set_transform
    return False


def _is_steady_collator(collator: Any) -> bool:
    named = collator if hasattr(collator, "__name__") else type(collator)
    known = named.__module__.startswith(_KNOWN_LIBRARIES)
    if known and named.__name__ == "DataCollatorForLanguageModeling":
        return not collator.mlm
    return known and named.__name__ in _STEADY_COLLATORS


def is_prepared(loader: Any) -> bool:
    """Whether a loader comes from `accelerate`, which divides it among the processes."""
    return type(loader).__module__ == "accelerate.data_loader"
