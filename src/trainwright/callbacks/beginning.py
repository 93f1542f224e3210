"""What is done when a training has really begun: its folder is owned, its checkpoint is accepted, no step is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainwright.callbacks.base import TrainerCallback


class BeginningCallback(TrainerCallback):
    """Calls a function once, on the main process; for our Trainer and for transformers'."""

    def __init__(self, begin: Callable[[], object]) -> None:
        self.begin = begin
        self.has_begun = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Call it."""
        if state.is_world_process_zero and not self.has_begun:
            self.has_begun = True
            self.begin()
