"""What every trainer that a file can choose offers, ours or another library's: Oumi's interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from trainwright.config.schema import TrainingConfig


class BaseTrainer(ABC):
    """A trainer that was built from a configuration."""

    @abstractmethod
    def train(self, resume_from_checkpoint: str | bool | None = None) -> Any:
        """Train, from the start or from a checkpoint; True for the newest one of the run's folder."""

    @abstractmethod
    def save_state(self) -> None:
        """Write what the run knows of itself into its folder."""

    @abstractmethod
    def save_model(self, config: TrainingConfig, final: bool = True) -> None:
        """Write the model into the run's folder; `final` as `peft.peft_save_mode` says."""

    @abstractmethod
    def get_last_eval_metrics(self) -> dict[str, Any]:
        """Return the metrics of the last evaluation; empty when there was none."""
