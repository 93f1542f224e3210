"""What was saved can be read again; a save that fails never ends a run; a folder that was moved resumes from itself."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import threading
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import UTC, date, datetime, time, timedelta
from enum import Enum, IntFlag
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.utils.data import IterableDataset

from tests.reliability import cases, errnos
from tests.reliability.test_failures import _script, made, weights
from trainwright import CheckpointError, TrainerCallback
from trainwright.checkpoint import check, folder, layout, output, plain, writer
from trainwright.checkpoint.past import Past
from trainwright.errors import UnsavableError


class Colour(Enum):
    RED = "red"


class Rights(IntFlag):
    READ, WRITE = 1, 2


class Pair(NamedTuple):
    first: int
    second: object


VALUES = {
    "numpy's numbers": [np.int64(3), np.float32(0.1), np.bool_(True), np.uint64(2**63), np.str_("é"), np.float64(2.5)],
    "arrays": [np.arange(6).reshape(2, 3), np.array(1.5), np.empty((0, 2), "f4"), np.zeros(2, "i4,f8")],
    "numpy's dates": [np.datetime64("2020-01-01"), np.array(["2020", "2021"], "M8[D]")],
    "tensors": [torch.arange(4.0).view(2, 2).to(torch.bfloat16), torch.empty(0, 3)],
    "queues": [deque([1, np.int8(2)], maxlen=3), deque([[1]])],
    "sets": [{1, np.int8(2)}, frozenset({1, (2, 3)}), {(1, np.int8(2))}],
    "dictionaries": [defaultdict(int, {1: 2}), Counter("abca"), OrderedDict([(2, 1), (1, 2)]), {1: {None: True}}],
    "odd keys": [{(1, np.int8(2)): 3, Path("a"): 1, 5: 6}, {plain.TAG: "path", "value": "."}],
    "paths and dates": [Path("/x"), datetime.now(UTC), date(2020, 1, 1), time(1, 2), timedelta(1, 2, 3)],
    "enums": [Colour.RED, Rights.WRITE, Pair(1, np.int8(2))],
    "ranges": [range(1, 9, 2), slice(1, None), b"\x00\xff", (1, [2, (3,)])],
    "random states": [random.Random(1).getstate(), np.random.default_rng(0).bit_generator.state, torch.get_rng_state()],
}  # fmt: skip


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_("é"), "é"),
        (np.float32(0.5), 0.5),
        (np.longdouble(0.5), 0.5),  # numpy itself gives no number of Python's for it
    ],
)
def test_a_number_of_numpy_is_pythons_where_other_engines_read_it(value, wanted):
    [found] = plain.restore(plain.plain([value], "a state", exact=False))
    assert (type(found), found) == (type(wanted), wanted)


def same(one, other):
    """Whether two trees are equal in values, types and order."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return type(other) is np.ndarray and one.dtype == other.dtype and np.array_equal(one, other)
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple | deque):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("name", VALUES)
def test_values_come_back_as_they_were(tmp_path, name):
    for value in VALUES[name]:
        kept = plain.plain({"a": [value]}, "The state")
        torch.save(kept, tmp_path / "state.pt")
        torch.load(tmp_path / "state.pt", weights_only=True)  # without anything allowed besides
        assert same({"a": [value]}, folder.load(tmp_path / "state.pt"))
        text = json.dumps(plain.for_json(kept, "The state"), allow_nan=False)
        assert same({"a": [value]}, plain.restore(json.loads(text)))


def _circle():
    items = []
    items.append(items)
    return items


def _local():
    class Local(Enum):
        A = 1

    return Local.A


UNSAVABLE = {
    "function": (lambda: lambda: 0, "a function"),
    "lock": (threading.Lock, "a _thread.lock"),
    "generator of numpy": (lambda: np.random.default_rng(0), "Generator.*of a generator, its state"),
    "generator of torch": (torch.Generator, "Generator.*of a generator, its state"),
    "array of objects": (lambda: np.array([object()]), "of Python objects"),
    "class that is not found": (_local, "not found in its module"),
    "several flags": (lambda: Rights.READ | Rights.WRITE, "a combination of Rights"),
    "factory": (lambda: defaultdict(lambda: 0), "a defaultdict whose factory is no plain type"),
}


class Stateful(IterableDataset):
    """A stream that keeps in its state what it is given, and draws its rows by what it got back."""

    def __init__(self, extra=lambda step: None):
        self.seen, self.extra = 0, extra
        self.last, self.number = deque([0.0], maxlen=3), np.uint64(1)
        self.began, self.place, self.colour = datetime(2020, 1, 1), Path("/data"), Colour.RED

    def __iter__(self):
        for row in cases.rows()[self.seen :]:
            with np.errstate(over="ignore"):
                self.number = self.number * np.uint64(6364136223846793005) + np.uint64(1)  # wraps, as uint64 does
            self.last.append(float(self.number) / 2**64)
            self.seen += 1
            red = 1.0 if self.colour is Colour.RED and self.place == Path("/data") else 0.0
            yield {**row, "x": row["x"] + sum(self.last) * red + (self.began - datetime(2020, 1, 1)).total_seconds()}
        self.seen = 0

    def state_dict(self):
        names = ("seen", "last", "number", "began", "place", "colour")
        return {name: getattr(self, name) for name in names} | {"extra": self.extra(self.seen)}

    def load_state_dict(self, state):
        vars(self).update({name: value for name, value in state.items() if name != "extra"})


def test_a_stream_with_any_state_goes_on_as_if_it_had_not_been_stopped(tmp_path):
    changes = {"save_strategy": "steps", "save_steps": 4, "lr_scheduler_type": "constant"}
    straight = made(tmp_path / "a", data=Stateful(), **changes)
    straight.train()
    made(tmp_path / "b", data=Stateful(), **changes, max_steps=4).train()
    resumed = made(tmp_path / "b", data=Stateful(), **changes)
    resumed.train(resume_from_checkpoint=True)
    assert all(torch.equal(one, other) for one, other in zip(weights(straight), weights(resumed), strict=True))


@pytest.mark.parametrize("name", UNSAVABLE)
def test_what_cannot_be_kept_is_refused_at_the_first_save_by_name(tmp_path, name):
    make, words = UNSAVABLE[name]
    trainer = made(tmp_path, data=Stateful(lambda step: {"mine": make()}), save_strategy="steps", save_steps=4)
    with pytest.raises(UnsavableError, match=rf"training data.*\['extra'\]\['mine'\].*{words}"):
        trainer.train()
    assert trainer.state.global_step == 4
    assert not layout.checkpoints(tmp_path)


def test_a_state_that_contains_itself_is_refused(tmp_path):
    trainer = made(tmp_path, data=Stateful(lambda step: _circle()), save_strategy="steps", save_steps=4)
    with pytest.raises(UnsavableError, match="training data contains itself"):
        trainer.train()


def test_what_cannot_be_kept_later_is_a_failed_save(tmp_path, caplog):
    def extra(seen):
        return (lambda: 0) if seen == 24 else None  # at step 6 of 4 rows each

    made(tmp_path, data=Stateful(extra), save_strategy="steps", save_steps=3).train()
    assert [layout.step_of(path) for path in layout.checkpoints(tmp_path)] == [3, 9, 12]
    assert "['extra'] is a function, which no checkpoint can keep" in caplog.text
    assert "Training goes on" in caplog.text


def _sgd(model):
    return {"optimizers": (torch.optim.SGD(model.parameters(), lr=np.float64(1e-2), momentum=np.float64(0.5)), None)}


def _adam(model):
    return {"optimizer_cls_and_kwargs": (torch.optim.AdamW, {"lr": np.float64(1e-2), "weight_decay": np.float32(0.1)})}


NUMBERS = {
    "rate": ({"learning_rate": np.float64(1e-2)}, None),
    "rate and decay in 32 bit": ({"learning_rate": np.float32(1e-2), "weight_decay": np.float32(0.1)}, None),
    "beta": ({"adam_beta1": np.float32(0.8)}, None),
    "steps": ({"save_steps": np.int64(4), "logging_steps": np.int32(2), "seed": np.int64(3)}, None),
    "an optimizer's": ({}, _sgd),
    "of an optimizer's class": ({}, _adam),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_numpy_are_saved_and_resumed(tmp_path, name):
    changes, given = NUMBERS[name]
    changes = {"lr_scheduler_type": "constant", "save_strategy": "steps", "save_steps": 4, **changes}

    def run(place, steps, resume=False):
        torch.manual_seed(0)
        model = cases.Net()
        trainer = made(place, model, more=given(model) if given else {}, **{**changes, "max_steps": steps})
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    straight = run(tmp_path / "a", np.int64(12))
    run(tmp_path / "b", 8)
    torch.load(tmp_path / "b" / "checkpoint-8" / "optimizer.pt", weights_only=True)  # as transformers reads it
    transformers.TrainerState.load_from_json(str(tmp_path / "b" / "checkpoint-8" / "trainer_state.json"))
    resumed = run(tmp_path / "b", 12, resume=True)
    assert all(torch.equal(one, other) for one, other in zip(weights(straight), weights(resumed), strict=True))


class Remembering(TrainerCallback):
    """Keeps the last losses, as a callback would; its state is transformers' form."""

    def __init__(self):
        self.last, self.seen = deque(maxlen=2), {}

    def on_step_end(self, args, state, control, **kwargs):
        self.last.append(np.float32(state.global_step))
        self.seen[state.global_step] = (Path(f"step-{state.global_step}"), Colour.RED)

    def state(self):
        return {"args": {}, "attributes": {"last": self.last, "seen": self.seen}}


def test_the_state_of_a_callback_comes_back_as_it_was(tmp_path):
    for steps in (8, 12):
        listener = Remembering()
        trainer = made(
            tmp_path, max_steps=steps, save_strategy="steps", save_steps=4, restore_callback_states_from_checkpoint=True
        )
        trainer.add_callback(listener)
        trainer.train(resume_from_checkpoint=steps == 12)
    assert same(listener.last, deque([np.float32(11), np.float32(12)], maxlen=2))
    assert same(listener.seen, {step: (Path(f"step-{step}"), Colour.RED) for step in range(1, 13)})


def test_what_json_has_no_form_for_is_logged_as_text(tmp_path):
    class Logs(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            state.log_history.append({"step": state.global_step, "x": np.float32(0.5), "y": np.arange(2), "z": Colour})

    trainer = made(tmp_path, save_strategy="steps", save_steps=12)
    trainer.add_callback(Logs())
    trainer.train()
    logged = json.loads((tmp_path / "checkpoint-12" / "trainer_state.json").read_text())["log_history"]
    assert [(entry["x"], entry["y"]) for entry in logged if "x" in entry] == [(0.5, [0, 1])] * 12


class Alien:
    """Nothing that a reader of checkpoints unpickles."""


def _second(function, change):
    """Return what writes archives, changed in the first of its three calls for the state in the second save."""
    calls = []

    def wrapped(value, *args, **kwargs):
        if isinstance(value, dict):
            calls.append(value)
            if len(calls) == 4:
                return change(function, value, *args, **kwargs)
        return function(value, *args, **kwargs)

    return wrapped


def test_a_checkpoint_that_cannot_be_read_again_is_a_failed_save(tmp_path, caplog, monkeypatch):
    def alien(save, value, file):
        return save({**value, "more": Alien()} if "param_groups" in value else value, file)

    monkeypatch.setattr(output, "write_archive", _second(output.write_archive, alien))
    made(tmp_path, save_strategy="steps", save_steps=4).train()
    assert "checkpoint-8 could not be written: it could not be read again: optimizer.pt" in caplog.text
    assert "Training goes on, and the next save tries again" in caplog.text
    assert [layout.step_of(path) for path in layout.checkpoints(tmp_path)] == [4, 12]
    assert not list(tmp_path.glob(".checkpoint*"))


ERRORS = {
    "of torch.save": RuntimeError(
        "[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing file"
    ),
    "of memory": MemoryError(),
    "of safetensors": SafetensorError("Error while serializing: I/O error: Disk quota exceeded (os error 122)"),
    "of the system": OSError(errno.EACCES, os.strerror(errno.EACCES)),
    "of another kind": AttributeError("no attribute of that name"),
}
SAID = ("PytorchStreamWriter failed", "MemoryError", "Disk quota exceeded (", "Permission denied (", "no attribute of")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "said"), list(zip(ERRORS, SAID, strict=True)))
@pytest.mark.parametrize("where", ["in the thread", "in the loop"])
def test_every_error_of_a_write_is_a_failed_save(tmp_path, caplog, monkeypatch, name, said, where):
    def broken(function, *args, **kwargs):
        raise ERRORS[name]

    if where == "in the thread":
        monkeypatch.setattr(output, "write_archive", _second(output.write_archive, broken))
    else:
        calls = []
        write = folder.open_temporary

        def sometimes(place):
            calls.append(place)
            return broken(write) if len(calls) == 2 else write(place)

        monkeypatch.setattr(folder, "open_temporary", sometimes)
    made(tmp_path, save_strategy="steps", save_steps=4).train()
    assert "checkpoint-8 could not be written: " in caplog.text
    assert said in caplog.text
    assert [layout.step_of(path) for path in layout.checkpoints(tmp_path)] == [4, 12]


@pytest.mark.parametrize(("number", "saved"), [(errno.EINVAL, [4, 8, 12]), (errno.EIO, [4, 12])])
def test_a_folder_without_fsync_is_tolerated_and_one_that_fails_is_not(tmp_path, monkeypatch, number, saved):
    real, failing = os.fsync, []

    def fsync(descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if os.path.isdir(path) and (number == errno.EINVAL or "checkpoint-8" in path):
            failing.append(path)
            raise OSError(number, os.strerror(number))
        return real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    made(tmp_path, save_strategy="steps", save_steps=4).train()
    assert failing
    assert [layout.step_of(path) for path in layout.checkpoints(tmp_path)] == saved


def test_every_file_is_on_the_disk_before_the_checkpoint_has_its_name(tmp_path, monkeypatch):
    """The order that a power failure demands: files, manifest, their folder; then the name, and the folder of that."""
    done, real_fsync, real_rename = [], os.fsync, Path.rename

    def fsync(descriptor):
        done.append(("fsync", os.readlink(f"/proc/self/fd/{descriptor}")))
        return real_fsync(descriptor)

    def rename(self, target):
        done.append(("rename", str(self)))
        return real_rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    made(tmp_path, save_strategy="steps", save_steps=12).train()
    (temporary,) = [path for what, path in done if what == "rename" and ".checkpoint-checkpoint-12" in path]
    place = done.index(("rename", temporary))
    before = [path for what, path in done[:place] if what == "fsync"]
    files = {f"{temporary}/{path}" for path in folder.files_in(tmp_path / "checkpoint-12")}
    manifest = f"{temporary}/{layout.MANIFEST}"
    assert len(files) > 5
    assert files <= set(before)
    assert before[-1] == temporary
    assert before.index(manifest) > max(before.index(path) for path in files - {manifest})
    assert ("fsync", str(tmp_path)) in done[place:]


def test_folders_in_a_checkpoint_are_on_the_disk_too(tmp_path, monkeypatch):
    """As adapters have them; what is linked was flushed when it was written."""
    for name in ("inner/deeper/file", "inner/linked", "outer"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    done, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (done.append(os.readlink(f"/proc/self/fd/{file}")), real(file))[1])
    folder.seal(tmp_path, "a run", linked={"inner/linked": {"size": 12, "xxh3": "0"}})
    places = ["inner/deeper/file", "outer", layout.MANIFEST, "inner", "inner/deeper"]
    assert sorted(done) == sorted([*(str(tmp_path / place) for place in places), str(tmp_path)])
    assert folder.manifest(tmp_path)["files"].keys() == {"inner/deeper/file", "inner/linked", "outer"}


def _renames(monkeypatch, name, number):
    """Let the renaming of a folder fail."""
    real = Path.rename

    def rename(self, target):
        if self.name.startswith(name):
            raise OSError(number, os.strerror(number))
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)


def test_an_old_checkpoint_that_cannot_be_deleted_is_said_once(tmp_path, caplog, monkeypatch):
    _renames(monkeypatch, "checkpoint-3", errno.EBUSY)
    made(tmp_path, save_strategy="steps", save_steps=3, save_total_limit=1).train()
    assert caplog.text.count("The old checkpoint-3 could not be deleted: Device or resource busy") == 1
    assert "could not be written" not in caplog.text
    assert [layout.step_of(path) for path in layout.checkpoints(tmp_path)] == [3, 12]


def test_a_checkpoint_whose_replacement_fails_stays(tmp_path, monkeypatch):
    made(tmp_path, save_strategy="steps", save_steps=12).train()
    place = tmp_path / "checkpoint-12"
    temporary = folder.open_temporary(place)
    _renames(monkeypatch, temporary.name, errno.ENOSPC)
    with pytest.raises(CheckpointError, match="No space left on device"):
        writer.write(
            writer.PendingCheckpoint(
                place, Past(tmp_path, folder.run_of(place)), temporary, objects={"optimizer.pt": {}}
            )
        )
    assert check.damage(place) is None
    assert not list(tmp_path.glob(".checkpoint*"))


@pytest.mark.slow
def test_without_memory_for_a_copy_the_save_is_written_while_training_waits(tmp_path):
    done = _script(
        """
        from trainwright import TrainerCallback
        from trainwright.checkpoint import check
        class Limit(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                if state.global_step == 3:
                    used = int(open("/proc/self/statm").read().split()[0]) * 4096
                    resource.setrlimit(resource.RLIMIT_AS, (used + 60 * 2**20, used + 60 * 2**20))
        Limit.__module__ = "trainwright.tests"
        torch.set_num_threads(1)
        model = cases.Net()
        sizes = [(4, 3000), (3000, 3000), (3000, 1)]
        model.layers = torch.nn.Sequential(*(torch.nn.Linear(*size) for size in sizes))
        trainer = made(sys.argv[1], model, save_strategy="steps", save_steps=4, max_steps=8)
        trainer.add_callback(Limit())
        trainer.train()
        print([path.name for path in sorted(trainer.run_folder.glob("checkpoint-*")) if check.damage(path) is None])
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "['checkpoint-4', 'checkpoint-8']" in done.stdout
    assert "There is no memory for a copy of the state: training waits" in done.stderr


@pytest.mark.slow
def test_calls_of_a_save_that_fail_cost_that_save_at_most():
    done = errnos.run(share=0.015)
    if isinstance(done, str):
        pytest.skip(done)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "0 ended a run or lost a step" in done.stdout


def evaluated(place, metrics, model=None, **changes):
    """Return a trainer that evaluates and saves every two steps, and gets these metrics in turn."""
    values = iter(metrics)
    settings = {
        "save_strategy": "steps",
        "save_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "metric_for_best_model": "x",
        "greater_is_better": False,
        "load_best_model_at_end": True,
        "lr_scheduler_type": "constant",
    }
    more = {"eval_dataset": cases.rows(8), "compute_metrics": lambda prediction: {"x": next(values)}}
    return made(place, model, more=more, **{**settings, **changes})


@pytest.fixture(scope="module")
def best_at_four(tmp_path_factory):
    place = tmp_path_factory.mktemp("best") / "run"
    evaluated(place, [5.0, 1.0, 2.0, 3.0], max_steps=8).train()
    return place


def is_loaded(trainer, place):
    saved = load_file(place / "model.safetensors")
    return all(torch.equal(tensor, saved[name]) for name, tensor in trainer.model.state_dict().items())


def test_a_renamed_folder_knows_its_best(best_at_four, tmp_path):
    shutil.copytree(best_at_four, tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "renamed")
    place = tmp_path / "renamed"
    resumed = evaluated(place, [2.0, 3.0], max_steps=12, save_total_limit=2)
    resumed.train(resume_from_checkpoint=True)
    assert (resumed.state.best_metric, resumed.state.best_model_checkpoint) == (1.0, str(place / "checkpoint-4"))
    assert [layout.step_of(path) for path in layout.checkpoints(place)] == [4, 12]
    assert is_loaded(resumed, place / "checkpoint-4")


@pytest.mark.slow
@pytest.mark.parametrize("version", ["ours", "0.1.0"])
def test_a_copied_folder_never_takes_the_best_of_another_run(tmp_path, version):
    first, copied = tmp_path / "first", tmp_path / "copied"
    evaluated(first, [5.0, 1.0, 2.0, 3.0], max_steps=8).train()
    if version == "0.1.0":  # it noted the best by its path alone
        for place in layout.checkpoints(first):
            about = json.loads((place / layout.RUN).read_text())
            del about["best"]
            (place / layout.RUN).write_text(json.dumps(about))
            run = folder.run_of(place)
            (place / layout.MANIFEST).unlink()
            folder.seal(place, run)
    shutil.copytree(first, copied)
    torch.manual_seed(7)
    evaluated(first, [5.0] * 4, cases.Net(), max_steps=8, learning_rate=0.5, seed=7).train()
    resumed = evaluated(copied, [9.0, 9.0], max_steps=12)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.best_model_checkpoint == str(copied / "checkpoint-4")
    assert is_loaded(resumed, copied / "checkpoint-4")


def test_a_run_that_was_set_aside_resumes_with_its_own_best(best_at_four, tmp_path):
    shutil.copytree(best_at_four, tmp_path / "run")
    evaluated(tmp_path / "run", [7.0] * 4, max_steps=8, learning_rate=0.5).train()
    previous = next((tmp_path / "run").glob("previous-*"))
    resumed = evaluated(tmp_path / "run", [2.0, 3.0], max_steps=12)
    resumed.train(resume_from_checkpoint=str(previous / "checkpoint-8"))
    assert resumed.state.best_model_checkpoint == str(previous / "checkpoint-4")
    assert is_loaded(resumed, previous / "checkpoint-4")


def test_a_best_of_another_run_at_the_same_place_is_not_taken(best_at_four, tmp_path, caplog):
    place = tmp_path / "run"
    shutil.copytree(best_at_four, place)
    other = made(tmp_path / "other", save_strategy="steps", save_steps=4, max_steps=4)
    other.train()
    shutil.rmtree(place / "checkpoint-4")
    shutil.copytree(tmp_path / "other" / "checkpoint-4", place / "checkpoint-4")
    resumed = evaluated(place, [2.0, 3.0], max_steps=12)
    resumed.train(resume_from_checkpoint=True)
    assert "'checkpoint-4', is gone; the search for it begins anew" in caplog.text
    assert (resumed.state.best_metric, resumed.state.best_model_checkpoint) == (2.0, str(place / "checkpoint-10"))


def test_transformers_finds_the_best_of_a_run_in_place(best_at_four):
    state = transformers.TrainerState.load_from_json(str(best_at_four / "checkpoint-8" / "trainer_state.json"))
    assert Path(state.best_model_checkpoint) == best_at_four / "checkpoint-4"
    assert state.best_metric == 1.0


def test_a_best_that_is_damaged_is_a_sentence(tmp_path):
    class CorruptCheckpoint(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 8:
                (tmp_path / "checkpoint-4" / "model.safetensors").write_bytes(b"")

    trainer = evaluated(tmp_path, [5.0, 1.0, 2.0, 3.0], max_steps=8)
    trainer.add_callback(CorruptCheckpoint())
    with pytest.raises(
        CheckpointError, match=r"checkpoint-4' cannot be loaded: model.safetensors has 0 bytes.*complete"
    ):
        trainer.train()
    assert check.newest_valid(tmp_path)[0] == tmp_path / "checkpoint-8"
