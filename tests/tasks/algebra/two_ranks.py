"""What a rank does: `torchrun --nproc-per-node 2 -m tests.tasks.algebra.two_ranks FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from omegaconf import OmegaConf

from trainwright.pipelines import IOPipeline, ModelPipeline, TrainerPipeline
from trainwright.world import current_world


def run(folder: Path, out: Path) -> dict:
    """Evaluate a model twice: two sets of rows, and with a generation that fails on the last rank."""
    torch.set_num_threads(1)
    cfg = OmegaConf.load(folder / "configs" / "train.yaml")
    cfg.train.save_dir = str(out)
    io_dict = IOPipeline.from_config(cfg.data).build()
    model = ModelPipeline.from_io_dict({**cfg.model, "seed": 3, "init_std": 0.3}, io_dict).build()
    rows = io_dict["test_dataset"]
    io_dict["test_dataset"] = {"all": rows, "few": torch.utils.data.Subset(rows, range(5))}
    trainer = TrainerPipeline.from_io_dict(cfg.train, model, io_dict).build().trainer
    metrics = trainer.evaluate()
    world, told = current_world(), ""
    if world.rank == world.size - 1:
        model.generate = broken
    trainer.generation.worked = False
    try:
        trainer.evaluate()
    except RuntimeError as error:
        told = str(error)
    return {"metrics": {name: value for name, value in metrics.items() if "generation" in name}, "told": told}


def broken(*_, **__):
    raise RuntimeError("no generation on this rank")


if __name__ == "__main__":
    place = Path(sys.argv[1])
    found = run(place, place / "two")
    (place / f"rank{current_world().rank}.json").write_text(json.dumps(found))
