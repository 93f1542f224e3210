"""Runs from files, resumed in a new process from one checkpoint, are bitwise what they would have been."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.language import resumes
from tests.language import tiny_language as tiny
from trainwright import TrainerState
from trainwright.cli.main import main

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Every case, run straight through and from its checkpoint: (file, whole run, resumed run) by name."""
    place = tiny.make_place(tmp_path_factory.mktemp("resume"))
    threads, made = torch.get_num_threads(), {}
    torch.set_num_threads(1)  # as the new process has it: other sums are rounded otherwise
    for name in resumes.CASES:
        file = resumes.write(place, name)
        assert main(["train", "-c", str(file)]) == 0
        whole = file.parent / "run"
        resumed = file.parent / "resumed"
        resumed.mkdir()
        for part in (f"checkpoint-{resumes.SAVED}", "run.yaml"):
            copy = shutil.copytree if (whole / part).is_dir() else shutil.copy
            copy(whole / part, resumed / part)
        made[name] = (file, whole, resumed)
    torch.set_num_threads(threads)
    folders = [str(resumed) for _, _, resumed in made.values()]
    command = [sys.executable, "-m", "tests.language.resumes", *folders]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return made


@pytest.mark.parametrize("name", resumes.CASES)
def test_bitwise(runs, name):
    _, whole, resumed = runs[name]
    one, other = (
        [
            {name: value for name, value in entry.items() if "runtime" not in name and "per_second" not in name}
            for entry in TrainerState.load_from_json(
                folder / f"checkpoint-{resumes.STEPS}" / "trainer_state.json"
            ).log_history
        ]
        for folder in (whole, resumed)
    )
    assert one == other
    assert len(one) == resumes.STEPS
    files = [next((folder / f"checkpoint-{resumes.STEPS}").glob("*model.safetensors")) for folder in (whole, resumed)]
    first, second = map(load_file, files)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_replay_shows_the_documents_of_a_packed_row(runs, capsys):
    _, whole, _ = runs["bfd"]
    capsys.readouterr()
    assert main(["replay", str(whole), "--step", "6"]) == 0
    out = capsys.readouterr().out
    assert "Step 6: 4 rows of pass 1" in out
    assert out.count("document") > 4
    assert "<|end|>" in out


@pytest.mark.parametrize("name", ["bfd", "packed stream, buffer, workers"])
def test_a_file_of_data_that_was_changed_meanwhile_is_noticed(tmp_path, capsys, name):
    """One word of one row is another, as long as before; the same words in a file that was copied are no change."""
    place = tiny.make_place(tmp_path)
    file = resumes.write(place, name)
    assert main(["train", "-c", str(file), "training.max_steps=4"]) == 0
    run = str(file.parent / "run")
    folder = file.parent / "parts"
    data = next(folder.iterdir()) if folder.is_dir() else place / "text.jsonl"
    before = data.read_text()
    data.write_text(before)
    assert main(["train", "--resume", run, "training.max_steps=5"]) == 0
    words = before.split(" ")
    number = next(i for i in range(len(words) // 2, len(words)) if words[i] == "cat")
    words[number] = "dog"
    data.write_text(" ".join(words))
    capsys.readouterr()
    assert main(["train", "--resume", run, "training.max_steps=6"]) == 2
    assert "The training data is not what" in capsys.readouterr().err
    assert main(["train", "--resume", run, "training.max_steps=6", "training.allow_data_change=true"]) == 0
