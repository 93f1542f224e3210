"""YAML and dotted overrides become dataclasses, and dataclasses become a run."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainwright.config.base import BaseTrainer as BaseTrainer
    from trainwright.config.composition import build as build
    from trainwright.config.composition import train as train
    from trainwright.config.params import MixedPrecisionDtype as MixedPrecisionDtype
    from trainwright.config.params import TrainerType as TrainerType
    from trainwright.config.params import TrainingParams as TrainingParams
    from trainwright.config.reading.read import check as check
    from trainwright.config.reading.read import load as load
    from trainwright.config.schema import DataParams as DataParams
    from trainwright.config.schema import DatasetParams as DatasetParams
    from trainwright.config.schema import DatasetSplitParams as DatasetSplitParams
    from trainwright.config.schema import ModelParams as ModelParams
    from trainwright.config.schema import PeftParams as PeftParams
    from trainwright.config.schema import TrainingConfig as TrainingConfig
    from trainwright.config.unsupported import DeepSpeedParams as DeepSpeedParams
    from trainwright.config.unsupported import FSDPParams as FSDPParams

_PLACES = {
    "TrainingConfig": "schema",
    "ModelParams": "schema",
    "DataParams": "schema",
    "DatasetParams": "schema",
    "DatasetSplitParams": "schema",
    "PeftParams": "schema",
    "FSDPParams": "unsupported",
    "DeepSpeedParams": "unsupported",
    "TrainingParams": "params",
    "TrainerType": "params",
    "MixedPrecisionDtype": "params",
    "BaseTrainer": "base",
    "load": "reading.read",
    "check": "reading.read",
    "build": "composition",
    "train": "composition",
}

if not TYPE_CHECKING:
    __all__ = list(_PLACES)

    def __getattr__(name: str) -> Any:
        if name not in _PLACES:
            raise AttributeError(f"module 'trainwright.config' has no attribute '{name}'")
        found = getattr(importlib.import_module(f"trainwright.config.{_PLACES[name]}"), name)
        globals()[name] = found
        return found
