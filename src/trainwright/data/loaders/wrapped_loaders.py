"""Ready loaders: torch's own is rebuilt around its parts, so that what was seen is not loaded again; any other iterable
is taken as it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, Sampler

from trainwright import randomness
from trainwright.bars import counting
from trainwright.data.fingerprint import mark_of
from trainwright.data.introspection import has_state, length_of, uses_random_numbers
from trainwright.data.loaders.loader import Note, batch_size_of, draw_once, new_generator, set_epoch
from trainwright.data.loaders.own_state import OwnState
from trainwright.data.loaders.rows import IDLE_ROWS, Collate, Indices, PaddingBatch, RowFetcher, as_it_is, new_indices
from trainwright.data.loaders.workers import end_workers, reading, worker_init
from trainwright.world import DataShard


class DrawnBatches(Sampler[Any]):
    """The batches that another sampler drew for this pass, from a position on, which go to the ranks in turn."""

    def __init__(self, shard: DataShard) -> None:
        self.shard = shard
        self.drawn: list[Any] = []
        self.epoch = 0
        self.position = 0

    def __len__(self) -> int:
        return math.ceil(len(self.drawn) / self.shard.num_shards)

    def __iter__(self) -> Iterator[Indices]:
        for start in range(self.position, len(self.drawn), self.shard.num_shards):
            group = self.drawn[start : start + self.shard.num_shards]
            own = self.shard.index < len(group)
            rows = group[self.shard.index] if own else group[0][:IDLE_ROWS]
            yield new_indices(rows, self.epoch, start + self.shard.index, is_padding=not own)

    def begin(self, epoch: int, drawn: list[Any], position: int) -> None:
        """Take the batches of a pass, of which the first `position` are done."""
        self.epoch, self.drawn, self.position = epoch, drawn, position

    def pass_over(self, rows: int) -> None:
        """Begin after a number of rows; of the batch in which they end, the other rows are left."""
        for number, batch in enumerate(self.drawn):
            if rows < _length(batch):
                self.drawn[number] = batch[rows:] if rows else batch
                self.position = number
                return
            rows -= _length(batch)
        self.position = len(self.drawn)


def _length(indices: Any) -> int:
    return length_of(indices) or 1


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

    Args:
        loader: the user's.
        seed: of what is drawn for a batch.
        shard: this rank's part of its batches; all of them where the sampler divides its rows.
        from_main: gives rank 0's draws to all of these.
        alike: whether each rank draws for itself what it takes its part of, from streams that are the same on all.

    Attributes:
        rows: done in this pass, of all ranks that share the loader: the place where its batches have another size.
    """

    def __init__(
        self, loader: DataLoader[Any], seed: int, shard: DataShard, from_main: Callable[[Any], Any], alike: bool = False
    ) -> None:
        self.loader = loader
        self.from_main = from_main
        self.seed = seed if alike else None
        self.batches = DrawnBatches(shard)
        self.own = OwnState(loader, loader.sampler, loader.batch_sampler)
        self.pass_began: dict[str, Any] = {}
        self.pass_ended: dict[str, Any] = {}
        self.resumed = False
        self.rows = 0
        self.size_before = batch_size_of(loader)
        self.mark = 0.0
        convert = loader.collate_fn
        collate = Collate(convert if loader.batch_sampler is not None else OneRow(convert))
        drawing = seed if uses_random_numbers(loader.dataset, convert) else None
        self.rebuilt: DataLoader[Any] = DataLoader(
            RowFetcher(loader.dataset, collate, drawing, epochs=True),
            batch_sampler=self.batches,
            collate_fn=as_it_is,
            generator=new_generator(seed),
            worker_init_fn=worker_init(loader.worker_init_fn),
            **{name: getattr(loader, name) for name in _KEPT if loader.num_workers or name == "pin_memory"},
        )

    def read(self, epoch: int, position: int) -> Generator[Any]:
        """Yield this rank's micro-batches of a pass after the first `position` of the loader."""
        now = randomness.host_states()
        begin_pass(self, position, now)
        set_epoch(self.loader, epoch)
        draw_once(self.loader.generator)
        with nullcontext() if self.seed is None else randomness.Together(self.seed, epoch):
            drawn = self._draw() if self.batches.shard.index == 0 else None
        drawn = self.from_main(drawn)
        self.batches.begin(epoch, drawn, position)
        if position > 0:
            randomness.restore_host(now)
        if position != int(position) or (position > 0 and self.size_before != batch_size_of(self.loader)):
            self.batches.pass_over(self.rows)
        else:
            self.rows = sum(map(_length, drawn[:position]))
        self.size_before = batch_size_of(self.loader)
        self.pass_ended = self.own.get()  # all is drawn
        done, ranks = self.batches.position, self.batches.shard.num_shards
        with reading(self.rebuilt) as batches:
            for batch in batches:
                self.rows += sum(map(_length, drawn[done : done + ranks]))
                done += ranks
                yield batch

    def close(self) -> None:
        """End the processes that load data."""
        end_workers(self.rebuilt)

    def drawn_ahead(self) -> list[Any]:
        """Return the batches that this rank would draw now, and leave no trace of it."""
        own = self.own.get()
        with randomness.seeded(0):
            drawn = self._draw()
        self.own.put_back(own)
        return drawn

    def _draw(self) -> list[Any]:
        if self.loader.batch_sampler is None:
            return [[index] for index in self.loader.sampler]
        return list(self.loader.batch_sampler)

    def describe(self) -> dict[str, Any]:
        """Return the size of the batches; the sampler is the user's."""
        return {"batch_size": batch_size_of(self.loader)}

    def state_dict(self) -> dict[str, Any]:
        """Return the random streams as they were when this pass began, what the next one begins with, and the place."""
        place = {"rows": self.rows, "batch_size": self.size_before}
        return {"pass_began": self.pass_began, "pass_ended": self.pass_ended, **place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.pass_began, self.pass_ended = state.get("pass_began", {}), state.get("pass_ended", {})
        self.rows, self.size_before = state.get("rows", 0), state.get("batch_size", self.size_before)
        self.resumed = True


_KEPT = (
    "pin_memory", "num_workers", "timeout", "prefetch_factor", "persistent_workers", "multiprocessing_context",
)  # fmt: skip


class ForeignSource:
    """Any other iterable of batches, taken as it is: it goes on by its own state, or is consumed up to the place.

    Attributes:
        loader: of this rank's batches.
        given: the user's own, which all ranks read where it cannot be divided.
    """

    def __init__(self, loader: Any, note: Note) -> None:
        self.loader = loader
        self.given = loader.batches if isinstance(loader, EveryNth) else loader
        self.note = note
        self.own = OwnState(loader, *(getattr(loader, name, None) for name in ("sampler", "batch_sampler")))
        self.pass_began: dict[str, Any] = {}
        self.pass_ended: dict[str, Any] = {}
        self.resumed = False
        self.saved: Any = None

    def read(self, epoch: int, position: int) -> Generator[Any]:
        """Yield this rank's batches of a pass after the first `position` of the loader."""
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
        self.given.load_state_dict(saved["loader"])
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
            f"The first {position} batches of the {type(self.given).__name__} are read again to find the place "
            "where the run stopped. A torch DataLoader, or a loader with state_dict() and load_state_dict(), goes "
            "on at once."
        )
        if isinstance(self.loader, EveryNth):
            position, self.loader.passed_over = divmod(position, self.loader.shard.num_shards)
        with counting(position, "batches read again") as tell:
            for _ in islice(batches, position):
                tell(1)

    @property
    def mark(self) -> float:
        """A number that is the same on all ranks that read the same; 0 where that is not asked."""
        return getattr(self.loader, "mark", 0.0)

    def close(self) -> None:
        """Leave the loader to its owner."""

    def describe(self) -> dict[str, Any]:
        """Return the size of the batches, where it is told, and that they are taken whole; the order is the user's."""
        return {"batch_size": batch_size_of(self.given), "whole": True}

    def state_dict(self) -> dict[str, Any]:
        """Return the loader's own state, or the random streams as they were when this pass began."""
        if self.saved is not None:  # not begun to read yet
            return {"loader_state": self.saved}
        if has_state(self.given):
            return {"loader_state": {"loader": self.given.state_dict()}}
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
    """This rank's share of an iterable that cannot be divided: all ranks read it, each keeps its own batches.

    Attributes:
        mark: of the first batches that were read, which tells whether all ranks read the same; 0 before.
    """

    def __init__(self, batches: Any, shard: DataShard, seed: int) -> None:
        self.batches = batches
        self.shard = shard
        self.passed_over = 0
        self.seed = seed
        self.epoch = 0
        self.mark = 0.0

    def __iter__(self) -> Iterator[Any]:
        alike = randomness.Together(self.seed, self.epoch)
        passed_over, self.passed_over = self.passed_over, 0
        with alike:
            batches = iter(self.batches)
            next(islice(batches, passed_over, passed_over), None)
        while group := self._next(batches, alike):
            self.mark = self.mark or mark_of(group)
            yield group[self.shard.index] if self.shard.index < len(group) else PaddingBatch(group[0])

    def _next(self, batches: Iterator[Any], alike: randomness.Together) -> list[Any]:
        with alike:
            return list(islice(batches, self.shard.num_shards))

    def set_epoch(self, epoch: int) -> None:
        """Tell the loader the epoch, if it asks for it."""
        self.epoch = epoch
        set_epoch(self.batches, epoch)
