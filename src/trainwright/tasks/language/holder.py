"""Oumi's interface around a trainer of Hugging Face's shape: ours, transformers' or TRL's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from trainwright.callbacks.beginning import BeginningCallback
from trainwright.checkpoint.lock import RunLock
from trainwright.checkpoint.model.adapters import save_merged, save_with_base
from trainwright.config.base import BaseTrainer
from trainwright.config.schema import PeftSaveMode, TrainingConfig
from trainwright.session.model_setup import users_configuration
from trainwright.trainer.face import session_of
from trainwright.trainer.trainer import Trainer


class TrainerAdapter(BaseTrainer):
    """Holds a trainer that was built from a configuration.

    Attributes:
        trainer: the trainer.
        config: what it was built from.
    """

    def __init__(self, trainer: Any, config: TrainingConfig) -> None:
        self.trainer = trainer
        self.config = config

    def begin_in(self, lock: RunLock, begin: Callable[[], object]) -> None:
        """Train in a folder that is owned already, and call a function when the training has begun."""
        self.trainer.folder_lock = lock
        self.trainer.add_callback(BeginningCallback(begin))

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
        mode = config.peft.peft_save_mode
        if not (final and config.training.use_peft) or mode is PeftSaveMode.ADAPTER_ONLY:
            self.trainer.save_model()
        elif self.trainer.is_world_process_zero():
            save = save_merged if mode is PeftSaveMode.MERGED else save_with_base
            with users_configuration(session_of(self.trainer)) if isinstance(self.trainer, Trainer) else nullcontext():
                save(self.trainer.model, Path(self.trainer.args.output_dir), self.trainer.processing_class)

    def get_last_eval_metrics(self) -> dict[str, Any]:
        """Return the metrics of the last evaluation; empty when there was none."""
        entries = [one for one in self.trainer.state.log_history if any(name.startswith("eval_") for name in one)]
        return dict(entries[-1]) if entries else {}
