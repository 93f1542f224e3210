"""Ctrl-C in a command: finish the step, save, and say how to go on."""

from __future__ import annotations

import signal
import threading
from typing import Any

from trainwright.callbacks.base import TrainerCallback
from trainwright.state import TrainerControl, TrainerState


class InterruptCallback(TrainerCallback):
    """Turns the first SIGINT into a save and a stop after the present step; a second one leaves at once."""

    def __init__(self) -> None:
        self.asked = False
        self.stopped = False
        self.before: Any = None

    @property
    def exit_code(self) -> int:
        """0 for a run that went to its end, 128 + 2 for one that was interrupted."""
        return 128 + signal.SIGINT if self.stopped else 0

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Listen to Ctrl-C, in the main thread."""
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGINT, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, self.before)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop, if asked."""
        if self.asked and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Listen no longer, and say how to go on."""
        if self.before is not None and not self.asked:
            signal.signal(signal.SIGINT, self.before)
        if self.stopped and state.is_world_process_zero:
            print(
                f"Interrupted at step {state.global_step} of {state.max_steps}; saved in {args.output_dir}. "
                "The same command (train: with --resume) goes on from there.",
                flush=True,
            )
