"""Strategies of one's own: `torchrun --nproc-per-node 2 tests/ranks/strategies.py FOLDER`."""

from __future__ import annotations

import math
import re
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.ranks import launch, tiny_rows
from trainwright.parallel.ddp import DataParallel
from trainwright.world import DataShard

ROWS = 10  # five batches of two: in the third step the second rank has none


class Deep(nn.Module):
    """A regression with dropout, two layers and a part that no step uses."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(tiny_rows.WIDTH, 8).double()
        self.second = nn.Linear(8, 1).double()
        self.dropout = dropout

    def forward(self, x: torch.Tensor, number: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, Any]:
        inner = nn.functional.dropout(torch.tanh(self.first(x)), self.dropout, self.training)
        prediction = self.second(inner).squeeze(-1)
        return {"loss": None if labels is None else ((prediction - labels) ** 2).mean(), "logits": prediction}


class Twins(DataParallel):
    """All processes compute one model together, as with tensor parallelism: they read the same rows."""

    def setup(self, world, device, options):
        super().setup(world, device, options)
        self.data_shard, self.gradient_divide_factor = DataShard(), 1

    def one_per_shard(self, everyone):
        return everyone[:1]

    def sum_tensor(self, value):
        return value


class Sharded(DataParallel):
    """FSDP2: every process holds its part of every parameter, gradient and moment."""

    def prepare(self, model, recomputes=False):
        for layer in model.children():
            fully_shard(layer)
        return fully_shard(model)

    def accumulate(self, model, last):
        model.set_requires_gradient_sync(last)
        return nullcontext()

    def needs_zero_weight_step(self, last):
        return True

    def finish_gradients(self, parameters):
        pass

    def norms(self, tensors, order=2.0):
        local = [tensor.to_local() for tensor in tensors]
        held = [part if part.numel() else part.new_zeros(1) for part in local]  # one row is the first rank's
        parts = torch.stack(torch._foreach_norm(held, order))
        if order == math.inf:
            distributed.all_reduce(parts, distributed.ReduceOp.MAX)
            return parts
        squares = parts**2
        distributed.all_reduce(squares)
        return squares.sqrt()


def full(model: nn.Module) -> list[float]:
    whole = [getattr(p, "full_tensor", lambda p=p: p)() for p in model.parameters()]
    return [value for tensor in whole for value in tensor.detach().flatten().tolist()]


def run(place: Path, strategy: Any = None, dropout: float = 0.0, **args: Any) -> dict[str, Any]:
    settings = {
        "optim": "adamw_torch", "max_grad_norm": 0.5, "gradient_accumulation_steps": 2, "eval_strategy": "epoch",
        "ddp_timeout": 30, "per_device_train_batch_size": 1, "per_device_eval_batch_size": 3, **args,
    }  # fmt: skip
    rows = tiny_rows.rows(ROWS)
    trainer = tiny_rows.trained(
        place, Deep(dropout), train_dataset=rows, eval_dataset=rows[:7], args=settings, strategy=strategy,
        compute_metrics=lambda found: {"labels": found.label_ids.tolist()},
    )  # fmt: skip
    history = trainer.state.log_history
    logged = {name: [one[name] for one in history if name in one] for name in ("loss", "grad_norm", "eval_loss")}
    return {
        "weights": full(trainer.model),
        "seen": trainer.seen,
        "steps": trainer.state.global_step,
        "labels": [one["eval_labels"] for one in history if "eval_labels" in one],
        "parts": sum(getattr(p, "to_local", lambda p=p: p)().numel() for p in trainer.model.parameters()),
        **logged,
    }


def resumed(place: Path) -> dict[str, Any]:
    """Stop at the fourth of ten steps, in the middle of a pass with dropout, and go on."""
    run(place, Twins(), dropout=0.5, max_steps=4, num_train_epochs=2, save_strategy="steps", save_steps=4)
    settings = {"save_strategy": "steps", "save_steps": 100, "resume_from_checkpoint": True}
    return run(place, Twins(), dropout=0.5, **settings)


def one_step(place: Path, strategy: Any = None) -> dict[str, Any]:
    return run(place, strategy, optim="sgd", max_grad_norm=0, max_steps=1, eval_strategy="no")


def documented(place: Path) -> dict[str, Any]:
    """One step with the strategy of docs/parts.md."""
    text = (Path(__file__).parents[2] / "docs" / "parts.md").read_text()
    code = next(one for one in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S) if "(DataParallel)" in one)
    names: dict[str, Any] = {}
    exec(code.partition("\n\n\nargs = ")[0], names)
    return one_step(place, names["HalfTheTraffic"]())


CASES: dict[str, launch.Case] = {
    "data parallel": run,
    "sharded": lambda place: run(place, Sharded()),
    "twins": lambda place: run(place, Twins(), dropout=0.5),
    "twins, resumed": resumed,
    "one step": one_step,
    "one step in float16": documented,
}

if __name__ == "__main__":
    launch.run_all(CASES, sys.argv[2:])
