"""From the user's datasets and loaders to torch DataLoaders, and to what the loop and the evaluation iterate."""

from __future__ import annotations

import inspect
import math
from typing import Any

from torch.utils.data import DataLoader

from trainwright.args.signatures import check_returned, is_of
from trainwright.data.columns import check_columns, column_names
from trainwright.data.fingerprint import content_of
from trainwright.data.introspection import is_stream, length_of, uses_random_numbers
from trainwright.data.labels import has_float_labels
from trainwright.data.loaders.loader import (
    InOrder,
    PlannedBatches,
    PlannedLoader,
    SequentialLoader,
    Source,
    TrainLoader,
    new_generator,
    planned,
)
from trainwright.data.loaders.rows import Collate, RowFetcher, as_it_is
from trainwright.data.loaders.streams import RankStream, StreamSource
from trainwright.data.loaders.workers import worker_init
from trainwright.data.loaders.wrapped_loaders import DrawnSource, EveryNth, ForeignSource, OneRow
from trainwright.data.sampling.lengths import known_lengths, row_lengths
from trainwright.data.sampling.packing import PackedRows
from trainwright.data.sampling.plan import Batching, Order, Plan
from trainwright.errors import ConfigError, DataError
from trainwright.inputs import dividing
from trainwright.session.session import Hooks, Session
from trainwright.world import DataShard


def train_loader(session: Session) -> TrainLoader:
    """Return what the loop iterates, around the loader that `get_train_dataloader` gives."""
    loader, gather = session.hooks.get_train_dataloader(), session.strategy.gather
    check_loader(loader, session.hooks, "get_train_dataloader")
    batches = getattr(loader, "batch_sampler", None)
    if isinstance(batches, PlannedBatches):
        batches.plan.most_rows = max(gather(batches.plan.epoch_rows))
        return PlannedLoader(loader, batches)
    shard, shards = dividing.shard_of_loader(session, loader), session.strategy.data_shard.num_shards
    source, stream = source_of(session, loader, shard), getattr(loader, "dataset", None)
    if isinstance(stream, RankStream):
        length = stream.micro_batches(max(1, loader.num_workers))
    else:
        length = length_of(loader)
        length = None if length is None else math.ceil(length / shard.num_shards)
    length = max(gather(length), key=lambda one: -1 if one is None else one)
    if length == 0:
        raise DataError("The training loader is empty (its length is 0). Give one with batches.")
    divided = shard.num_shards < shards
    return SequentialLoader(source, session.args.gradient_accumulation_steps, length, shards, divided)


def check_loader(loader: Any, hooks: Hooks, method: str) -> None:
    """Check what a method of the user's has returned for a loader.

    Raises:
        ConfigError: it cannot be gone through.
    """
    fits = hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")
    check_returned(fits, loader, f"{type(hooks).__name__}.{method}", "a loader of batches")


def source_of(session: Session, loader: Any, shard: DataShard) -> Source:
    """Return how a loader without a plan is read: as a stream, rebuilt around its parts, or as it is.

    Args:
        session: whose ranks read it.
        loader: any iterable of batches.
        shard: this rank's part of it.
    """
    divides, strategy = shard == session.strategy.data_shard, session.strategy
    if type(loader) is DataLoader:
        if isinstance(loader.dataset, RankStream):
            return StreamSource(loader, session.note)
        if is_stream(loader.dataset):
            return StreamSource(divided_stream(loader, shard, session.args.seed), session.note)
        if length_of(loader) is not None:
            shares = strategy.from_main if divides else as_it_is
            return DrawnSource(loader, session.args.seed, shard, shares, alike=not divides)
    if shard.num_shards > 1:
        session.note(
            f"The {type(loader).__name__} given cannot be divided among processes, so each reads all of it and keeps "
            "its share. Give a torch DataLoader, or one that already divides, to avoid that."
        )
        return ForeignSource(EveryNth(loader, shard, session.args.seed), session.note)
    return ForeignSource(loader, session.note)


def divided_stream(loader: DataLoader[Any], shard: DataShard, seed: int) -> DataLoader[Any]:
    """Return a ready loader over a stream, rebuilt so that ranks share it and its place can be saved."""
    convert, size = loader.collate_fn, loader.batch_size
    stream = RankStream(
        loader.dataset,
        Collate(convert if size is not None else OneRow(convert)),
        size or 1,
        shard,
        drop_last=loader.drop_last,
        seed=seed,
    )
    stream.divided = loader.worker_init_fn is not None  # it may tell each worker its part
    return DataLoader(
        stream,
        batch_size=None,
        collate_fn=as_it_is,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
        worker_init_fn=worker_init(loader.worker_init_fn),
        generator=new_generator(seed),
    )


def train_dataloader(session: Session) -> Any:
    """Return the loader of the training data: the ready one, or one made of the dataset."""
    if session.train_loader is not None:
        return session.train_loader
    dataset, args = session.train_dataset, session.args
    if dataset is None:
        raise ConfigError("Training needs data: give train_dataset= or a ready train_loader= to the Trainer.")
    columns = wanted_columns(session, dataset, "training data")
    collate = Collate(session.data_collator, columns, "training data", floats_for(session.data_collator, dataset))
    if is_stream(dataset):
        return stream_dataloader(session, dataset, collate, args.train_batch_size, args.dataloader_drop_last)
    check_length(dataset, "training data")
    if len(dataset) == 0:
        raise DataError("The training dataset is empty (its length is 0). Check how it was loaded and filtered.")
    if (sampler := own_sampler(session.hooks, "_get_train_sampler", dataset)) is not None:
        return sampled_dataloader(
            session, dataset, collate, sampler, args.train_batch_size, drop_last=args.dataloader_drop_last
        )
    plan = Plan(
        train_order(session, dataset),
        Batching(
            args.train_batch_size,
            args.gradient_accumulation_steps,
            dividing.shard_of(session, dataset).num_shards,
            args.dataloader_drop_last,
        ),
    )
    if plan.epoch_rows == 0:
        raise DataError(
            f"The training dataset has {len(dataset)} rows, fewer than one batch of "
            f"{args.train_batch_size * plan.batching.ranks}, and dataloader_drop_last=True drops them all."
        )
    return planned_dataloader(session, dataset, collate, plan, epochs=True)


def check_length(dataset: Any, what: str) -> None:
    """Check that rows which are read by number have a length.

    Raises:
        DataError: they have none.
    """
    if length_of(dataset) is None:
        raise DataError(
            f"The {what}, a {type(dataset).__name__}, has no length. Give it __len__, the number of its rows; or, "
            "where that is not known, __iter__ in place of __getitem__ (torch.utils.data.IterableDataset)."
        )


def train_order(session: Session, dataset: Any) -> Order:
    """Return the order of the training rows that the arguments say."""
    args = session.args
    return Order(
        len(dataset),
        args.train_sampling_strategy,
        args.data_seed if args.data_seed is not None else args.seed,
        row_lengths(dataset, args, session.processing_class),
        args.train_batch_size * args.gradient_accumulation_steps,
    )


def dataloader(
    session: Session, dataset: Any, what: str, size: int, *, sampler_of: Any, training: bool
) -> DataLoader[Any]:
    """Return a loader of batches of a size, in the order of the sampler that `sampler_of` gives for the dataset."""
    collate = Collate(
        session.data_collator, wanted_columns(session, dataset, what), what, floats_for(session.data_collator, dataset)
    )
    drop_last = training and session.args.dataloader_drop_last
    if is_stream(dataset):
        return stream_dataloader(session, dataset, collate, size, drop_last)
    sampler = None if sampler_of is None else sampler_of(dataset)
    return sampled_dataloader(session, dataset, collate, sampler, size, drop_last=drop_last)


def stream_dataloader(session: Session, dataset: Any, collate: Collate, size: int, drop_last: bool) -> DataLoader[Any]:
    """Return the loader of a stream's micro-batches."""
    shard = dividing.shard_of(session, dataset)
    seed = drawing(session, dataset, collate)
    stream = RankStream(dataset, collate, size, shard, drop_last=drop_last, seed=seed)
    return DataLoader(stream, batch_size=None, collate_fn=as_it_is, **settings(session))


def sampled_dataloader(
    session: Session, dataset: Any, collate: Collate, sampler: Any, size: int, *, drop_last: bool
) -> DataLoader[Any]:
    """Return the loader of batches in the order of a sampler of the user's own."""
    return DataLoader(
        dataset, batch_size=size, sampler=sampler, collate_fn=collate, drop_last=drop_last, **settings(session)
    )


def planned_dataloader(
    session: Session, dataset: Any, collate: Collate, plan: Plan, epochs: bool = False
) -> DataLoader[Any]:
    """Return the loader of this rank's micro-batches in a plan's order; the dataset hears of passes if it wants to."""
    rows = RowFetcher(dataset, collate, drawing(session, dataset, collate), epochs)
    found = settings(session)
    if epochs and found["num_workers"] > 0:  # what is evaluated comes back in order
        found["in_order"] = session.args.dataloader_in_order
    return planned(rows, plan, dividing.shard_of(session, dataset).index, **found).loader


def drawing(session: Session, dataset: Any, collate: Collate) -> int | None:
    """Return the seed of what dataset and collator draw; None where they draw nothing."""
    return session.args.seed if uses_random_numbers(dataset, collate.collator) else None


def rows_to_evaluate(own: Any, loader: Any, dataset: Any) -> Any:
    """Return the set that an evaluation is of: the one given, or named, or the Trainer's own; None for a ready loader.

    What is named and is not there is `eval_dataloader`'s to refuse.
    """
    if dataset is None:
        return own if loader is None else None
    if isinstance(dataset, str):
        return own.get(dataset) if isinstance(own, dict) else None
    return dataset


def eval_dataloader(session: Session, dataset: Any) -> Any:
    """Return the loader of an evaluation set: one given, one named, the ready loader, or the Trainer's own set.

    Raises:
        ConfigError: there is none, or none of that name.
    """
    if dataset is None and session.eval_loader is not None:
        return session.eval_loader
    name = dataset if isinstance(dataset, str) else None
    if name is not None:
        if not isinstance(session.eval_dataset, dict) or name not in session.eval_dataset:
            raise ConfigError(
                f"There is no evaluation set '{name}'; eval_dataset is {type(session.eval_dataset).__name__}."
            )
        dataset = session.eval_dataset[name]
    rows = session.eval_dataset if dataset is None else dataset
    if rows is None:
        raise ConfigError(
            "Evaluation needs data: give eval_dataset= (or eval_loader=) to the Trainer or to evaluate()."
        )
    return evaluation_dataloader(session, rows, f"evaluation set '{name}'" if name else "evaluation set")


def num_examples(session: Session, dataloader: Any) -> int:
    """Return the number of rows behind a loader; estimated from its batches where the dataset has no length."""
    rows = length_of(getattr(dataloader, "dataset", None))
    return rows if rows is not None else len(dataloader) * session.args.per_device_train_batch_size


def evaluation_dataloader(session: Session, dataset: Any, what: str) -> DataLoader[Any]:
    """Return the loader of rows to evaluate; batch j goes to rank j mod ranks.

    Rows that know their lengths are read by length, which saves padding; `evaluation_loop` brings them back into order.
    """
    args, shard = session.args, dividing.shard_of(session, dataset)
    collate = Collate(
        session.data_collator, wanted_columns(session, dataset, what), what, floats_for(session.data_collator, dataset)
    )
    if is_stream(dataset):
        return stream_dataloader(session, dataset, collate, args.eval_batch_size, drop_last=False)
    check_length(dataset, what)
    if (sampler := own_sampler(session.hooks, "_get_eval_sampler", dataset)) is not None:
        return sampled_dataloader(session, dataset, collate, sampler, args.eval_batch_size, drop_last=False)
    sorts = args.eval_do_concat_batches and not isinstance(
        dataset, PackedRows
    )  # whose rows hold several of the results
    lengths = known_lengths(dataset) if sorts and shard == session.strategy.data_shard else None
    order = Order(len(dataset), "sequential" if lengths is None else "by_length", lengths=lengths)
    plan = Plan(order, Batching(args.eval_batch_size, 1, shard.num_shards))
    return planned_dataloader(session, dataset, collate, plan)


def wanted_columns(session: Session, dataset: Any, what: str) -> list[str] | None:
    """Return the names of the columns to keep, or None to keep all.

    Raises:
        DataError: no column of the dataset is an input of the model.
    """
    session.hooks._set_signature_columns_if_needed()
    columns = session.hooks._signature_columns
    if not session.args.remove_unused_columns or columns is None:
        return None
    names = column_names(dataset)
    if names is not None:
        check_columns(names, columns, what)
    return columns


def floats_for(collator: Any, dataset: Any) -> bool:
    """Return whether labels are floats by the dataset; a collator of the user's own decides it itself."""
    named = collator if hasattr(collator, "__name__") else type(collator)
    return named.__module__.startswith(("trainwright.", "transformers.")) and has_float_labels(dataset)


def content_of_training(loader: TrainLoader) -> str | None:
    """Return what of the training data reaches the collator, in a few bytes; None where that cannot be said."""
    rows = getattr(loader.loader, "dataset", None)
    collate = rows.collate if isinstance(rows, RowFetcher) else getattr(loader.loader, "collate_fn", None)
    return content_of(dataset_of(loader.loader), collate.columns if isinstance(collate, Collate) else None)


def dataset_of(loader: Any) -> Any:
    """Return the user's own dataset that a loader reads; None where it has none."""
    rows = getattr(loader, "dataset", None)
    return rows.dataset if isinstance(rows, RowFetcher) else rows.stream if isinstance(rows, RankStream) else rows


def settings(session: Session) -> dict[str, Any]:
    """Return the keyword arguments of torch's DataLoader that the arguments decide."""
    args = session.args
    found: dict[str, Any] = {
        "num_workers": args.dataloader_num_workers,
        "pin_memory": args.dataloader_pin_memory and session.strategy.device.type == "cuda",
        "generator": new_generator(args.seed),
        "worker_init_fn": worker_init(),
    }
    if args.dataloader_num_workers > 0:
        found |= {
            "persistent_workers": args.dataloader_persistent_workers,
            "prefetch_factor": args.dataloader_prefetch_factor,
            "multiprocessing_context": args.dataloader_multiprocessing_context,
        }
    return found


def own_sampler(hooks: Hooks, name: str, dataset: Any) -> Any:
    """Return the sampler that an override of `_get_train_sampler` or `_get_eval_sampler` gives; None for ours."""
    method = getattr(hooks, name)
    if is_of(method, "trainwright"):
        return None
    sampler = method(dataset) if inspect.signature(method).parameters else method()
    return None if type(sampler) is InOrder else sampler
