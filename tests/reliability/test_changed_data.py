"""Training data that changed between stop and resume, as long as before, is noticed, and nothing else is refused."""

from __future__ import annotations

import collections
import logging

import numpy as np
import pytest
import torch
import transformers
from torch.utils.data import DataLoader, Subset, TensorDataset

import trainwright
from tests.reliability import cases
from trainwright import CheckpointError, DataError, Trainer, TrainingArguments
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
    """Rows that are made when they are read, each but once."""

    def __init__(self, scale=1.0):
        self.rows = iter(scale * X.repeat(2, 1))
        self.read = []

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        self.read.append(index)
        x = next(self.rows)
        return {"x": x, "labels": x.sum()}


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
    "a part of a list": (lambda factor: Subset(columns(factor), list(range(20))), {}),
}


@pytest.mark.slow
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


def resumed(place, before, after, **changes):
    """Train, and resume with other data."""
    made(place, before, **changes).train()
    made(place, after, **changes).train(resume_from_checkpoint=str(place / "checkpoint-3"))


@pytest.mark.parametrize("ready", [False, True])
def test_rows_that_the_user_s_code_makes_are_read_by_training_alone(tmp_path, ready):
    first, other = Own(), Own(1.5)
    given = [DataLoader(data, batch_size=4) if ready else data for data in (first, other)]
    resumed(tmp_path, *given)
    assert (len(first.read), len(other.read)) == (6 * 4, 3 * 4)
    with_code = table()
    with_code.set_transform(lambda rows: 1 / 0)
    assert content_of(with_code) is content_of(Subset(first, [0])) is content_of(Rows(cases.rows())) is None


class Rows(list):
    """A list whose rows are made when they are read."""

    def __getitem__(self, index):
        raise AssertionError("read")


def with_field(data, name, values):
    return [{**row, name: value} for row, value in zip(data, values, strict=True)]


@pytest.mark.parametrize("name", ["a list", "a table", "a ready loader"])
def test_what_does_not_reach_the_model_and_where_files_lie_does_not_count(tmp_path, name):
    def data(folder, when):
        paths = [f"{tmp_path}/{folder}/{number}.png" for number in range(len(X))]
        if name == "a list":
            return with_field(with_field(cases.rows(), "file", paths), "made_at", [when] * len(X))
        if name == "a table":
            return table().add_column("file", paths).add_column("made_at", [when] * len(X))
        return DataLoader(with_field(cases.rows(), "file", paths), batch_size=4, collate_fn=without_file)

    resumed(tmp_path, data("scratch_1", "10:00"), data("scratch_2", "11:00"))


def without_file(rows):
    return {name: torch.stack([row[name] for row in rows]) for name in ("x", "labels")}


def test_a_path_counts_by_its_last_part():
    import datasets

    def images(folder, name="a"):
        files = [f"{folder}/{name}.png", f"{folder}/my picture.png"]
        plain = datasets.Dataset.from_dict({"image": files})
        return [
            content_of(plain.cast_column("image", datasets.Image())),
            content_of([{"file": file} for file in files]),
        ]

    assert images("/scratch/1") == images("/scratch/2") == images("/my folder")
    assert all(one != other for one, other in zip(images("/scratch/1"), images("/scratch/1", "b"), strict=True))
    assert content_of(["one of either/or"]) != content_of(["two of either/or"])


def test_of_a_selection_only_its_rows_count():
    import datasets

    one = datasets.Dataset.from_dict({"flag": [True] * 16, "number": [None, *range(15)]})
    other = datasets.Dataset.from_dict({"flag": [True] * 10 + [False] * 6, "number": [None, *range(9)] + [None] * 6})
    assert content_of(one.select(range(10))) == content_of(other.select(range(10)))
    assert content_of(one.select(range(11))) != content_of(other.select(range(11)))
    assert content_of(Subset([1, 2, 3], [0, 1])) == content_of(Subset([1, 2, 4], [0, 1]))


def test_data_that_the_run_itself_has_changed_is_the_same(tmp_path):
    def in_place(rows):
        for row in rows:
            row["x"].mul_(1.01)
            row["seen"] = 1
        return without_file(rows)

    data = [{name: value.clone() for name, value in row.items()} for row in cases.rows()]
    for steps in (3, 6, 9):
        trainer = made(tmp_path, DataLoader(data, batch_size=4, collate_fn=in_place), max_steps=steps)
        trainer.train(resume_from_checkpoint=steps > 3)
    fresh = cases.rows()  # as a new process would have them
    made(tmp_path, DataLoader(fresh, batch_size=4), max_steps=12).train(resume_from_checkpoint=True)
    fresh[0]["x"] = fresh[0]["x"] + 1
    with pytest.raises(CheckpointError, match="The training data is not what"):
        made(tmp_path, DataLoader(fresh, batch_size=4)).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("whole", [True, False])
def test_a_table_is_the_same_however_it_lies(tmp_path, monkeypatch, whole):
    import datasets

    if not whole:
        monkeypatch.setattr(fingerprint, "_TABLE", 100)
    plain = table()
    plain.save_to_disk(str(tmp_path / "table"), num_shards=3)
    mapped = datasets.load_from_disk(str(tmp_path / "table"))
    chunks = datasets.concatenate_datasets([plain.select(range(9)), plain.select(range(9, 26))])
    assert content_of(plain) == content_of(mapped) == content_of(chunks) == content_of(plain.select(range(26)))


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
    assert difference({"3": {"x": "a"}}, "2:b") is None  # of rows of one's own, as the first version did
    assert content_of(cases.Stream()) is None
    assert content_of(Subset([1, 2], [5])) is None  # training says what is wrong with it
    odd = [
        torch.zeros(3, device="meta"),
        torch.eye(2).to_sparse(),
        torch.ones(2, dtype=torch.complex64).conj(),
        object(),
    ]
    assert content_of([{"odd": value} for value in odd]) == content_of([{"odd": value} for value in odd])


# ---- data that grow or shrink in a run


class Buffer(torch.utils.data.Dataset):
    """Rows that are collected meanwhile."""

    def __init__(self, rows):
        self.rows, self.seen = rows, []

    def __len__(self):
        return self.rows

    def __getitem__(self, index):
        assert index < self.rows
        self.seen.append(index)
        return {"x": X[index], "labels": X[index].sum()}


def collecting(engine, event, data, rows):
    """Return a callback that lets the data have as many rows as are told after each pass."""

    class Collect(engine.TrainerCallback):
        def change(self, args, state, control, **kwargs):
            data.rows = rows[min(round(state.epoch or 0), len(rows) - 1)]

    setattr(Collect, event, Collect.change)
    return Collect()


def buffered(place, rows, begin=0, event="on_epoch_end", engine=trainwright, **changes):
    settings = {"num_train_epochs": len(rows), "per_device_train_batch_size": 2, "learning_rate": 1e-2} | changes
    settings |= {"save_strategy": settings.get("save_strategy", "no"), "use_cpu": True, "disable_tqdm": True}
    data = Buffer(rows[begin])
    torch.manual_seed(0)
    args = engine.TrainingArguments(str(place), report_to="none", **settings)
    return engine.Trainer(cases.Net(), args, train_dataset=data, callbacks=[collecting(engine, event, data, rows)])


@pytest.mark.parametrize("event", ["on_epoch_end", "on_epoch_begin"])
@pytest.mark.parametrize("rows", [(4, 8), (8, 4)])
def test_a_pass_has_the_rows_that_there_are_then(tmp_path, rows, event, caplog):
    ours, theirs = (
        buffered(tmp_path / engine.__name__, rows, event=event, engine=engine) for engine in (trainwright, transformers)
    )
    for trainer in (ours, theirs):
        trainer.train()
    first, seen = rows[0], ours.train_dataset.seen
    assert len(seen) == first + 4
    assert seen == theirs.train_dataset.seen[: len(seen)]  # which has read a batch ahead
    assert f"has {rows[1]} rows in pass 2, after {first}" in caplog.text


def test_a_longer_run_reads_whole_passes_of_the_rows_that_there_are(tmp_path):
    trainer = buffered(tmp_path, (8, 2, 6))
    trainer.train()
    seen = trainer.train_dataset.seen
    assert [sorted(part) for part in (seen[:8], seen[8:10], seen[10:])] == [list(range(n)) for n in (8, 2, 6)]


@pytest.mark.parametrize(
    ("strategy", "places", "refused"),
    [
        ("steps", [(2, 0), (3, 0), (5, 1), (8, 1)], [(2, 1), (3, 1), (5, 0)]),  # a pass ends after its last step's save
        ("epoch", [(3, 1), (8, 1)], [(3, 0), (8, 0)]),
    ],
)
def test_a_run_goes_on_in_a_pass_of_other_rows(tmp_path, strategy, places, refused):
    rows, settings = (6, 10, 10), {"save_strategy": strategy, "save_steps": 1, "logging_steps": 1}
    straight = buffered(tmp_path, rows, **settings)
    straight.train()
    for step, begin in places:
        resumed = buffered(tmp_path / "resumed", rows, begin, **settings)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert resumed.train_dataset.seen == straight.train_dataset.seen[2 * step :]
        for one, other in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
            assert torch.equal(one, other)
    for step, begin in refused:
        with pytest.raises(CheckpointError, match="rows of the dataset (10 -> 6|6 -> 10)"):
            buffered(tmp_path / "resumed", rows, begin, **settings).train(
                resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}")
            )


def test_rows_that_no_worker_knows_of_are_named(tmp_path):
    workers = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}
    with pytest.raises(DataError, match="8 rows in pass 2, after 4 .*dataloader_persistent_workers=False"):
        buffered(tmp_path, (4, 8), **workers).train()
