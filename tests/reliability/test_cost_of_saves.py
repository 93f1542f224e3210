"""What a save costs grows with what is saved, not with what was saved or logged before: counts, no times."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import shutil
import sys
import threading
import time
import zipfile
from collections import Counter
from fcntl import F_GETFL, F_SETFL, fcntl
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file

from tests.reliability.test_failures import made
from trainwright.checkpoint import check, folder, history, layout, output
from trainwright.checkpoint.past import Past
from trainwright.state import TrainerState


@pytest.fixture
def opened(monkeypatch):
    """The checkpoints whose manifests are opened to be read, each as often as it is."""
    real, found = io.open, Counter()

    def counting(file, mode="r", *given, **more):
        if Path(str(file)).name == layout.MANIFEST and "w" not in mode:
            found[Path(str(file)).parent.name] += 1
        return real(file, mode, *given, **more)

    monkeypatch.setattr(io, "open", counting)
    return found


def steps(place):
    return [layout.step_of(path) for path in layout.checkpoints(place)]


def test_without_a_limit_a_save_reads_no_manifest(tmp_path, opened):
    made(tmp_path, save_strategy="steps", save_steps=1).train()
    assert steps(tmp_path) == list(range(1, 13))
    assert not opened


def test_with_a_limit_every_manifest_is_read_once_in_a_run(tmp_path, opened):
    made(tmp_path, save_strategy="steps", save_steps=1, max_steps=6).train()
    trainer = made(tmp_path, save_strategy="steps", save_steps=1, save_total_limit=5)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert steps(tmp_path) == [8, 9, 10, 11, 12]
    assert {name: opened[name] for name in ("checkpoint-1", "checkpoint-5")} == {"checkpoint-1": 1, "checkpoint-5": 1}
    assert not {f"checkpoint-{step}" for step in range(8, 13)} & opened.keys()


def test_resuming_reads_the_manifests_of_the_newest_alone(tmp_path, opened):
    made(tmp_path, save_strategy="steps", save_steps=1, max_steps=6).train()
    made(tmp_path, save_strategy="no").train(resume_from_checkpoint=True)
    assert set(opened) == {"checkpoint-6"}


def test_a_limit_counts_what_is_there(tmp_path):
    for step in (1, 2, 3, 4):
        layout.of_step(tmp_path, step).mkdir()
    past = Past(tmp_path, "a run")
    assert [path.name for path in past.expired(3, None)] == ["checkpoint-1"]
    shutil.rmtree(tmp_path / "checkpoint-2")  # by hand
    layout.of_step(tmp_path, 5).mkdir()
    past.add(tmp_path / "checkpoint-5")
    past.add(tmp_path / "checkpoint-5")  # written early, and completed
    assert [path.name for path in past.expired(3, None)] == ["checkpoint-1"]


def test_what_is_large_is_summed_while_it_is_written(tmp_path, monkeypatch):
    """Nothing is read again for its checksum but files that others wrote, such as the model's configuration."""
    real, read = folder.summed, set()
    monkeypatch.setattr(folder, "summed", lambda path: (read.add(path.name), real(path))[1])
    made(tmp_path, save_strategy="steps", save_steps=12).train()
    place = tmp_path / "checkpoint-12"
    assert read == {layout.RUN, layout.ARGUMENTS}
    entries = folder.manifest(place)["files"]
    assert {name: output.summed(place / name) for name in entries} == entries


def test_pieces_are_written_in_a_thread_of_low_priority_until_somebody_waits(tmp_path):
    seen = []

    def look(piece):
        thread = threading.get_native_id()
        seen.append((thread, os.getpriority(os.PRIO_PROCESS, thread)))

    own = threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    with output.Yielding() as doing:
        doing(look, memoryview(bytes(1 << 17)))
        doing(look, memoryview(bytes(1 << 16)))  # sooner done than handed over
        doing.awaited.set()
        doing(look, memoryview(bytes(1 << 17)))
    assert seen[0][0] != own[0]
    assert seen[0][1] == min(own[1] + 10, 19) or sys.platform != "linux"
    assert seen[1:] == [own, own]


def test_the_many_small_pieces_of_an_archive_are_not_handed_to_another_thread(tmp_path):
    """An archive of torch's has seven pieces for a tensor, of which the values alone may be large."""
    given = []

    class Counting(output.Yielding):
        def __init__(self):
            super().__init__()
            submit = self._low.submit
            self._low.submit = lambda work, piece: given.append(len(piece)) or submit(work, piece)

    tree = {str(number): torch.zeros(1 << 15 if number < 2 else 8) for number in range(20)}
    with Counting() as doing:
        output.write_objects(tree, tmp_path / "archive", doing)
    assert given == [1 << 17, 1 << 17]


def test_a_file_is_the_same_wherever_its_pieces_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "PIECE", 8)
    monkeypatch.setattr(output, "_SMALL", 4)
    with output.Yielding() as doing:

        def until_the_third(work, piece):
            done.append(bytes(piece))
            if len(done) == 3:
                doing.awaited.set()
            doing(work, piece)

        done = []
        entry = output.write_bytes([b"12345678" * 5], tmp_path / "file", until_the_third)
        assert len(done) == 5
        assert entry == output.summed(tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == b"12345678" * 5


def test_what_goes_wrong_in_that_thread_is_told(tmp_path):
    with output.Yielding() as doing, pytest.raises(OSError, match="[Nn]o space"):
        output.write_bytes([bytes(output.PIECE)], Path("/dev/full"), doing)


class Picky:
    """A file of a file system that refuses to write past its cache, or writes less than it is given."""

    def __init__(self, file, refuses, most):
        self.file, self.refuses, self.most, self.direct = file, refuses, most, []

    def fileno(self):
        return self.file.fileno()

    def close(self):
        self.file.close()

    def write(self, piece):
        self.direct.append(bool(fcntl(self.file, F_GETFL) & os.O_DIRECT))
        if self.refuses and self.direct[-1]:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return self.file.write(piece[: self.most])


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="this system writes through its cache alone")
@pytest.mark.parametrize("system", ["as it is", "elsewhere", "no such flag", "refuses what is written", "parts"])
def test_a_large_file_is_the_same_on_every_file_system(tmp_path, monkeypatch, system):
    real, files = Path.open, []

    def opened(path, mode="r", *given, **more):
        file = real(path, mode, *given, **more)
        if mode != "wb":
            return file
        files.append(Picky(file, system == "refuses what is written", 5000 if system == "parts" else None))
        return files[0]

    def without(file, command, *value):
        if command == F_SETFL and value[0] & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return fcntl(file, command, *value)

    monkeypatch.setattr(Path, "open", opened)
    monkeypatch.setattr(output, "PIECE", 1 << 13)
    if system == "no such flag":
        monkeypatch.setattr(output, "fcntl", without)
    monkeypatch.setattr(output, "_SMALL", 1 << 10)
    if system == "elsewhere":
        monkeypatch.setattr(output, "_lies_on_disk", lambda file: False)
    content = random.Random(0).randbytes(5 * output.PIECE + 300)
    entry = output.write_bytes([content[:100], content[100:30_000], b"", content[30_000:]], tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == content
    assert entry == output.summed(tmp_path / "file")
    [file] = files
    if system in ("elsewhere", "no such flag"):
        assert not any(file.direct)
    elif system == "refuses what is written":
        assert sum(file.direct) <= 1  # and never again
    elif system == "as it is" and any(file.direct):  # not on every disk
        assert file.direct == [True] * 5 + [False]


def test_the_next_save_does_not_wait_for_what_is_deleted(tmp_path, monkeypatch):
    """The first checkpoint is removed no sooner than the third one is there."""
    real, seen = shutil.rmtree, []

    def slowly(path, *given, **more):
        if "gone-checkpoint-1-" in str(path):
            for _ in range(3000):
                if (tmp_path / "checkpoint-3").exists():
                    break
                time.sleep(0.01)
            seen.append(steps(tmp_path))
        real(path, *given, **more)

    monkeypatch.setattr(shutil, "rmtree", slowly)
    made(tmp_path, save_strategy="steps", save_steps=1, max_steps=3, save_total_limit=1).train()
    assert seen == [[2, 3]]
    assert steps(tmp_path) == [3]
    assert not list(tmp_path.glob(".checkpoint-*"))


def test_weights_are_written_as_safetensors_reads_them(tmp_path):
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
    tensors = {f"of {kind}": torch.arange(7).to(kind) for kind in [*kinds, torch.int8, torch.uint8, torch.bool]}
    tensors |= {
        "a scalar": torch.tensor(1.5),
        "empty": torch.empty(0, 3),
        "é": torch.ones(2, 3).t(),
        "large": torch.randn(700, 900),
        "of complex numbers": torch.ones(2, dtype=torch.complex64),
    }
    for chosen in (tensors, {name: one for name, one in tensors.items() if not one.is_complex()}):
        entry = output.write_tensors(
            {name: one.contiguous() for name, one in chosen.items()}, tmp_path / "x.safetensors"
        )
        assert entry == output.summed(tmp_path / "x.safetensors")
        back = load_file(tmp_path / "x.safetensors")
        assert back.keys() == chosen.keys()
        assert all(torch.equal(one, back[name]) and one.dtype == back[name].dtype for name, one in chosen.items())
        with safe_open(tmp_path / "x.safetensors", "pt") as file:
            assert file.metadata() == {"format": "pt"}
    header = (tmp_path / "x.safetensors").read_bytes()[:8]
    assert int.from_bytes(header, "little") % 8 == 0  # so that every tensor can be mapped into memory where it lies


def test_a_manifest_of_sha256_is_read_and_checked(tmp_path):
    made(tmp_path, save_strategy="steps", save_steps=12).train()
    place = tmp_path / "checkpoint-12"
    content = folder.manifest(place)
    content["files"] = {name: output.summed(place / name, "sha256") for name in content["files"]}
    (place / layout.MANIFEST).write_text(json.dumps({**content, "sha256": folder.digest(content)}))
    assert check.damage(place) is None
    damaged = bytearray((place / layout.OPTIMIZER).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (place / layout.OPTIMIZER).write_bytes(damaged)
    assert "optimizer.pt has other contents" in str(check.damage(place))
    content["files"][layout.OPTIMIZER] = {"size": len(damaged), "md5": "0"}
    (place / layout.MANIFEST).write_text(json.dumps({**content, "sha256": folder.digest(content)}))
    assert "is no manifest" in str(check.damage(place))


def test_archives_are_those_of_torch(tmp_path):
    """Readers of zip files, such as the hub's scanner, test their sums; a folder that has lost its manifest is looked
    at as those of other engines are."""
    made(tmp_path, save_strategy="steps", save_steps=12).train()
    place = tmp_path / "checkpoint-12"
    assert torch.load(place / layout.OPTIMIZER, weights_only=True)["state"]
    archives = [path for path in place.iterdir() if zipfile.is_zipfile(path)]
    assert {path.name for path in archives} >= {layout.OPTIMIZER, layout.of_rank(0, 1)}
    for path in archives:
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            assert any(record.CRC for record in archive.infolist())
    for name in (layout.MANIFEST, layout.RUN):
        (place / name).unlink()
    assert check.damage(place) is None


ENTRIES = [
    {"loss": 0.5, "step": 1, "epoch": 0.1, "é": "a\nb", "none": None, "yes": True},
    {"loss": float("nan"), "grad_norm": float("-inf"), "step": 2},
    {"numbers": [1, {"a": []}], "x": np.float32(0.5), "of float64": np.float64(0.1), "y": np.arange(2), "z": Path},
    {},
    {"step": {}},
]


def state_of(count):
    entries = [dict(ENTRIES[number % len(ENTRIES)]) for number in range(count)]
    return TrainerState(global_step=count, log_history=entries, trial_params={"log_history": []})


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 199, 200, 201, 450])
def test_the_file_of_a_history_is_that_of_the_whole_state(tmp_path, count):
    """Whenever its entries came, and of a run that goes on from the file, transformers' too."""
    state, kept = state_of(count), history.History()
    for number in range(0, count, 7):
        kept.keep_up(state.log_history[:number])
    text, file = kept.file_of(state), tmp_path / "state.json"
    assert b"".join(text) == state.to_json().encode()
    assert text.size == len(state.to_json().encode())
    file.write_bytes(b"".join(text))
    transformers.TrainerState.load_from_json(str(file)).save_to_json(str(tmp_path / "theirs.json"))
    for origin in (file, tmp_path / "theirs.json"):
        back, resumed = TrainerState.load_from_json(origin), history.History()
        resumed.go_on(origin, back.log_history)
        back.log_history += state_of(130).log_history
        assert b"".join(resumed.file_of(back)) == back.to_json().encode()


CHANGES = {
    "the newest is added to": lambda entries: entries[-1].update(bits=1),
    "an old one is taken out": lambda entries: entries.pop(5),
    "one is put in before": lambda entries: entries.insert(0, {"step": 0}),
    "all are taken out": list.clear,
    "half are taken out": lambda entries: entries.__delitem__(slice(200, None)),
    "others stand for them": lambda entries: entries.__setitem__(slice(None), [dict(entry) for entry in entries]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_callbacks_change_in_a_history_is_saved(change):
    state, kept = state_of(450), history.History()
    kept.file_of(state)
    before = kept.file_of(state)
    text = state.to_json().encode()
    CHANGES[change](state.log_history)
    assert b"".join(kept.file_of(state)) == state.to_json().encode()
    assert b"".join(before) == text  # which a thread may be writing


@pytest.mark.slow
def test_a_save_makes_text_of_the_newest_entries_alone(tmp_path, monkeypatch):
    """Counted are the entries that are made text, by a run of 1,500 logs, at any one length of its history, and by one
    that is resumed; and the characters of JSON that a save reads back."""
    counted, read, real, loads = Counter(), [], history._lines, json.loads

    def lines(entry):
        counted[len(trainer.state.log_history)] += 1
        return real(entry)

    def reading(text, *given, **more):
        read.append(len(text))
        return loads(text, *given, **more)

    monkeypatch.setattr(history, "_lines", lines)
    monkeypatch.setattr(json, "loads", reading)
    settings = {"save_strategy": "steps", "save_steps": 500, "logging_steps": 1}
    trainer = made(tmp_path, max_steps=1500, **settings)
    trainer.train()
    assert max(counted.values()) <= 2 * history.OPEN
    assert sum(counted.values()) <= 1500 + 3 * 2 * history.OPEN
    assert max(read) < 20_000
    counted.clear()
    trainer = made(tmp_path, max_steps=1510, **settings)
    trainer.train(resume_from_checkpoint=True)
    assert sum(counted.values()) <= 2 * history.OPEN
    whole = tmp_path / "checkpoint-1510" / layout.STATE
    assert len(TrainerState.load_from_json(whole).log_history) > 1500
    assert whole.read_text() == TrainerState.load_from_json(whole).to_json()
