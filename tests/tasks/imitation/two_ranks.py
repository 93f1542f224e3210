"""What a rank does: `torchrun --nproc-per-node 2 -m tests.tasks.imitation.two_ranks FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from tests.tasks.imitation import point
from trainwright.tasks.imitation.run import build
from trainwright.world import current_world


def sections(place: Path, folder: Path) -> dict[str, Any]:
    """Return a configuration for demonstrations that are there."""
    return {
        "data": {"path": str(place / "point.npz"), "chunk": 2},
        "policy": {"kind": "mlp", "width": 16, "seed": 0},
        "train": {"output_dir": str(folder), "max_steps": 2, "eval_strategy": "steps", "eval_steps": 2,
                  "per_device_train_batch_size": 8, "use_cpu": True, "save_strategy": "no", "disable_tqdm": True},
        "rollout": {"env": point.NAME, "episodes": 5, "workers": 0, "success": "terminated", "film": 1},
    }  # fmt: skip


def run(place: Path, folder: Path) -> dict[str, Any]:
    """Evaluate, train, and evaluate where the environment fails on the last rank; return what each gave."""
    torch.set_num_threads(1)
    trainer = build(sections(place, folder))
    rollouts = trainer.rollouts
    assert rollouts is not None
    before = trainer.evaluate()
    trainer.train()
    world, done = current_world(), [entry for entry in trainer.state.log_history if "eval_return" in entry]
    if world.rank == world.size - 1:
        rollouts._envs.step = broken
    try:
        trainer.evaluate()
        told = ""
    except RuntimeError as error:
        told = str(error)
    rollouts.close()
    kept = ("eval_success_rate", "eval_return", "eval_episode_length")
    return {"before": [before[name] for name in kept], "after": [done[-1][name] for name in kept], "told": told}


def broken(*_: Any) -> None:
    """Fail as an environment may."""
    raise RuntimeError("no world on this rank")


if __name__ == "__main__":
    here = Path(sys.argv[1])
    found = run(here, here / "two")
    (here / f"rank{current_world().rank}.json").write_text(json.dumps(found))
