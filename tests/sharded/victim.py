"""A sharded run to be killed: `torchrun … -m tests.sharded.victim FOLDER STEPS`; it resumes if there is a checkpoint.

The first rank appends a line to FOLDER/log for every step done and every save written.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from tests.reliability import victim
from trainwright import Trainer, TrainingArguments
from trainwright.checkpoint.layout import checkpoints
from trainwright.parallel.sharded import Sharded
from trainwright.world import current_world

WIDTH, ROWS, INTERVAL = 512, 64, 3


class Body(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(4))


class Net(torch.nn.Module):
    """Four layers with dropout: 13 MB of state, whose writing takes longer than a step."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Body()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        for layer in self.model.layers:
            x = torch.nn.functional.dropout(torch.tanh(layer(x)), 0.1, self.training)
        return {"loss": (x - 1).square().mean()}


def main(place: Path, steps: int) -> None:
    torch.manual_seed(0 if not checkpoints(place) else 99)
    generator = torch.Generator().manual_seed(1)
    rows = [{"x": row} for row in torch.randn(ROWS, WIDTH, generator=generator)]
    args = TrainingArguments(
        str(place), per_device_train_batch_size=2, max_steps=steps, save_steps=INTERVAL, save_total_limit=2,
        logging_steps=1000, lr_scheduler_type="constant", optim="adamw_torch", use_cpu=True, disable_tqdm=True,
        report_to="none", ddp_timeout=60,
    )  # fmt: skip
    trainer = Trainer(Net(), args, train_dataset=rows, strategy=Sharded())
    if current_world().is_main:
        log = victim.Log(place)
        type(log).__module__ = "trainwright.tests"  # as one of ours: saves stay in the background
        trainer.add_callback(log)
    trainer.train(resume_from_checkpoint=bool(checkpoints(place)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
