"""Two real ranks: they stop, shrink and end together, and none hangs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from tests import forked
from tests.jobs.listed import listed
from trainwright.checkpoint import check, layout

pytestmark = pytest.mark.ranks
SCRIPT = Path(__file__).parent / "ranks.py"


def started(kind, place, **more):
    place.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **more}
    return subprocess.Popen(
        [*command, str(SCRIPT), kind, str(place)], stderr=subprocess.PIPE, text=True, env=environment
    )


def together(kind, place, fails=False, **more):
    place.mkdir(exist_ok=True)
    done = forked.ranks([SCRIPT, kind, place], environment=more)
    assert any(done.codes) == fails, done.said[-3000:]
    results = [place / f"rank{rank}.json" for rank in range(2)]
    return [json.loads(path.read_text()) for path in results if path.exists()], done.said


def weights(result):
    return torch.tensor([value for part in result["weights"] for value in part])


def test_sigterm_to_one_of_two_ranks(tmp_path):
    straight, _ = together("logged", tmp_path / "straight")
    _, said = together("terminate", tmp_path / "run", fails=True)
    assert "Interrupted by SIGTERM at step 6 of 12" in said or "at step 7 of 12" in said
    saved, passed_over = check.newest_valid(tmp_path / "run")
    assert layout.step_of(saved) in (6, 7)
    assert not passed_over
    if layout.step_of(saved) == 7:
        (tmp_path / "run" / "checkpoint-6").mkdir()
    resumed, _ = together("terminate", tmp_path / "run")
    for one, other in zip(resumed, straight, strict=True):
        assert torch.equal(weights(one), weights(other))
        assert one["seen"] == [entry for entry in other["seen"] if entry[0] >= layout.step_of(saved)]
    assert resumed[0]["logs"] == straight[0]["logs"]


def test_sigterm_to_torchrun_and_its_ranks_together(tmp_path):
    process = started("endless", tmp_path)
    while not (tmp_path / "checkpoint-10").is_dir() and process.poll() is None:
        time.sleep(0.05)
    for one in [*psutil.Process(process.pid).children(recursive=True), process]:
        one.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=300)[1]
    step = layout.step_of(check.newest_valid(tmp_path)[0])
    assert f"Interrupted by SIGTERM at step {step} of 1000000; saved in" in said, said[-3000:]


def test_a_job_of_two_ranks_that_is_asked_to_stop(tmp_path, monkeypatch):
    home = tmp_path / "home"
    results, said = together("wish", tmp_path / "run", TRAINWRIGHT_JOBS="on", TRAINWRIGHT_HOME=str(home))
    assert [result["step"] for result in results] == [6, 6], said[-3000:]
    newest = check.newest_valid(tmp_path / "run")[0]
    assert layout.step_of(newest) == 6
    evaluated = json.loads((newest.parent / "checkpoint-5" / layout.RUN).read_text())
    assert (evaluated["due"], evaluated["best"]) == ([], "checkpoint-5")  # written early, completed, loaded at the end
    assert torch.equal(weights(results[0]), weights(results[1]))
    assert "Loaded the best model" in said
    assert [(job["status"], job["step"]) for job in listed(home, monkeypatch)] == [("STOPPED", 6)]


def test_the_time_is_up_for_two_ranks_at_the_same_step(tmp_path):
    done = forked.ranks([SCRIPT, "time", tmp_path])
    assert done.codes == [142, 142]
    saved, said = check.newest_valid(tmp_path)[0], done.said
    assert f"Interrupted since max_train_time=5 is over, at step {layout.step_of(saved)} of 1000000" in said


def test_out_of_memory_on_one_of_two_ranks(tmp_path):
    whole, _ = together("whole", tmp_path / "whole")
    parts, said = together("memory", tmp_path / "parts")
    assert "Memory ran out on rank 1 with 4 rows in a micro-batch" in said
    assert torch.equal(weights(parts[0]), weights(parts[1]))
    assert torch.allclose(weights(parts[0]), weights(whole[0]), atol=1e-4)  # float32, means of other groups of rows
    assert parts[0]["step"] == 12


def test_a_stream_whose_ranks_end_apart(tmp_path):
    results, _ = together("uneven", tmp_path / "run")
    assert torch.equal(weights(results[0]), weights(results[1]))
    shutil.rmtree(tmp_path / "run" / "checkpoint-12")
    shutil.rmtree(tmp_path / "run" / "checkpoint-10")
    (tmp_path / "run" / "resume").touch()
    resumed, _ = together("uneven", tmp_path / "run")
    assert torch.equal(weights(results[0]), weights(resumed[0]))


def test_what_fails_on_one_of_two_ranks_in_an_evaluation_of_a_model_that_they_share_is_told_on_both(tmp_path):
    """Both waited in other exchanges until `ddp_timeout`, and ended without a word of it."""
    _, said = together("evaluation", tmp_path / "run", fails=True)
    assert "failed: ValueError: what the user wrote, so they cannot save together: the last checkpoint holds" in said
    assert "ValueError: what the user wrote" in said.replace("failed: ValueError", "")
    assert check.newest_valid(tmp_path / "run")[0] is not None  # that of the first step, if the next is not whole


def test_data_that_fails_on_one_rank_ends_both_with_a_checkpoint(tmp_path):
    _, said = together("broken", tmp_path / "run", fails=True)
    assert "this row is broken" in said
    assert layout.step_of(check.newest_valid(tmp_path / "run")[0]) == 2
