"""Train and evaluate on data of every kind: `torchrun --nproc-per-node 2 tests/ranks/loaders.py FOLDER`.

The rows are uneven: 11 for two ranks with batches of two.
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
    TensorDataset,
)

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.ranks import launch, tiny_rows
from trainwright.world import current_world

torch.set_num_threads(1)
ROWS = 11
NAMES = ("x", "number", "labels")


class Numbered(Dataset):
    """Rows of a class of the user's own, those whose numbers it is given."""

    def __init__(self, numbers):
        self.all, self.numbers = tiny_rows.rows(ROWS), list(numbers)

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, index):
        return self.all[self.numbers[index]]


class Noisy(Dataset):
    """All rows, or the file that they are read from, and noise that every rank draws for itself."""

    def __init__(self, rank, of_a_file=False):
        if not of_a_file:
            self.rows = tiny_rows.rows(ROWS)
        self.noise = torch.randn(ROWS, generator=torch.Generator().manual_seed(rank))

    def __len__(self):
        return ROWS

    def __getitem__(self, index):
        return tiny_rows.rows(ROWS)[index]


class OfRank(Dataset):
    """The rows of one rank, counted from 0; `told` says that they are its own."""

    def __init__(self, rank, size, told):
        self.rows, self.weights = tiny_rows.rows(ROWS)[rank::size], [1.0] * len(range(rank, ROWS, size))
        self.index = list(range(len(self.rows)))
        if told:
            self.rank, self.num_replicas = rank, size
            self.scale = [1 + number / 10 for number in self.index]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


class Stream(IterableDataset):
    """All rows, in their order."""

    def __iter__(self):
        return iter(tiny_rows.rows(ROWS))


class Shuffled(IterableDataset):
    """All rows, in an order that is drawn from the global stream."""

    def __iter__(self):
        return iter([tiny_rows.rows(ROWS)[number] for number in torch.randperm(ROWS)])


class Part(IterableDataset):
    """The rows of one rank, and says so."""

    def __init__(self, rank, size):
        self.rank, self.num_replicas = rank, size

    def __iter__(self):
        return iter(tiny_rows.rows(ROWS)[self.rank :: self.num_replicas])


class FilesOfRank(IterableDataset):
    """The rows of one rank, which it holds as a list of files."""

    def __init__(self, rank, size):
        self.files = [f"part{number}" for number in range(ROWS)][rank::size]

    def __iter__(self):
        return iter([tiny_rows.rows(ROWS)[int(file.removeprefix("part"))] for file in self.files])


class Secret(IterableDataset):
    """The rows of one rank, by the environment."""

    def __iter__(self):
        return iter(tiny_rows.rows(ROWS)[int(os.environ["RANK"]) :: int(os.environ["WORLD_SIZE"])])


class OwnShare(Sampler):
    """The row numbers of one rank, from an order that is drawn from the global stream; `told` says that it does so."""

    def __init__(self, rank, size, told):
        self.own, self.size = rank, size
        if told:
            self.rank, self.num_replicas = rank, size

    def __len__(self):
        return len(range(self.own, ROWS, self.size))

    def __iter__(self):
        order = torch.randperm(ROWS).tolist() if hasattr(self, "rank") else list(range(ROWS))
        return iter(order[self.own :: self.size])


class Batches:
    """Batches of a loader that is no torch DataLoader, in an order that is drawn from the global stream."""

    def __init__(self, rank=0, size=1):
        if size > 1:
            self.rank, self.num_replicas = rank, size
        self.own, self.size = rank, size

    def __len__(self):
        return -(-len(range(self.own, ROWS, self.size)) // 2)

    def __iter__(self):
        order = torch.randperm(ROWS) if self.size == 1 else torch.arange(self.own, ROWS, self.size)
        data = tiny_rows.stacked(ROWS)
        for numbers in order.split(2):
            yield {name: values[numbers] for name, values in data.items()}


def collated(batch: list[tuple[torch.Tensor, ...]]) -> dict[str, torch.Tensor]:
    return dict(zip(NAMES, (torch.stack(parts) for parts in zip(*batch, strict=True)), strict=True))


def table() -> Any:
    import datasets

    data = [{name: value.tolist() for name, value in row.items()} for row in tiny_rows.rows(ROWS)]
    return datasets.Dataset.from_list(data)


def of_doubles(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Columns of a table, whose numbers are Python's, as the model takes them."""
    kinds = {"x": torch.float64, "number": torch.int64, "labels": torch.float64}
    return {name: torch.tensor([row[name] for row in batch], dtype=kinds[name]) for name in batch[0]}


def split(data: Any, rank: int, size: int) -> Any:
    from datasets.distributed import split_dataset_by_node

    return split_dataset_by_node(data, rank, size)


def by_length(rank: int, size: int) -> Any:
    from transformers.trainer_pt_utils import DistributedLengthGroupedSampler

    return DistributedLengthGroupedSampler(2, range(ROWS), size, rank, lengths=list(range(ROWS)))


def sharded(rank: int, size: int, numbers: Any = range(ROWS), even_batches: bool = False) -> DataLoader:
    from accelerate.data_loader import BatchSamplerShard

    batches = BatchSampler(numbers, 2, False)
    return DataLoader(
        tiny_rows.rows(ROWS), batch_sampler=BatchSamplerShard(batches, size, rank, even_batches=even_batches)
    )


def sampled(sampler: Any) -> DataLoader:
    return DataLoader(tiny_rows.rows(ROWS), batch_size=2, sampler=sampler)


def batched(sampler: Any) -> DataLoader:
    return DataLoader(tiny_rows.rows(ROWS), batch_sampler=BatchSampler(sampler, 2, False))


def distributed(rank: int, size: int) -> DistributedSampler:
    return DistributedSampler(range(ROWS), size, rank)


SETS = {
    "a list": lambda rank, size: tiny_rows.rows(ROWS),
    "a class": lambda rank, size: Numbered(range(ROWS)),
    "a table": lambda rank, size: table(),
    "a stream": lambda rank, size: Stream(),
    "a stream that draws": lambda rank, size: Shuffled(),
    "a list of the rank": lambda rank, size: tiny_rows.rows(ROWS)[rank::size],
    "a class of the rank": lambda rank, size: Numbered(range(rank, ROWS, size)),
    "a class that counts the rows of the rank": functools.partial(OfRank, told=False),
    "a class that says its share": functools.partial(OfRank, told=True),
    "a subset of the rank": lambda rank, size: Subset(tiny_rows.rows(ROWS), range(rank, ROWS, size)),
    "a table split by node": lambda rank, size: split(table(), rank, size),
    "a stream split by node": lambda rank, size: split(table().to_iterable_dataset(2), rank, size),
    "a stream of the rank": Part,
    "a stream of files of the rank": FilesOfRank,
}


def prepared(rank: int, size: int) -> Any:
    """As transformers' documentation writes it; it repeats rows to give every rank as many."""
    from accelerate import Accelerator

    return Accelerator(cpu=True).prepare(DataLoader(tiny_rows.rows(ROWS), batch_size=2))


LOADERS = {
    "a loader": lambda rank, size: DataLoader(tiny_rows.rows(ROWS), batch_size=2, shuffle=True),
    "a loader with workers": lambda rank, size: DataLoader(Numbered(range(ROWS)), batch_size=2, num_workers=1),
    "a batch sampler": lambda rank, size: batched(RandomSampler(range(ROWS))),
    "a loader of a stream": lambda rank, size: DataLoader(Stream(), batch_size=2),
    "a loader of tensors of the rank": lambda rank, size: DataLoader(
        TensorDataset(*(tiny_rows.stacked(ROWS)[name][rank::size] for name in NAMES)), 2, collate_fn=collated
    ),
    "a DistributedSampler": lambda rank, size: sampled(distributed(rank, size)),
    "a batch sampler of a DistributedSampler": lambda rank, size: batched(distributed(rank, size)),
    "a sampler that says its share": lambda rank, size: sampled(OwnShare(rank, size, told=True)),
    "a sampler that does not say its share": lambda rank, size: sampled(OwnShare(rank, size, told=False)),
    "a batch sampler of such a sampler": lambda rank, size: batched(OwnShare(rank, size, told=False)),
    "transformers' DistributedLengthGroupedSampler": lambda rank, size: sampled(by_length(rank, size)),
    "accelerate's BatchSamplerShard": sharded,
    "accelerate's BatchSamplerShard that evens out": functools.partial(sharded, even_batches=True),
    "a loader that accelerate prepared": prepared,
    "batches that draw": lambda rank, size: Batches(),
    "batches of the rank": Batches,
}
REPEATS = {  # one row in training, to give every rank as many
    "a DistributedSampler",
    "a batch sampler of a DistributedSampler",
    "transformers' DistributedLengthGroupedSampler",
    "accelerate's BatchSamplerShard that evens out",
    "a loader that accelerate prepared",
}
REFUSED = {
    "a stream of the rank by the environment": lambda rank, size: {"train_dataset": Secret()},
    "a list in another order on each rank": lambda rank, size: {
        "train_dataset": tiny_rows.rows(ROWS)[::-1] if rank else tiny_rows.rows(ROWS)
    },
    "a class with noise of the rank's own": lambda rank, size: {"train_dataset": Noisy(rank)},
    "a class of a file with noise of the rank's own": lambda rank, size: {"train_dataset": Noisy(rank, of_a_file=True)},
    "parts that overlap": lambda rank, size: {"train_dataset": tiny_rows.rows(ROWS)[rank : ROWS - 1 + rank]},
    "more parts than ranks": lambda rank, size: {"train_loader": sampled(distributed(rank, 2 * size))},
    "a table split into more parts": lambda rank, size: {
        "train_dataset": split(table().to_iterable_dataset(4), rank, 2 * size)
    },
    "the same part on both ranks": lambda rank, size: {"train_loader": batched(distributed(0, size))},
    "a stream split alike on both ranks": lambda rank, size: {
        "train_dataset": split(table().to_iterable_dataset(2), 0, size)
    },
    "a part that is divided again": lambda rank, size: {
        "train_loader": DataLoader(
            part := tiny_rows.rows(ROWS)[rank::size], 2, sampler=DistributedSampler(part, size, rank)
        )
    },
    "a DistributedSampler that accelerate divides again": lambda rank, size: {
        "train_loader": sharded(rank, size, distributed(rank, size))
    },
}


def train_and_evaluate(place: Path, kind: str) -> dict[str, Any]:
    world = current_world()
    make = functools.partial({**SETS, **LOADERS}[kind], world.rank, world.size)
    what = "dataset" if kind in SETS else "loader"
    more = {"data_collator": of_doubles} if kind.startswith(("a table", "a stream split")) else {}
    told: list[str] = []
    trainer = tiny_rows.trained(
        place,
        **{f"train_{what}": make(), f"eval_{what}": make()},
        **more,
        compute_metrics=lambda p: {"rows": len(p.label_ids)},
    )
    trainer.note = told.append
    metrics = trainer.evaluate()
    live = {}
    if kind in ("a list", "a DistributedSampler", "a stream of the rank", "a list of the rank"):
        numbers: list[float] = []

        def collect(p, compute_result):
            numbers.extend(p.label_ids.tolist())
            return {"rows": len(numbers), "sum": sum(numbers)} if compute_result else {}

        trainer.args.batch_eval_metrics, trainer.compute_metrics = True, collect
        live = trainer.evaluate()
    return {
        "seen": trainer.seen,
        "weights": tiny_rows.weights(trainer.model),
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "epoch": trainer.state.epoch,
        "metrics": {name: metrics[name] for name in ("eval_loss", "eval_rows")},
        "live": {name: live[name] for name in ("eval_rows", "eval_sum")} if live else None,
        "rows": round(trainer.result.metrics["train_samples_per_second"] * trainer.result.metrics["train_runtime"]),
    }


def refused(place: Path, kind: str) -> dict[str, Any]:
    world = current_world()
    tiny_rows.trained(place, **REFUSED[kind](world.rank, world.size))
    return {}


def not_evaluated(place: Path, **given: Any) -> dict[str, Any]:
    """Evaluate a stream that divides itself and does not say so, or what is given."""
    trainer = tiny_rows.Seeing(tiny_rows.Net(), tiny_rows.arguments(place), **(given or {"eval_dataset": Secret()}))
    return trainer.evaluate()


def evaluated_alike(place: Path) -> dict[str, Any]:
    """Evaluate a loader that gives all ranks the same part."""
    return not_evaluated(place, eval_loader=sampled(distributed(0, current_world().size)))


CASES: dict[str, launch.Case] = {
    **{kind: functools.partial(train_and_evaluate, kind=kind) for kind in {**SETS, **LOADERS}},
    **{kind: functools.partial(refused, kind=kind) for kind in REFUSED},
    "an evaluation of such a stream": not_evaluated,
    "an evaluation of the same part on both ranks": evaluated_alike,
}

if __name__ == "__main__":
    launch.run_all(CASES, sys.argv[2:])
