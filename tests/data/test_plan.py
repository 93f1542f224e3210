"""The data order as a pure function."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader
from torch.utils.data.dataloader import _BaseDataLoaderIter

from trainwright import default_data_collator
from trainwright.data.loaders.loader import PlannedBatches, planned
from trainwright.data.loaders.rows import RowFetcher
from trainwright.data.sampling.plan import Batching, Order, Plan


def rows(plan, epoch=0):
    """All rows of an epoch, step by step."""
    steps, position = [], 0
    while position < plan.epoch_rows:
        steps.append([row for micro in plan.step(epoch, position) for rank in micro for row in rank.tolist()])
        position += plan.batching.step_rows
    return steps


@pytest.mark.parametrize("count", [1, 7, 24, 25, 47])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_every_row_once_and_the_same_steps_on_any_number_of_ranks(count, ranks):
    reference = rows(Plan(Order(count), Batching(2, 12)))
    plan = Plan(Order(count), Batching(2, 12 // ranks, ranks))
    assert rows(plan) == reference
    assert sorted(row for step in reference for row in step) == list(range(count))
    assert plan.steps_left(0) == len(reference)


def test_order_is_transformers_permutation():
    expected = torch.randperm(20, generator=torch.Generator().manual_seed(42 + 3)).tolist()
    assert [row for step in rows(Plan(Order(20), Batching(4)), epoch=3) for row in step] == expected


def test_a_step_is_the_same_whatever_was_asked_before():
    plan = Plan(Order(100), Batching(4, 2))
    late = [micro[0].tolist() for micro in plan.step(5, 40)]
    plan.step(0, 0)
    assert [micro[0].tolist() for micro in plan.step(5, 40)] == late
    assert [micro[0].tolist() for micro in Plan(Order(100), Batching(4, 2)).step(5, 40)] == late


def test_grouped_order_is_transformers(monkeypatch):
    from transformers.trainer_pt_utils import get_length_grouped_indices

    lengths = np.random.default_rng(0).integers(1, 90, 213).tolist()
    generator = torch.Generator().manual_seed(11)
    torch.empty((), dtype=torch.int64).random_(generator=generator)
    expected = get_length_grouped_indices(lengths, 8, generator=generator)
    ours = Order(213, "group_by_length", 11, lengths, 8).rows(0).tolist()
    assert [lengths[i] for i in ours] == [lengths[i] for i in expected]
    assert sorted(ours) == list(range(213))


def test_drop_last():
    plan = Plan(Order(23), Batching(4, 2, 1, drop_last=True))
    assert [len(step) for step in rows(plan)] == [8, 8, 4]
    assert plan.micro_batches_per_epoch == 5


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [23, 24, 25, 32])
def test_what_is_dropped_leaves_all_ranks_as_many_rows(count, ranks):
    from accelerate.data_loader import BatchSamplerShard

    plan = Plan(Order(count), Batching(4, 1, ranks, drop_last=True))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(42)).tolist()
    whole = BatchSampler(order, 4, drop_last=True)
    for rank in range(ranks):
        expected = list(BatchSamplerShard(whole, ranks, rank))
        steps = [plan.step(0, position) for position in range(0, plan.epoch_rows, 4 * ranks)]
        assert [micro[rank].tolist() for step in steps for micro in step] == expected
        assert plan.micro_batches_per_epoch == plan.steps_left(0) == len(expected)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(("size", "ranks"), [(1, 3), (3, 1), (4, 2), (5, 3)])
def test_the_batches_of_a_rank_are_its_rows_in_the_steps(size, ranks, drop_last):
    """A rank that has none in the last step repeats the first two of those that have some."""
    plan = Plan(Order(23), Batching(size, accumulation=2, ranks=ranks, drop_last=drop_last))
    steps = [plan.step(1, position) for position in range(0, plan.epoch_rows, plan.batching.step_rows)]
    for rank in range(ranks):
        batches = PlannedBatches(plan, rank)
        batches.epoch = 1
        expected = [(micro[rank] if len(micro[rank]) else micro[0][:2]).tolist() for step in steps for micro in step]
        found = list(batches)
        assert [list(batch) for batch in found] == expected
        assert [batch.is_padding for batch in found] == [not len(micro[rank]) for step in steps for micro in step]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_from_a_position_are_the_rest_of_the_epoch(workers):
    plan = Plan(Order(23), Batching(3))
    batches = PlannedBatches(plan, 0)
    whole = list(DataLoader(range(23), batch_sampler=batches, num_workers=workers, collate_fn=list))
    batches.position = 9
    assert list(DataLoader(range(23), batch_sampler=batches, num_workers=workers, collate_fn=list)) == whole[3:]
    assert len(batches) == len(whole)


@pytest.mark.parametrize("added", [False, True], ids=["ours", "with a collate_fn of the user's"])
def test_batches_made_in_this_process_do_not_go_through_torchs_loader(monkeypatch, added):
    """They are the same as those that go through it, which one with a `collate_fn` set by a subclass does."""
    asked = []
    through = _BaseDataLoaderIter.__next__
    monkeypatch.setattr(_BaseDataLoaderIter, "__next__", lambda self: asked.append(1) or through(self))
    fetcher = RowFetcher([{"x": torch.tensor(float(n))} for n in range(23)], default_data_collator, None)
    loader = planned(fetcher, Plan(Order(23), Batching(4, 2)), 0)
    if added:
        loader.loader.collate_fn = lambda batch: {**batch, "y": -batch["x"]}
    seen = [batch for _, step in loader.steps(0, 0) for batch in step]
    read = [number for batch in seen for number in batch["x"].tolist()]
    assert read == Plan(Order(23), Batching(4)).rows(0).tolist()
    assert len(asked) == (6 if added else 0)
    assert all(("y" in batch) is added for batch in seen)
