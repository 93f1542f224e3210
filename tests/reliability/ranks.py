"""What a rank does in the two-process tests: `torchrun --nproc-per-node 2 tests/reliability/ranks.py KIND FOLDER`."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch.utils.data import IterableDataset

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.reliability import cases
from trainwright import Trainer, TrainerCallback, TrainingArguments
from trainwright.jobs.store.store import Store
from trainwright.jobs.tracking.tracking import current
from trainwright.world import current_world

torch.set_num_threads(1)


class Terminate(TrainerCallback):
    """Sends SIGTERM to the second rank alone, in the middle of step 6."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 5 and current_world().rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)


class Wish(TrainerCallback):
    """Asks the job to stop, in the middle of step 6; the first rank alone is told."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 5 and current_world().rank == 0:
            Store().ask_to_stop(current().id)
            current().stop_requested = True  # as its next heartbeat would


class Hungry(cases.Net):
    """The second rank runs out of memory with four rows."""

    def forward(self, x, labels=None):
        if len(x) > 2 and current_world().rank == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return super().forward(x, labels)


class Uneven(IterableDataset):
    """Ends after 13 rows: the last micro-batch exists on the first rank only."""

    def __iter__(self):
        return iter(cases.rows(13))


BROKEN = int(torch.randperm(cases.ROWS, generator=torch.Generator().manual_seed(42))[18])  # in the third step


class Broken(cases.Augmented):
    """One of its rows cannot be read."""

    def __getitem__(self, index):
        if index == BROKEN:
            raise ValueError("this row is broken")
        return super().__getitem__(index)


class Fails(TrainerCallback):
    """Fails on the second rank alone, in an evaluation of the third step."""

    def on_prediction_step(self, args, state, control, **kwargs):
        if current_world().rank == 1 and state.global_step == 3:
            raise ValueError("what the user wrote")


class Watched(Trainer):
    """Keeps every micro-batch's loss."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.seen.append([self.state.global_step, loss.item()])
        return loss


def run(kind: str, place: Path) -> dict:
    changes = {"auto_find_batch_size": True} if kind == "memory" else {}
    if kind in ("logged", "terminate"):
        changes = {"logging_steps": 7, "dataloader_num_workers": 1}
    if kind == "wish":
        changes = {"eval_strategy": "steps", "eval_steps": 5, "load_best_model_at_end": True}
    if kind == "evaluation":
        changes = {"eval_strategy": "steps", "eval_steps": 3, "save_steps": 1, "fsdp": True, "ddp_timeout": 60}
    if kind == "endless":
        changes = {"max_steps": 10**6, "logging_steps": 10**6}
    if kind == "time":
        changes = {"max_steps": 10**6, "save_strategy": "no", "logging_steps": 10**6, "max_train_time": 5}
    data = {"uneven": Uneven, "broken": Broken}.get(kind, cases.Augmented)()
    args = TrainingArguments(
        str(place),
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        use_cpu=True,
        disable_tqdm=True,
        **{"max_steps": 12, "save_steps": 5, "logging_steps": 1, **changes},
    )
    resume = (place / "checkpoint-6").is_dir() if kind == "terminate" else (place / "resume").exists()
    torch.manual_seed(99 if resume else 0)
    net = (Hungry if kind == "memory" else cases.Net)()
    if kind in ("memory", "whole"):
        net.layers[2].p = 0.0
    callbacks = (
        {"terminate": [Terminate()], "wish": [Wish()], "evaluation": [Fails()]}.get(kind, []) if not resume else []
    )
    trainer = Watched(net, args, train_dataset=data, eval_dataset=cases.rows(12), callbacks=callbacks)
    trainer.seen = []
    trainer.train(resume_from_checkpoint=resume)
    return {
        "weights": [p.detach().flatten().tolist() for p in trainer.model.parameters()],
        "logs": [[entry["step"], entry["loss"]] for entry in trainer.state.log_history if "loss" in entry],
        "seen": trainer.seen,
        "step": trainer.state.global_step,
    }


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    outcome = run(sys.argv[1], folder)
    (folder / f"rank{current_world().rank}.json").write_text(json.dumps(outcome))
