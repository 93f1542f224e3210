"""Two real processes under torchrun train from a file what one process trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from tests import ROOT
from tests import tiny_language as tiny
from tests.tasks.language import two_ranks

pytestmark = pytest.mark.ranks
CLOSE = 1e-9  # float64: only the order of additions differs


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The outcome of every case: of both ranks, by rank."""
    place = tiny.make_place(tmp_path_factory.mktemp("ranks"))
    two_ranks.exact_copy(place / "model", place / "exact")
    out = place / "two"
    out.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, "-m", "tests.tasks.language.two_ranks", str(place), str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return place, [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", two_ranks.CASES)
def test_two_ranks_are_one_process(results, tmp_path, name):
    place, (first, second) = results
    one = two_ranks.run(place, tmp_path, name, 1)
    assert first[name]["weights"] == second[name]["weights"]
    ours, single = (torch.tensor(found["weights"], dtype=torch.float64) for found in (first[name], one))
    distance = ours - single
    assert distance.abs().max() < CLOSE
    assert first[name]["losses"] == pytest.approx(one["losses"], abs=1e-6)  # logged as float32
    assert first[name]["rewards"] == pytest.approx(
        one["rewards"], abs=2e-2
    )  # a mean over micro-batches of 3 and 2 rows
