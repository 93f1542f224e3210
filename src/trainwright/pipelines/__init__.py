"""Data, model and trainer of a computer algebra task, each from its section of a configuration."""

from __future__ import annotations

import importlib
from typing import Any

_PLACES = {
    "DatasetPipeline": "dataset",
    "IOPipeline": "io",
    "ModelPipeline": "model",
    "TrainerPipeline": "trainer",
    "load_from_checkpoint": "trainer",
}
__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'trainwright.pipelines' has no attribute '{name}'")
    return getattr(importlib.import_module(f"trainwright.pipelines.{_PLACES[name]}"), name)
