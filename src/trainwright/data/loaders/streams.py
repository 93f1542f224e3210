"""Streams: data read in its own order, cut into micro-batches, and found again after a stop.

With worker processes, every worker reads its shard of the stream, and micro-batches come from the shards in turn. So a
place in a stream is one place per shard, and whose turn it is.

A stream that does not ask torch which worker reads it has no shards: every worker reads all of it, and keeps the
micro-batches that are its turn, so that they are those of a single reader, in its order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torch.utils.data._utils import worker

from trainwright import randomness
from trainwright.bars import counting
from trainwright.data.fingerprint import mark_of
from trainwright.data.introspection import asks_for_its_worker, has_state, length_of
from trainwright.data.loaders.loader import Note, draw_once, set_epoch
from trainwright.data.loaders.own_state import OwnState
from trainwright.data.loaders.rows import IDLE_ROWS, Fetched, PaddingBatch, collator_in, draws, make_generator
from trainwright.data.loaders.workers import end_workers, reading
from trainwright.errors import DataError
from trainwright.world import DataShard


@dataclass(frozen=True)
class Place:
    """Where the reader of one shard stands.

    Attributes:
        shard: its number.
        rows: read in this pass.
        state: what the stream says of itself, if it can.
        generators: states of those that the stream holds, where it has a state; else the pass begins anew with them.
        whole: whether the stream is not divided among the workers, so that rows are those of all of it.
        total: rows that all readers had read when there was another number of them.
        ended: whether the rows were the last of the pass, so that a state may be that of the next one.
    """

    shard: int
    rows: int = 0
    state: Any = None
    generators: Any = ()
    whole: bool = False
    total: int = 0
    ended: bool = False

    @property
    def drawing(self) -> int:
        """The number that tells the random numbers of shards apart."""
        return 0 if self.whole else self.shard


class AskedInfo:
    """What torch tells a worker of itself; notes whether the stream has asked which one it is."""

    def __init__(self, info: Any) -> None:
        self.info = info
        self.asked = False

    def __getattr__(self, name: str) -> Any:
        self.asked = self.asked or name in ("id", "seed")
        return getattr(self.info, name)


@dataclass(frozen=True)
class Stamped:
    """A micro-batch, the place after it, and the mark of the first rows that its reader read; 0 for later batches."""

    batch: Any
    place: Place
    mark: float = 0.0

    def pin_memory(self) -> Stamped:
        """Pin the batch; torch's DataLoader calls this."""
        return replace(self, batch=torch.utils.data._utils.pin_memory.pin_memory(self.batch))


class RankStream(IterableDataset[Any]):
    """A stream cut into micro-batches, of which this rank collates its share: number j goes to rank j mod ranks.

    All ranks yield the same number; where the stream ends early for some, they repeat a row that weighs nothing.

    Attributes:
        shard: which of these is this rank's, and how many there are.
        begin: where the readers begin their next pass, the one whose turn it is first; None for the start.
        stamped: whether every micro-batch comes with its place.
        place: where the reader in this process stands.
        divided: whether the stream is known to be divided among workers; else that is seen at its first row.
    """

    def __init__(
        self,
        stream: Any,
        collate: Callable[[list[Any]], Any],
        batch_size: int,
        shard: DataShard,
        *,
        drop_last: bool = False,
        seed: int | None = None,
    ) -> None:
        self.stream = stream
        self.collate = collate
        self.batch_size = batch_size
        self.shard = shard
        self.drop_last = drop_last
        self.seed = seed
        collator = collator_in(collate)
        make_generator(collator)
        self.drawing = None if seed is None else randomness.Drawing(seed, collator=collator)
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # persistent workers see it change
        self.begin: list[Place] | None = None
        self.stamped = False
        self.place = Place(0)
        self.divided = False
        self._worker: int | None = None
        self.info: AskedInfo | None = None
        self._first = randomness.own_states(stream)

    def micro_batches(self, readers: int) -> int | None:
        """Return how many each rank reads in a pass, where the stream has a length; a stream that is divided among the
        workers is taken to be so evenly."""
        rows = length_of(self.stream)
        if rows is None:
            return None
        shards = readers if self.divided or asks_for_its_worker(self.stream) else 1
        each = [(rows - shard + shards - 1) // shards for shard in range(shards)]
        group = self.batch_size * self.shard.num_shards
        return sum(shard // group if self.drop_last else math.ceil(shard / group) for shard in each)

    def set_epoch(self, epoch: int) -> None:
        """Tell the stream the epoch, and note it for workers that live on from the pass before."""
        self.epoch.fill_(epoch)
        set_epoch(self.stream, epoch)

    def __iter__(self) -> Iterator[Any]:
        begin, self.begin = self.begin, None
        if getattr(self.stream, "epoch", None) != int(self.epoch):  # datasets shares its epoch between workers
            set_epoch(self.stream, int(self.epoch))
        self.place = self._take_shard(begin)
        if self.place.generators:
            randomness.restore_own(self.place.generators, self.stream)
        elif self._worker is not None:  # whether it is a new process or one that stays
            randomness.restore_own(self._first, self.stream)
        for number, group in enumerate(self._groups()):
            if self.drop_last and sum(map(len, group)) < self.batch_size * self.shard.num_shards:
                return
            mine = not self.place.whole or number % self._readers() == self.place.shard
            batch = self._collated(group) if mine else None
            read = sum(map(len, group))
            ended = read < self.batch_size * self.shard.num_shards
            self.place = replace(self.place, rows=self.place.rows + read, state=None, ended=ended)
            if not mine:
                continue
            mark = mark_of([list(rows) for rows in group]) if number == 0 and self.shard.num_shards > 1 else 0.0
            place = self.now() if self.stamped and self._worker is not None else self.place
            yield Stamped(batch, place, mark) if self.stamped else batch

    def now(self) -> Place:
        """Return the place of this process's reader, with the stream's own state if it has one."""
        if not has_state(self.stream):
            return self.place
        return replace(self.place, state=self.stream.state_dict(), generators=randomness.own_states(self.stream))

    def _take_shard(self, begin: list[Place] | None) -> Place:
        info = get_worker_info()
        if info is None:
            return begin[0] if begin else Place(0)
        if self._worker is None:
            self._worker, self.info = info.id, AskedInfo(info)
            worker._worker_info = self.info  # type: ignore[assignment]  # as good as torch's
        assert self.info is not None
        place = begin[self._worker] if begin else Place(self._worker)
        object.__setattr__(self.info.info, "id", place.shard)  # streams ask torch for the number of their worker
        return place

    def _readers(self) -> int:
        info = get_worker_info()
        return 1 if info is None else info.num_workers

    def _groups(self) -> Iterator[list[list[Any]]]:
        """Yield the rows of every rank's next micro-batch, from the reader's place on."""
        if self.place.rows and self.place.state is not None:
            self.stream.load_state_dict(self.place.state)
            if self.place.ended:
                with draws(self.seed, int(self.epoch), self.place.drawing, self.place.rows):
                    if list(islice(iter(self.stream), 1)):  # of the next pass
                        self.stream.load_state_dict(self.place.state)
                return
        counted = self.place.rows if self.place.state is None else 0
        row = self.place.rows - counted
        rows: Iterator[Any] | None = self._begun() if row == 0 and self._readers() > 1 and not self.divided else None

        def take(count: int) -> list[Any]:
            nonlocal rows, row
            with draws(self.seed, int(self.epoch), self.place.drawing, row):
                rows = iter(self.stream) if rows is None else rows
                taken = list(islice(rows, count))
            row += len(taken)
            return taken

        with counting(counted if self.place.shard == 0 else 0, "rows read again") as tell:
            while row < (end := max(counted, self.place.total) if self.place.whole else counted):
                read = take(min(self.batch_size, end - row))
                if not read:
                    break
                tell(len(read))
        if self.place.whole:
            self.place = replace(self.place, rows=row, total=0)
        while (group := [take(self.batch_size) for _ in range(self.shard.num_shards)])[0]:
            yield group

    def _begun(self) -> Iterator[Any]:
        """Return the rows of the stream, of which the first is read, and note whether it has asked for its worker."""
        assert self.info is not None
        self.info.asked = False
        with draws(self.seed, int(self.epoch), 0, 0):
            rows = iter(self.stream)
            first = list(islice(rows, 1))
        self.place = replace(self.place, whole=not self.info.asked)
        return chain(first, rows)

    def _collated(self, group: list[list[Any]]) -> Any:
        mine = group[self.shard.index]
        first = self.place.rows + sum(map(len, group[: self.shard.index]))
        rows = Fetched(mine or group[0][:IDLE_ROWS])
        rows.indices = range(first, first + len(rows))
        if self.drawing is None:
            batch = self.collate(rows)
        else:
            batch = self.drawing.make(lambda: self.collate(rows), int(self.epoch), self.place.drawing, first, 1)
        return batch if mine else PaddingBatch(batch)


class StreamSource:
    """Reads a stream, and finds its place by the stream's own state, or by counting rows forward."""

    def __init__(self, loader: DataLoader[Any], note: Note) -> None:
        self.loader = loader
        self.note = note
        self.stream: RankStream = loader.dataset  # type: ignore[assignment]  # what `loading` gave it
        self.stream.stamped = True
        self.places: dict[int, Place] = {}
        self.last = -1
        self.own = OwnState(self.stream.stream)
        self.pass_began: dict[str, Any] = {}
        self.pass_ended: dict[str, Any] = {}
        self.resumed = False
        self.told = False  # that the stream has no shards
        self.mark = 0.0
        self.live = False  # whether the stream in this process stands at the place, and not still before it

    @property
    def readers(self) -> int:
        """Processes that read a shard each."""
        return max(1, self.loader.num_workers)

    def read(self, epoch: int, position: int) -> Generator[Any]:
        """Yield this rank's micro-batches of a pass, from its place on, or from the start where `position` is 0."""
        if position == 0:
            draw_once()
            self.places, self.last, self.stream.begin = {}, -1, None
            if self.resumed:
                self.own.put_back(self.pass_ended)
            self.pass_began = self.own.get()
        else:
            self.own.put_back(self.pass_began)
            self.stream.begin = self._in_turn()
            self._explain()
        self.resumed = False
        self.stream.set_epoch(epoch)
        try:
            with reading(self.loader) as batches:
                for stamped in batches:
                    if stamped.place.whole and self.readers > 1 and not self.told:
                        self._tell()
                    self.last = stamped.place.shard
                    self.places[self.last] = stamped.place
                    self.live = True
                    self.mark = self.mark or stamped.mark
                    yield stamped.batch
        finally:
            self.pass_ended = self.own.get()

    def close(self) -> None:
        """End the processes that read the shards."""
        end_workers(self.loader)

    def _tell(self) -> None:
        self.told = True
        self.note(
            f"The {type(self.stream.stream).__name__} does not divide itself among the {self.readers} workers, so each "
            "reads all of it and keeps its share. To read every row once, ask torch.utils.data.get_worker_info() in "
            "its __iter__: itertools.islice(rows, info.id, None, info.num_workers)."
        )

    def _in_turn(self) -> list[Place]:
        newest = max(self.places.values(), key=lambda place: place.rows, default=Place(0))
        if newest.whole:
            return [replace(newest, shard=turn) for turn in range(self.readers)]
        shards = [(self.last + 1 + turn) % self.readers for turn in range(self.readers)]
        return [self.places.get(shard, Place(shard)) for shard in shards]

    def _explain(self) -> None:
        if not self.places:
            raise DataError(
                "The checkpoint does not say where the stream stood; it was written by another engine. Start the pass "
                "anew with ignore_data_skip=True."
            )
        counted = [place.rows for place in self.places.values() if place.state is None]
        rows = max(counted) if any(place.whole for place in self.places.values()) and counted else sum(counted)
        if rows:
            self.note(
                f"{rows} rows of the stream are read again to find the place where the run stopped. A stream with "
                "state_dict() and load_state_dict() goes on at once (datasets has them, but not for shuffle buffers)."
            )

    def describe(self) -> dict[str, Any]:
        """Return what defines the order."""
        stream = self.stream
        return {"readers": self.readers, "batch_size": stream.batch_size, "drop_last": stream.drop_last}

    def state_dict(self) -> dict[str, Any]:
        """Return the place of every reader, whose turn was the last, and the stream's own generators."""
        here = self.live and self.places and not self.loader.num_workers
        places = [self.stream.now()] if here else list(self.places.values())
        return {
            "readers": self.readers,
            "places": [dict(vars(place)) for place in places],
            "last": self.last,
            **self.pass_began,
            "pass_ended": self.pass_ended,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; other numbers of readers share the rows read evenly."""
        self.live = False
        places = [Place(**place) for place in state.get("places", [])]
        self.last, self.resumed = state.get("last", -1), True
        self.pass_began = {name: state[name] for name in ("generators", "attributes") if name in state}
        self.pass_ended = state.get("pass_ended", {})
        if state.get("readers", self.readers) != self.readers and not any(place.whole for place in places):
            total = sum(place.rows for place in places)
            even = [(total - shard + self.readers - 1) // self.readers for shard in range(self.readers)]
            places = [Place(shard, rows, total=total) for shard, rows in enumerate(even)]
            self.last = -1
        self.places = {place.shard: place for place in places}
