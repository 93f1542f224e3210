"""A script to be started in several processes: it trains a line, slowly, and appends a line to a log for each step.

Of twelve steps the tenth is evaluated.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch

from trainwright import Trainer, TrainerCallback, TrainingArguments
from trainwright.world import current_world


class Line(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(4))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (x @ self.weight - 1).square().mean()}


class Log(TrainerCallback):
    """Also lets the second rank hang, raise or be killed, once for each file of that name."""

    def __init__(self, place: Path, pause: float) -> None:
        self.place, self.pause = place, pause

    def on_step_end(self, args, state, control, **kwargs):
        rank = current_world().rank
        with (self.place / f"steps{rank}").open("a") as log:
            log.write(f"{state.global_step} {os.getpid()}\n")
        if state.global_step == 6 and self.takes("stuck"):
            time.sleep(1000)
        if state.global_step == 9 and self.takes("raises"):
            raise ValueError("what the user wrote")
        time.sleep(self.pause)

    def on_prediction_step(self, args, state, control, **kwargs):
        if self.takes("killed"):
            os.kill(os.getpid(), signal.SIGKILL)

    def takes(self, name: str) -> bool:
        """Whether this is the second rank and there is a file of that name, which is taken away."""
        wanted = self.place / name
        if current_world().rank != 1 or not wanted.exists():
            return False
        wanted.unlink()
        return True


def main(place: Path, steps: int, pause: float) -> None:
    torch.set_num_threads(1)
    rows = [{"x": row} for row in torch.randn(64, 4, generator=torch.Generator().manual_seed(0))]
    evaluates = {"eval_strategy": "steps", "eval_steps": 10} if steps == 12 else {}
    args = TrainingArguments(
        str(place), max_steps=steps, save_steps=4, logging_steps=1, use_cpu=True, disable_tqdm=True, report_to="none",
        ddp_timeout=15 if (place / "stuck").exists() else 60, per_device_train_batch_size=2, **evaluates,
    )  # fmt: skip
    Trainer(Line(), args, train_dataset=rows, eval_dataset=rows, callbacks=[Log(place, pause)]).train()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    main(folder, int(sys.argv[2]), float(sys.argv[3]))
