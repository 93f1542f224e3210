"""Two real processes give what one process gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests import forked
from tests.ranks import two_ranks

pytestmark = pytest.mark.ranks
SCRIPT = Path(__file__).parent / "two_ranks.py"
CLOSE = 1e-9  # float64: only the order of additions differs


def together(kind, folder, ranks=2):
    folder.mkdir(exist_ok=True)
    done = forked.ranks([SCRIPT, kind, folder], ranks)
    assert not any(done.codes), done.said[-3000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(ranks)]


def flat(result):
    return torch.tensor([value for part in result["parameters"] for value in part], dtype=torch.float64)


@pytest.mark.parametrize("kind", ["map", "stream", "fused"])
def test_two_ranks_are_one_process(tmp_path, kind):
    one = two_ranks.run(kind, tmp_path / "one", 1)
    first, second = together(kind, tmp_path / "two")
    assert torch.equal(flat(first), flat(second))
    assert (flat(first) - flat(one)).abs().max() < CLOSE
    assert first["losses"] == pytest.approx(one["losses"], abs=1e-6)  # logged as float32
    assert first["metrics"] == pytest.approx(one["metrics"], rel=1e-6)
    assert first["labels"] == one["labels"] == second["labels"]
    assert first["first_logit"] == pytest.approx(one["first_logit"], abs=1e-8)
    rows = [sorted(value for entry in result["seen"] for value in entry[1:]) for result in (one, first, second)]
    if kind == "map":
        assert rows[0] == sorted(rows[1] + rows[2])
        alone, both = (flat({"parameters": result["mean"]}) for result in (one, first))
        assert (alone - both).abs().max() < CLOSE
        assert first["buffers"] == second["buffers"]
        for name, found in first["options"].items():
            apart, alone = flat(found), flat(one["options"][name])
            assert (apart - alone).abs().max() < CLOSE, name
            wanted = {**one["options"][name], "parameters": found["parameters"]}
            assert {key: pytest.approx(value, rel=1e-6) for key, value in wanted.items() if key != "parameters"} == {
                key: value for key, value in found.items() if key != "parameters"
            }, name
        assert one["options"]["clipped"] != one["options"]["not clipped"]
        for logged, expected in zip(first["terms"], one["terms"], strict=True):
            assert logged == pytest.approx(expected, rel=1e-6)
            assert logged["loss"] == pytest.approx(logged["sum"], abs=1e-6)
            assert logged["loss"] == pytest.approx(logged["mean"], abs=1e-6)


def test_a_ready_loader_is_divided_between_the_ranks(tmp_path):
    first, second = together("loader", tmp_path / "two")
    assert torch.equal(flat(first), flat(second))
    data = sorted(int(row["input_ids"][0]) for row in two_ranks.tiny.tokens(two_ranks.ROWS, ragged=True))
    epoch = [entry for result in (first, second) for entry in result["seen"] if entry[0] < 2]
    assert sorted(value for entry in epoch for value in entry[1:]) == data
    assert first["metrics"]["eval_rows"] == 13  # three batches of a ready loader, for two ranks
    assert first["metrics"] == second["metrics"]
    assert (first["found"], second["found"]) == (False, True)  # main_process_first


def test_two_ranks_resume_bitwise_and_on_one_rank_with_the_same_rows(tmp_path):
    straight = together("resume", tmp_path / "run")[0]
    shutil.rmtree(tmp_path / "run" / "checkpoint-10")
    shutil.copytree(tmp_path / "run", tmp_path / "alone")
    resumed = together("resume", tmp_path / "run")[0]
    assert torch.equal(flat(resumed), flat(straight))
    assert resumed["losses"] == straight["losses"]
    alone = two_ranks.run("resume", tmp_path / "alone", 1)
    assert alone["accumulation"] == 4
    for step in range(5, 10):
        own, mine = ([entry[1:] for entry in run["seen"] if entry[0] == step] for run in (alone, straight))
        assert own[::2] == mine


def test_ranks_that_are_not_alike_are_told_in_what(tmp_path):
    first, second = together("unlike", tmp_path / "two")
    assert first == second  # every rank says it
    expected = {
        "learning_rate": "learning_rate is 0.01 on rank 0 and 0.001 on rank 1. Start every rank with the same script",
        "data_seed": "data_seed is 42 on rank 0 and 43 on rank 1.",
        "rows": "the number of rows of the training data is 32 on rank 0 and 20 on rank 1.",
        "width": "the parameter layer.weight is '(1, 4) torch.float32, trained: True' on rank 0 and '(1, 8) torch",
        "optimizer": "lr of the optimizer's group 0 is 0.1 on rank 0 and 0.2 on rank 1.",
        "resume": "resume_from_checkpoint is False on rank 0 and True on rank 1.",
    }
    for name, words in expected.items():
        assert first[name].startswith("The ranks are not alike: " + words), first[name]
    assert (first["machine"], first["nothing"]) == (2, 2)
