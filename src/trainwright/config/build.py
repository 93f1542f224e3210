"""The composition root: a run's description becomes a trainer that is ready to train."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from trainwright.config.base import BaseTrainer
from trainwright.config.load import check
from trainwright.config.params import UPSTREAM
from trainwright.config.schema import PeftSaveMode, TrainingConfig
from trainwright.config.translate import argument_values

if TYPE_CHECKING:
    from trainwright.engine.trainer import Trainer

# Models that bring their own way of building a Trainer: the module whose `build(model, data, arguments)` does it.
MODELS = {"ngram_llama": "trainwright.tasks.code.build"}


class ConfiguredTrainer(BaseTrainer):
    """Our Trainer, built from a configuration.

    Attributes:
        trainer: the Trainer.
        config: what it was built from.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.trainer = build_trainer(config)

    def train(self, resume_from_checkpoint: str | bool | None = None) -> Any:
        """Train, from the start or from a checkpoint, and save the model unless `save_final_model` is false."""
        output = self.trainer.train(resume_from_checkpoint=resume_from_checkpoint)
        if self.config.training.save_final_model:
            self.save_model(self.config)
        return output

    def save_state(self) -> None:
        """Write the state of the run into its folder."""
        self.trainer.save_state()

    def save_model(self, config: TrainingConfig, final: bool = True) -> None:
        """Write the model into the run's folder; adapters as `peft.peft_save_mode` says when it is final."""
        trainer, mode = self.trainer, config.peft.peft_save_mode
        if not (final and config.training.use_peft) or mode is PeftSaveMode.ADAPTER_ONLY:
            trainer.save_model()
            return
        from trainwright.models.adapters import save_merged, save_with_base

        save = save_merged if mode is PeftSaveMode.MERGED else save_with_base
        trainer.strategy.on_main(lambda: save(trainer.model, trainer.run_folder, trainer.processing_class))

    def get_last_eval_metrics(self) -> dict[str, Any]:
        """Return the metrics of the last evaluation; empty when there was none."""
        entries = [one for one in self.trainer.state.log_history if any(name.startswith("eval_") for name in one)]
        return dict(entries[-1]) if entries else {}


def build_trainer(config: TrainingConfig) -> Trainer:
    """Return our Trainer for a run.

    Raises:
        ConfigError, DataError: something cannot be read, loaded, or does not fit.
    """
    special = MODELS.get(config.model.model_name or "")
    if special is not None:
        module: Any = importlib.import_module(special)
        dataset = config.data.train.datasets[0].dataset_kwargs
        return module.build(config.model, dataset, argument_values(config.training))
    from trainwright.tasks.language.build import build as build_language

    return build_language(config)


def build(config: TrainingConfig) -> BaseTrainer:
    """Return the trainer that a configuration chooses: ours, or another library's.

    Raises:
        ConfigError: the configuration cannot work; everything that can be known beforehand at once.
    """
    check(config)
    if config.training.trainer_type in UPSTREAM:
        from trainwright.upstream.build import build as build_upstream

        return build_upstream(config)
    return ConfiguredTrainer(config)


def train(config: TrainingConfig) -> Any:
    """Train what a configuration describes; return the trainer's output.

    It goes on from `training.resume_from_checkpoint`, or with `try_resume_from_last_checkpoint` from the newest one.
    """
    params = config.training
    return build(config).train(params.resume_from_checkpoint or params.try_resume_from_last_checkpoint or None)
