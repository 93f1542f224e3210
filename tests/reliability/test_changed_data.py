"""Training data that changed between stop and resume, as long as before, is noticed; augmentation is not a change."""

from __future__ import annotations

import collections
import logging
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from tests.reliability import cases
from trainwright import CheckpointError, Trainer, TrainingArguments
from trainwright.data import fingerprint
from trainwright.data.fingerprint import content_of, difference

X = torch.stack([row["x"] for row in cases.rows()])


def made(place, data, **changes):
    settings = {
        "per_device_train_batch_size": 4,
        "max_steps": 6,
        "save_steps": 3,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    ready = {"train_loader" if isinstance(data, DataLoader) else "train_dataset": data}
    return Trainer(cases.Net(), TrainingArguments(str(place), **{**settings, **changes}), **ready)


class Own(torch.utils.data.Dataset):
    """Rows that are made when they are read; `drawn` says from where their noise comes."""

    def __init__(self, scale=1.0, drawn=""):
        self.scale, self.drawn = scale, drawn
        self.generator = np.random.default_rng(3)
        self.read = []

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        self.read.append(index)
        noise = {
            "": 0.0,
            "torch": torch.rand(()).item(),
            "own": self.generator.random(),
            "the system's": random.SystemRandom().random(),
        }[self.drawn]
        return {"x": self.scale * X[index] + noise, "labels": self.scale * X[index].sum()}


def table(factor=1.0):
    import datasets

    rows = {"x": (factor * X).tolist(), "labels": X.sum(1).tolist()}
    return datasets.Dataset.from_dict(rows)


def one_of_many(factor):
    data = cases.rows()
    data[17] = {**data[17], "x": factor * data[17]["x"]}
    return data


def columns(factor=1.0):
    return [{"x": x, "labels": y} for x, y in TensorDataset(factor * X, X.sum(1))]


KINDS = {
    "one row of a list": (one_of_many, {}),
    "tensors": (lambda factor: DataLoader(columns(factor), batch_size=4), {}),
    "a table": (table, {}),
    "a table with another order": (lambda f: table().select(range(26) if f == 1 else range(25, -1, -1)), {}),
    "a dataset of one's own": (Own, {}),
    "with workers": (Own, {"dataloader_num_workers": 2}),
    "with noise, which is left out": (lambda factor: Own(factor, "the system's"), {}),
    "with seeded noise": (lambda factor: Own(factor, "own"), {}),
    "behind a ready loader": (lambda factor: DataLoader(Own(factor), batch_size=4), {}),
}


@pytest.mark.parametrize("name", KINDS)
def test_other_data_needs_consent(tmp_path, caplog, name):
    data, changes = KINDS[name]
    made(tmp_path, data(1.0), **changes).train()
    where = str(tmp_path / "checkpoint-3")
    with pytest.raises(CheckpointError, match="The training data is not what .* allow_data_change=True"):
        made(tmp_path, data(1.5), **changes).train(resume_from_checkpoint=where)
    with caplog.at_level(logging.WARNING, logger="trainwright"):
        made(tmp_path, data(1.5), allow_data_change=True, **changes).train(resume_from_checkpoint=where)
    assert "The training data changes from here" in caplog.text


@pytest.mark.parametrize("drawn", ["", "torch", "own", "the system's"])
def test_the_same_data_is_the_same(tmp_path, drawn):
    made(tmp_path, Own(drawn=drawn)).train()
    torch.manual_seed(5)
    random.seed(5)
    again = Own(drawn=drawn)
    made(tmp_path, again).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


@pytest.mark.parametrize("whole", [True, False])
def test_a_table_is_the_same_however_it_lies(tmp_path, monkeypatch, whole):
    import datasets

    if not whole:
        monkeypatch.setattr(fingerprint, "_BYTES", 100)
    plain = table()
    plain.save_to_disk(str(tmp_path / "table"), num_shards=3)
    mapped = datasets.load_from_disk(str(tmp_path / "table"))
    chunks = datasets.concatenate_datasets([plain.select(range(9)), plain.select(range(9, 26))])
    assert content_of(plain) == content_of(mapped) == content_of(chunks) == content_of(plain.select(range(26)))
    with_code = table()
    with_code.set_transform(lambda rows: 1 / 0)
    assert content_of(with_code) == content_of(plain)


def test_the_same_content_in_another_container_is_the_same(tmp_path):
    array = np.arange(12.0).reshape(3, 4)
    np.save(tmp_path / "array.npy", array)
    mapped = np.load(tmp_path / "array.npy", mmap_mode="r")
    first = content_of([{"x": array, "y": (1, 2.0)}])
    assert first == content_of(({"x": mapped, "y": [np.int64(1), np.float64(2.0)]},))
    assert first == content_of([collections.OrderedDict(x=torch.from_numpy(array), y=(1, 2.0))])
    assert first != content_of([{"x": array, "y": (1, 3.0)}])


def test_another_number_of_rows_is_covered_by_the_consent(tmp_path):
    made(tmp_path, cases.rows()).train()
    fewer = made(tmp_path, cases.rows()[:20], allow_data_change=True)
    fewer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_reading_is_short_and_leaves_no_trace():
    own = Own(drawn="own")
    before, torch_s = own.generator.bit_generator.state, torch.random.get_rng_state()
    assert isinstance(content_of(own), dict)
    assert len(own.read) == 2 * fingerprint.READ
    assert own.generator.bit_generator.state == before
    with_workers = Own()
    content_of(with_workers, workers=2)
    assert torch.equal(torch.random.get_rng_state(), torch_s)
    assert not with_workers.read  # a process of its own did it: a file that a row opens is not shared with workers


def test_of_what_is_large_pieces_are_looked_at(monkeypatch):
    monkeypatch.setattr(fingerprint, "_BYTES", 1000)
    large = np.zeros(1 << 20, np.uint8)
    first = content_of([{"x": large}])
    large[-1] = 1
    assert difference(first, content_of([{"x": large}])) == "its content is another"
    large[-1], large[100_000] = 0, 1  # between the pieces
    assert difference(first, content_of([{"x": large}])) is None
    one, other = table(), table(1.5)
    assert difference(content_of(one), content_of(other)) == "its content is another"


def test_what_cannot_be_compared_is_let_through():
    assert difference(None, "1:a") is None
    assert difference("0:a", "1:b") is None  # digested by another version
    assert difference({"3": {"x": "a"}}, {"4": {"x": "b"}}) is None
    assert content_of(cases.Stream()) is None
