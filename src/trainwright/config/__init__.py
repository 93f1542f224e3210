"""YAML and dotted overrides become dataclasses, and dataclasses become a run."""

from __future__ import annotations

import importlib
from typing import Any

_PLACES = {
    "TrainingConfig": "schema",
    "ModelParams": "schema",
    "DataParams": "schema",
    "DatasetParams": "schema",
    "DatasetSplitParams": "schema",
    "PeftParams": "schema",
    "FSDPParams": "elsewhere",
    "DeepSpeedParams": "elsewhere",
    "TrainingParams": "params",
    "TrainerType": "params",
    "MixedPrecisionDtype": "params",
    "BaseTrainer": "base",
    "load": "reading",
    "check": "reading",
    "build": "composition",
    "train": "composition",
}
__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'trainwright.config' has no attribute '{name}'")
    found = getattr(importlib.import_module(f"trainwright.config.{_PLACES[name]}"), name)
    globals()[name] = found
    return found
