"""A configuration made short, to see whether everything works together."""

from __future__ import annotations

from typing import Any

MOST = {"num_train_samples": 1000, "num_test_samples": 100}
BATCH = 8
EVERY = 10  # steps


def apply_dryrun_settings(cfg: Any) -> None:
    """Change a configuration with the sections `train` and `data`, OmegaConf's or a mapping, in place: one pass over at
    most 1,000 problems, small batches, no workers, an evaluation and a checkpoint every 10 steps. Whether W&B is used
    stays as it is; its names begin with `dryrun-` then."""
    train = cfg["train"]
    train["num_train_epochs"], train["num_workers"] = 1, 0
    for name in ("batch_size", "test_batch_size"):
        train[name] = min(train.get(name) or BATCH, BATCH)
    train["eval_steps"] = train["save_steps"] = EVERY
    for name in ("eval_strategy", "save_strategy"):
        train[name] = train.get(name) or "steps"
    for wandb in (cfg.get("wandb"), train.get("wandb")):
        for name in ("name", "group"):
            given = "" if wandb is None else str(wandb.get(name) or "")
            if wandb is not None and not given.startswith("dryrun"):
                wandb[name] = f"dryrun-{given}" if given else "dryrun"
    for name, most in MOST.items():
        given = cfg["data"].get(name)
        cfg["data"][name] = most if given is None or not 0 < given <= most else given


def count_cuda_devices() -> int:
    """Return how many CUDA devices there are; 1 where there is none."""
    import torch

    return max(torch.cuda.device_count(), 1)
