"""Two real processes train from a file what one process trains."""

from __future__ import annotations

import json

import pytest
import torch

from tests import forked
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
    done = forked.ranks(["-m", "tests.tasks.language.two_ranks", place, out])
    assert not any(done.codes), done.said[-3000:]
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
