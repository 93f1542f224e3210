"""A run that is resumed in a new process is bitwise the run that was never stopped."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from tests import forked
from tests.reliability import cases
from trainwright.checkpoint import layout

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Every case once to its end and once resumed, all of the latter in one new process."""
    place = tmp_path_factory.mktemp("runs")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    straight = {}
    for name, (_, _, where) in cases.CASES.items():
        made = cases.trainer(name, place / name)
        made.train()
        straight[name] = cases.outcome(made)
        for path in layout.checkpoints(place / name):
            if layout.step_of(path) > cases.SAVED[where]:
                shutil.rmtree(path)
    torch.set_num_threads(threads)
    done = forked.run(["-m", "tests.reliability.cases", place, *cases.CASES])
    assert done.returncode == 0, done.stderr[-3000:]
    return straight, json.loads((place / "resumed.json").read_text()), done.stderr


@pytest.mark.parametrize("name", cases.CASES)
def test_bitwise(runs, name):
    straight, resumed = runs[0][name], runs[1][name]
    stopped = cases.SAVED[cases.CASES[name][2]]
    assert min(map(int, resumed["seen"])) == stopped
    assert len(straight["seen"]) == cases.STEPS
    for step in resumed["seen"]:
        assert resumed["seen"][step] == straight["seen"][step], f"step {step}"
    assert resumed["weights"] == straight["weights"]
    assert resumed["logs"] == straight["logs"]


def test_what_is_read_again_is_said(runs):
    said = runs[2]
    assert "rows of the stream are read again to find the place where the run stopped" in said
    assert "batches of the OtherLoader are read again" in said


def test_a_stream_with_state_makes_no_row_again(tmp_path):
    made = cases.trainer("stateful stream", tmp_path)
    made.train()
    for path in layout.checkpoints(tmp_path):
        if layout.step_of(path) > 10:
            shutil.rmtree(path)
    resumed = cases.trainer("stateful stream", tmp_path)
    resumed.train(resume_from_checkpoint=True)
    read = sum(len(batches) * 4 for batches in resumed.seen.values())
    assert resumed.train_dataset.made <= read


def test_a_ready_loader_loads_no_row_again(tmp_path):
    class Counting(cases.Augmented):
        fetched = 0

        def __getitem__(self, index):
            Counting.fetched += 1
            return super().__getitem__(index)

    def made():
        loader = cases.DataLoader(Counting(), batch_size=4, shuffle=True)
        args = cases.TrainingArguments(str(tmp_path), max_steps=6, save_steps=3, use_cpu=True, disable_tqdm=True)
        return cases.Trainer(cases.Net(), args, train_loader=loader)

    made().train()
    shutil.rmtree(tmp_path / "checkpoint-6")
    Counting.fetched = 0
    made().train(resume_from_checkpoint=True)
    assert Counting.fetched == 3 * 4


@pytest.mark.parametrize("within", [False, True])
def test_samplers_are_told_the_pass(tmp_path, within):
    class Shuffled(cases.Sampler):
        epoch = 0

        def set_epoch(self, epoch):
            self.epoch = epoch

        def __iter__(self):
            return iter(torch.randperm(8, generator=torch.Generator().manual_seed(self.epoch)).tolist())

    class Orders(cases.Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            orders.extend(inputs["labels"].tolist())
            return super().training_step(model, inputs, num_items_in_batch)

    orders: list[float] = []
    data = [{"x": torch.ones(4), "labels": torch.tensor(float(i))} for i in range(8)]
    batches = torch.utils.data.BatchSampler(Shuffled(), 4, drop_last=False)
    loader = (
        cases.DataLoader(data, batch_sampler=batches)
        if within
        else cases.DataLoader(data, batch_size=4, sampler=Shuffled())
    )
    args = cases.TrainingArguments(str(tmp_path), num_train_epochs=3, use_cpu=True, disable_tqdm=True)
    Orders(cases.Net(), args, train_loader=loader).train()
    alone = [torch.randperm(8, generator=torch.Generator().manual_seed(epoch)).tolist() for epoch in range(3)]
    assert orders == [index for order in alone for index in order]


def test_augmentation_is_the_same_with_and_without_workers(runs):
    alone, with_workers = runs[0]["augmented"], runs[0]["augmented, workers"]
    assert alone["seen"] == with_workers["seen"]
    assert alone["weights"] == with_workers["weights"]


@pytest.mark.parametrize("ready", [False, True], ids=["dataset", "ready loader"])
def test_every_pass_draws_other_noise(tmp_path, ready):
    """From each of the three global streams; and what a dataset makes of the pass that it is told reaches the model."""
    seen = {}

    class Watching(cases.Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            for label, x in zip(inputs["labels"].tolist(), inputs["x"], strict=True):
                seen.setdefault(label, []).append(x)
            return super().training_step(model, inputs, num_items_in_batch)

    plain = {row["labels"].item(): row["x"] for row in cases.rows()}
    for kind, drawn in ((cases.Augmented, True), (cases.Told, False)):
        seen.clear()
        data = cases.DataLoader(kind(), batch_size=8, shuffle=True) if ready else kind()
        given = {"train_loader" if ready else "train_dataset": data}
        args = cases.TrainingArguments(str(tmp_path), num_train_epochs=3, save_strategy="no", use_cpu=True,
                                       disable_tqdm=True)  # fmt: skip
        Watching(cases.Net(), args, **given).train()
        assert seen.keys() == plain.keys()
        for label, passes in seen.items():
            noise = [round((x - plain[label]).mean().item(), 4) for x in passes]
            assert noise == [0, 1, 2] if not drawn else len(set(noise)) == 3, (label, noise)
        all_noise = {round((x - plain[label]).mean().item(), 4) for label, passes in seen.items() for x in passes}
        assert not drawn or len(all_noise) > 3 * cases.ROWS * 0.9  # other noise in every batch, but by chance


def test_a_terminal_shows_how_far_the_rows_are_counted(monkeypatch, capsys):
    from trainwright import bars

    monkeypatch.setattr(bars, "_wanted", True)  # as before a training of this process said otherwise
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(bars, "PATIENCE", 0.0)
    with bars.counting(40, "rows read again") as tell:
        tell(40)
    assert "rows read again" in capsys.readouterr().err
