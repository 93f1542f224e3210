"""When to log, evaluate, save and stop, as the arguments say."""

from __future__ import annotations

from typing import Any

from trainwright.callbacks.base import TrainerCallback
from trainwright.state import TrainerControl, TrainerState


class DefaultFlowCallback(TrainerCallback):
    """Raises the flags that the loop acts on."""

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Raise the flags that are due at this step; at the last step, evaluation and saving by steps are due too."""
        step, last = state.global_step, state.global_step >= state.max_steps
        delayed = args.eval_delay > step
        if (step == 1 and args.logging_first_step) or (
            args.logging_strategy == "steps" and step % state.logging_steps == 0
        ):
            control.should_log = True
        if args.eval_strategy == "steps" and not delayed and (last or step % state.eval_steps == 0):
            control.should_evaluate = True
        if args.save_strategy == "steps" and (last or step % state.save_steps == 0):
            control.should_save = True
        if last:
            control.should_training_stop = True

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Raise the flags that are due at the end of an epoch."""
        if args.logging_strategy == "epoch":
            control.should_log = True
        if args.eval_strategy == "epoch" and args.eval_delay <= state.epoch:
            control.should_evaluate = True
        if args.save_strategy == "epoch":
            control.should_save = True
