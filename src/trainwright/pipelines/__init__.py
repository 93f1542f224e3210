"""Data, model and trainer of a computer algebra task, each from its section of a configuration."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainwright.pipelines.dataset import DatasetPipeline as DatasetPipeline
    from trainwright.pipelines.io import IOPipeline as IOPipeline
    from trainwright.pipelines.model import ModelPipeline as ModelPipeline
    from trainwright.pipelines.trainer import TrainerPipeline as TrainerPipeline
    from trainwright.pipelines.trainer import load_from_checkpoint as load_from_checkpoint

_PLACES = {
    "DatasetPipeline": "dataset",
    "IOPipeline": "io",
    "ModelPipeline": "model",
    "TrainerPipeline": "trainer",
    "load_from_checkpoint": "trainer",
}

if not TYPE_CHECKING:
    __all__ = list(_PLACES)

    def __getattr__(name: str) -> Any:
        if name not in _PLACES:
            raise AttributeError(f"module 'trainwright.pipelines' has no attribute '{name}'")
        return getattr(importlib.import_module(f"trainwright.pipelines.{_PLACES[name]}"), name)
