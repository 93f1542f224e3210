"""`make gpu` runs its stages one by one, writes what they find at once, and ends those that take too long."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu.stages import STAGES, Stage
from benchmarks.gpu.toys import Setting

from tests import ROOT

CHECKS = [stage for stage in STAGES if stage.module != "figures"]


def asked(place, *words):
    return gpu.parsed(["--device", "cpu", "--tiny", "--results", str(place), "--page", str(place / "gpu.md"), *words])


@pytest.mark.slow
def test_stages_run_at_toy_size_and_write_the_page(tmp_path):
    words = ["--device", "cpu", "--tiny", "--results", str(tmp_path), "--page", str(tmp_path / "gpu.md")]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *words, "attention", "head"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(one["stage"], one["outcome"]) for one in results] == [("attention", "passed"), ("head", "passed")]
    assert results[0]["found"]["varlen, window None"] == "left out: it runs on CUDA, not on cpu"
    page = (tmp_path / "gpu.md").read_text()
    assert "nothing here is a figure" in page
    assert "| twins | not run |  |" in page
    assert "| varlen, window None | left out: it runs on CUDA, not on cpu |" in page


def test_a_stage_that_takes_too_long_is_ended_and_told(tmp_path):
    found = gpu.run(Stage("twins", "numbers", seconds=0), asked(tmp_path))
    assert found["outcome"] == "cut off after 0 seconds"
    assert found["found"] == {}


def test_what_is_wrong_is_told_and_the_other_stages_run(tmp_path, monkeypatch, capsys):
    given = {"twins": "AssertionError: off | by\n3", "waits": "passed"}

    def run(stage, args):
        return {"stage": stage.name, "outcome": given[stage.name], "found": {"a": 1}, "seconds": 1.0}

    monkeypatch.setattr(gpu, "run", run)
    monkeypatch.setattr(gpu, "parsed", lambda words=None, one=asked(tmp_path, "waits", "twins"): one)
    assert gpu.main() == 1
    page = (tmp_path / "gpu.md").read_text()
    assert "| twins | AssertionError: off \\| by | 1 |" in page
    assert "| waits | passed | 1 |" in page
    assert capsys.readouterr().out.splitlines()[2].startswith("waits: passed")


def test_stages_are_functions_that_say_what_they_do():
    assert all((stage.function.__doc__ or "").strip() for stage in STAGES)
    with pytest.raises(SystemExit):
        gpu.parsed(["nonsense"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_the_way_to_try_it_is_told(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu"])
    assert gpu.main() == 2
    assert "--device cpu --tiny" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("stage", CHECKS, ids=lambda stage: stage.name)
def test_a_check_passes_on_this_card(tmp_path, monkeypatch, stage):
    monkeypatch.chdir(ROOT)
    stage.function(Setting(tmp_path, "cuda", tiny=True))


def test_the_last_result_of_every_stage_on_this_machine_stays_on_the_page(tmp_path):
    journal = tmp_path / "results.jsonl"
    assert gpu.earlier(journal, "this") == {}
    told = [("this", "head", 1.0), ("other", "twins", 2.0), ("this", "head", 3.0), ("this", "kill", 4.0)]
    lines = [json.dumps({"machine": machine, "stage": stage, "seconds": took}) for machine, stage, took in told]
    journal.write_text("\n".join(lines) + "\n")
    assert {name: one["seconds"] for name, one in gpu.earlier(journal, "this").items()} == {"head": 3.0, "kill": 4.0}
