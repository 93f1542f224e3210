"""Checkpoints in a second place: copied behind the loop's back, and gone on from on an empty disk, whole or not."""

from __future__ import annotations

import json
import os
import signal
import time

import fsspec
import pytest
import torch

from tests.reliability import cases, shelf
from trainwright import CheckpointError, ConfigError, Trainer, TrainerCallback, TrainingArguments
from trainwright.checkpoint.layout import MANIFEST
from trainwright.checkpoint.mirror import copying
from trainwright.checkpoint.mirror.remote import LATEST, Remote
from trainwright.config.composition import starting_point
from trainwright.config.params import TrainingParams
from trainwright.errors import Interrupted


class Telling(Trainer):
    def note(self, message):
        self.__dict__.setdefault("told", []).append(message)


@pytest.fixture
def store():
    with shelf.opened() as opened:
        yield opened


def arguments(place, mirror, **changes):
    settings = {
        "per_device_train_batch_size": 4, "max_steps": 6, "save_steps": 2, "logging_steps": 1, "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "use_cpu": True, "disable_tqdm": True, "report_to": "none", "checkpoint_mirror": str(mirror), **changes,
    }  # fmt: skip
    return TrainingArguments(str(place), **settings)


def made(place, mirror, seed=0, callbacks=(), **changes):
    args = arguments(place, mirror, **changes)
    torch.manual_seed(seed)
    return Telling(cases.Net(), args, train_dataset=cases.rows(), callbacks=list(callbacks))


def trained(place, mirror, resume=None, **changes):
    trainer = made(place, mirror, **changes)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()]).tolist()


def there(address):
    """Return the names of the checkpoints of the run that wrote last."""
    remote = Remote(address)
    return sorted(remote.checkpoints(remote.latest()[0]))


@pytest.fixture(params=["memory", "folder", "http"])
def address(request, tmp_path, store):
    """A place of each kind."""
    yield {"memory": "memory://mirror/run", "folder": str(tmp_path / "mirror"), "http": store.address}[request.param]
    fsspec.filesystem("memory").store.clear()


def test_a_run_on_an_empty_disk_goes_on_from_the_second_place_bit_for_bit(tmp_path, address):
    """With as many checkpoints there as the run keeps, the same files, and nothing left over here."""
    straight = trained(tmp_path / "straight", tmp_path / "elsewhere", save_total_limit=2)
    first = trained(tmp_path / "a", address, max_steps=4, save_total_limit=2)
    assert there(address) == ["checkpoint-2", "checkpoint-4"]
    assert not [path for path in (tmp_path / "a").iterdir() if path.name.startswith(".checkpoint")]
    second = trained(tmp_path / "b", address, resume=True, seed=9, save_total_limit=2)
    assert "checkpoint-4 was copied from" in " ".join(second.told)
    assert there(address) == ["checkpoint-4", "checkpoint-6"] == sorted(p.name for p in (tmp_path / "b").glob("c*"))
    assert weights(second) == weights(straight) != weights(first)
    remote = Remote(address)
    run, newest = remote.latest()
    manifest = remote.manifest(run, newest, remote.checkpoints(run)[newest])
    assert manifest["files"] == json.loads((tmp_path / "b" / newest / MANIFEST).read_text())["files"]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda objects, key: objects.pop(f"{key}/{MANIFEST}"), "it was not copied to its end"),
        (lambda objects, key: objects.pop(f"{key}/optimizer.pt"), "it has not all of optimizer.pt"),
        (
            lambda objects, key: objects.update({f"{key}/{MANIFEST}": objects[f"{key}/{MANIFEST}"][:-9]}),
            f"it has a {MANIFEST} that cannot be read",
        ),
        (
            lambda objects, key: objects.update({f"{key}/optimizer.pt": objects[f"{key}/optimizer.pt"][::-1]}),
            "it is damaged: optimizer.pt has other contents than were written",
        ),
    ],
)
def test_what_is_not_whole_there_is_named_and_passed_over(tmp_path, store, spoil, told):
    trained(tmp_path / "a", store.address)
    key = next(key for key in store.objects if "checkpoint-6" in key).rpartition("/")[0]
    spoil(store.objects, key)
    second = trained(tmp_path / "b", store.address, resume=True, max_steps=7)
    assert f"Passed over checkpoint-6 of {store.address}: {told}" in " ".join(second.told)
    assert f"Resuming from '{tmp_path / 'b' / 'checkpoint-4'}'" in " ".join(second.told)


def test_a_place_that_fails_is_told_once_and_ends_nothing(tmp_path, store):
    """And what could not be copied is copied when it works again."""
    store.fails = lambda method, key: method == "PUT"
    trainer = made(tmp_path / "a", store.address)
    trainer.train()
    assert trainer.state.global_step == 6
    told = " ".join(trainer.told)
    assert told.count("the server answers 503. Training goes on, and the next save tries again") == 1
    assert f"Not copied to {store.address}, as said: checkpoint-2, checkpoint-4, checkpoint-6; none of this" in told
    assert not store.objects
    store.fails = lambda method, key: False
    again = trained(tmp_path / "a", store.address, resume=True, max_steps=7)
    assert there(store.address) == ["checkpoint-2", "checkpoint-4", "checkpoint-6", "checkpoint-7"]
    assert "Not copied" not in " ".join(again.told)


class At(TrainerCallback):
    """Does something at the end of a step, as code of ours: saves stay in the background."""

    def __init__(self, step, do):
        self.step, self.do = step, do

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.do()


def test_a_run_that_is_asked_to_stop_waits_for_its_copy_some_seconds_and_tells(tmp_path, store, monkeypatch):
    monkeypatch.setattr(copying, "HURRIED", 0.5)

    def stop():
        while f"bucket/{LATEST}" not in store.objects:
            time.sleep(0.01)
        store.delay = 1.0  # for each file
        os.kill(os.getpid(), signal.SIGTERM)

    trainer = made(tmp_path / "a", store.address, callbacks=[At(5, stop)])
    began = time.monotonic()
    with pytest.raises(Interrupted):
        trainer.train()
    assert time.monotonic() - began < 60  # not the ten files' seconds by far, whatever the machine does
    assert f"Not copied to {store.address}, after " in " ".join(trainer.told)
    store.delay = 0.0
    second = made(tmp_path / "b", store.address)
    second.train(resume_from_checkpoint=True)
    assert second.state.global_step == 6


def test_a_checkpoint_that_is_deleted_here_while_it_is_copied_is_copied_to_its_end(tmp_path, store):
    store.delay = 0.05
    trained(tmp_path / "a", store.address, save_steps=1, save_total_limit=1)
    assert there(store.address) == ["checkpoint-6"]
    second = trained(tmp_path / "b", store.address, resume=True, max_steps=7)
    assert f"Resuming from '{tmp_path / 'b' / 'checkpoint-6'}'" in " ".join(second.told)


def test_two_runs_in_one_place_are_not_mixed_up(tmp_path, store):
    trained(tmp_path / "a", store.address)
    before = Remote(store.address).latest()[0]
    other = trained(tmp_path / "b", store.address, max_steps=2)
    assert f"The checkpoints of another run stay in {store.address}/{before}" in " ".join(other.told)
    assert there(store.address) == ["checkpoint-2"]
    assert len([key for key in store.objects if f"{before}/checkpoint-6/" in key]) > 5
    resumed = trained(tmp_path / "c", store.address, resume=True, max_steps=3)
    assert f"Resuming from '{tmp_path / 'c' / 'checkpoint-2'}'" in " ".join(resumed.told)


def test_what_a_resume_has_set_aside_is_not_gone_on_from(tmp_path, store):
    """From step 2 again: the copies of steps 4 and 6 are of another past, until there are new ones."""
    trained(tmp_path / "a", store.address)
    trained(tmp_path / "a", store.address, resume=str(tmp_path / "a" / "checkpoint-2"), max_steps=3)
    resumed = trained(tmp_path / "b", store.address, resume=True, max_steps=4)
    assert f"Resuming from '{tmp_path / 'b' / 'checkpoint-3'}'" in " ".join(resumed.told)


def test_the_folder_itself_wins_where_it_has_as_new_a_one(tmp_path, store):
    trained(tmp_path / "a", store.address)
    gets = len([1 for method, key in store.log if method == "GET" and "optimizer" in key])
    trained(tmp_path / "a", store.address, resume=True, max_steps=7)
    assert len([1 for method, key in store.log if method == "GET" and "optimizer" in key]) == gets


def test_the_best_checkpoint_comes_with_the_newest(tmp_path, store):
    class Rising(Telling):
        def evaluate(self, *args, **kwargs):
            metrics = super().evaluate(*args, **kwargs)
            return {**metrics, "eval_loss": float(self.state.global_step)}

    changes = {
        "eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "metric_for_best_model": "loss",
        "save_total_limit": 1,
    }  # fmt: skip

    def begun(place, steps, seed):
        torch.manual_seed(seed)
        args = arguments(place, store.address, max_steps=steps, **changes)
        return Rising(cases.Net(), args, train_dataset=cases.rows(), eval_dataset=cases.rows()[:4])

    begun(tmp_path / "a", 6, 0).train()
    assert there(store.address) == ["checkpoint-2", "checkpoint-6"]
    second = begun(tmp_path / "b", 7, 1)
    second.train(resume_from_checkpoint=True)
    assert second.state.best_model_checkpoint == str(tmp_path / "b" / "checkpoint-2")


def test_a_place_that_is_none_is_refused_before_work_starts(tmp_path):
    with pytest.raises(ConfigError, match="checkpoint_mirror='nowhere://x' cannot be opened: Protocol not known"):
        trained(tmp_path / "a", "nowhere://x")
    assert not (tmp_path / "a").exists()


def test_a_place_that_cannot_be_read_is_told_where_a_run_would_go_on(tmp_path, store):
    store.fails = lambda method, key: True
    with pytest.raises(CheckpointError, match="cannot be read: the server answers 503. Whether the run has begun"):
        trained(tmp_path / "a", store.address, resume=True)


def test_nothing_anywhere_is_told(tmp_path, store):
    with pytest.raises(CheckpointError, match=f"there is none.* Nor does {store.address} hold one"):
        trained(tmp_path / "a", store.address, resume=True)


def test_a_latest_that_cannot_be_read_is_told(tmp_path, store):
    store.objects[f"bucket/{LATEST}"] = b"{"
    with pytest.raises(CheckpointError, match="cannot be read"):
        trained(tmp_path / "a", store.address, resume=True)


def test_a_file_that_goes_on_where_it_can_finds_its_run_in_the_second_place(tmp_path, store):
    file = {"output_dir": str(tmp_path / "b"), "checkpoint_mirror": store.address}
    params = TrainingParams(**file, try_resume_from_last_checkpoint=True)
    assert starting_point(params) is None
    trained(tmp_path / "a", store.address)
    assert starting_point(params) is True
    assert starting_point(TrainingParams(**file)) is None
