"""Loaders: on top of torch's DataLoader, they give the micro-batches of one optimizer step at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, IterableDataset, Sampler

from trainwright import randomness
from trainwright.data.plan import Plan
from trainwright.data.rows import Fetched, Repeat, Weightless
from trainwright.world import World


class TrainLoader(Protocol):
    """What the loop needs of data: the steps of an epoch after a position, whose unit is the loader's own."""

    loader: Any

    @property
    def steps_per_epoch(self) -> int | None:
        """Optimizer steps of a whole epoch; None where the data has no length."""

    def steps(self, epoch: int, position: int) -> Iterator[tuple[int, list[Any]]]:
        """Yield (position afterwards, micro-batches) for every optimizer step left in the epoch."""

    def steps_left(self, position: int) -> int | None:
        """Return the steps of an epoch after `position`; None where the data has no length."""

    def share(self, position: int) -> float | None:
        """Return which share of an epoch's micro-batches is done; None where the data has no length."""

    def describe(self) -> dict[str, Any]:
        """Return what defines the order of the data, as a checkpoint keeps it."""

    def state_dict(self) -> dict[str, Any]:
        """Return what this rank's checkpoint must keep besides the position."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""


class PlannedBatches(Sampler[list[int]]):
    """The batch sampler of a plan for one rank, from a position that can be set."""

    def __init__(self, plan: Plan, rank: int) -> None:
        self.plan = plan
        self.rank = rank
        self.epoch = 0
        self.position = 0

    def __len__(self) -> int:
        return self.plan.micro_batches_per_epoch

    def __iter__(self) -> Iterator[list[int]]:
        epoch, position = self.epoch, self.position
        while position < self.plan.epoch_rows:
            micro_batches = self.plan.step(epoch, position)
            for ranks in micro_batches:
                mine = ranks[self.rank]
                yield mine.tolist() if len(mine) else Weightless(ranks[0][:1].tolist())
            position += self.plan.batching.step_rows


@dataclass
class PlannedLoader:
    """Map-style data in the plan's order; a position is a number of rows over all ranks."""

    loader: DataLoader
    batches: PlannedBatches

    @property
    def plan(self) -> Plan:
        """The plan that the batches follow."""
        return self.batches.plan

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of a whole epoch."""
        return self.plan.steps_left(0)

    def steps(self, epoch: int, position: int) -> Iterator[tuple[int, list[Any]]]:
        """Yield (position afterwards, micro-batches), fetching only rows after `position`."""
        if position == 0:
            draw_once()
        self.batches.epoch, self.batches.position = epoch, position
        end, step_rows = self.plan.epoch_rows, self.plan.batching.step_rows
        micro_batches = iter(self.loader)
        while position < end:
            rows = min(step_rows, end - position)
            position += rows
            yield position, [next(micro_batches) for _ in range(self.plan.micro_batches(rows))]

    def steps_left(self, position: int) -> int:
        """Return the steps of an epoch after `position`."""
        return self.plan.steps_left(position)

    def share(self, position: int) -> float:
        """Return which share of an epoch's micro-batches is done."""
        return self.plan.micro_batches(position) / self.plan.micro_batches_per_epoch

    def describe(self) -> dict[str, Any]:
        """Return what defines the order of the data."""
        return {"kind": "planned", **self.plan.describe()}

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the order follows from the plan."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore nothing."""


@dataclass
class SequentialLoader:
    """A stream or a ready loader, taken as it comes; a position is a number of this rank's micro-batches."""

    loader: Any
    accumulation: int
    length: int | None
    pass_began: dict[str, Any] | None = None

    @property
    def steps_per_epoch(self) -> int | None:
        """Optimizer steps of a whole epoch, where the loader has a length."""
        return self.steps_left(0)

    def steps(self, epoch: int, position: int) -> Iterator[tuple[int, list[Any]]]:
        """Yield (position afterwards, micro-batches); what was seen before `position` is read again and left out.

        A loader that shuffles draws its order from the global random streams when a pass begins. To go on within a
        pass, they are set to what they were then, and put back once the order is drawn.
        """
        now = randomness.states()
        if position == 0:
            self.pass_began = now
        else:
            randomness.restore(self.pass_began or now)
        set_epoch(self.loader, epoch)
        micro_batches = iter(self.loader)
        for _ in islice(micro_batches, position):
            pass
        if position > 0:
            randomness.restore(now)
        elif isinstance(getattr(self.loader, "dataset", None), RankStream):
            draw_once()
        while group := list(islice(micro_batches, self.accumulation)):
            position += len(group)
            yield position, group

    def steps_left(self, position: int) -> int | None:
        """Return the steps of an epoch after `position`; None without a length."""
        return None if self.length is None else math.ceil(max(0, self.length - position) / self.accumulation)

    def share(self, position: int) -> float | None:
        """Return which share of an epoch's micro-batches is done; None without a length."""
        return position / self.length if self.length else None

    def describe(self) -> dict[str, Any]:
        """Return what is known of the order of the data."""
        return {"kind": "sequential", "accumulation": self.accumulation}

    def state_dict(self) -> dict[str, Any]:
        """Return the random streams as they were when this pass began."""
        return {} if self.pass_began is None else {"pass_began": self.pass_began}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.pass_began = state.get("pass_began")


class RankStream(IterableDataset):
    """A stream cut into micro-batches, of which this rank collates its share: number j goes to rank j mod ranks.

    All ranks yield the same number; where the stream ends early for some, they repeat a row that weighs nothing.
    """

    def __init__(self, stream: Any, batch_size: int, world: World, drop_last: bool) -> None:
        self.stream = stream
        self.batch_size = batch_size
        self.world = world
        self.drop_last = drop_last

    def __iter__(self) -> Iterator[Fetched]:
        rows, first = iter(self.stream), 0
        while group := list(islice(rows, self.batch_size * self.world.size)):
            if self.drop_last and len(group) < self.batch_size * self.world.size:
                return
            start = self.world.rank * self.batch_size
            mine = Fetched(group[start : start + self.batch_size] or group[:1])
            mine.weightless = start >= len(group)
            mine.indices = range(first + min(start, len(group) - len(mine)), first + len(group))[: len(mine)]
            first += len(group)
            yield mine

    def set_epoch(self, epoch: int) -> None:
        """Tell the stream the epoch, if it asks for it."""
        set_epoch(self.stream, epoch)


class RankBatches(Sampler[Any]):
    """This rank's share of another batch sampler: batch j goes to rank j mod ranks.

    The order is drawn once, by rank 0, so that shuffling samplers agree.
    """

    def __init__(self, batches: Any, world: World, from_main: Callable[[Any], Any]) -> None:
        self.batches = batches
        self.world = world
        self.from_main = from_main

    def __len__(self) -> int:
        return math.ceil(len(self.batches) / self.world.size)

    def __iter__(self) -> Iterator[Any]:
        drawn = list(self.batches) if self.world.is_main else None
        everything = self.from_main(drawn)
        for start in range(0, len(everything), self.world.size):
            group = everything[start : start + self.world.size]
            own = self.world.rank < len(group)
            yield group[self.world.rank] if own else Weightless(group[0][:1])

    def set_epoch(self, epoch: int) -> None:
        """Tell the batch sampler the epoch, if it asks for it."""
        set_epoch(self.batches, epoch)


class EveryNth:
    """This rank's share of an iterable that cannot be divided: all ranks read it, each keeps its own batches."""

    def __init__(self, batches: Any, world: World) -> None:
        self.batches = batches
        self.world = world

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.batches)
        while group := list(islice(batches, self.world.size)):
            yield group[self.world.rank] if self.world.rank < len(group) else Repeat(group[0])

    def set_epoch(self, epoch: int) -> None:
        """Tell the loader the epoch, if it asks for it."""
        set_epoch(self.batches, epoch)


def set_epoch(part: Any, epoch: int) -> None:
    """Call `set_epoch` on a loader, its dataset and its samplers, where they have it."""
    for owner in (part, *(getattr(part, name, None) for name in ("dataset", "sampler", "batch_sampler"))):
        tell = getattr(owner, "set_epoch", None)
        if tell is not None:
            tell(epoch)


def draw_once() -> None:
    """Draw one number from the global stream, as torch's DataLoader does when a pass begins.

    Ours draw from a generator of their own, so that resuming in the middle of a pass draws nothing. This one keeps the
    dropout of a run equal to what the same script gives with transformers.
    """
    torch.empty((), dtype=torch.int64).random_()


def new_generator(seed: int) -> torch.Generator:
    """Return a CPU generator for torch's DataLoader, so that loading never draws from the global stream."""
    return torch.Generator().manual_seed(seed)
