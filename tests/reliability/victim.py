"""A run to be killed or asked to stop: `python -m tests.reliability.victim FOLDER SETTINGS-AS-JSON`.

It resumes if there is a checkpoint, and appends a line to FOLDER/log for every step done and every save written.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # noqa: F401  every optimizer loads it; here, so that a run's "start" is ours and not torch's

from tests.reliability import cases
from trainwright import Trainer, TrainerCallback, TrainingArguments
from trainwright.checkpoint.layout import checkpoints


class Log(TrainerCallback):
    """Writes a line for every event; a line is on the disk before anything else happens."""

    def __init__(self, place: Path) -> None:
        self.file = os.open(place / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, *words: Any) -> None:
        os.write(self.file, (" ".join(map(str, words)) + "\n").encode())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.write("step", state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, checkpoint: Any = None, **kwargs: Any) -> None:
        self.write("written", checkpoint.name)


class Recording(Trainer):
    """Writes every micro-batch's loss to the last bit, and takes its time where it is told to."""

    log_file: Log
    pause = 0.0

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        time.sleep(self.pause)
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.log_file.write("loss", self.state.global_step + 1, loss.item().hex())
        return loss

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        time.sleep(self.pause)
        return super().prediction_step(*args, **kwargs)


def build(
    place: Path, settings: dict[str, Any], width: int = 0, foreign: bool = False, pause: float = 0.0
) -> Recording:
    """Return the trainer.

    Args:
        place: the run's folder.
        settings: arguments.
        width: width of an extra square layer, so that checkpoints are large.
        foreign: whether the callback counts as a user's, so that saves are synchronous.
        pause: seconds that every micro-batch takes.
    """
    torch.set_num_threads(1)
    place.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0 if not checkpoints(place) else 99)
    model = cases.Net()
    if width:
        model.layers = torch.nn.Sequential(
            torch.nn.Linear(4, width), torch.nn.Linear(width, width), torch.nn.Dropout(0.1), torch.nn.Linear(width, 1)
        )
    log = Log(place)
    if not foreign:
        type(log).__module__ = "trainwright.tests"  # as one of ours: saves stay in the background
    given = {"per_device_train_batch_size": 4, "lr_scheduler_type": "constant", "learning_rate": 1e-3, "use_cpu": True}
    args = TrainingArguments(str(place), **{**given, "disable_tqdm": True, "logging_steps": 1000, **settings})
    trainer = Recording(model, args, train_dataset=cases.Augmented(), eval_dataset=cases.rows(40), callbacks=[log])
    trainer.log_file, trainer.pause = log, pause
    return trainer


def run(place: Path, settings: dict[str, Any], **more: Any) -> Recording:
    """Train, from the newest checkpoint if there is one."""
    trainer = build(place, settings, **more)
    trainer.log_file.write("start")
    trainer.train(resume_from_checkpoint=bool(checkpoints(place)))
    trainer.log_file.write("end")
    return trainer


if __name__ == "__main__":
    given = json.loads(sys.argv[2])
    run(Path(sys.argv[1]), given.pop("settings"), **given)
