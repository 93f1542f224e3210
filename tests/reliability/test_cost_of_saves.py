"""What a save costs grows with what is saved, not with what was saved or logged before: counts, no times."""

from __future__ import annotations

import io
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.reliability.test_failures import made
from trainwright.checkpoint import layout
from trainwright.checkpoint.past import Past


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
    assert [path.name for path in past.surplus(3, None)] == ["checkpoint-1"]
    shutil.rmtree(tmp_path / "checkpoint-2")  # by hand
    layout.of_step(tmp_path, 5).mkdir()
    past.add(tmp_path / "checkpoint-5")
    past.add(tmp_path / "checkpoint-5")  # written early, and completed
    assert [path.name for path in past.surplus(3, None)] == ["checkpoint-1"]
