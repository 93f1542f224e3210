"""What a checkpoint and its files are called, as transformers calls them where it has the same, and where they lie."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PREFIX = "checkpoint"
MANIFEST = "manifest.json"  # size and checksum of every other file; written last
RUN = "trainwright.json"  # which run it is of, how far it is, and what it was started with
STATE = "trainer_state.json"
ARGUMENTS = "training_args.bin"  # for other tools; never read here
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"  # which tensor lies in which file, where there are several
OPTIMIZER = "optimizer.pt"
SCHEDULER = "scheduler.pt"
SCALER = "scaler.pt"
AVERAGE = "ema.pt"  # the moving average of the weights
OTHERS = "others.pt"  # parameters that the optimizer trains beside the model's, such as those of a loss
REFERENCE = "reference.pt"  # the weights of a reference that follows the model
PARTS = "parts.pt"  # of a training loop of the user's own
RANK = "rng_state"  # what every rank keeps for itself; for the name of its file see `of_rank`
JSON = (RUN, STATE)

OLDER_WEIGHTS = re.compile(r"(pytorch|adapter)_model.*\.bin")
_OF_A_RANK = re.compile(rf"{RANK}(_[0-9]+)?\.pth")
_OF_A_SHARE = re.compile(r"(.+)-([0-9]+)-of-([0-9]+)\.safetensors")
_NAME = re.compile(rf"{PREFIX}-([0-9]+)")
_ALIKE = re.compile(rf"{PREFIX}-\d")


@dataclass(frozen=True)
class Share:
    """Which of the files that all processes write side by side is one's own: its number, from 0, and how many there
    are."""

    index: int = 0
    count: int = 1


def of_step(run_folder: Path, step: int) -> Path:
    """Return where the checkpoint of a step lies."""
    return run_folder / f"{PREFIX}-{step}"


def of_rank(rank: int, size: int) -> str:
    """Return the name of the file that a rank keeps for itself."""
    return f"{RANK}.pth" if size == 1 else f"{RANK}_{rank}.pth"


def of_share(file: str, share: Share) -> str:
    """Return the name of what one process writes of a file, such as `optimizer-00001-of-00002.safetensors`."""
    return f"{Path(file).stem}-{share.index + 1:05d}-of-{share.count:05d}.safetensors"


def shares_of(folder: Path, file: str) -> list[Path]:
    """Return what the processes have written of a file, in their order."""
    found = [(_OF_A_SHARE.fullmatch(path.name), path) for path in folder.glob(f"{Path(file).stem}-*.safetensors")]
    return [path for match, path in sorted(found, key=lambda one: one[1].name) if match and match[1] == Path(file).stem]


def holds_objects(name: str) -> bool:
    """Whether a file of this name is one that torch.save wrote and a resumed run reads."""
    return (
        name in (OPTIMIZER, SCHEDULER, SCALER, AVERAGE, OTHERS, REFERENCE, PARTS)
        or _OF_A_RANK.fullmatch(name) is not None
    )


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
