"""Fetching rows and turning them into a batch; a fault is reported with the row where it happens."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from trainwright import randomness
from trainwright.data.columns import Selected, check_columns
from trainwright.data.introspection import tellable
from trainwright.data.labels import as_floats
from trainwright.errors import DataError

_LABELS = ("label", "labels")
IDLE_ROWS = 2
"""Rows that a rank without any repeats: layers that compare the rows of a batch take two."""


@dataclass(frozen=True)
class PaddingBatch:
    """A batch that only keeps this rank in step with the others: its rows weigh nothing."""

    batch: Any

    def pin_memory(self) -> PaddingBatch:
        """Pin the batch; torch's DataLoader calls this."""
        return PaddingBatch(torch.utils.data._utils.pin_memory.pin_memory(self.batch))


class Fetched(list[Any]):
    """Rows of one micro-batch, with their numbers for error messages."""

    indices: Sequence[int] | None = None


class Indices(list[int]):
    """Row numbers of one micro-batch, with the pass they belong to and whether they weigh nothing."""

    epoch: int = 0
    number: int = 0
    is_padding: bool = False


def new_indices(rows: Sequence[int], epoch: int, number: int, is_padding: bool = False) -> Indices:
    """Return row numbers as a sampler hands them to a `RowFetcher`; `number` tells the batches of a pass apart."""
    indices = Indices(rows)
    indices.epoch, indices.number, indices.is_padding = epoch, number, is_padding
    return indices


class RowFetcher(torch.utils.data.Dataset[Any]):
    """A map-style dataset that gives whole micro-batches, collated, so that a fault can name the row.

    Args:
        dataset: the rows.
        collate: rows to batch.
        seed: with a seed, what the dataset and the collator draw from torch, numpy and python's random, or from
            generators of their own, depends on the seed, the pass and the batch alone, in whatever process they run;
            None where they draw nothing.
        epochs: whether a dataset with `set_epoch` is told the pass that its rows are fetched for, in workers too.
    """

    def __init__(
        self, dataset: Any, collate: Callable[[list[Any]], Any], seed: int | None, epochs: bool = False
    ) -> None:
        self.dataset = dataset
        self.collate = collate
        self.selected = Selected(dataset, getattr(collate, "columns", None))
        self.hearing = tellable(dataset) if epochs else []
        self.epoch: int | None = None
        collator = collator_in(collate)
        make_generator(collator)
        self.drawing = None if seed is None else randomness.Drawing(seed, dataset=dataset, collator=collator)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]

    def __getitems__(self, indices: Indices) -> Any:
        batch = (
            self._batch(indices)
            if self.drawing is None
            else self.drawing.make(lambda: self._batch(indices), indices.epoch, indices.number)
        )
        return PaddingBatch(batch) if indices.is_padding else batch

    def _batch(self, indices: Indices) -> Any:
        if self.hearing and self.epoch != indices.epoch:
            self.epoch = indices.epoch
            for part in self.hearing:
                part.set_epoch(indices.epoch)
        fetched = Fetched(self._fetch(indices))
        fetched.indices = indices
        return self.collate(fetched)

    def _fetch(self, indices: Sequence[int]) -> list[Any]:
        rows = self.selected.now()
        fetch_many = getattr(rows, "__getitems__", None)
        try:
            return fetch_many(indices) if fetch_many else [rows[i] for i in indices]
        except (IndexError, KeyError, TypeError) as error:
            wrong = next((one for one in indices if not hasattr(one, "__index__")), None)
            if wrong is not None:
                raise DataError(
                    f"A sampler gave {wrong!r:.80} where the number of a row is expected. One that gives whole batches "
                    "(a BatchSampler) is batch_sampler= of a loader of your own: get_train_dataloader, train_loader=."
                ) from error
            if isinstance(error, TypeError):
                raise
            raise DataError(
                f"The dataset failed on one of its rows {_some(indices)}: {type(error).__name__}: {error}. "
                f"Its length says {len(self.dataset)} rows; check its __len__ and __getitem__."
            ) from error


def collator_in(collate: Any) -> Any:
    """Return the user's collator within what calls it."""
    return getattr(collate, "collator", collate)


def make_generator(collator: Any) -> None:
    """Let a collator of transformers with a seed make its generator, which it else does in the first batch.

    Made in a worker it would depend on the worker; made here it depends on the seed alone.
    """
    make = getattr(collator, "create_rng", None)
    if callable(make) and getattr(collator, "seed", None) is not None and collator.generator is None:
        make()


def draws(seed: int | None, *numbers: int) -> AbstractContextManager[None]:
    """Return the context in which rows of a stream are read: their own random numbers, where they may draw any."""
    return nullcontext() if seed is None else randomness.seeded(seed, *numbers)


def as_it_is(batch: Any) -> Any:
    """Return the batch; for torch's DataLoader, where the dataset gives finished batches."""
    return batch


@dataclass
class Collate:
    """Calls a collator on the columns the model takes.

    Attributes:
        collator: the user's or the default collator.
        columns: names to keep of rows that are mappings; None keeps all.
        what: which data, for messages.
        float_labels: whether `labels` of whole numbers are floats all the same, as others of the dataset are.
    """

    collator: Callable[[list[Any]], Any]
    columns: Collection[str] | None = None
    what: str = "data"
    float_labels: bool = False
    checked: bool = False

    def __call__(self, rows: list[Any]) -> Any:
        try:
            batch = self.collator(self.keep_columns(rows))
            return as_floats(batch) if self.float_labels else batch
        except DataError:
            raise
        except Exception as error:
            raise explain_collation(rows, self.columns, error, self.collator) from error

    def __post_init__(self) -> None:
        self.wanted = frozenset(self.columns or ())

    def keep_columns(self, rows: list[Any]) -> list[Any]:
        """Return the rows with the wanted columns only."""
        if self.columns is None or not rows or not isinstance(rows[0], Mapping):
            return list(rows)
        if not self.checked:
            check_columns(list(rows[0]), self.columns, self.what)
            self.checked = True
        wanted = self.wanted
        return [
            dict(row) if row.keys() <= wanted else {name: value for name, value in row.items() if name in wanted}
            for row in rows
        ]


def explain_collation(
    rows: list[Any], columns: Collection[str] | None, error: Exception, collator: Any = None
) -> Exception:
    """Return a DataError that names the row and field at fault, or the collator's own error."""
    indices = rows.indices if isinstance(rows, Fetched) and rows.indices is not None else range(len(rows))
    named = [(f"row {index}", row) for index, row in zip(indices, rows, strict=True)]
    for where, row in named:
        if row is None:
            return DataError(f"The dataset's {where} is None; every row must be a dict of fields. Drop or repair it.")
        if not isinstance(row, Mapping):
            return error
        empty = [name for name, value in row.items() if value is None and (columns is None or name in columns)]
        if empty:
            return DataError(f"The dataset's {where} has None in field '{empty[0]}'. Drop the row or fill it in.")
    tokenizer = getattr(collator, "tokenizer", None)
    return _explain_padding(named, tokenizer) or _explain_fields(named, columns, tokenizer) or error


def _explain_padding(named: list[tuple[str, Any]], tokenizer: Any) -> DataError | None:
    """Return what to do where a tokenizer's collator cannot work: labels that are text, a tokenizer that cannot pad."""
    for where, row in named:
        for name in _LABELS:
            if isinstance(row.get(name), str):
                return DataError(
                    f"Field '{name}' of the dataset's {where} is the text {row[name]!r}, but a class is a number from "
                    f"0 on. With names = sorted({{row['{name}'] for row in dataset}}) make them numbers, "
                    f"dataset = dataset.map(lambda row: {{'{name}': names.index(row['{name}'])}}), and let the model's "
                    "config.id2label be dict(enumerate(names))."
                )
    if hasattr(tokenizer, "pad") and getattr(tokenizer, "pad_token", "") is None:
        return DataError(
            "The tokenizer has no pad token, so its collator cannot pad. Write tokenizer.pad_token = "
            "tokenizer.eos_token, and model.config.pad_token_id = tokenizer.pad_token_id, before the Trainer is made."
        )
    return None


def _explain_fields(named: list[tuple[str, Any]], columns: Collection[str] | None, tokenizer: Any) -> DataError | None:
    start, first = named[0]
    padded = getattr(tokenizer, "model_input_names", ())  # by the collator that is in use
    for where, row in named:
        if set(row) != set(first):
            return DataError(
                f"The fields of {where} are {sorted(row)}, but {start} has {sorted(first)}. All rows need the same."
            )
        for name in row if columns is None else [name for name in row if name in columns]:
            shape, expected = _shape(row[name]), _shape(first[name])
            if shape != expected and name not in padded:
                pads = (
                    "that pads it too, such as DataCollatorForTokenClassification(tokenizer) or DataCollatorForSeq2Seq"
                    if padded
                    else "that pads, such as data_collator=DataCollatorWithPadding(tokenizer) (DataCollatorForSeq2Seq "
                    "or DataCollatorForTokenClassification where labels have lengths too)"
                )
                return DataError(
                    f"Field '{name}' has shape {shape} in {where} but {expected} in {start}, so they cannot be "
                    f"stacked. Pass a collator {pads}."
                )
    return None


def _shape(value: Any) -> tuple[int, ...]:
    if hasattr(value, "shape"):
        return tuple(value.shape)
    if isinstance(value, list | tuple):
        return (len(value), *(_shape(value[0]) if value else ()))
    return ()


def _some(indices: Sequence[int]) -> str:
    shown = ", ".join(str(i) for i in list(indices)[:8])
    return f"{shown}, ..." if len(indices) > 8 else shown
