"""The runs whose resumption must be bitwise exact: one model with dropout, every way of giving data.

`python -m tests.reliability.cases FOLDER NAME...` resumes them all in a new process, from other weights and seeds.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from trainwright import Trainer, TrainingArguments

ROWS, STEPS, SAVED = 26, 16, {"first pass": 4, "second pass": 10, "end of a pass": 7, "odd turn": 11}


class Net(nn.Module):
    """Two layers with dropout between them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 1))

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        prediction = self.layers(x.float()).squeeze(-1)
        return {"loss": ((prediction - labels) ** 2).mean(), "logits": prediction}


def rows(count: int = ROWS) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 4, generator=generator)
    return [{"x": x[i], "labels": x[i].sum()} for i in range(count)]


class Augmented(Dataset):
    """Adds noise from each of the three global random streams in turn."""

    def __init__(self) -> None:
        self.rows = rows()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        noise = (torch.rand(()).item(), random.random(), np.random.rand())[index % 3]
        return {**self.rows[index], "x": self.rows[index]["x"] + noise}


class Stream(IterableDataset):
    """A stream in shards for workers; shuffles with the global random stream where `shuffled`."""

    def __init__(self, shuffled: bool = False) -> None:
        self.shuffled = shuffled

    def __iter__(self) -> Any:
        info = get_worker_info()
        mine = rows()[info.id :: info.num_workers] if info else rows()
        if self.shuffled:
            random.shuffle(mine)
        for row in mine:
            yield {**row, "x": row["x"] + (random.random() if self.shuffled else 0.0)}


class OwnGenerator(IterableDataset):
    """A stream whose own generator goes on from pass to pass."""

    def __init__(self) -> None:
        self.order = random.Random(5)

    def __iter__(self) -> Any:
        mine = rows()
        self.order.shuffle(mine)
        return iter(mine)


class Stateful(IterableDataset):
    """A stream that can say where it stands, in every worker's shard; counts the rows it makes."""

    def __init__(self) -> None:
        self.next = 0
        self.made = 0

    def __iter__(self) -> Any:
        info = get_worker_info()
        mine = rows()[info.id :: info.num_workers] if info else rows()
        while self.next < len(mine):
            self.next += 1
            self.made += 1
            yield mine[self.next - 1]
        self.next = 0

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.next = state["next"]


class OtherLoader(DataLoader):
    """A loader of the user's own class, which is taken as it is."""


class StatefulLoader(DataLoader):
    """A loader that says where it stands, as torchdata's does: its generator at the start of the pass, and a count."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.began: Any = None
        self.given = 0
        self.skip = 0

    def __iter__(self) -> Any:
        if self.skip == 0:
            self.began = self.generator.get_state()
        else:
            self.generator.set_state(self.began)
        self.given, skip, self.skip = 0, self.skip, 0
        for batch in super().__iter__():
            self.given += 1
            if self.given > skip:
                yield batch

    def state_dict(self) -> dict[str, Any]:
        return {"began": self.began, "given": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.began, self.skip = state["began"], state["given"]


class Mixture:
    """A loader of the user's own, whose rows come from its own generator; that is part of its state."""

    def __init__(self) -> None:
        self.random = random.Random(9)
        self.next = 0

    def __len__(self) -> int:
        return 7

    def __iter__(self) -> Any:
        data = rows()
        while self.next < len(self):
            self.next += 1
            picked = [data[self.random.randrange(ROWS)] for _ in range(4)]
            yield {name: torch.stack([row[name] for row in picked]) for name in picked[0]}
        self.next = 0

    def state_dict(self) -> dict[str, Any]:
        return {"random": self.random.getstate(), "next": self.next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.random.setstate(state["random"])
        self.next = state["next"]


class Told(Dataset):
    """Rows that depend on the pass, of which the dataset is told."""

    def __init__(self) -> None:
        self.rows = rows()
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {**self.rows[index], "x": self.rows[index]["x"] + self.epoch}


class Sampler(torch.utils.data.Sampler):
    """A batch sampler whose own generator goes on from pass to pass."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(3)

    def __len__(self) -> int:
        return ROWS // 4

    def __iter__(self) -> Any:
        order = self.generator.permutation(ROWS)
        return iter(order[: ROWS // 4 * 4].reshape(-1, 4).tolist())


class Counting(torch.utils.data.Sampler):
    """A sampler whose order follows from the passes that it has counted, and from the last order."""

    def __init__(self) -> None:
        self.passes = self.epoch = 0
        self.order = list(range(ROWS))

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return ROWS

    def __iter__(self) -> Any:
        random.Random(f"{self.passes} {self.epoch}").shuffle(self.order)
        self.passes += 1
        return iter(list(self.order))


class CountingStream(IterableDataset):
    """A stream that begins further on in every pass."""

    def __init__(self) -> None:
        self.passes = self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Any:
        self.passes += 1
        first = self.passes + 5 * self.epoch
        return iter(rows()[first:] + rows()[:first])


def counting_loader(kind: type[DataLoader] = DataLoader) -> DataLoader:
    return kind(rows(), batch_sampler=torch.utils.data.BatchSampler(Counting(), 4, drop_last=False))


def hub_stream(buffer: bool) -> Any:
    import datasets

    plain = [{"x": row["x"].tolist(), "labels": row["labels"].item()} for row in rows()]
    stream = datasets.Dataset.from_list(plain).to_iterable_dataset(num_shards=2)
    return (stream.shuffle(seed=3, buffer_size=8) if buffer else stream).with_format("torch")


def seeded_loader() -> DataLoader:
    return DataLoader(rows(), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(8))


def stateful_loader() -> DataLoader:
    return StatefulLoader(rows(), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(8))


def plateau() -> dict[str, Any]:
    return {
        "lr_scheduler_type": "reduce_lr_on_plateau",
        "eval_strategy": "steps",
        "eval_steps": 2,
        "metric_for_best_model": "loss",
        "lr_scheduler_kwargs": {"patience": 0, "threshold": 0.5},
    }


WORKERS = {"dataloader_num_workers": 2}
CASES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "map": (rows, {}, "first pass"),
    "map, second pass": (rows, {}, "second pass"),
    "map, end of a pass": (rows, {}, "end of a pass"),
    "accumulation with a remainder": (rows, {"gradient_accumulation_steps": 4}, "second pass"),
    "bf16": (rows, {"bf16": True}, "second pass"),
    "cosine with warm-up": (rows, {"lr_scheduler_type": "cosine", "warmup_steps": 3}, "first pass"),
    "plateau": (rows, plateau(), "first pass"),
    "logged every 7": (rows, {"logging_steps": 7}, "second pass"),
    "adafactor": (rows, {"optim": "adafactor"}, "first pass"),
    "workers": (rows, WORKERS, "second pass"),
    "group by length": (
        lambda: [{**row, "length": i * 7 % 11} for i, row in enumerate(rows())],
        {"train_sampling_strategy": "group_by_length"},
        "second pass",
    ),
    "augmented": (Augmented, {}, "second pass"),
    "augmented, workers": (Augmented, WORKERS, "second pass"),
    "stream": (Stream, {}, "first pass"),
    "stream, second pass": (Stream, {}, "second pass"),
    "stream, end of a pass": (Stream, {}, "end of a pass"),
    "stream, workers": (Stream, WORKERS, "second pass"),
    "stream, workers, the other one's turn": (Stream, WORKERS, "odd turn"),
    "stateful stream, workers, the other one's turn": (Stateful, WORKERS, "odd turn"),
    "stream, persistent workers": (Stream, {**WORKERS, "dataloader_persistent_workers": True}, "second pass"),
    "shuffled stream": (lambda: Stream(True), {}, "second pass"),
    "shuffled stream, workers": (lambda: Stream(True), WORKERS, "second pass"),
    "stream with its own generator": (OwnGenerator, {}, "second pass"),
    "stateful stream": (Stateful, {}, "second pass"),
    "stateful stream, workers": (Stateful, WORKERS, "second pass"),
    "stateful stream, accumulation": (Stateful, {"gradient_accumulation_steps": 2}, "second pass"),
    "datasets stream": (lambda: hub_stream(False), {}, "second pass"),
    "datasets stream, workers": (lambda: hub_stream(False), WORKERS, "second pass"),
    "datasets stream with a shuffle buffer": (lambda: hub_stream(True), {}, "second pass"),
    "ready loader": (lambda: DataLoader(rows(), batch_size=4, shuffle=True), {}, "second pass"),
    "ready loader with its own generator": (seeded_loader, {}, "second pass"),
    "ready loader with its own sampler": (lambda: DataLoader(rows(), batch_sampler=Sampler()), {}, "second pass"),
    "ready loader with its own generator, saved between passes": (
        seeded_loader,
        {"save_strategy": "epoch"},
        "end of a pass",
    ),
    "ready loader whose sampler counts its passes": (counting_loader, {}, "second pass"),
    "ready loader whose sampler counts its passes, saved between passes": (
        counting_loader,
        {"save_strategy": "epoch"},
        "end of a pass",
    ),
    "loader of another class whose sampler counts its passes": (
        lambda: counting_loader(OtherLoader),
        {"save_strategy": "epoch"},
        "end of a pass",
    ),
    "stream that counts its passes": (CountingStream, {}, "second pass"),
    "stream that counts its passes, saved between passes": (
        CountingStream,
        {"save_strategy": "epoch"},
        "end of a pass",
    ),
    "stream with its own generator, saved between passes": (
        OwnGenerator,
        {"save_strategy": "epoch"},
        "end of a pass",
    ),
    "ready loader, augmented, workers": (
        lambda: DataLoader(Augmented(), batch_size=4, shuffle=True, num_workers=2),
        {},
        "second pass",
    ),
    "ready loader without batching": (
        lambda: DataLoader([{n: v[None] for n, v in row.items()} for row in rows()], batch_size=None, shuffle=True),
        {},
        "second pass",
    ),
    "ready loader over a stream": (lambda: DataLoader(Stream(True), batch_size=4), {}, "second pass"),
    "ready loader, told of passes, persistent workers": (
        lambda: DataLoader(Told(), batch_size=4, num_workers=2, persistent_workers=True),
        {},
        "second pass",
    ),
    "stateful loader": (stateful_loader, {}, "second pass"),
    "stateful loader, saved between passes": (stateful_loader, {"save_strategy": "epoch"}, "end of a pass"),
    "stateful loader that draws for every batch": (Mixture, {}, "second pass"),
    "loader of another class": (lambda: OtherLoader(rows(), batch_size=4, shuffle=True), {}, "second pass"),
}


class Watched(Trainer):
    """Keeps every micro-batch's loss and the sum of its inputs."""

    seen: dict[str, list[list[float]]]

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.seen.setdefault(str(self.state.global_step), []).append([loss.item(), float(inputs["x"].double().sum())])
        return loss


def trainer(name: str, folder: Path, seed: int = 0) -> Watched:
    """Return the trainer of a case; `seed` decides the first weights only."""
    data, changes, where = CASES[name]
    given = data()
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 4,
        "max_steps": STEPS,
        "save_steps": SAVED[where],
        "logging_steps": 1,
        "learning_rate": 1e-2,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    torch.manual_seed(seed)
    made = Watched(
        Net(),
        TrainingArguments(str(folder), **{**settings, **changes}),
        eval_dataset=rows(8),
        **{"train_loader" if isinstance(given, DataLoader | Mixture) else "train_dataset": given},
    )
    made.seen = {}
    return made


def outcome(made: Watched) -> dict[str, Any]:
    """Return what two runs must have in common."""
    logs = [{k: v for k, v in entry.items() if "per_second" not in k and "runtime" not in k} for entry in
            made.state.log_history]  # fmt: skip
    return {
        "seen": made.seen,
        "logs": logs,
        "weights": [p.detach().flatten().tolist() for p in made.model.parameters()],
    }


def resume(folder: Path, names: list[str]) -> None:
    """Resume every case from its newest checkpoint, and write what came of it."""
    results = {}
    for name in names:
        random.seed(77)
        np.random.seed(77)
        made = trainer(name, folder / name, seed=99)
        torch.manual_seed(77)
        made.train(resume_from_checkpoint=True)
        results[name] = outcome(made)
    (folder / "resumed.json").write_text(json.dumps(results))


if __name__ == "__main__":
    torch.set_num_threads(1)
    resume(Path(sys.argv[1]), sys.argv[2:])
