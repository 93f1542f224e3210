"""Loaders: on top of torch's DataLoader, they give the micro-batches of one optimizer step at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Sampler

from trainwright.data.introspection import tellable
from trainwright.data.loaders.rows import IDLE_ROWS, Indices, RowFetcher, as_it_is, new_indices
from trainwright.data.loaders.workers import end_workers, reading
from trainwright.data.sampling.plan import Order, Plan

Note = Callable[[str], None]


class TrainLoader(Protocol):
    """What the loop needs of data: the steps of an epoch after a position, whose unit is the loader's own."""

    @property
    def loader(self) -> Any:
        """The loader that callbacks see."""

    @property
    def steps_per_epoch(self) -> int | None:
        """Optimizer steps of a whole epoch; None where the data has no length."""

    def steps(self, epoch: int, position: int) -> Generator[tuple[int, list[Any]]]:
        """Yield (position afterwards, micro-batches) for every optimizer step left in the epoch."""

    def steps_left(self, position: int) -> int | None:
        """Return the steps of an epoch after `position`; None where the data has no length."""

    def share(self, position: int) -> float | None:
        """Return which share of an epoch's micro-batches is done; None where the data has no length."""

    @property
    def mark(self) -> float:
        """A number that is the same on all ranks that read the same data; 0 where that is not asked."""

    def describe(self) -> dict[str, Any]:
        """Return what defines the order of the data, as a checkpoint keeps it."""

    def state_dict(self) -> dict[str, Any]:
        """Return what this rank's checkpoint must keep besides the position."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""

    @property
    def step_size(self) -> int:
        """How far a whole step goes."""

    def accumulate(self, micro_batches: int) -> None:
        """Let a step have so many micro-batches of every rank."""

    def close(self) -> None:
        """End the processes that load data."""


class PlannedBatches(Sampler[list[int]]):
    """The batch sampler of a plan for one rank, from a position that can be set."""

    def __init__(self, plan: Plan, rank: int) -> None:
        self.plan = plan
        self.rank = rank
        self.epoch = 0
        self.position = 0

    def __len__(self) -> int:
        return self.plan.micro_batches_per_epoch

    def __iter__(self) -> Iterator[Indices]:
        """Yield the rows of `Plan.step` that are this rank's; cut out here, since it is done for every micro-batch."""
        epoch, order, end = self.epoch, self.plan.rows(self.epoch), self.plan.epoch_rows
        size, ranks = self.plan.batching.batch_size, self.plan.batching.ranks
        for start in range(self.position, end, size * ranks):
            first = start + self.rank * size
            is_padding = first >= end
            mine = (
                order[start : min(start + min(size, IDLE_ROWS), end)]
                if is_padding
                else order[first : min(first + size, end)]
            )
            rows = mine.tolist()
            yield new_indices(rows, epoch, rows[0], is_padding)


@dataclass
class PlannedLoader:
    """Map-style data in the plan's order; a position is a number of rows over all ranks."""

    loader: DataLoader[Any]
    batches: PlannedBatches

    @property
    def plan(self) -> Plan:
        """The plan that the batches follow."""
        return self.batches.plan

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of a whole epoch."""
        return self.plan.steps_left(0)

    @property
    def step_size(self) -> int:
        """Rows of a step, over all ranks."""
        return self.plan.batching.step_rows

    def steps(self, epoch: int, position: int) -> Generator[tuple[int, list[Any]]]:
        """Yield (position afterwards, micro-batches), fetching only rows after `position`."""
        if position == 0:
            draw_once()
        self.batches.epoch, self.batches.position = epoch, position
        plan = self.plan
        end, step_rows = plan.epoch_rows, plan.batching.step_rows
        with reading(self.loader) as micro_batches:
            while position < end:
                rows = min(step_rows, end - position)
                position += rows
                yield position, [next(micro_batches) for _ in range(plan.micro_batches(rows))]

    def steps_left(self, position: int) -> int:
        """Return the steps of an epoch after `position`."""
        return self.plan.steps_left(position)

    def share(self, position: int) -> float:
        """Return which share of an epoch's micro-batches is done."""
        most = max(self.plan.epoch_rows, self.plan.most_rows)
        return self.plan.micro_batches(position) / self.plan.micro_batches(most)

    mark = 0.0

    def describe(self) -> dict[str, Any]:
        """Return what defines the order of the data."""
        as_ready = {} if getattr(self.loader, "in_order", True) else {"in_order": False}
        return {"kind": "planned", **self.plan.describe(), **as_ready}

    def accumulate(self, micro_batches: int) -> None:
        """Let a step have so many micro-batches of every rank."""
        self.plan.batching = replace(self.plan.batching, accumulation=micro_batches)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the order follows from the plan."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore nothing."""

    def close(self) -> None:
        """End the processes that load data."""
        end_workers(self.loader)


class Source(Protocol):
    """Micro-batches in an order that is not planned: a stream, a ready loader, any iterable."""

    loader: Any

    @property
    def mark(self) -> float:
        """A number that is the same on all ranks that read the same; 0 where that is not asked."""

    def read(self, epoch: int, position: int) -> Generator[Any]:
        """Yield this rank's micro-batches of a pass after the first `position` of the loader."""

    def describe(self) -> dict[str, Any]:
        """Return what defines the order, as far as it is known; `batch_size` is None where that is not."""

    def state_dict(self) -> dict[str, Any]:
        """Return what finds the place again."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""

    def close(self) -> None:
        """End the processes that load data."""


def planned(rows: RowFetcher, plan: Plan, rank: int, **options: Any) -> PlannedLoader:
    """Return a rank's micro-batches in a plan's order; options are keyword arguments of torch's DataLoader."""
    batches = PlannedBatches(plan, rank)
    return PlannedLoader(DataLoader(rows, batch_sampler=batches, collate_fn=as_it_is, **options), batches)


@dataclass
class SequentialLoader:
    """Data taken as it comes from a source; a position is a number of the loader's batches, so it stays true when the
    number of ranks changes.

    Attributes:
        source: of this rank's micro-batches.
        accumulation: micro-batches of a step, on every rank.
        length: micro-batches of a pass on every rank, where that is known.
        ranks: among which the batches are shared.
        divided: whether every rank has a loader of its own share, whose batches it counts for itself.
    """

    source: Source
    accumulation: int
    length: int | None
    ranks: int = 1
    divided: bool = False

    @property
    def width(self) -> int:
        """Batches of the loader that one micro-batch of every rank takes."""
        return 1 if self.divided else self.ranks

    @property
    def step_size(self) -> int:
        """Batches of the loader in a step."""
        return self.accumulation * self.width

    @property
    def loader(self) -> Any:
        """The loader that the micro-batches come from."""
        return self.source.loader

    @property
    def steps_per_epoch(self) -> int | None:
        """Optimizer steps of a whole epoch, where the loader has a length."""
        return self.steps_left(0)

    def steps(self, epoch: int, position: int) -> Generator[tuple[int, list[Any]]]:
        """Yield (position afterwards, micro-batches) for every step after `position`."""
        with closing(self.source.read(epoch, position)) as micro_batches:
            while group := list(islice(micro_batches, self.accumulation)):
                position += len(group) * self.width
                yield position, group

    def steps_left(self, position: int) -> int | None:
        """Return the steps of an epoch after `position`; None without a length."""
        if self.length is None:
            return None
        return math.ceil(max(0, self.length - position // self.width) / self.accumulation)

    def share(self, position: int) -> float | None:
        """Return which share of an epoch's micro-batches is done; None without a length."""
        return min(1.0, position / self.width / self.length) if self.length else None

    @property
    def mark(self) -> float:
        """A number that is the same on all ranks that read the same."""
        return self.source.mark

    def describe(self) -> dict[str, Any]:
        """Return what is known of the order of the data."""
        cut = {"accumulation": self.accumulation, "ranks": self.ranks, "divided": self.divided}
        return {"kind": "sequential", **cut, **self.source.describe()}

    def accumulate(self, micro_batches: int) -> None:
        """Let a step have so many micro-batches of every rank."""
        self.accumulation = micro_batches

    def state_dict(self) -> dict[str, Any]:
        """Return what the source needs to find its place again."""
        return self.source.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.source.load_state_dict(state)

    def close(self) -> None:
        """End the processes that load data."""
        self.source.close()


class InOrder(Sampler[int]):
    """The rows of a pass in an order, for a loader of the user's own; the next pass follows by itself, or as told."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.epoch = 0

    def __len__(self) -> int:
        return self.order.num_rows

    def __iter__(self) -> Iterator[int]:
        rows = self.order.rows(self.epoch)
        self.epoch += 1
        return iter(rows.tolist())

    def set_epoch(self, epoch: int) -> None:
        """Begin with this pass."""
        self.epoch = epoch


def batch_size_of(loader: Any) -> int | None:
    """Return the rows that a loader says its batches have; None where it does not."""
    said = getattr(loader, "batch_size", None) or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    return said if isinstance(said, int) else None


def set_epoch(part: Any, epoch: int) -> None:
    """Call `set_epoch` on a loader, its dataset and its samplers, where they have it, once on each."""
    parts = (part, getattr(part, "dataset", None), getattr(part, "batch_sampler", None), *samplers(part))
    owners = [owner for one in parts for owner in tellable(one)]
    for owner in {id(owner): owner for owner in owners}.values():
        owner.set_epoch(epoch)


def samplers(loader: Any) -> tuple[Any, ...]:
    """Return what draws the rows of a ready loader: its sampler and the one that its batch sampler is made of."""
    return getattr(loader, "sampler", None), getattr(getattr(loader, "batch_sampler", None), "sampler", None)


def draw_once(generator: torch.Generator | None = None) -> None:
    """Draw one number from the global stream, as torch's DataLoader does when a pass begins.

    Ours draw from a generator of their own, so that resuming in the middle of a pass draws nothing. This one keeps the
    dropout of a run equal to what the same script gives with transformers.
    """
    torch.empty((), dtype=torch.int64).random_(generator=generator)


def new_generator(seed: int) -> torch.Generator:
    """Return a CPU generator for torch's DataLoader, so that loading never draws from the global stream."""
    return torch.Generator().manual_seed(seed)
