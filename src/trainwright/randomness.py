"""The random number streams of a process: seeding, saving, restoring. The file is that of transformers."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch


def set_seed(seed: int, deterministic: bool = False) -> None:
    """Seed python's, numpy's and torch's random numbers, on all devices.

    Args:
        seed: the seed.
        deterministic: also use deterministic algorithms, which may be slower.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may sum in any order
        torch.use_deterministic_algorithms(True)


def states() -> dict[str, Any]:
    """Return the states of all streams of this process."""
    streams: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "cpu": torch.random.get_rng_state(),
    }
    if torch.cuda.is_available():
        streams["cuda"] = torch.cuda.random.get_rng_state()
    return streams


def restore(streams: dict[str, Any]) -> None:
    """Put the streams back to saved states."""
    random.setstate(streams["python"])
    np.random.set_state(streams["numpy"])
    torch.random.set_rng_state(streams["cpu"])
    if torch.cuda.is_available() and "cuda" in streams:
        cuda = streams["cuda"]
        torch.cuda.random.set_rng_state(cuda[torch.cuda.current_device()] if isinstance(cuda, list) else cuda)


def file_name(rank: int, size: int) -> str:
    """Return the name of a rank's file in a checkpoint."""
    return "rng_state.pth" if size == 1 else f"rng_state_{rank}.pth"


def load(path: Path) -> dict[str, Any]:
    """Read saved states; nothing but arrays and numbers is unpickled."""
    rebuild = np.random.get_state()[1].__reduce__()[0]  # type: ignore[index]
    allowed = [np.ndarray, np.dtype, rebuild, type(np.dtype(np.uint32))]
    with torch.serialization.safe_globals(allowed):
        return torch.load(path, weights_only=True)
