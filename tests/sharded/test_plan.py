"""Who writes what, and what is read where, as pure functions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from trainwright.checkpoint import layout
from trainwright.checkpoint.sharded import plan, slices, trees
from trainwright.errors import CheckpointError
from trainwright.parallel.layouts.boxes import Box


def rows(length: int, ranks: int, width: int = 3) -> list[Box]:
    """Return what each of some ranks holds of a tensor of (length, width), cut as torch.chunk does."""
    each = -(-length // ranks)
    edges = [min(length, rank * each) for rank in range(ranks + 1)]
    return [Box((begin, 0), (end - begin, width)) for begin, end in zip(edges, edges[1:], strict=False)]


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=40), st.integers(1, 8))
def test_no_process_owns_more_than_its_share_and_one_tensor(sizes, count):
    owner = plan.owners({f"t{number}": size for number, size in enumerate(sizes)}, count)
    loads = [sum(size for number, size in enumerate(sizes) if owner[f"t{number}"] == rank) for rank in range(count)]
    assert sum(loads) == sum(sizes)
    assert max(loads) <= sum(sizes) / count + max(sizes)


def test_replicas_share_the_writing_and_every_part_is_written_once():
    """Two replicas of two parts each: ranks 0 and 2 hold the same, and so do 1 and 3."""
    names = [f"t{number}" for number in range(10)]
    everyone = [dict.fromkeys(names, box) for box in [*rows(8, 2), *rows(8, 2)]]
    found = plan.writers(everyone, dict.fromkeys(names, 4))
    assert [len(one) for one in found] == [5, 5, 5, 5]
    assert found[0] | found[2] == found[1] | found[3] == set(names)
    assert not found[0] & found[2]


def test_what_is_empty_is_written_by_nobody():
    everyone = [{"t": box} for box in rows(1, 2)]
    assert plan.writers(everyone, {"t": 4}) == [{"t"}, set()]
    assert plan.sources("t", 1, everyone) == {everyone[0]["t"]: 0}


def test_the_owner_takes_of_replicas_what_is_its_own_or_nearest():
    everyone = [{"t": box} for box in [*rows(8, 2), *rows(8, 2)]]
    assert list(plan.sources("t", 3, everyone).values()) == [2, 3]
    assert list(plan.sources("t", 0, everyone).values()) == [0, 1]


@pytest.fixture
def folder(tmp_path):
    """A tensor of (7, 3) in three files, as three ranks write it."""
    whole = torch.arange(21.0).reshape(7, 3)
    for rank, box in enumerate(rows(7, 3)):
        name = layout.of_share(layout.OPTIMIZER, layout.Share(rank, 3))
        part = whole[box.slices].contiguous()
        save_file(
            {"state.0.exp_avg": part}, tmp_path / name, {slices.OFFSETS: f'{{"state.0.exp_avg": [{box[0][0]}, 0]}}'}
        )
    return tmp_path


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 9])
def test_any_number_of_ranks_reads_its_part(folder, ranks):
    whole = torch.arange(21.0).reshape(7, 3)
    for rank, box in enumerate(rows(7, ranks)):
        read = slices.of_file(folder, layout.OPTIMIZER, layout.Share(rank, ranks)).read(
            "state.0.exp_avg", box, torch.float32
        )
        assert torch.equal(read, whole[box.slices])


def test_a_rank_of_the_same_layout_opens_its_own_file_alone(folder, monkeypatch):
    opened = []
    real = slices.safe_open
    monkeypatch.setattr(slices, "safe_open", lambda path, **more: opened.append(path.name) or real(path, **more))
    slices.of_file(folder, layout.OPTIMIZER, layout.Share(1, 3)).read("state.0.exp_avg", rows(7, 3)[1], torch.float32)
    assert opened == ["optimizer-00002-of-00003.safetensors"]


def test_a_part_that_no_file_holds_is_named(folder):
    (folder / "optimizer-00002-of-00003.safetensors").unlink()
    found = slices.of_file(folder, layout.OPTIMIZER, layout.Share())
    with pytest.raises(CheckpointError, match=r"only a part of 'state.0.exp_avg' \(12 of 21 numbers"):
        found.read("state.0.exp_avg", Box((0, 0), (7, 3)), torch.float32)


def test_a_tree_of_stand_ins_becomes_whole(folder):
    tree = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.empty(7, 3, device="meta")}}, "lr": 0.1}
    found = trees.filled(tree, slices.of_file(folder, layout.OPTIMIZER, layout.Share()))
    assert torch.equal(found["state"][0]["exp_avg"], torch.arange(21.0).reshape(7, 3))
    assert found["state"][0]["step"] is tree["state"][0]["step"]


def test_a_tree_without_spread_tensors_is_left_as_it_is():
    tree = {"a": [torch.ones(2), (1, "b")]}
    left, spread = trees.split(tree)
    assert not spread
    assert left["a"][0] is tree["a"][0]
    assert left["a"][1] == (1, "b")
