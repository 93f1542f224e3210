"""The data of a training loop of one's own: micro-batches step by step, pass after pass, from a place that is kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from typing import Any

from torch.utils.data import DataLoader

from trainwright.data.introspection import is_stream, uses_random_numbers
from trainwright.data.loaders.collate import default_data_collator
from trainwright.data.loaders.loader import SequentialLoader, TrainLoader, new_generator, planned
from trainwright.data.loaders.rows import Collate, PaddingBatch, RowFetcher, as_it_is
from trainwright.data.loaders.streams import RankStream, StreamSource
from trainwright.data.loaders.workers import worker_init
from trainwright.data.sampling.plan import Batching, Order, Plan
from trainwright.errors import CheckpointError, ConfigError, DataError
from trainwright.world import DataShard

logger = logging.getLogger("trainwright")


class Steps:
    """The micro-batches of one optimizer step after the other, without an end; a part of checkpoints.

    Already while a step's micro-batches are in hand the place is that after it. So a checkpoint belongs after the
    update, and the resumed loop goes on with the next step.

    Attributes:
        loader: where they come from.
        epoch: passes completed.
        position: how far into this pass, in the loader's unit.
    """

    def __init__(self, loader: TrainLoader) -> None:
        if not hasattr(loader, "steps"):
            raise ConfigError(
                f"Steps takes a loader of the engine's, and this is a {type(loader).__name__}; batches(dataset, ...) "
                "makes one of rows or of a stream."
            )
        self.loader = loader
        self.epoch = 0
        self.position = 0

    def __iter__(self) -> Generator[list[Any]]:
        while True:
            began = self.position
            with closing(self.loader.steps(self.epoch, began)) as steps:
                for position, micro_batches in steps:
                    self.position = position
                    yield micro_batches
            if self.position == began == 0:
                raise DataError(
                    f"The training data gave no batch in pass {self.epoch + 1}: it is empty, or is used up after one "
                    "pass. Give a dataset with rows, or one that can be read again."
                )
            self.epoch, self.position = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the place, and what defines the order."""
        place = {"epoch": self.epoch, "position": self.position}
        return {**place, "order": self._order(), "loader": self.loader.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a place.

        Raises:
            CheckpointError: it is one of another order, in which other rows are done.
        """
        before, now = state["order"], self._order()
        changed = [f"{name} {before.get(name)} -> {value}" for name, value in now.items() if before.get(name) != value]
        if changed:
            raise CheckpointError(
                f"The order of the data is not the checkpoint's: {'; '.join(changed)}. Put it back; or "
                "begin the data anew, by another name among the parts of Checkpoints."
            )
        self.epoch, self.position = state["epoch"], state["position"]
        self.loader.load_state_dict(state["loader"])

    def _order(self) -> dict[str, Any]:
        told = self.loader.describe()
        known = {
            name: told.get(key) for name, key in (("rows", "num_rows"), ("sampling", "sampling"), ("seed", "seed"))
        }
        if told["kind"] == "planned":
            return {**known, "rows of a step": self.loader.step_size}
        return {**known, "rows of a batch": told.get("batch_size"), "batches of a step": self.loader.step_size}

    def close(self) -> None:
        """End the processes that load data."""
        self.loader.close()


def batches(
    dataset: Any,
    global_batch_size: int,
    *,
    micro_batch_size: int | None = None,
    seed: int = 42,
    shard: DataShard | None = None,
    collate: Callable[[list[Any]], Any] = default_data_collator,
    **options: Any,
) -> Steps:
    """Return the micro-batches of every optimizer step over a dataset, in a random order of each pass.

    The rows of a step follow from the seed and the place alone: they are the same for any number of processes, and
    finding a place again reads nothing. What dataset and collator draw depends on seed, pass and batch alone, too.

    A stream is read in its own order, by every process, which keeps its share. Its place is found again by its own
    state where it has one, else by reading up to it, which is said.

    Args:
        dataset: rows, with `len` and `[]`, or a stream (torch's `IterableDataset`, or whatever can be gone through
            again).
        global_batch_size: rows of an optimizer step, over all micro-batches and processes.
        micro_batch_size: rows of a micro-batch; by default all of a process's share of the step.
        seed: of the order; pass e draws it from `seed + e`, as transformers does.
        shard: which part of the rows this process reads, `strategy.data_shard`; without it all.
        collate: a list of rows to a batch.
        options: keyword arguments of torch's DataLoader, such as `num_workers` and `pin_memory`.

    Raises:
        ConfigError: the rows of a step do not divide, or an option decides what is decided here.
        DataError: the dataset is empty.
    """
    shard = shard or DataShard()
    size = micro_batch_size or global_batch_size // shard.num_shards
    accumulation, rest = divmod(global_batch_size, max(1, size * shard.num_shards))
    if rest or not accumulation:
        raise ConfigError(
            f"global_batch_size={global_batch_size} is no multiple of micro_batch_size={size} times the "
            f"{shard.num_shards} process(es) that read the data. Choose sizes that divide."
        )
    for name in sorted(_DECIDED & set(options)):
        raise ConfigError(
            f"batches() takes no {name}=: global_batch_size, micro_batch_size and seed say which rows a batch holds, "
            "in a random order, and collate= makes a batch of them. A stream is read in its own order."
        )
    drawn = seed if uses_random_numbers(dataset, collate) else None
    if is_stream(dataset):
        stream = RankStream(dataset, Collate(collate), size, shard, seed=drawn)
        return Steps(_in_order(stream, accumulation, {"generator": new_generator(seed), **options}))
    if len(dataset) == 0:
        raise DataError("The dataset is empty (its length is 0). Check how it was loaded and filtered.")
    plan = Plan(Order(len(dataset), seed=seed), Batching(size, accumulation, shard.num_shards))
    rows = RowFetcher(dataset, Collate(collate), drawn, epochs=True)
    options = {"generator": new_generator(seed), "worker_init_fn": worker_init(), **options}
    return Steps(planned(rows, plan, shard.index, **options))


_DECIDED = {"batch_size", "shuffle", "sampler", "batch_sampler", "drop_last", "collate_fn"}


def _in_order(stream: RankStream, accumulation: int, options: dict[str, Any]) -> SequentialLoader:
    """Return the loader of a stream's micro-batches; options are keyword arguments of torch's DataLoader."""
    loader = DataLoader(stream, batch_size=None, collate_fn=as_it_is, **options)
    note = logger.warning if stream.shard.index == 0 else logger.debug
    length = stream.micro_batches(max(1, loader.num_workers))
    return SequentialLoader(StreamSource(loader, note), accumulation, length, stream.shard.num_shards)


def weighed(micro_batches: Iterable[Any], count: Callable[[Any], int]) -> list[tuple[Any, int]]:
    """Return micro-batches with the number of their items, by which a loss is weighed.

    That is 0 for one without targets, and for the rows of others that a process repeats where none are left for it in
    the last step of a pass: it still takes part in the exchange of gradients.
    """
    return [(one.batch, 0) if isinstance(one, PaddingBatch) else (one, count(one)) for one in micro_batches]
