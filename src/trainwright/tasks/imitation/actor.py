"""A policy at work: what it has seen, the chunk of actions it is in, for several environments in step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from trainwright.tasks.imitation.observations import as_learned


class Predicts(Protocol):
    """What an actor asks of a policy."""

    config: Any

    @property
    def device(self) -> torch.device:
        """Where it lies."""

    @property
    def sees(self) -> Any:
        """The observations that it has learned to see."""

    def predict(self, batch: Any, generators: Any = None) -> torch.Tensor:
        """Return the actions of some moments."""


class Actor:
    """Acts for several environments whose episodes began together.

    Args:
        policy: in evaluation mode.
        seeds: of every environment's episode, for policies that draw their actions.
    """

    def __init__(self, policy: Predicts, seeds: Sequence[int]) -> None:
        self.policy, self.config = policy, policy.config
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.moments: list[dict[str, np.ndarray]] = []
        self.chunks: list[np.ndarray] = []  # (count, chunk, size), the newest last
        self.ages: list[int] = []

    def act(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        """Return the next actions, (count, size), or (count,) of discrete ones, for observations (count, ...).

        Raises:
            DataError: observations other than the policy has learned to see.
        """
        observation = as_learned(self.policy.sees, observation)
        self.moments = [*self.moments, observation][-self.config.history :]
        every = self.config.chunk if self.config.execute is None else self.config.execute
        if not self.chunks or self.config.ensemble or self.ages[-1] + 1 >= min(every, self.config.chunk):
            self.ages = [age + 1 for age in self.ages]
            self._ask()
        else:
            self.ages = [age + 1 for age in self.ages]
        chosen = self._ensembled() if self.config.ensemble else self.chunks[-1][:, self.ages[-1]]
        return chosen.argmax(-1) if self.config.discrete else chosen

    def _ask(self) -> None:
        device = self.policy.device
        filled = [self.moments[0]] * (self.config.history - len(self.moments)) + self.moments
        batch = {
            name: torch.from_numpy(np.stack([one[name] for one in filled], axis=1)).to(device) for name in filled[0]
        }
        said = self.policy.predict(batch, self.generators).float().cpu().numpy()
        keep = self.config.chunk if self.config.ensemble else 1
        self.chunks, self.ages = [*self.chunks, said][-keep:], [*self.ages, 0][-keep:]

    def _ensembled(self) -> np.ndarray:
        """Return the mean of what all chunks say of this moment, the oldest weighing most: exp(-ensemble · i)."""
        said = [chunk[:, age] for chunk, age in zip(self.chunks, self.ages, strict=True) if age < self.config.chunk]
        weights = np.exp(-self.config.ensemble * np.arange(len(said)))
        return np.tensordot(weights / weights.sum(), np.stack(said), axes=1)
