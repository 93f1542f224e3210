"""The composition root: a run's description becomes a Trainer that is ready to train."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from trainwright.config.schema import RunConfig
from trainwright.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from trainwright.engine.trainer import Trainer

# The datasets that can be named in a file, and the module whose `build(config)` makes the Trainer for them.
DATASETS = {"python_source": "trainwright.tasks.code.build"}


def build(config: RunConfig) -> Trainer:
    """Return the Trainer for a run.

    Raises:
        ConfigError: no dataset is named, or an unknown one.
    """
    datasets = config.data.train.datasets
    if not datasets:
        raise ConfigError("The file names no data: give data.train.datasets with one dataset_name.")
    name = datasets[0].dataset_name
    if name not in DATASETS:
        known = ", ".join(DATASETS)
        raise ConfigError(f"Unknown dataset_name '{name}'.{did_you_mean(name, DATASETS)} Known: {known}.")
    module: Any = importlib.import_module(DATASETS[name])
    return module.build(config.model, datasets[0].dataset_kwargs, config.training)
