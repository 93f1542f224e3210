"""What older versions wrote goes on and is listed: run folders of every kind, homes of jobs, from another machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.fixtures import runs
from trainwright import TrainerState
from trainwright.cli.main import main

FIXTURES = Path(__file__).parents[1] / "fixtures"
VERSIONS = sorted(path.name for path in FIXTURES.iterdir() if path.name[0].isdigit())
CLOSE = 1e-5  # float32: another processor adds in another order


@pytest.fixture(params=VERSIONS)
def version(request, tmp_path, monkeypatch):
    """A copy of what a version wrote, in a folder of another name; the current folder is in it."""
    shutil.copytree(FIXTURES / request.param, tmp_path / "copied")
    monkeypatch.chdir(tmp_path / "copied")
    return tmp_path / "copied"


def losses(run: Path) -> list[float]:
    history = TrainerState.load_from_json(run / f"checkpoint-{runs.STEPS}" / "trainer_state.json").log_history
    return [entry["loss"] for entry in history if "loss" in entry]


def straight(place: Path) -> list[float]:
    return json.loads((place / "straight.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", runs.TRAINED)
def test_a_script_goes_on(version, name):
    trainer = runs.trainer(name, name)
    torch.manual_seed(99)
    assert trainer.train(resume_from_checkpoint=True).global_step == runs.STEPS
    assert losses(version / name) == pytest.approx(straight(version / name), abs=CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "run", "command"),
    [
        ("dpo", "out", ["train", "--resume", "out"]),
        ("algebra", "results", ["algebra", "train", "run.yaml", "--resume"]),
    ],
)
def test_a_run_of_a_file_goes_on(version, name, run, command, monkeypatch):
    monkeypatch.chdir(version / name)
    assert main(command) == 0
    assert losses(Path(run)) == pytest.approx(straight(Path()), abs=CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("database", [True, False])
def test_jobs_are_listed(version, database, monkeypatch, capsys):
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(version / "home"))
    monkeypatch.delenv("TRAINWRIGHT_DB", raising=False)
    if not database:
        (version / "home" / "jobs.db").unlink()
    assert main(["jobs", "list", "--json"]) == 0
    found = {job["name"]: job for job in json.loads(capsys.readouterr().out)}
    assert {name: job["status"] for name, job in found.items() if name != "killed"} == {
        "complete": "COMPLETE", "interrupted": "INTERRUPTED", "failed": "FAILED", "make": "COMPLETE",
    }  # fmt: skip
    assert found["complete"]["params"] == {"learning_rate": 1e-3, "note": "<b>"}
    for job in found.values():
        assert main(["jobs", "show", job["id"], "--json"]) == 0
    last = {job: shown(capsys, found[job]["id"]) for job in found}
    assert last["complete"]["metrics"]["loss"][0] == 6
    assert last["interrupted"]["metrics"]["loss"] == [1, 0.5]
    assert last["make"]["metrics"]["train/loss"] == [8, pytest.approx(straight(version / "stream")[-1], abs=CLOSE)]
    assert last["failed"]["message"] == "ValueError: what was wrong"
    assert last["killed"]["metrics"]["loss"] == [1, 1]


def shown(capsys, job):
    """Return what `trainwright jobs show --json` prints."""
    capsys.readouterr()
    assert main(["jobs", "show", job, "--json"]) == 0
    return json.loads(capsys.readouterr().out)
