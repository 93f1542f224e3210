"""Data, model and trainer of a computer algebra task, each from its section of a configuration."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainwright.pipelines.dataset import DatasetPipeline as DatasetPipeline
    from trainwright.pipelines.dryrun import apply_dryrun_settings as apply_dryrun_settings
    from trainwright.pipelines.dryrun import count_cuda_devices as count_cuda_devices
    from trainwright.pipelines.io import IOPipeline as IOPipeline
    from trainwright.pipelines.model import ModelPipeline as ModelPipeline
    from trainwright.pipelines.trainer import TrainerPipeline as TrainerPipeline
    from trainwright.pipelines.trainer import load_from_checkpoint as load_from_checkpoint
    from trainwright.tasks.algebra.load_preprocessors import ChainLoadPreprocessor as ChainLoadPreprocessor
    from trainwright.tasks.algebra.load_preprocessors import (
        ExpandedFormLoadPreprocessor as ExpandedFormLoadPreprocessor,
    )
    from trainwright.tasks.algebra.load_preprocessors import (
        JsonlDefaultLoadPreprocessor as JsonlDefaultLoadPreprocessor,
    )
    from trainwright.tasks.algebra.load_preprocessors import LastElementLoadPreprocessor as LastElementLoadPreprocessor
    from trainwright.tasks.algebra.load_preprocessors import (
        PickleDefaultLoadPreprocessor as PickleDefaultLoadPreprocessor,
    )
    from trainwright.tasks.algebra.load_preprocessors import (
        ReversedOrderLoadPreprocessor as ReversedOrderLoadPreprocessor,
    )
    from trainwright.tasks.algebra.load_preprocessors import TextDefaultLoadPreprocessor as TextDefaultLoadPreprocessor
    from trainwright.tasks.algebra.load_preprocessors import TextToSageLoadPreprocessor as TextToSageLoadPreprocessor
    from trainwright.tasks.algebra.load_preprocessors import (
        UserCallableLoadPreprocessor as UserCallableLoadPreprocessor,
    )
    from trainwright.tasks.algebra.models.embeddings import register_input_embedding as register_input_embedding
    from trainwright.tasks.algebra.trainer import Trainer as Trainer

_HERE, _TASK = "trainwright.pipelines.", "trainwright.tasks.algebra."
_PLACES = {
    "DatasetPipeline": f"{_HERE}dataset",
    "IOPipeline": f"{_HERE}io",
    "ModelPipeline": f"{_HERE}model",
    "TrainerPipeline": f"{_HERE}trainer",
    "load_from_checkpoint": f"{_HERE}trainer",
    "apply_dryrun_settings": f"{_HERE}dryrun",
    "count_cuda_devices": f"{_HERE}dryrun",
    "Trainer": f"{_TASK}trainer",
    **dict.fromkeys(
        (
            "ChainLoadPreprocessor", "ExpandedFormLoadPreprocessor", "JsonlDefaultLoadPreprocessor",
            "LastElementLoadPreprocessor", "PickleDefaultLoadPreprocessor", "ReversedOrderLoadPreprocessor",
            "TextDefaultLoadPreprocessor", "TextToSageLoadPreprocessor", "UserCallableLoadPreprocessor",
        ),
        f"{_TASK}load_preprocessors",
    ),
    "register_input_embedding": f"{_TASK}models.embeddings",
}  # fmt: skip

if not TYPE_CHECKING:
    __all__ = list(_PLACES)

    def __getattr__(name: str) -> Any:
        if name not in _PLACES:
            raise AttributeError(f"module 'trainwright.pipelines' has no attribute '{name}'")
        return getattr(importlib.import_module(_PLACES[name]), name)
