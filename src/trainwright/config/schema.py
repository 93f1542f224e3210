"""What a run's YAML file may hold. The section and key names are Oumi's, where Oumi has the key.

Under `training` stands any argument of `TrainingArguments`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class ModelParams:
    """Which model is trained."""

    model_name: str = MISSING
    load_pretrained_weights: bool = True
    model_kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass
class DatasetParams:
    """One dataset: its name and what its reader is told."""

    dataset_name: str = MISSING
    dataset_kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass
class DatasetSplitParams:
    """The datasets of one split."""

    datasets: list[DatasetParams] = field(default_factory=list)


@dataclass
class DataParams:
    """What is learned from."""

    train: DatasetSplitParams = field(default_factory=DatasetSplitParams)


@dataclass
class RunConfig:
    """A whole run."""

    model: ModelParams = field(default_factory=ModelParams)
    data: DataParams = field(default_factory=DataParams)
    training: dict[str, Any] = field(default_factory=dict)
