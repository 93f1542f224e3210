"""Stops a run whose best metric no longer improves."""

from __future__ import annotations

import logging
import math
from typing import Any

from trainwright.callbacks.base import TrainerCallback
from trainwright.errors import ConfigError
from trainwright.state import TrainerControl, TrainerState

logger = logging.getLogger(__name__)


class EarlyStoppingCallback(TrainerCallback):
    """Stops after `early_stopping_patience` evaluations without an improvement above the threshold."""

    def __init__(self, early_stopping_patience: int = 1, early_stopping_threshold: float | None = 0.0) -> None:
        self.early_stopping_patience = early_stopping_patience
        self.early_stopping_threshold = early_stopping_threshold or 0.0
        self.early_stopping_patience_counter = 0

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Check that there is something to watch; count from 0, or from where a checkpoint left off."""
        if args.metric_for_best_model is None or args.eval_strategy == "no":
            raise ConfigError(
                "EarlyStoppingCallback watches a metric of the evaluation: set metric_for_best_model (such as "
                "'loss') and eval_strategy='steps' or 'epoch'."
            )
        if state.global_step == 0:
            self.early_stopping_patience_counter = 0

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count evaluations without improvement, before the state learns of this one's metric; NaN is none.

        Of several sets, only the one whose metric is watched counts; of a model that is not trained yet, none does.
        """
        if state.global_step == 0:
            return
        name = args.metric_for_best_model
        value = kwargs["metrics"].get(name if name.startswith("eval_") else f"eval_{name}")
        if value is None:
            return
        if self._is_better(float(value), state.best_metric, args.greater_is_better):
            self.early_stopping_patience_counter = 0
        else:
            self.early_stopping_patience_counter += 1
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True

    def _is_better(self, value: float, best: float | None, greater: bool | None) -> bool:
        if best is None or math.isnan(best):
            return not math.isnan(value)
        return (value - best if greater else best - value) > self.early_stopping_threshold

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of this callback."""
        return {
            "args": {
                "early_stopping_patience": self.early_stopping_patience,
                "early_stopping_threshold": self.early_stopping_threshold,
            },
            "attributes": {"early_stopping_patience_counter": self.early_stopping_patience_counter},
        }


def stay_stopped(callbacks: list[Any], state: TrainerState, control: TrainerControl) -> None:
    """Let a resumed run that was stopped early, by our class or by transformers', train no further step."""
    if state.global_step > 0 and any(_is_used_up(callback) for callback in callbacks):
        logger.warning("The run was stopped early; a larger early_stopping_patience lets it go on.")
        control.should_training_stop = True


def _is_used_up(callback: Any) -> bool:
    """Transformers' class is told by its attributes, so that it need not be imported."""
    counted = getattr(callback, "early_stopping_patience_counter", None)
    patience = getattr(callback, "early_stopping_patience", None)
    return isinstance(counted, int) and isinstance(patience, int) and counted >= patience
