"""The order of the data and its cut into steps, ranks and micro-batches, for whatever sizes are drawn."""

from __future__ import annotations

import itertools
import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.trainer_pt_utils import get_length_grouped_indices

from trainwright.data.loaders.loader import PlannedBatches
from trainwright.data.loaders.rows import IDLE_ROWS
from trainwright.data.sampling.plan import Batching, Order, Plan

FEW = st.integers(1, 5)
EPOCH = st.integers(0, 5)
BATCHING = st.builds(Batching, FEW, FEW, FEW, st.booleans())


@st.composite
def orders(draw, least=1, samplings=("random", "sequential", "by_length", "group_by_length")):
    sampling, count = draw(st.sampled_from(samplings)), draw(st.integers(least, 90))
    seed, lengths = draw(st.integers(0, 2**32 - 1)), None
    if "length" in sampling:
        lengths = draw(st.lists(st.integers(1, 9), min_size=count, max_size=count))
    return Order(count, sampling, seed, lengths, draw(FEW))


def steps(plan, epoch, position=0):
    """The steps of an epoch from a position on: for each its micro-batches, for each of them the rows of every rank."""
    starts = range(position, plan.epoch_rows, plan.batching.step_rows)
    return [[[rank.tolist() for rank in micro] for micro in plan.step(epoch, start)] for start in starts]


def flat(nested):
    """The rows of some steps, in order."""
    return [row for step in nested for micro in step for rank in micro for row in rank]


@given(orders(), BATCHING, EPOCH, EPOCH)
def test_every_row_comes_once_in_an_epoch_over_all_ranks_and_micro_batches(order, batching, epoch, before):
    plan, micro_rows = Plan(order, batching), batching.batch_size * batching.ranks
    plan.step(before, 0)
    made = steps(plan, epoch)
    micro_batches = [micro for step in made for micro in step]
    used = order.num_rows // micro_rows * micro_rows if batching.drop_last else order.num_rows
    assert len(set(flat(made))) == len(flat(made)) == used
    assert set(flat(made)) <= set(range(order.num_rows))
    assert flat(made) == order.rows(epoch).tolist()[:used]
    assert len(micro_batches) == plan.micro_batches_per_epoch == math.ceil(used / micro_rows)
    assert all(len(micro) == batching.ranks for micro in micro_batches)
    assert [len(step) for step in made[:-1]] == [batching.accumulation] * max(len(made) - 1, 0)
    sizes = [len(rank) for micro in micro_batches for rank in micro]
    assert sizes == sorted(sizes, reverse=True)  # only the end is short
    assert set(sizes[:-1] if batching.drop_last else sizes[: used // batching.batch_size]) <= {batching.batch_size}


@given(orders(), EPOCH)
def test_the_order_of_an_epoch_is_pythons_and_transformers(order, epoch):
    rows, lengths = order.rows(epoch).tolist(), order.lengths
    assert sorted(rows) == list(range(order.num_rows))
    generator = torch.Generator().manual_seed(order.seed + epoch)
    if order.sampling == "sequential":
        assert rows == list(range(order.num_rows))
    elif order.sampling == "random":
        assert rows == torch.randperm(order.num_rows, generator=generator).tolist()
    elif order.sampling == "by_length":
        assert rows == sorted(range(order.num_rows), key=lambda row: -lengths[row])
    else:
        torch.empty((), dtype=torch.int64).random_(generator=generator)
        theirs = get_length_grouped_indices(lengths, order.group_rows, generator=generator)
        assert [lengths[row] for row in rows] == [lengths[row] for row in theirs]


@given(st.permutations([1, 2, 3]), st.permutations([1, 2, 3]), st.integers(1, 3), orders(), EPOCH)
def test_a_step_has_the_same_rows_however_it_is_cut(cut, other, times, order, epoch):
    cuts = [Plan(order, Batching(size, accumulation, ranks * times)) for size, accumulation, ranks in (cut, other)]
    assert [flat([step]) for step in steps(cuts[0], epoch)] == [flat([step]) for step in steps(cuts[1], epoch)]


@given(orders(), BATCHING, BATCHING, EPOCH, st.data())
def test_what_follows_a_position_is_the_end_of_the_straight_order(order, before, after, epoch, data):
    straight = flat(steps(Plan(order, before), epoch))
    ends = list(itertools.accumulate(len(flat([step])) for step in steps(Plan(order, before), epoch)))
    position = data.draw(st.sampled_from([0, *ends]))
    assert flat(steps(Plan(order, before), epoch, position)) == straight[position:]
    plan = Plan(order, after)  # on another number of ranks
    assert flat(steps(plan, epoch, position)) == order.rows(epoch).tolist()[position : plan.epoch_rows]
    assert plan.steps_left(position) == len(steps(plan, epoch, position))


@given(orders(), BATCHING, EPOCH, st.data())
def test_a_rank_reads_its_own_part_of_the_plan(order, batching, epoch, data):
    plan = Plan(order, batching)
    position = data.draw(st.sampled_from(range(0, plan.epoch_rows + 1, batching.step_rows)))
    wanted = [micro for step in steps(plan, epoch, position) for micro in step]
    for rank in range(batching.ranks):
        batches = PlannedBatches(plan, rank)
        batches.epoch, batches.position = epoch, position
        read = list(batches)
        assert [list(one) for one in read] == [micro[rank] or micro[0][:IDLE_ROWS] for micro in wanted]
        assert [one.is_padding for one in read] == [not micro[rank] for micro in wanted]
        assert {one.epoch for one in read} <= {epoch}


@given(orders(least=20, samplings=("random", "group_by_length")), EPOCH)
def test_another_epoch_or_seed_has_another_order(order, epoch):
    other = Order(order.num_rows, order.sampling, order.seed + 100, order.lengths, order.group_rows)
    assert order.rows(epoch).tolist() != order.rows(epoch + 1).tolist()
    assert order.rows(epoch).tolist() != other.rows(epoch).tolist()
