"""A strategy of one's own is one file and `strategy=`: what it spreads otherwise is trained as by one process."""

from __future__ import annotations

import pytest

from tests.ranks import launch, strategies, tiny_rows

pytestmark = pytest.mark.ranks
CLOSE = 1e-9  # of float64, whose sums are added in another order


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return launch.launched("strategies.py", tmp_path_factory.mktemp("strategies"))


def of(found, case):
    """Return what both ranks found."""
    first, second = (rank[case] for rank in found)
    assert "error" not in first, first
    assert "error" not in second, second
    return first, second


def test_sharded_parameters_are_trained_as_whole_ones(found):
    """FSDP2, with steps in which a rank has no rows: weights, losses, norms and evaluations are DDP's."""
    whole, _ = of(found, "data parallel")
    first, second = of(found, "sharded")
    assert first["parts"] + second["parts"] == whole["parts"]
    assert first["seen"] == whole["seen"]
    for name in ("weights", "loss", "grad_norm", "eval_loss"):
        assert first[name] == pytest.approx(whole[name], abs=CLOSE), name
        assert first[name] == second[name], name
    assert first["labels"] == whole["labels"]


def test_processes_that_compute_one_model_together_read_the_same_rows(found, tmp_path):
    """Two that are one shard of the data train, draw, log and evaluate as one process, bit for bit."""
    alone = strategies.run(tmp_path, dropout=0.5)
    first, second = of(found, "twins")
    assert first == second
    assert {name: value for name, value in first.items() if name != "seen"} == {
        name: value for name, value in alone.items() if name != "seen"
    }
    assert [list(one) for one in alone["seen"]] == first["seen"]


def test_processes_that_compute_one_model_together_go_on_where_they_stopped(found):
    straight, _ = of(found, "twins")
    first, second = of(found, "twins, resumed")
    assert first["weights"] == second["weights"] == straight["weights"]
    assert first["eval_loss"] == straight["eval_loss"]


def test_gradients_that_travel_in_float16_are_rounded_and_no_more(found):
    """The strategy of docs/parts.md: 11 bits of every rank's gradient arrive, so a step is off by 2^-11 of both."""
    whole, _ = of(found, "one step")
    first, second = of(found, "one step in float16")
    assert first["weights"] == second["weights"] != whole["weights"]
    begin = tiny_rows.weights(strategies.Deep())
    longest = max(abs(exact - before) for exact, before in zip(whole["weights"], begin, strict=True))
    assert first["weights"] == pytest.approx(whole["weights"], abs=2**-10 * longest, rel=0)
