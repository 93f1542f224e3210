"""Runs whose state is spread over processes: `torchrun --nproc-per-node N tests/sharded/runs.py FOLDER CASE…`."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests import tiny
from tests.ranks import launch
from tests.sharded.spread import Spread
from trainwright import Trainer, TrainingArguments
from trainwright.world import current_world

STEP_ROWS = 4


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return getattr(tensor, "full_tensor", lambda: tensor)()


def digest(trainer: Trainer) -> str:
    """Return the SHA-256 of weights, moments and averages, whole."""
    found = hashlib.sha256()
    tensors = {name: p.detach() for name, p in trainer.model.named_parameters()}
    for number, state in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"{number} {key}": value for key, value in state.items()}
    for name, tensor in sorted(tensors.items()):
        found.update(name.encode() + whole(tensor).contiguous().numpy().tobytes())
    return found.hexdigest()


class Seeing(Trainer):
    """Notes the state that it begins with, and the rows of every step."""

    began: str | None = None

    def training_step(self, model, inputs, num_items_in_batch=None):
        if self.began is None:
            self.began = digest(self)
        self.seen.append((self.state.global_step, inputs["input_ids"].tolist()))
        return super().training_step(model, inputs, num_items_in_batch)


def model() -> Any:
    """Return a tied model with dropout, in float64, whose sizes no number of ranks divides."""
    return tiny.llama(dropout=0.1, tie_word_embeddings=True, intermediate_size=45).double()


def trained(place: Path, strategy: Any = None, resume: Any = None, of: Any = None, **changes: Any) -> dict[str, Any]:
    accumulation = STEP_ROWS // current_world().size
    settings = {
        "per_device_train_batch_size": 1, "gradient_accumulation_steps": accumulation, "optim": "adamw_torch",
        "learning_rate": 1e-2, "lr_scheduler_type": "constant", "max_steps": 6, "save_steps": 2, "logging_steps": 1,
        "report_to": "none", "use_cpu": True, "disable_tqdm": True, "ddp_timeout": 60, **changes,
    }  # fmt: skip
    args = TrainingArguments(str(place), **settings)
    trainer = Seeing(of or model(), args, train_dataset=tiny.tokens(), strategy=strategy)
    trainer.seen = []
    trainer.train(resume_from_checkpoint=resume)
    losses = [one["loss"] for one in trainer.state.log_history if "loss" in one]
    return {"began": trainer.began, "ended": digest(trainer), "seen": trainer.seen, "losses": losses}


def stopped(place: Path, strategy: Any) -> dict[str, Any]:
    """Train four of six steps, and go on."""
    first = trained(place, strategy, max_steps=4)
    second = trained(place, type(strategy)(strategy.replicate), resume=True)
    return {"first": first, "second": second}


def resumed(place: Path, strategy: Any, origin: str) -> dict[str, Any]:
    """Go on from the second step of another run, in a folder of one's own."""
    return trained(place, strategy, resume=str(place.parent / origin / "checkpoint-2"), max_steps=4)


CASES: dict[str, launch.Case] = {
    "two": lambda place: trained(place, Spread()),
    "two, stopped": lambda place: stopped(place, Spread()),
    "two from one": lambda place: resumed(place, Spread(), "one"),
    "two from four": lambda place: resumed(place, Spread(), "four"),
    "four": lambda place: resumed(place, Spread(), "two"),
    "four replicated": lambda place: stopped(place, Spread(2)),
    "four replicated from two": lambda place: resumed(place, Spread(2), "two"),
}

if __name__ == "__main__":
    launch.run_all(CASES, sys.argv[2:])
