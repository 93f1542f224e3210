"""Tables of `datasets`: only what is wanted of them is read. The references are a list of the same rows, and python."""

from __future__ import annotations

from types import SimpleNamespace

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch

from tests import tiny
from trainwright import DataError, Trainer, TrainerCallback, TrainingArguments
from trainwright.data.sampling.lengths import row_lengths

ROWS = [{"x": [0.1 * i, 1.0], "unused": [float(i)] * 50, "labels": float(i)} for i in range(12)]


@pytest.fixture
def read(monkeypatch):
    """The columns that were decoded, query by query."""
    found, decode = [], datasets.arrow_dataset.format_table

    def note(table, key, **named):
        wanted = named.get("format_columns")
        everything = wanted is None or named.get("output_all_columns")
        found.append(sorted(name for name in table.column_names if everything or name in wanted))
        return decode(table, key, **named)

    monkeypatch.setattr(datasets.arrow_dataset, "format_table", note)
    return found


def losses(tmp_path, rows, *callbacks, **changes):
    args = TrainingArguments(
        str(tmp_path), max_steps=4, per_device_train_batch_size=4, use_cpu=True, disable_tqdm=True, logging_steps=1,
        save_strategy="no", report_to="none", **changes,
    )  # fmt: skip
    torch.manual_seed(0)
    trainer = Trainer(tiny.Line(2), args, train_dataset=rows, callbacks=list(callbacks))
    trainer.train()
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


FORMATS = {
    "as it is": lambda table: table,
    "shuffled and selected": lambda table: table.shuffle(seed=1).select(range(11, -1, -1)),
    "as tensors": lambda table: table.with_format("torch"),
    "as arrays, all of them": lambda table: table.with_format("numpy", columns=["x"], output_all_columns=True),
    "with columns of a format": lambda table: table.with_format("torch", columns=["labels", "x", "unused"]),
}


@pytest.mark.parametrize("name", FORMATS)
def test_columns_that_the_model_does_not_take_are_not_read(tmp_path, read, name):
    table = FORMATS[name](datasets.Dataset.from_list(ROWS))
    plain = table.with_format(None).to_list()
    expected = losses(tmp_path, plain)
    read.clear()
    assert losses(tmp_path, table) == expected
    assert [columns for columns in read if "x" in columns][-4:] == [["labels", "x"]] * 4  # one query for every step


def test_rows_that_a_transform_makes_are_made_of_all_columns(tmp_path, read):
    def make(rows):
        return {"x": [[one[0], 1.0] for one in rows["unused"]], "labels": rows["labels"]}

    table = datasets.Dataset.from_list(ROWS).with_transform(make)
    expected = losses(tmp_path, [table[i] for i in range(len(table))])
    read.clear()
    assert losses(tmp_path, table) == expected
    assert read[-4:] == [["labels", "unused", "x"]] * 4


def test_a_format_that_is_set_during_a_run_holds_from_then_on(tmp_path):
    table = datasets.Dataset.from_list(ROWS)

    class Doubling(TrainerCallback):
        def on_epoch_begin(self, args, state, control, **kwargs):
            if state.epoch:
                table.set_transform(lambda rows: {"x": [[0.0, 0.0]] * len(rows["x"]), "labels": rows["labels"]})

    zero = [{**row, "x": [0.0, 0.0]} for row in ROWS]
    plain, blank = losses(tmp_path, ROWS), losses(tmp_path, zero)
    found = losses(tmp_path, table, Doubling())
    assert found[:3] == plain[:3]
    assert found[3] != plain[3]
    assert blank[3] != plain[3]


def arguments(**changes):
    return SimpleNamespace(train_sampling_strategy="group_by_length", length_column_name="length", **changes)


def lists(kind, rows):
    return datasets.Dataset(pa.table({"input_ids": pa.chunked_array([pa.array(some, kind) for some in rows])}))


SOME = [[[1, 2], [], [3]], [[4] * 5], [[5], [6, 7, 8]]]
COLUMNS = {
    "lists": lists(pa.list_(pa.int64()), SOME),
    "large lists": lists(pa.large_list(pa.int32()), SOME),
    "lists of one size": lists(pa.list_(pa.int64(), 2), [[[1, 2]], [[3, 4], [5, 6]]]),
    "texts": lists(pa.string(), [["a", "häß"], ["", "🙂🙂"]]),
    "shuffled": lists(pa.list_(pa.int64()), SOME).shuffle(seed=3),
    "a slice": lists(pa.list_(pa.int64()), SOME).select(range(2, 5)),
    "repeated": lists(pa.list_(pa.int64()), SOME).select([3, 3, 0, 1]),
    "several": datasets.concatenate_datasets([lists(pa.list_(pa.int64()), SOME).select([4, 0])] * 2),
    "nulls that are left out": lists(pa.list_(pa.int64()), [[[1, 2], None], [[3]]]).select([2, 0]),
    "as arrays": lists(pa.list_(pa.int64()), SOME).with_format("numpy"),
    "of a transform": lists(pa.list_(pa.int64()), SOME).with_transform(
        lambda rows: {"input_ids": [one + one for one in rows["input_ids"]]}
    ),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_lengths_are_those_that_arrow_knows(read, name):
    table = COLUMNS[name]
    expected = [len(row) for row in table["input_ids"]]
    read.clear()
    found = row_lengths(table, arguments(), None)
    assert np.asarray(found).tolist() == expected
    if name != "of a transform":
        assert len(read) <= 2  # the first row, which tells what there is


@pytest.mark.parametrize("values", [[3, 1, 2], [3.0, 1.0, 2.0]])
def test_a_column_of_lengths_is_not_listed(read, values):
    table = datasets.Dataset.from_dict({"length": values, "x": [0, 0, 0]}).select([2, 0, 1])
    assert np.asarray(row_lengths(table, arguments(), None)).tolist() == [values[i] for i in (2, 0, 1)]
    assert not read


def test_a_row_without_a_length_is_named():
    table = lists(pa.list_(pa.int64()), [[[1, 2], None], [[3]]]).select([2, 1, 0])
    with pytest.raises(DataError, match="Row 1 has None in 'input_ids'. Drop the row or fill it in."):
        row_lengths(table, arguments(), None)
