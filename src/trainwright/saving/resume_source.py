"""A checkpoint to go on from, as far as it tells of itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainwright.state import TrainerState


@dataclass
class Saved:
    """A checkpoint to go on from: its folder, its progress, and what else it tells (empty for transformers' own)."""

    folder: Path
    state: TrainerState
    about: dict[str, Any]

    @property
    def data(self) -> dict[str, Any]:
        """What defined the order of the data; of older checkpoints, as far as they tell."""
        return {"ranks": self.about.get("ranks", 1), **self.about["data"]} if "data" in self.about else {}
