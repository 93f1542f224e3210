"""A run that is stopped anywhere and resumed is the run that went through, whatever it trains on and with what: pairs
that are drawn. `make torture` takes 500."""

from __future__ import annotations

import pytest

from tests.reliability import pairs

ALONE = (*range(13), 199)  # a stream whose state at the end of a pass is that of the next one
AMONG_RANKS = (1000, 1001, 1002, 1003, 1009, 1011, 1065)  # of every kind of data, and with a loss scaler


@pytest.mark.slow
@pytest.mark.parametrize("seed", ALONE)
def test_the_resumed_run_is_the_one_that_went_through(tmp_path, seed):
    pair = pairs.drawn(seed)
    assert pairs.fault(pair, tmp_path) is None, pair


@pytest.mark.ranks
def test_other_ranks_read_the_same_rows(tmp_path):
    drawn = [pairs.drawn(seed, ranks=True) for seed in AMONG_RANKS]
    assert pairs.faults_among_ranks(drawn, tmp_path) == {}
