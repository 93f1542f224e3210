"""Which prompts a generation is of, and which of its completions a step is trained on: pure functions of the position.

The loader counts places: completions that are trained on, one after another. Of a pass, the first `span` places belong
to the first generation, which is trained on `iterations` times, and so on. So the place in the data, which checkpoints
keep, says all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from trainwright.data.contents import Contents
from trainwright.data.sampling.plan import Order


@dataclass(frozen=True)
class Schedule:
    """How the prompts of a pass become completions that are trained on.

    Attributes:
        order: of the prompts.
        completions: of a generation, over all ranks.
        group: completions of a prompt.
        iterations: how often a generation is trained on.
    """

    order: Order
    completions: int
    group: int
    iterations: int = 1

    @property
    def prompts(self) -> int:
        """Prompts of a generation."""
        return self.completions // self.group

    @property
    def generations(self) -> int:
        """Generations of a pass; prompts that make no whole one are left out of it."""
        return self.order.num_rows // self.prompts

    @property
    def span(self) -> int:
        """Places that a generation is for."""
        return self.completions * self.iterations

    def rows(self, epoch: int, number: int) -> list[int]:
        """Return the numbers of the prompts of a generation of a pass."""
        chosen: list[int] = self._order_of(epoch)[number * self.prompts : (number + 1) * self.prompts].tolist()
        return chosen

    def needed(self, start: int, end: int) -> range:
        """Return the numbers of the generations that the places from `start` to before `end` belong to."""
        return range(start // self.span, -(-end // self.span))

    def of_place(self, place: int) -> tuple[int, int]:
        """Return (generation, which of its shuffled completions) of a place."""
        return place // self.span, place % self.completions

    def shuffled(self, epoch: int, number: int) -> list[int]:
        """Return the completions of a generation in the order in which they are trained on."""
        generator = torch.Generator().manual_seed((self.order.seed + epoch) * 1_000_003 + number)
        order: list[int] = torch.randperm(self.completions, generator=generator).tolist()
        return order

    def _order_of(self, epoch: int) -> np.ndarray:
        if self._kept.get("epoch") != epoch:
            self._kept.update(epoch=epoch, rows=self.order.rows(epoch))
        rows: np.ndarray = self._kept["rows"]
        return rows

    @cached_property
    def _kept(self) -> dict[str, Any]:
        return {}


class Places(Dataset[Any]):
    """The places of a pass, as the rows of a dataset; `content` is what is data of it: the prompts.

    Args:
        schedule: of the run; may be replaced before the loader is made.
        content: the prompts.
    """

    def __init__(self, schedule: Schedule, content: Any) -> None:
        self.schedule = schedule
        self.content = content

    @property
    def contents(self) -> Contents:
        """What there is to write after."""
        return Contents(rows=len(self.content), part="what the model writes after the prompts")

    def __len__(self) -> int:
        return self.schedule.generations * self.schedule.span

    def __getitem__(self, index: int) -> int:
        return index


def as_places(rows: list[int]) -> dict[str, torch.Tensor]:
    """Return a micro-batch of places, which the stage replaces."""
    return {"places": torch.tensor(rows)[:, None]}
