"""Ready loaders: torch's own is rebuilt around its parts, so that what was seen is not loaded again; any other iterable
is taken as it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, Sampler

from trainwright import randomness
from trainwright.bars import counting
from trainwright.data.kinds import has_state, may_draw
from trainwright.data.loader import Note, draw_once, new_generator, set_epoch
from trainwright.data.own_state import OwnState
from trainwright.data.rows import Collate, Indices, Repeat, RowFetcher, as_it_is, new_indices
from trainwright.data.workers import end_workers, reading, worker_init
from trainwright.world import World


class DrawnBatches(Sampler[Any]):
    """The batches that another sampler drew for this pass, from a position on: number j goes to rank j mod ranks."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.drawn: list[Any] = []
        self.epoch = 0
        self.position = 0

    def __len__(self) -> int:
        return math.ceil(len(self.drawn) / self.world.size)

    def __iter__(self) -> Iterator[Indices]:
        for start in range(self.position * self.world.size, len(self.drawn), self.world.size):
            group = self.drawn[start : start + self.world.size]
            own = self.world.rank < len(group)
            rows = group[self.world.rank] if own else group[0][:1]
            yield new_indices(rows, self.epoch, start + self.world.rank, weightless=not own)


class OneRow:
    """A collator for loaders without batching: the only row is the batch."""

    def __init__(self, convert: Callable[[Any], Any]) -> None:
        self.convert = convert

    def __call__(self, rows: list[Any]) -> Any:
        return self.convert(rows[0])


class DrawnSource:
    """A ready torch DataLoader over map-style data, rebuilt around its dataset, sampler and collator.

    Its sampler draws the whole pass at once. To go on within a pass, the random streams are set to what they were when
    the pass began, the sampler draws again, and they are put back; no row is loaded for that.
    """

    def __init__(self, loader: DataLoader, seed: int, world: World, from_main: Callable[[Any], Any]) -> None:
        self.loader = loader
        self.from_main = from_main
        self.batches = DrawnBatches(world)
        self.own = OwnState(loader, loader.sampler, loader.batch_sampler)
        self.pass_began: dict[str, Any] = {}
        self.pass_ended: dict[str, Any] = {}
        self.resumed = False
        convert = loader.collate_fn
        collate = Collate(convert if loader.batch_sampler is not None else OneRow(convert))
        drawing = seed if may_draw(loader.dataset, convert) else None
        self.rebuilt: DataLoader = DataLoader(
            RowFetcher(loader.dataset, collate, drawing, epochs=True),
            batch_sampler=self.batches,
            collate_fn=as_it_is,
            generator=new_generator(seed),
            worker_init_fn=worker_init(loader.worker_init_fn),
            **{name: getattr(loader, name) for name in _KEPT if loader.num_workers or name == "pin_memory"},
        )

    def read(self, epoch: int, position: int) -> Generator[Any]:
        """Yield the micro-batches of a pass after the first `position`."""
        now = randomness.host_states()
        begin_pass(self, position, now)
        set_epoch(self.loader, epoch)
        draw_once(self.loader.generator)
        self.batches.drawn = self.from_main(self._draw() if self.batches.world.is_main else None)
        self.batches.epoch, self.batches.position = epoch, position
        if position > 0:
            randomness.restore_host(now)
        self.pass_ended = self.own.get()  # all is drawn
        with reading(self.rebuilt) as batches:
            yield from batches

    def close(self) -> None:
        """End the processes that load data."""
        end_workers(self.rebuilt)

    def _draw(self) -> list[Any]:
        if self.loader.batch_sampler is None:
            return [[index] for index in self.loader.sampler]
        return list(self.loader.batch_sampler)

    def describe(self) -> dict[str, Any]:
        """Return nothing: the sampler is the user's."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return the random streams as they were when this pass began, and what the next one begins with."""
        return {"pass_began": self.pass_began, "pass_ended": self.pass_ended}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.pass_began, self.pass_ended = state.get("pass_began", {}), state.get("pass_ended", {})
        self.resumed = True


_KEPT = (
    "pin_memory", "num_workers", "timeout", "prefetch_factor", "persistent_workers", "multiprocessing_context",
)  # fmt: skip


class ForeignSource:
    """Any other iterable of batches, taken as it is: it goes on by its own state, or is consumed up to the place."""

    def __init__(self, loader: Any, note: Note) -> None:
        self.loader = loader
        self.note = note
        self.own = OwnState(loader, *(getattr(loader, name, None) for name in ("sampler", "batch_sampler")))
        self.pass_began: dict[str, Any] = {}
        self.pass_ended: dict[str, Any] = {}
        self.resumed = False
        self.saved: Any = None

    def read(self, epoch: int, position: int) -> Generator[Any]:
        """Yield the batches of a pass after the first `position`."""
        now = randomness.host_states()
        if self.saved is not None:
            set_epoch(self.loader, epoch)
            yield from self._go_on(position, now)
            return
        begin_pass(self, position, now)
        set_epoch(self.loader, epoch)
        try:
            with reading(self.loader) as batches:
                if position:
                    self._skip(batches, position)
                    randomness.restore_host(now)
                yield from batches
        finally:
            self.pass_ended = self.own.get()

    def _go_on(self, position: int, now: dict[str, Any]) -> Generator[Any]:
        """Yield what is left of a pass after the loader's own state, which puts back its generators too.

        Where the pass is to begin, a state may still be that of the end of the pass before, which gives nothing.
        """
        saved, self.saved = self.saved, None
        self.loader.load_state_dict(saved["loader"])
        with reading(self.loader) as batches:
            first = list(islice(batches, 1))
            if position or first:
                randomness.restore_host(now)  # finding the place may have drawn
            yield from first
            yield from batches
        if position == 0 and not first:
            with reading(self.loader) as batches:
                yield from batches

    def _skip(self, batches: Iterator[Any], position: int) -> None:
        self.note(
            f"The first {position} batches of the {type(self.loader).__name__} are read again to find the place "
            "where the run stopped. A torch DataLoader, or a loader with state_dict() and load_state_dict(), goes "
            "on at once."
        )
        with counting(position, "batches read again") as tell:
            for _ in islice(batches, position):
                tell(1)

    def close(self) -> None:
        """Leave the loader to its owner."""

    def describe(self) -> dict[str, Any]:
        """Return nothing: the order is the user's."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return the loader's own state, or the random streams as they were when this pass began."""
        if self.saved is not None:  # not begun to read yet
            return {"loader_state": self.saved}
        if has_state(self.loader):
            return {"loader_state": {"loader": self.loader.state_dict()}}
        return {"pass_began": self.pass_began, "pass_ended": self.pass_ended}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.saved, self.pass_began = state.get("loader_state"), state.get("pass_began", {})
        self.pass_ended, self.resumed = state.get("pass_ended", {}), True


def begin_pass(source: DrawnSource | ForeignSource, position: int, now: dict[str, Any]) -> None:
    """Note what a pass begins with, or put it back where the pass is to be found again.

    A resumed run that begins a pass goes on with what the pass before ended with.
    """
    if position == 0:
        if source.resumed:
            source.own.put_back(source.pass_ended)
        source.pass_began = {"streams": now, **source.own.get()}
    elif source.pass_began:
        randomness.restore_host(source.pass_began["streams"])
        source.own.put_back(source.pass_began)
    source.resumed = False


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
