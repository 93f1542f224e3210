"""A checkpoint of any layout is resumed in any other one: the same state, the same rows; in the same one, the same
bits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.installed import lacking
from tests.ranks import launch
from tests.sharded import runs
from trainwright.checkpoint import check, layout, output

pytestmark = [pytest.mark.ranks, pytest.mark.slow]
LAUNCHES = {
    2: ["two", "two, stopped", "two from one", "a flipped bit", "a lost file", "a full disk", "no shared folder"]
    + ["exported", "adapters", "averaged", "averaged, straight", "failed after a step", "failed in a step"]
    + ["failed in an evaluation", "signalled in an evaluation"]
    + ["mirrored", "mirrored, whole", "whole", "odd", "from torch"]
    + ["tensor", "tensor from two", "two from tensor", "experts", "experts, stopped"],
    4: ["four divided", "four divided, stopped", "four divided from tensor", "adapters, divided", "exported, divided"]
    + ["four from two", "four replicated", "four replicated, stopped", "four replicated from two"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("layouts")


@pytest.fixture(scope="module")
def found(folder):
    """What each rank found, case by case: one process, then two, then four, then one again."""
    ranks = launch.Found({"one": [runs.trained(folder / "one")]})
    for count, names in LAUNCHES.items():
        launched = launch.launched(Path(runs.__file__), folder, count, names)
        ranks |= {name: [one[name] for one in launched] for name in names if not lacking(name)}
    for origin in ("two", "four replicated", "tensor", "four divided"):
        place = folder / f"one from {origin}"
        if not lacking(place.name):
            ranks[place.name] = [runs.resumed(place, None, origin.replace(" ", "_"))]
    of = {"of": runs.experts(), "resume": str(folder / "experts" / "checkpoint-2"), "max_steps": 4}
    ranks["one from experts"] = [runs.trained(folder / "one from experts", **of)]
    for name, everyone in ranks.items():
        for one in everyone:
            assert "error" not in one, (name, one)
    return ranks


def rows(ranks, step):
    """Return the rows of a step, over all ranks with rows of their own, sorted."""
    return sorted(row for one in ranks[:: ranks[0]["tensor"]] for row in one["rows"][step])


@pytest.mark.parametrize(
    "case", [name for name in LAUNCHES[4] if "from two" in name] + ["one from two", "tensor from two"]
)
def test_another_layout_has_the_same_state_and_rows(found, case):
    for rank in found[case]:
        assert rank["states"]["2"] == found["two"][0]["states"]["2"]
    for step in ("2", "3"):
        assert rows(found[case], step) == rows(found["two"], step) == rows(found["one"], step)


def test_a_run_of_one_process_is_taken_over_by_two(found):
    assert found["two from one"][0]["states"]["2"] == found["one"][0]["states"]["2"]
    assert rows(found["two from one"], "3") == rows(found["one"], "3")


def test_replicas_are_written_once_and_read_by_one_process(found, folder):
    assert found["one from four replicated"][0]["states"]["2"] == found["four replicated"][0]["states"]["2"]
    place = folder / "four_replicated" / "checkpoint-2"
    sizes = [path.stat().st_size for path in layout.shares_of(place, layout.OPTIMIZER)]
    assert len(sizes) == 4
    assert max(sizes) < 1.2 * min(sizes)  # 19,000 numbers in 40 tensors do not divide better


@pytest.mark.parametrize("case", ["two from tensor", "four divided from tensor", "one from tensor"])
def test_a_run_whose_layers_are_divided_is_taken_over_by_any_other(found, case):
    for rank in found[case]:
        assert rank["states"]["2"] == found["tensor"][0]["states"]["2"]
    assert rows(found[case], "3") == rows(found["tensor"], "3") == rows(found["one"], "3")


def test_processes_that_compute_layers_together_see_the_same_rows_and_draw_the_same(found):
    """Also where they go on from a run in which each of them drew apart."""
    for what in ("rows", "streams"):
        first, second, third, fourth = (rank[what] for rank in found["four divided"])
        assert first == second != third == fourth
    first, second = (rank["streams"] for rank in found["tensor from two"])
    assert first == second
    for case in ("two", "two from tensor"):
        assert found[case][0]["streams"]["2"] != found[case][1]["streams"]["2"]


@pytest.mark.parametrize("case", ["two", "four replicated", "four divided"])
def test_the_same_layout_goes_on_bitwise(found, case):
    """Weights, moments and the dropout of every rank."""
    for straight, stopped in zip(found[case], found[f"{case}, stopped"], strict=True):
        assert straight["ended"] == stopped["ended"]
        assert straight["losses"] == stopped["losses"]
        assert straight["states"]["5"] == stopped["states"]["5"]


@pytest.mark.parametrize(("case", "straight"), [("mirrored", "two"), ("mirrored, whole", "whole")])
def test_a_second_place_is_gone_on_from_bitwise_on_empty_disks(found, case, straight):
    """Where each rank holds the whole model, every one has a disk of its own."""
    for again, whole in zip(found[case], found[straight], strict=True):
        assert again["ended"] == whole["ended"]
        assert {"checkpoint-4"} <= set(again["copied"])


def test_transformers_loads_what_the_ranks_have_written(found, folder):
    from transformers import LlamaForCausalLM

    places = {name: folder / name / "checkpoint-6" for name in ("two", "tensor") if name in found}
    if "tensor" in found:  # whose best model was loaded
        places["tensor"] = Path(json.loads((places["tensor"] / layout.STATE).read_text())["best_model_checkpoint"])
    for name, place in places.items():
        assert not (place / layout.WEIGHTS).exists()
        model = LlamaForCausalLM.from_pretrained(place, dtype="auto")
        assert runs.digest(dict(model.named_parameters())) == found[name][0]["ended"][0]


def test_a_model_saved_alone_replaces_what_is_there(found, folder):
    from transformers import LlamaForCausalLM

    for case in ("exported", "exported, divided"):
        if lacking(case):
            continue
        first = found[case][0]
        for name in ("model", "as upstream"):
            model = LlamaForCausalLM.from_pretrained(folder / case.replace(" ", "_") / name, dtype="auto")
            assert runs.digest(dict(model.named_parameters())) == first["weights"]
        assert runs.digest(model.state_dict()) == first["gathered"]
        alone, as_upstream, with_options = first["told"]
        assert alone.startswith("save_model was called on some ranks alone (waited 1 s for the others)")
        assert as_upstream.startswith("save_pretrained was called on some ranks alone (waited 1 s for the others)")
        (pickled,) = first["pickled"]
        assert "by torch.save(model.state_dict()): what is written is this process's part alone" in pickled
        assert "takes a folder alone then, no push_to_hub: call trainer.save_model(folder) on all" in with_options


@pytest.mark.parametrize("case", ["adapters", "adapters, divided"])
def test_adapters_alone_are_written_as_peft_has_them(found, folder, case):
    from peft import PeftModel

    first = found[case][0]
    place = folder / case.replace(" ", "_") / "straight" / "checkpoint-4"
    assert not layout.shares_of(place, layout.WEIGHTS)
    read = PeftModel.from_pretrained(runs.model(), place)
    assert runs.digest(dict(read.named_parameters())) == first["straight"]["ended"][0]
    assert first["again"]["ended"] == first["straight"]["ended"]
    assert first["again"]["losses"] == first["straight"]["losses"]


def test_odd_parts_go_on_bitwise(found):
    """A frozen layer, one that no step uses, one of a single output, running means; a schedule with an end."""
    for one in found["odd"]:
        assert one["again"]["ended"] == one["straight"]["ended"]
        assert one["again"]["losses"] == one["straight"]["losses"]


def test_what_torch_has_saved_of_a_shared_model_is_gone_on_from(found):
    for one in found["from torch"]:
        assert one["states"]["2"] == one["meant"]


def test_a_moving_average_goes_on_bitwise_and_is_what_is_loaded(found, folder):
    from transformers import LlamaForCausalLM

    for straight, stopped in zip(found["averaged, straight"], found["averaged"], strict=True):
        assert straight["states"]["5"] == stopped["states"]["5"]
        assert straight["ended"] == stopped["ended"]
    place = folder / "averaged" / "checkpoint-6"
    assert len(layout.shares_of(place, layout.AVERAGE)) == 2
    model = LlamaForCausalLM.from_pretrained(place, dtype="auto")
    assert runs.digest(dict(model.named_parameters())) == found["averaged"][0]["ended"][0]


def test_a_mixture_of_experts_goes_on_bitwise_and_in_another_layout(found, folder):
    from transformers import MixtralForCausalLM

    for straight, stopped in zip(found["experts"], found["experts, stopped"], strict=True):
        assert straight["ended"] == stopped["ended"]
        assert straight["losses"] == stopped["losses"]
    alone, together = found["one from experts"][0], found["experts"]
    assert alone["states"]["2"] == together[0]["states"]["2"]
    assert rows([alone], "3") == rows(together, "3")
    read = MixtralForCausalLM.from_pretrained(folder / "experts" / "checkpoint-4", dtype="auto")
    assert runs.digest(dict(read.named_parameters())) == together[0]["ended"][0]


def test_every_tensor_lies_in_one_file_and_every_slice_in_one(found, folder):
    place = folder / "two" / "checkpoint-6"
    index = json.loads((place / layout.INDEX).read_text())
    assert sorted(set(index["weight_map"].values())) == [path.name for path in layout.shares_of(place, layout.WEIGHTS)]
    assert "lm_head.weight" not in index["weight_map"]  # tied
    files = json.loads((place / layout.MANIFEST).read_text())["files"]
    assert {path.name for path in place.iterdir()} == {*files, layout.MANIFEST}
    assert all(output.NEWEST in entry for entry in files.values())


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("a flipped bit", "checkpoint-4: optimizer-00002-of-00002.safetensors has other contents than were written"),
        ("a lost file", "checkpoint-4: model-00002-of-00002.safetensors is missing"),
    ],
)
def test_damage_of_one_ranks_file_is_named_and_passed_over(found, case, sentence):
    first, second = found[case]
    assert f"Passed over {sentence}." in first["told"]
    assert list(first["rows"]) == list(second["rows"]) == ["2", "3"]
    assert first["states"]["2"] == found["two"][0]["states"]["2"]


def test_every_file_is_read_once_by_one_rank(found, folder):
    first, second = (set(rank["read"]) for rank in found["a flipped bit"])
    files = json.loads((folder / "two" / "checkpoint-2" / layout.MANIFEST).read_text())["files"]
    assert not first & second
    assert {f"checkpoint-2/{name}" for name in files} <= first | second
    assert first
    assert second


def test_a_disk_that_is_full_for_one_rank_costs_that_save_alone(found, folder):
    first, second = found["a full disk"]
    for rank in (first, second):
        told = next(one for one in rank["told"] if "could not be written" in one)
        assert "checkpoint-2 could not be written: No space left on device" in told
        assert "(process 1)" in told
    assert first["saved"] == ["checkpoint-4", "checkpoint-6"]
    assert check.damage(folder / "a_full_disk" / "checkpoint-6") is None
    assert first["ended"] == found["two"][0]["ended"]


@pytest.mark.parametrize("case", ["failed after a step", "failed in a step", "failed in an evaluation"])
def test_what_fails_on_all_ranks_loses_no_step(found, case):
    """In a step, and in an evaluation, a part of the model may be gathered on some of them."""
    for rank in found[case]:
        assert "saved at step 3" in rank["notes"]
        assert rank["saved"][-1] == "checkpoint-3"
        assert rank["ended"] == found["two"][0]["ended"]


def test_a_signal_to_one_rank_in_an_evaluation_stops_all_at_the_same_batch(found):
    """One that left by itself would be missed in the next forward pass of the other, until `ddp_timeout`."""
    for rank in found["signalled in an evaluation"]:
        assert "Interrupted by SIGTERM at step 3 of 6; saved in" in rank["stopped"]
        assert rank["ended"] == found["two"][0]["ended"]


def test_a_folder_that_is_not_shared_is_one_sentence_at_the_start(found):
    for rank in found["no shared folder"]:
        assert "output_dir 'out' is not one folder for all processes: process 1 on" in rank["told"]
        assert not rank["left"]
