"""From the user's datasets and loaders to torch DataLoaders, and to what the loop and the evaluation iterate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, DistributedSampler

from trainwright.data.columns import check_columns, column_names
from trainwright.data.kinds import is_stream, length_of
from trainwright.data.lengths import row_lengths
from trainwright.data.loader import (
    EveryNth,
    PlannedBatches,
    PlannedLoader,
    RankBatches,
    RankStream,
    SequentialLoader,
    TrainLoader,
    new_generator,
)
from trainwright.data.plan import Batching, Order, Plan
from trainwright.data.rows import Collate, RowFetcher
from trainwright.errors import ConfigError, DataError

if TYPE_CHECKING:
    from trainwright.engine.trainer import Trainer


def train_loader(trainer: Trainer) -> TrainLoader:
    """Return what the loop iterates, around the loader that `get_train_dataloader` gives."""
    loader = trainer.get_train_dataloader()
    batches = getattr(loader, "batch_sampler", None)
    if isinstance(batches, PlannedBatches):
        return PlannedLoader(loader, batches)
    if trainer.strategy.world.size > 1 and not isinstance(getattr(loader, "dataset", None), RankStream):
        loader = share_of_rank(trainer, loader)
    length = length_of(loader)
    if length == 0:
        raise DataError("The training loader is empty (its length is 0). Give one with batches.")
    return SequentialLoader(loader, trainer.args.gradient_accumulation_steps, length)


def train_dataloader(trainer: Trainer) -> Any:
    """Return the loader of the training data: the ready one, or one made of the dataset."""
    if trainer.train_loader is not None:
        return trainer.train_loader
    dataset, args = trainer.train_dataset, trainer.args
    if dataset is None:
        raise ConfigError("Training needs data: give train_dataset= or a ready train_loader= to the Trainer.")
    columns = wanted_columns(trainer, dataset, "training data")
    collate = Collate(trainer.data_collator, columns, "training data")
    if is_stream(dataset):
        stream = RankStream(dataset, args.train_batch_size, trainer.strategy.world, args.dataloader_drop_last)
        return DataLoader(stream, batch_size=None, collate_fn=collate, **settings(trainer))
    if len(dataset) == 0:
        raise DataError("The training dataset is empty (its length is 0). Check how it was loaded and filtered.")
    plan = Plan(
        Order(
            len(dataset),
            args.train_sampling_strategy,
            args.data_seed if args.data_seed is not None else args.seed,
            row_lengths(dataset, args, trainer.processing_class),
            args.train_batch_size * args.gradient_accumulation_steps,
        ),
        Batching(
            args.train_batch_size,
            args.gradient_accumulation_steps,
            trainer.strategy.world.size,
            args.dataloader_drop_last,
        ),
    )
    if plan.epoch_rows == 0:
        raise DataError(
            f"The training dataset has {len(dataset)} rows, fewer than one batch of "
            f"{args.train_batch_size * trainer.strategy.world.size}, and dataloader_drop_last=True drops them all."
        )
    batches = PlannedBatches(plan, trainer.strategy.world.rank)
    return DataLoader(RowFetcher(dataset), batch_sampler=batches, collate_fn=collate, **settings(trainer))


def eval_dataloader(trainer: Trainer, dataset: Any) -> Any:
    """Return the loader of an evaluation set: one given, one named, the ready loader, or the Trainer's own set.

    Raises:
        ConfigError: there is none, or none of that name.
    """
    if dataset is None and trainer.eval_loader is not None:
        return trainer.eval_loader
    name = dataset if isinstance(dataset, str) else None
    if name is not None:
        if not isinstance(trainer.eval_dataset, dict) or name not in trainer.eval_dataset:
            raise ConfigError(
                f"There is no evaluation set '{name}'; eval_dataset is {type(trainer.eval_dataset).__name__}."
            )
        dataset = trainer.eval_dataset[name]
    rows = trainer.eval_dataset if dataset is None else dataset
    if rows is None:
        raise ConfigError(
            "Evaluation needs data: give eval_dataset= (or eval_loader=) to the Trainer or to evaluate()."
        )
    return evaluation_dataloader(trainer, rows, f"evaluation set '{name}'" if name else "evaluation set")


def num_examples(trainer: Trainer, dataloader: Any) -> int:
    """Return the number of rows behind a loader; estimated from its batches where the dataset has no length."""
    rows = length_of(getattr(dataloader, "dataset", None))
    return rows if rows is not None else len(dataloader) * trainer.args.per_device_train_batch_size


def evaluation_dataloader(trainer: Trainer, dataset: Any, what: str) -> DataLoader:
    """Return the loader of rows to evaluate, in their order; batch j goes to rank j mod ranks."""
    args, world = trainer.args, trainer.strategy.world
    collate = Collate(trainer.data_collator, wanted_columns(trainer, dataset, what), what)
    if is_stream(dataset):
        stream = RankStream(dataset, args.eval_batch_size, world, drop_last=False)
        return DataLoader(stream, batch_size=None, collate_fn=collate, **settings(trainer))
    plan = Plan(Order(len(dataset), "sequential"), Batching(args.eval_batch_size, 1, world.size))
    batches = PlannedBatches(plan, world.rank)
    return DataLoader(RowFetcher(dataset), batch_sampler=batches, collate_fn=collate, **settings(trainer))


def wanted_columns(trainer: Trainer, dataset: Any, what: str) -> list[str] | None:
    """Return the names of the columns to keep, or None to keep all.

    Raises:
        DataError: no column of the dataset is an input of the model.
    """
    columns = trainer.signature_columns
    if not trainer.args.remove_unused_columns or columns is None:
        return None
    names = column_names(dataset)
    if names is not None:
        check_columns(names, columns, what)
    return columns


def settings(trainer: Trainer) -> dict[str, Any]:
    """Return the keyword arguments of torch's DataLoader that the arguments decide."""
    args = trainer.args
    found: dict[str, Any] = {
        "num_workers": args.dataloader_num_workers,
        "pin_memory": args.dataloader_pin_memory and trainer.strategy.device.type == "cuda",
        "generator": new_generator(args.seed),
    }
    if args.dataloader_num_workers > 0:
        found |= {
            "persistent_workers": args.dataloader_persistent_workers,
            "prefetch_factor": args.dataloader_prefetch_factor,
            "multiprocessing_context": args.dataloader_multiprocessing_context,
            "in_order": args.dataloader_in_order,
        }
    return found


def share_of_rank(trainer: Trainer, loader: Any) -> Any:
    """Return this rank's share of a ready loader: rebuilt around its parts if it is torch's, else every n-th batch."""
    strategy = trainer.strategy
    if isinstance(getattr(loader, "sampler", None), DistributedSampler):
        return loader
    if type(loader) is DataLoader and loader.batch_sampler is not None and not is_stream(loader.dataset):
        return DataLoader(
            RowFetcher(loader.dataset),
            batch_sampler=RankBatches(loader.batch_sampler, strategy.world, strategy.from_main),
            collate_fn=Collate(loader.collate_fn),
            num_workers=loader.num_workers,
            pin_memory=loader.pin_memory,
            worker_init_fn=loader.worker_init_fn,
            persistent_workers=loader.persistent_workers,
            generator=new_generator(trainer.args.seed),
        )
    trainer.note(
        f"The {type(loader).__name__} given cannot be divided among processes, so each reads all of it and keeps its "
        "share. Give a torch DataLoader over a map-style dataset, or one that already divides, to avoid that."
    )
    return EveryNth(loader, strategy.world)
