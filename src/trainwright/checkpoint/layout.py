"""What a checkpoint and its files are called, as transformers calls them where it has the same, and where they lie."""

from __future__ import annotations

import re
from pathlib import Path

PREFIX = "checkpoint"
MANIFEST = "manifest.json"  # size and checksum of every other file; written last
RUN = "trainwright.json"  # which run it is of, how far it is, and what it was started with
STATE = "trainer_state.json"
ARGUMENTS = "training_args.bin"  # for other tools; never read here
WEIGHTS = "model.safetensors"
OPTIMIZER = "optimizer.pt"
SCHEDULER = "scheduler.pt"
SCALER = "scaler.pt"
AVERAGE = "ema.pt"  # the moving average of the weights
OTHERS = "others.pt"  # parameters that the optimizer trains beside the model's, such as those of a loss
PARTS = "parts.pt"  # of a training loop of the user's own
RANK = "rng_state"  # what every rank keeps for itself; for the name of its file see `of_rank`
JSON = (RUN, STATE)

OLDER_WEIGHTS = re.compile(r"(pytorch|adapter)_model.*\.bin")
_OF_A_RANK = re.compile(rf"{RANK}(_[0-9]+)?\.pth")
_NAME = re.compile(rf"{PREFIX}-([0-9]+)")
_ALIKE = re.compile(rf"{PREFIX}-\d")


def of_step(run_folder: Path, step: int) -> Path:
    """Return where the checkpoint of a step lies."""
    return run_folder / f"{PREFIX}-{step}"


def of_rank(rank: int, size: int) -> str:
    """Return the name of the file that a rank keeps for itself."""
    return f"{RANK}.pth" if size == 1 else f"{RANK}_{rank}.pth"


def holds_objects(name: str) -> bool:
    """Whether a file of this name is one that torch.save wrote and a resumed run reads."""
    return name in (OPTIMIZER, SCHEDULER, SCALER, AVERAGE, OTHERS, PARTS) or _OF_A_RANK.fullmatch(name) is not None


def step_of(folder: Path) -> int:
    """Return the step in the name of a checkpoint; -1 for other names."""
    match = _NAME.fullmatch(folder.name)
    return int(match[1]) if match else -1


def checkpoints(run_folder: Path) -> list[Path]:
    """Return the checkpoints in a run's folder, whole or damaged, oldest step first."""
    found = [(step_of(path), path) for path in _inside(run_folder) if _NAME.fullmatch(path.name)]
    return [path for _, path in sorted(found)]


def misnamed(run_folder: Path) -> list[Path]:
    """Return folders that look like checkpoints, but whose names are not `checkpoint-<step>`."""
    return [path for path in _inside(run_folder) if _ALIKE.match(path.name) and not _NAME.fullmatch(path.name)]


def holds_any(run_folder: Path) -> bool:
    """Whether a run's folder holds a checkpoint, whole or damaged."""
    return bool(checkpoints(run_folder) or misnamed(run_folder))


def _inside(run_folder: Path) -> list[Path]:
    return [path for path in run_folder.iterdir() if path.is_dir()] if run_folder.is_dir() else []
