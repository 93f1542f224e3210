"""Ranks that have read other data are told so, by the name of what gave it."""

from __future__ import annotations

import pytest
from torch.utils.data import DataLoader, IterableDataset, Sampler

from trainwright.data.divided import held, relation
from trainwright.data.loaders.streams import RankStream
from trainwright.errors import DataError
from trainwright.inputs.dividing import check_marks, draws_apart
from trainwright.parallel.strategy import Strategy
from trainwright.world import DataShard


class OfFiles(IterableDataset):
    def __init__(self, *files):
        self.files = files

    def __iter__(self):
        return iter(self.files)


def test_a_stream_without_a_length_is_known_by_the_files_that_it_reads():
    one, same, other = (held(OfFiles(*files)) for files in (("a", "b"), ("a", "b"), ("c", "d")))
    assert relation([one, same]) == ("same", [])
    assert relation([one, other]) == ("apart", ["files"])


class ByPass(Sampler):
    """Has an order of its own in every pass, which it counts."""

    passes = 0

    def __iter__(self):
        self.passes += 1
        return iter(range(self.passes, 8))


def test_a_sampler_that_is_looked_at_before_the_first_pass_begins_as_on_one_rank():
    sampler = ByPass()
    assert draws_apart(Strategy(), print, DataLoader(range(8), 2, sampler=sampler))
    assert next(iter(sampler)) == 1


class Mine(list):
    """A stream, a loader, or what lies in one."""


class Wrapped:
    def __init__(self, batches):
        self.batches = batches


def test_marks_that_are_alike_or_not_yet_made_are_right():
    for marks in ([0.0, 0.0], [3.5, 3.5], [3.5, 0.0], [0.0], []):
        check_marks(marks, Mine())


@pytest.mark.parametrize("loader", [
    DataLoader(RankStream(Mine(), list, 2, DataShard(0, 2))), Wrapped(Mine()), Mine(),
], ids=["a stream that is divided", "batches of a loader", "a loader"])  # fmt: skip
def test_marks_that_differ_name_what_was_read(loader):
    with pytest.raises(DataError, match="^The Mine gives every rank other rows, so each would keep a share"):
        check_marks([3.5, 0.0, 2.5], loader)
