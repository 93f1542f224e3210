"""Every row of a pass is read once, whatever changes at a resume; and what is due at the end of a pass is done."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

import trainwright
from tests import tiny
from tests.reliability import cases
from tests.reliability.pairs import Sized, Stream
from trainwright import CheckpointError, Trainer, TrainerCallback, TrainingArguments
from trainwright.checkpoint import folder, layout
from trainwright.data.loaders.rows import as_it_is
from trainwright.data.loaders.streams import RankStream, StreamSource
from trainwright.world import DataShard

ROWS = 24


def numbered(count=ROWS):
    return [{"x": torch.full((4,), float(i)), "labels": torch.zeros(())} for i in range(count)]


class Seen(Trainer):
    """Keeps the rows of every step."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        self.seen.append([int(value) for value in inputs["x"][:, 0]])
        return super().training_step(model, inputs, num_items_in_batch)


class OtherLoader(DataLoader):
    """Of the user's own class: taken as it is."""


class Sharded(IterableDataset):
    def __len__(self):
        return ROWS

    def __iter__(self):
        info = get_worker_info()
        return iter(numbered()[info.id :: info.num_workers] if info else numbered())


def made(place, data, batch, steps=-1, callbacks=(), **changes):
    torch.manual_seed(0)
    settings = {"per_device_train_batch_size": batch, "learning_rate": 1e-3, "lr_scheduler_type": "constant",
                "save_steps": 1, "max_steps": steps, "num_train_epochs": 1, "use_cpu": True,
                "disable_tqdm": True}  # fmt: skip
    given = {"train_loader" if isinstance(data, DataLoader) else "train_dataset": data}
    args = TrainingArguments(str(place), **{**settings, **changes})
    trainer = Seen(cases.Net(), args, eval_dataset=cases.rows(4), callbacks=list(callbacks), **given)
    trainer.seen = []
    return trainer


def shuffled(size, kind=DataLoader):
    return kind(numbered(), batch_size=size, shuffle=True, generator=torch.Generator().manual_seed(5))


KINDS = {
    "stream": lambda size: Stream(numbered()),
    "sized stream": lambda size: Sized(numbered()),
    "ready loader": shuffled,
    "ready loader over a stream": lambda size: DataLoader(Stream(numbered()), batch_size=size),
    "ready loader with a batch sampler": lambda size: DataLoader(
        numbered(), batch_sampler=torch.utils.data.BatchSampler(range(ROWS), size, drop_last=False)
    ),
}


@pytest.mark.parametrize(("first", "then"), [(5, 4), (2, 6), (6, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_another_micro_batch_goes_on_after_the_same_rows(tmp_path, kind, first, then):
    begun = made(tmp_path, KINDS[kind](first), first, steps=1)
    begun.train()
    with pytest.raises(CheckpointError, match=rf"rows of a micro-batch {first} -> {then}"):
        made(tmp_path, KINDS[kind](then), then, steps=20).train(resume_from_checkpoint=True)
    left = -(-(ROWS - first) // then)
    passes = {} if "sized" in kind or kind.startswith("ready loader") and "stream" not in kind else {"steps": 1 + left}
    changed = made(tmp_path, KINDS[kind](then), then, allow_batch_change=True, **passes)
    changed.train(resume_from_checkpoint=True)
    rows = [row for batch in begun.seen + changed.seen for row in batch]
    assert sorted(rows) == list(range(ROWS))
    again = made(tmp_path, KINDS[kind](then), then, steps=3 + left)  # what was written then is of the new order
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{left}"))
    assert again.seen[0] == changed.seen[-1]


def test_batches_that_are_taken_whole_are_not_cut(tmp_path):
    def trainer(size, **more):
        return made(tmp_path, shuffled(size, OtherLoader), size, allow_batch_change=True, **more)

    begun = trainer(6, steps=1)
    begun.train()
    with pytest.raises(CheckpointError, match="The 6 rows of this pass that are done end within a batch of 4 rows"):
        trainer(4, steps=2).train(resume_from_checkpoint=True)
    changed = trainer(3, steps=7)
    changed.train(resume_from_checkpoint=True)
    assert sorted(row for batch in begun.seen + changed.seen for row in batch) == list(range(ROWS))


def test_the_rows_read_are_shared_among_another_number_of_readers():
    stream = RankStream(Sharded(), as_it_is, 2, DataShard())
    source = StreamSource(DataLoader(stream, batch_size=None, num_workers=2), lambda told: None)
    source.load_state_dict({"readers": 3, "places": [{"shard": i, "rows": 3} for i in range(3)], "last": 2})
    assert [place.rows for place in source.places.values()] == [5, 4]


def test_batches_that_are_trained_as_they_are_ready_are_no_place_to_go_on_from(tmp_path):
    settings = {"dataloader_in_order": False, "dataloader_num_workers": 1, "save_steps": 3}
    begun = made(tmp_path, numbered(), 4, num_train_epochs=2, **settings)
    begun.train()
    shutil.copytree(tmp_path, tmp_path.parent / "second")
    for path in layout.checkpoints(tmp_path):
        if layout.step_of(path) > 3:
            shutil.rmtree(path)
    with pytest.raises(CheckpointError, match="batches were trained as they were ready"):
        made(tmp_path, numbered(), 4, num_train_epochs=2, **settings).train(resume_from_checkpoint=True)
    anew = made(tmp_path, numbered(), 4, num_train_epochs=2, ignore_data_skip=True)
    anew.train(resume_from_checkpoint=True)
    assert sorted(row for batch in anew.seen[:6] for row in batch) == list(range(ROWS))
    between = made(tmp_path, numbered(), 4, num_train_epochs=2, **settings)
    between.train(resume_from_checkpoint=str(tmp_path.parent / "second" / "checkpoint-6"))
    assert sorted(row for batch in between.seen for row in batch) == list(range(ROWS))
    assert between.get_train_dataloader().in_order is False
    assert between.get_eval_dataloader().in_order is True  # predictions are those of the rows in their order


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 4])  # within a pass and at its end, where the next one follows
def test_ignored_data_costs_no_steps_as_with_transformers(tmp_path, step):
    def trained(library, place):
        def trainer(**more):
            args = library.TrainingArguments(
                str(place), num_train_epochs=2, learning_rate=0.1, per_device_train_batch_size=2, logging_steps=1,
                save_strategy="steps", save_steps=1, use_cpu=True, disable_tqdm=True, report_to="none", **more,
            )  # fmt: skip
            return library.Trainer(tiny.new_line(), args, train_dataset=tiny.line_rows(8))

        trainer().train()
        again = trainer(ignore_data_skip=True)
        again.train(resume_from_checkpoint=str(place / f"checkpoint-{step}"))
        logged = [one for one in again.state.log_history if "learning_rate" in one]
        return again.state.global_step, [(one["step"], one["epoch"]) for one in logged]

    ours, theirs = (trained(one, tmp_path / one.__name__) for one in (trainwright, transformers))
    assert ours[0] == theirs[0] == 8
    assert ours[1] == theirs[1]


@pytest.mark.parametrize("drop_last", [False, True])
def test_a_stream_that_has_a_length_is_taken(tmp_path, drop_last):
    def trained(library):
        args = library.TrainingArguments(
            str(tmp_path / library.__name__), num_train_epochs=2, per_device_train_batch_size=5, logging_steps=1,
            save_strategy="no", use_cpu=True, disable_tqdm=True, report_to="none", dataloader_drop_last=drop_last,
        )  # fmt: skip
        trainer = library.Trainer(tiny.new_line(), args, train_dataset=Sized(tiny.line_rows(8)))
        trainer.train()
        return trainer.state.global_step, trainer.state.epoch

    assert trained(trainwright) == ((2, 2.0) if drop_last else (4, 2.0))
    assert drop_last or trained(transformers) == (4, 2.0)  # which drops nothing of a stream


def test_without_workers_the_length_of_a_stream_is_that_of_one_reader(tmp_path):
    trainer = made(tmp_path, Sharded(), 5, save_strategy="no")
    assert trainer.train().global_step == trainer.state.max_steps == 5


def test_the_length_of_a_stream_is_that_of_what_its_workers_read():
    stream = RankStream(Sharded(), as_it_is, 5, DataShard())
    assert stream.micro_batches(1) == 5
    assert stream.micro_batches(2) == 2 * 3  # two shards of 12 rows
    assert stream.micro_batches(5) == 5  # of 5, 5, 5, 5 and 4
    assert RankStream(Sized(numbered()), as_it_is, 5, DataShard()).micro_batches(2) == 5  # which is not divided
    assert RankStream(Stream(numbered()), as_it_is, 5, DataShard()).micro_batches(1) is None


class Passes(TrainerCallback):
    """Keeps the steps at which it hears of the end of a pass."""

    def __init__(self):
        self.heard = []

    def on_epoch_end(self, args, state, control, **kwargs):
        self.heard.append(state.global_step)


def told(trainer):
    logs = trainer.state.log_history
    return [(one["step"], "eval_loss" in one) for one in logs if "train_loss" not in one]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("steps", [-1, 10])  # ends with a pass, or within one
def test_what_is_due_at_the_end_of_the_last_pass_is_done_by_the_resumed_run(tmp_path, steps, fails):
    settings = {"eval_strategy": "epoch", "logging_strategy": "epoch", "num_train_epochs": 2, "steps": steps}
    straight = made(tmp_path / "straight", numbered(), 4, **settings)
    straight.train()
    last = straight.state.global_step
    if fails:
        with pytest.raises(ValueError, match="no more"):
            made(tmp_path / "run", numbered(), 4, callbacks=[AtLast(last)], **settings).train()
    else:
        shutil.copytree(tmp_path / "straight", tmp_path / "run")
    passes = Passes()
    resumed = made(tmp_path / "run", numbered(), 4, callbacks=[passes], **settings)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.seen == []
    assert passes.heard == [last]
    assert told(resumed) == told(straight)
    assert resumed.state.best_metric == straight.state.best_metric


class AtLast(TrainerCallback):
    """Fails at the end of the last pass."""

    def __init__(self, last):
        self.last = last

    def on_epoch_end(self, args, state, control, **kwargs):
        if state.global_step == self.last:
            raise ValueError("no more")


def test_a_run_that_is_made_longer_hears_of_no_pass_twice(tmp_path, caplog):
    settings = {"eval_strategy": "epoch", "save_strategy": "epoch"}
    straight = made(tmp_path / "straight", numbered(), 4, num_train_epochs=2, callbacks=[first := Passes()], **settings)
    straight.train()
    made(tmp_path / "run", numbered(), 4, **settings).train()
    longer = made(tmp_path / "run", numbered(), 4, num_train_epochs=2, callbacks=[then := Passes()], **settings)
    longer.train(resume_from_checkpoint=True)
    assert first.heard == [6, 12]
    assert then.heard == [12]
    assert longer.seen == straight.seen[6:]
    assert told(longer) == told(straight)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"steps": 5}, "with max_steps=5 the run ends at step 5"),
     ({"num_train_epochs": 1}, "with num_train_epochs=1 the run ends at step 6")],
)  # fmt: skip
def test_a_run_that_was_to_end_before_says_so(tmp_path, caplog, settings, said):
    made(tmp_path, numbered(), 4, num_train_epochs=2).train()
    short = made(tmp_path, numbered(), 4, callbacks=[passes := Passes()], eval_strategy="epoch", **settings)
    assert short.train(resume_from_checkpoint=str(tmp_path / "checkpoint-9")).global_step == 9
    assert f"at step 9 of 9, where nothing is left to train: {said}" in caplog.text
    assert passes.heard == []


def test_steps_keep_their_rows_however_often_a_run_goes_on_elsewhere(tmp_path, caplog):
    made(tmp_path, numbered(), 2, gradient_accumulation_steps=2, steps=2).train()
    place = tmp_path / "checkpoint-2"
    about = json.loads((place / layout.RUN).read_text())
    about["data"] |= {"ranks": 2}  # two processes of 2 × 2 rows, which have done 16
    about |= {"ranks": 2, "position": 16}
    (place / layout.RUN).write_text(json.dumps(about))
    (place / layout.MANIFEST).unlink()
    folder.seal(place, about["run"])
    for steps in (3, 4):
        heard = []

        class Hears(TrainerCallback):
            def on_step_begin(self, args, state, control, **_):
                heard.append((args.gradient_accumulation_steps, alone.args is args, users.gradient_accumulation_steps))

        alone = made(tmp_path, numbered(), 2, gradient_accumulation_steps=2, steps=steps, callbacks=[Hears()])
        users = alone.args
        alone.train(resume_from_checkpoint=True)
        assert sum(map(len, alone.seen)) == 8
        assert heard == [(4, True, 2)]  # the run's own, which what the user gave never becomes
        assert alone.args is users
    assert "gradient_accumulation_steps is 4, so that a step keeps its 8 rows" in caplog.text
