"""The composition root: a run's description becomes a trainer that is ready to train."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainwright.checkpoint import layout
from trainwright.checkpoint.check import newest_valid
from trainwright.checkpoint.mirror.bringing import holds_any
from trainwright.config import methods
from trainwright.config.params import TrainingParams
from trainwright.config.reading.read import check
from trainwright.config.reading.translate import argument_values
from trainwright.config.schema import TrainingConfig
from trainwright.tasks.language.holder import TrainerAdapter

if TYPE_CHECKING:
    from trainwright.trainer.trainer import Trainer

# Models that bring their own way of building a Trainer: the module whose `build(model, data, arguments)` does it.
MODELS = {"ngram_llama": "trainwright.tasks.code.build"}


class ConfiguredTrainer(TrainerAdapter):
    """Our Trainer, built from a configuration."""

    def __init__(self, config: TrainingConfig) -> None:
        super().__init__(build_trainer(config), config)


def build_trainer(config: TrainingConfig) -> Trainer:
    """Return our Trainer for a run.

    Raises:
        ConfigError, DataError: something cannot be read, loaded, or does not fit.
    """
    special = MODELS.get(config.model.model_name or "")
    if special is not None:
        module: Any = importlib.import_module(special)
        dataset = config.data.train.datasets[0].dataset_kwargs
        values = {
            **argument_values(config.training, config.fsdp),
            "log_level": "passive",
        }  # the libraries keep their own levels
        trainer: Trainer = module.build(config.model, dataset, values)
        return trainer
    from trainwright.tasks.language.build import build as build_language

    return build_language(config)


def build(config: TrainingConfig) -> TrainerAdapter:
    """Return the trainer that a configuration chooses: ours, or another library's.

    Raises:
        ConfigError: the configuration cannot work; everything that can be known beforehand at once.
    """
    check(config)
    return built(config)


def built(config: TrainingConfig) -> TrainerAdapter:
    """Return the trainer of a configuration that is checked already, as `load_checked` does with a file."""
    if methods.is_elsewhere(config.training.trainer_type):
        from trainwright.upstream.build import build as build_upstream

        return build_upstream(config)
    return ConfiguredTrainer(config)


def newest(params: TrainingParams) -> bool | None:
    """Return True, which is the newest checkpoint, where the output folder holds one, be it damaged, or the place that
    mirrors it; else None.

    Another library's must be whole, for it leaves half of one where it is killed.
    """
    output = Path(params.output_dir or "output").expanduser()
    theirs = methods.is_elsewhere(params.trainer_type)
    if theirs:
        return True if newest_valid(output)[0] else None
    mirrored = params.checkpoint_mirror is not None and not layout.holds_any(output)
    return True if layout.holds_any(output) or (mirrored and holds_any(str(params.checkpoint_mirror))) else None


def starting_point(params: TrainingParams) -> str | bool | None:
    """Return what to go on from, None to begin: with `try_resume_from_last_checkpoint` the output folder's newest
    checkpoint where there is one, so that a command that is given again goes on; else `resume_from_checkpoint`."""
    own = newest(params) if params.try_resume_from_last_checkpoint else None
    return own or params.resume_from_checkpoint


def train(config: TrainingConfig) -> Any:
    """Train what a configuration describes; return the trainer's output.

    It goes on from `training.resume_from_checkpoint`, or with `try_resume_from_last_checkpoint` from the newest one, if
    there is one.

    Raises:
        CheckpointError: the checkpoint cannot be gone on from, or all of them are damaged.
    """
    trainer = build(config)
    return trainer.train(starting_point(config.training))
