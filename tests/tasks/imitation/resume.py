"""A run with images, augmentation, workers, a moving average, rollouts: `python -m` this `FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from tests.tasks.imitation import point
from trainwright.checkpoint import folder
from trainwright.tasks.imitation.episodes import write_npz
from trainwright.tasks.imitation.run import build

STEPS, SAVED = 12, 5


def sections(place: Path, folder: Path) -> dict[str, Any]:
    """Return the run's configuration, its demonstrations written first."""
    data = place / "point.npz"
    if not data.exists():
        write_npz(data, point.episodes(12, camera=True), {})
    return {
        "data": {"path": str(data), "held_out": 0.2, "history": 2, "chunk": 3, "image_shift": 1},
        "policy": {"kind": "act", "width": 32, "ffn": 64, "heads": 2, "seed": 0},
        "train": {"output_dir": str(folder), "max_steps": STEPS, "save_steps": SAVED, "logging_steps": 1,
                  "per_device_train_batch_size": 8, "dataloader_num_workers": 2, "ema_decay": 0.9, "use_cpu": True,
                  "eval_strategy": "steps", "eval_steps": 4, "disable_tqdm": True, "learning_rate": 1e-3},
        "rollout": {"env": point.NAME, "episodes": 4, "workers": 0, "settings": {"camera": True},
                    "success": "terminated"},
    }  # fmt: skip


def outcome(trainer: Any) -> dict[str, Any]:
    """Return what must be the same: the average that is left, what a run goes on from, and all logged but times."""
    logs = [
        {name: value for name, value in entry.items() if not name.endswith(("runtime", "per_second"))}
        for entry in trainer.state.log_history
        if "train_loss" not in entry
    ]
    kept = folder.load(folder.checkpoints(trainer.run_folder)[-1] / "ema.pt")
    return {
        "weights": {name: p.flatten().tolist() for name, p in trainer.model.state_dict().items()},
        "last": {name: p.flatten().tolist() for name, p in kept["last"].items()},
        "updates": kept["updates"],
        "logs": logs,
    }


def run(place: Path, folder: Path, resume: bool) -> dict[str, Any]:
    """Train, or go on; return the outcome."""
    trainer = build(sections(place, folder))
    trainer.train(resume_from_checkpoint=True if resume else None)
    trainer.rollouts.close()
    return outcome(trainer)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(99)  # other seeds than those of the first process
    here = Path(sys.argv[1])
    (here / "resumed.json").write_text(json.dumps(run(here, here / "run", resume=True)))
