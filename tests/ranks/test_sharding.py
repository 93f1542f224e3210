"""Processes that share a model train what one process trains, and what data parallel ones train, bit for bit."""

from __future__ import annotations

import pytest
import torch

from tests.ranks import launch, sharding

pytestmark = [pytest.mark.ranks, pytest.mark.slow]
CLOSE = 1e-9  # of float64, whose sums are added in another order


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return launch.launched("sharding.py", tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return launch.launched("sharding.py", tmp_path_factory.mktemp("four"), ranks=4)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process finds for a model, once for all layouts."""
    found = {}

    def find(name):
        if name not in found:
            place = tmp_path_factory.mktemp("alone")
            if name in sharding.MODELS:
                found[name] = sharding.exact(place, sharding=None, **sharding.MODELS[name])
            else:
                found[name] = sharding.from_file(place / "run", name, None)
        return found[name]

    return find


def of(found, case):
    """Return what every rank found, which is the same."""
    ranks = [rank[case] for rank in found]
    for rank in ranks:
        assert "error" not in rank, rank
    assert all(rank == ranks[0] for rank in ranks)
    return ranks[0]


def distance(found, expected):
    """Return how far the weights of two runs are apart at most."""
    pair = [torch.tensor(one["weights"], dtype=torch.float64) for one in (found, expected)]
    return float((pair[0] - pair[1]).abs().max())


def check(found, expected):
    assert distance(found, expected) < CLOSE
    for name in ("loss", "grad_norm", "eval_loss"):
        assert found[name] == pytest.approx(expected[name], rel=1e-6), name  # logged as float32


@pytest.mark.parametrize("what", ["fused", "built", "noise"])
def test_two_that_share_a_model_train_as_data_parallel_ones_bit_for_bit(two, what):
    """float32, dropout, 20 steps with accumulation, ragged rows, ranks without targets, clipping, evaluation."""
    whole, shared = of(two, f"ddp, {what}"), of(two, f"fsdp, {what}")
    assert (whole.pop("held"), whole.pop("layout")) == (1, "2 processes")
    assert shared.pop("layout") == "2 processes, parameters sharded over 2 processes"
    assert shared.pop("held") <= 1.05 / 2
    assert shared == whole


def test_layers_kept_between_forward_and_backward_pass_change_no_bit(two):
    found = of(two, "zero 2")
    assert found["bits"] == of(two, "fsdp, fused")["bits"]


@pytest.mark.parametrize("name", sharding.MODELS)
@pytest.mark.parametrize("way", sharding.WAYS[2])
def test_two_that_share_a_model_train_what_one_process_trains(two, alone, way, name):
    check(of(two, f"{way}, {name}"), alone(name))


@pytest.mark.parametrize("name", sharding.MODELS)
@pytest.mark.parametrize("way", sharding.WAYS[4])
def test_four_that_share_a_model_or_two_copies_train_what_one_process_trains(four, alone, way, name):
    check(of(four, f"{way}, {name}"), alone(name))


def test_copies_whose_gradients_are_reduced_in_every_micro_batch(four, alone):
    check(of(four, "hybrid, often"), alone("plain"))


@pytest.mark.parametrize("name", sharding.FILES)
def test_a_file_with_a_section_fsdp_trains_what_one_process_trains(two, four, alone, name):
    for ranks in (two, four):
        found, expected = of(ranks, f"file, {name}"), alone(name)
        assert distance(found, expected) < CLOSE
        assert found["losses"] == pytest.approx(expected["losses"], abs=1e-6)


def test_each_process_holds_its_part_alone(two, four):
    """With so small a model an uneven share weighs: a bias of 3 over 4 processes is on 3."""
    assert of(two, "fsdp, plain")["held"] <= 1.05 / 2
    assert [rank["fsdp, plain"]["held"] for rank in four] == pytest.approx([1 / 4] * 4, rel=0.05)


def test_evaluation_by_generation_is_that_of_one_process(two, tmp_path):
    assert of(two, "generated") == sharding.generated(tmp_path, None)


def test_prediction_by_generation_with_an_encoder_is_that_of_one_process(two, tmp_path):
    assert of(two, "translated") == sharding.translated(tmp_path, None)
