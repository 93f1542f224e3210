"""A regression in float64 whose rows have numbers, and the loop by hand that it is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainwright import Trainer, TrainingArguments
from trainwright.world import current_world

RATE, WIDTH = 0.05, 4


class Net(nn.Module):
    """A linear regression; a row's number goes along."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(WIDTH, 1).double()

    def predict(self, x: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
        return self.layer(x).squeeze(-1)

    def forward(self, x: torch.Tensor, number: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, Any]:
        prediction = self.predict(x, number)
        return {"loss": None if labels is None else ((prediction - labels) ** 2).mean(), "logits": prediction}


def rows(count: int, seed: int = 1) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, WIDTH, generator=generator, dtype=torch.float64)
    return [{"x": x[i], "number": torch.tensor(i), "labels": x[i].sum() + i / 10} for i in range(count)]


def stacked(count: int, seed: int = 1) -> dict[str, torch.Tensor]:
    made = rows(count, seed)
    return {name: torch.stack([row[name] for row in made]) for name in made[0]}


def arguments(place: Path, **changes: Any) -> TrainingArguments:
    settings = {
        "per_device_train_batch_size": 4 // current_world().size,
        "per_device_eval_batch_size": 2,
        "optim": "sgd",
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0,
        "num_train_epochs": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "ddp_timeout": 200,
    }
    return TrainingArguments(str(place), **{**settings, **changes})


class Seeing(Trainer):
    """Keeps (pass, step, numbers of the rows) of every micro-batch that is trained on."""

    seen: list[tuple[int, int, list[int]]]

    def training_step(self, model, inputs, num_items_in_batch=None):
        self.seen.append((self.run.epoch, self.state.global_step, inputs["number"].tolist()))
        return super().training_step(model, inputs, num_items_in_batch)


def trained(place: Path, model: nn.Module | None = None, **given: Any) -> Seeing:
    """Return a Trainer that has trained; arguments by the name of one of ours go to TrainingArguments."""
    args = given.pop("args", {})
    trainer = Seeing(model or Net(), arguments(place, **args), **given)
    trainer.seen = []
    trainer.result = trainer.train()
    return trainer


def weights(model: nn.Module) -> list[float]:
    return [value for parameter in model.parameters() for value in parameter.detach().flatten().tolist()]


def by_hand(model: Any, steps: list[list[list[int]]], count: int) -> list[float]:
    """Return the weights after one step of SGD on the mean over the rows of each step, given as its micro-batches."""
    data = stacked(count)
    for batches in steps:
        for parameter in model.parameters():
            parameter.grad = None
        for numbers in batches:
            batch = {name: values[numbers] for name, values in data.items()}
            (model(**batch)["loss"] * len(numbers) / sum(map(len, batches))).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= RATE * parameter.grad
    return weights(model)


def steps_of(*ranks: list[list[Any]]) -> list[list[list[int]]]:
    """Return the micro-batches of every step, over all ranks."""
    found: dict[int, list[list[int]]] = {}
    for seen in ranks:
        for _, step, numbers in seen:
            found.setdefault(step, []).append(numbers)
    return [found[step] for step in sorted(found)]


def passes_of(*ranks: list[list[Any]]) -> list[list[int]]:
    """Return the rows of every pass, over all ranks, sorted."""
    found: dict[int, list[int]] = {}
    for seen in ranks:
        for epoch, _, numbers in seen:
            found.setdefault(epoch, []).extend(numbers)
    return [sorted(found[epoch]) for epoch in sorted(found)]
