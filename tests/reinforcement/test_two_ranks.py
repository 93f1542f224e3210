"""Micro-batches and ranks are a matter of memory and speed: what is trained on, and what comes of it, is the same."""

from __future__ import annotations

import json

import pytest
import torch

from tests import forked
from tests.reinforcement import tiny_prompts as tiny
from tests.reinforcement import two_ranks

CLOSE = 1e-9  # float64: only the order of additions differs


def launched(place, out, stop):
    out.mkdir(exist_ok=True)
    done = forked.ranks(["-m", "tests.reinforcement.two_ranks", place, out, stop])
    assert not any(done.codes), done.said[-4000:]
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tiny.make_place(tmp_path_factory.mktemp("ranks"), num_key_value_heads=2)


@pytest.fixture(scope="module")
def alone(place):
    """Every case in one process, a step in one micro-batch."""
    out = place / "alone"
    out.mkdir()
    return {name: two_ranks.run(place, out, name, 8, 1) for name in two_ranks.CASES}


def same(found, wanted):
    weights = [torch.tensor(one["weights"], dtype=torch.float64) for one in (found, wanted)]
    assert (weights[0] - weights[1]).abs().max() < CLOSE
    for name in ("losses", "rewards", "held out"):
        known = {int(step): value for step, value in found[name].items()}
        assert known == {step: pytest.approx(value, abs=1e-6) for step, value in wanted[name].items()}  # as float32


@pytest.mark.slow
@pytest.mark.parametrize("name", two_ranks.CASES)
@pytest.mark.parametrize(("batch", "accumulation"), [(4, 2), (2, 4), (1, 8)])
def test_micro_batches_of_any_size_train_the_same(place, alone, tmp_path, name, batch, accumulation):
    same(two_ranks.run(place, tmp_path, name, batch, accumulation), alone[name])


@pytest.mark.ranks
def test_two_ranks_then_one_then_two_are_one_run(place, alone):
    out = place / "changing"
    first = launched(place, out, 2)
    assert set(first[0]["dapo"]["losses"]) == {"1", "2"}
    for name in two_ranks.CASES:
        two_ranks.run(place, out, name, 2, 4, two_ranks.Stops(3))
    both = launched(place, out, two_ranks.STEPS)
    for name, wanted in alone.items():
        assert both[0][name]["weights"] == both[1][name]["weights"]
        same(both[0][name], wanted)
    # whose ranks share one model, and gather it to write, or divide its layers; from the second step on again
    for name in (*(f"{one}, shared" for one in two_ranks.SHARED), *(f"{one}, divided" for one in two_ranks.DIVIDED)):
        assert both[0][name]["weights"] == both[1][name]["weights"]
        same(both[0][name], alone[name.partition(",")[0]])
