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
    found, folder = {}, tmp_path_factory.mktemp("alone")  # one, whose data are made once

    def find(name):
        if name not in found:
            place = folder / name.replace(" ", "_")
            if name in sharding.MODELS:
                found[name] = sharding.exact(place, sharding=None, **sharding.MODELS[name])
            else:
                found[name] = sharding.from_file(place, name, None)
        return found[name]

    return find


def of(found, case):
    """Return what every rank found, which is the same but for what it holds, and whether its memory ran out."""
    for rank in found:
        assert "error" not in rank[case], rank[case]
    apart = ("held", "ran_out")
    plain = [
        {name: value for name, value in one.items() if name not in apart} if isinstance(one, dict) else one
        for one in (rank[case] for rank in found)
    ]
    assert all(one == plain[0] for one in plain)
    return plain[0]


def distance(found, expected):
    """Return how far the weights of two runs are apart at most."""
    pair = [torch.tensor(one["weights"], dtype=torch.float64) for one in (found, expected)]
    return float((pair[0] - pair[1]).abs().max())


@pytest.mark.parametrize("what", ["fused", "built", "noise"])
def test_two_that_share_a_model_train_as_data_parallel_ones_bit_for_bit(two, what):
    """float32, dropout, 20 steps with accumulation, ragged rows, ranks without targets, clipping, evaluation."""
    whole, shared = of(two, f"ddp, {what}"), of(two, f"fsdp, {what}")
    assert whole.pop("layout") == "2 processes"
    assert shared.pop("layout") == "2 processes, parameters sharded over 2 processes"
    assert shared == whole


def test_layers_kept_between_forward_and_backward_pass_change_no_bit(two):
    found = of(two, "zero 2")
    assert found["bits"] == of(two, "fsdp, fused")["bits"]


@pytest.mark.parametrize(
    ("way", "name"), [(way, name) for way, (_, _, names) in sharding.WAYS.items() for name in names]
)
def test_processes_that_share_a_model_train_what_one_process_trains(request, alone, way, name):
    launched = request.getfixturevalue({2: "two", 4: "four"}[sharding.WAYS[way][0]])
    found, expected = of(launched, f"{way}, {name}"), alone(name)
    assert distance(found, expected) < CLOSE
    assert found["fused"] == expected["fused"]
    for logged in ("loss", "grad_norm", "eval_loss"):
        assert found[logged] == pytest.approx(expected[logged], rel=1e-6), logged  # logged as float32


def test_memory_that_runs_out_on_one_process_makes_smaller_micro_batches_on_all(two, four):
    """The run is compared with one process's above; here, that it did run out, once, on that process alone."""
    for found, case in ((two, "fsdp, out of memory, forward"), (two, "often, out of memory, backward"),
                        (four, "hybrid, often, out of memory, forward")):  # fmt: skip
        assert [rank[case]["ran_out"] for rank in found] == [[], [2], [], []][: len(found)]


@pytest.mark.parametrize("name", sharding.FILES)
def test_a_file_with_a_section_fsdp_trains_what_one_process_trains(two, four, alone, name):
    for launched in (two, four) if f"file, {name}" in four[0] else (two,):
        found, expected = of(launched, f"file, {name}"), alone(name)
        assert distance(found, expected) < CLOSE
        assert found["losses"] == pytest.approx(expected["losses"], abs=1e-6)


@pytest.mark.parametrize("name", sharding.DIVIDED_FILES)
def test_a_file_whose_layers_are_divided_trains_what_one_process_trains(two, alone, name):
    found, expected = of(two, f"divided file, {name}"), alone(name)
    assert distance(found, expected) < CLOSE
    assert found["losses"] == pytest.approx(expected["losses"], abs=1e-6)


def test_an_output_layer_of_which_each_process_has_some_classes_gives_what_the_whole_one_does(two, four):
    """Against torch on the whole logits, in float64; what is noted is kept in float32."""
    for case in [rank["divided classes"] for rank in (*two, *four)]:
        assert "error" not in case, case
        for off, noted in case:
            assert max(off) < 1e-13
            assert max(noted) < 1e-5


def test_a_wrong_plan_of_tensor_parallelism_is_seen_at_the_first_step(two):
    """Norms of single heads of which no plan says that their gradients are to be added up."""
    for rank in two:
        assert "the model's plan of tensor parallelism is wrong for training" in rank["divided, wrong plan"]


def test_processes_that_call_other_layers_are_told_of_it(two):
    """They would gather these in each other's place."""
    for rank in two:
        assert "Rank 0 has used 'layers.0' in this step, and rank 1 has not" in rank["other layers"]


def test_layers_in_bfloat16_with_gradients_added_up_in_float32_train_as_by_torch_alone(two):
    """Six steps of SGD; two micro-batches are added up in float32, and by hand it is one pass, so bfloat16 differs in
    its last bits: 2^-9 of a gradient of about 0.1, at a rate of 0.1."""
    ours, by_hand = of(two, "mixed"), of(two, "mixed, by hand")
    assert ours["loss"] == pytest.approx(by_hand["loss"], rel=2e-3)
    assert distance(ours, by_hand) < 1e-3


def test_numbers_of_bfloat16_are_rounded_at_random_as_by_one_process(two, four):
    assert [rank["rounded alike"] for rank in two + four] == [True] * 6


def test_each_process_holds_its_part_alone(two, four):
    assert [rank["ddp, fused"]["held"] for rank in two] == [1, 1]
    assert max(rank["fsdp, plain"]["held"] for rank in two) <= 1.05 / 2
    assert max(rank["fsdp of four, plain"]["held"] for rank in four) <= 1.05 / 4
    assert max(rank["hybrid, plain"]["held"] for rank in four) <= 1.05 / 2
    assert max(rank["divided, plain"]["held"] for rank in two) <= 1.05 / 2
    assert max(rank["divided, sharded, Qwen"]["held"] for rank in four) <= 1.05 / 4


def test_each_process_reads_its_part_of_the_weights_alone(two):
    """In shares of the model's 62 MB, of memory that no file holds: nothing while it is loaded, and its half then."""
    for found in (rank[case] for rank in two for case in ("read in parts", "read in parts, divided")):
        assert "error" not in found, found
        assert found["same"]
        assert found["loaded"] < 0.1
        assert found["shared"] < 0.6
        assert found["sent"] < 0.01  # buffers alone


def test_random_weights_are_drawn_in_parts_and_are_those_of_one_process(two, four):
    """The same bits, and no process ever holds the whole. Besides its share there are a layer that is drawn, one that
    is thrown away, and pages of libraries that are touched for the first time, 0.1 to 0.4 of the model."""
    for launched in (two, four):
        for rank in launched:
            found = rank["drawn in parts"]
            assert "error" not in found, found
            assert found["same"]
            assert found["most"] < 1


def test_two_that_share_a_model_go_on_bit_for_bit_where_they_stopped(two):
    """With dropout, Muon and a moving average, from the checkpoint of the eighth step of twenty."""
    straight, again = of(two, "resumed")
    assert again["bits"] == straight["bits"]
    for name in ("loss", "grad_norm", "eval_loss"):
        assert again[name] == straight[name], name


def test_evaluation_by_generation_is_that_of_one_process(two, tmp_path):
    assert of(two, "generated") == of(two, "generated, divided") == sharding.generated(tmp_path, None)


@pytest.mark.parametrize("case", ["predicted", "predicted by data parallel ones"])
def test_a_metric_is_given_what_one_process_predicts(two, case, tmp_path):
    for found, wanted in zip(of(two, case), sharding.predicted(tmp_path, None), strict=True):
        sums, labels, loss, count = found
        assert (labels, count) == (wanted[1], wanted[3])
        assert loss == pytest.approx(wanted[2], abs=CLOSE)
        assert torch.allclose(torch.tensor(sums), torch.tensor(wanted[0]), rtol=0, atol=CLOSE)


def test_prediction_by_generation_with_an_encoder_is_that_of_one_process(two, tmp_path):
    assert of(two, "translated") == sharding.translated(tmp_path, None)
