"""What the loop does in one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class StepBatch:
    """One optimizer step's worth of data.

    Attributes:
        position: where the loader stands afterwards.
        batches: this rank's micro-batches.
        items: what each is weighed by; 0 for one without targets, or repeated to keep in step.
        total: items of all micro-batches of all ranks.
        shares: how much of its micro-batch each holds, 1 where none was cut; 0 for one repeated to keep in step.
    """

    position: int
    batches: list[Any]
    items: list[float]
    total: float
    shares: list[float]
