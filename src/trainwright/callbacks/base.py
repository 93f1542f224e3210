"""The events of a run, and the order in which callbacks hear of them.

init_end
train_begin
    epoch_begin
        step_begin
            (substep_end) for every micro-batch but the last
            pre_optimizer_step, optimizer_step
        step_end
        log, evaluate (prediction_step for every batch), save: when a flag asks for it
    epoch_end
train_end
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainwright.state import TrainerControl, TrainerState

EVENTS = (
    "init_end", "train_begin", "train_end", "epoch_begin", "epoch_end", "step_begin", "pre_optimizer_step",
    "optimizer_step", "substep_end", "step_end", "evaluate", "predict", "save", "log", "prediction_step", "push_begin",
)  # fmt: skip
_LOWERED_BEFORE = {
    "train_begin": ("should_training_stop",),
    "epoch_begin": ("should_epoch_stop",),
    "step_begin": ("should_log", "should_evaluate", "should_save"),
    "evaluate": ("should_evaluate",),
    "save": ("should_save",),
    "log": ("should_log",),
}


class TrainerCallback:
    """Base of callbacks: every event does nothing.

    Each method gets the arguments, the state and the control of the run, and by keyword: model, processing_class,
    optimizer, lr_scheduler, train_dataloader, eval_dataloader. A control that is returned replaces the run's.
    """

    def on_init_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """The Trainer is built."""

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Training begins."""

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Training is over."""

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """A pass over the data begins."""

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """A pass over the data is over."""

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """An optimizer step begins."""

    def on_pre_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Gradients are complete and clipped."""

    def on_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """The parameters are updated; gradients are still there."""

    def on_substep_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """A micro-batch before the last of its step is done."""

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """An optimizer step is over."""

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """An evaluation is over; its numbers are in `metrics`."""

    def on_predict(self, args: Any, state: TrainerState, control: TrainerControl, metrics: Any, **kwargs: Any) -> Any:
        """A prediction is over."""

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """A checkpoint is written."""

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Numbers are logged; they are in `logs`."""

    def on_prediction_step(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """A batch of an evaluation is done."""

    def on_push_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """A push to the hub begins."""


class CallbackHandler:
    """Calls the callbacks in order, and only those that do something at an event."""

    def __init__(self, callbacks: list[Any], shared: dict[str, Any]) -> None:
        self.callbacks: list[Any] = []
        self.shared = shared
        self._listeners: dict[str, list[Callable[..., Any]]] = {}
        for callback in callbacks:
            self.add_callback(callback)

    def add_callback(self, callback: Any) -> None:
        """Add a callback, given as an instance or as a class."""
        self.callbacks.append(callback() if isinstance(callback, type) else callback)
        self._listeners = {}

    def pop_callback(self, callback: Any) -> Any:
        """Remove and return a callback, given as an instance or as a class; None where there is none."""
        for present in self.callbacks:
            if present is callback or (isinstance(callback, type) and isinstance(present, callback)):
                self.callbacks.remove(present)
                self._listeners = {}
                return present
        return None

    def remove_callback(self, callback: Any) -> None:
        """Remove a callback, given as an instance or as a class."""
        self.pop_callback(callback)

    def fire(
        self, event: str, args: Any, state: TrainerState, control: TrainerControl, **details: Any
    ) -> TrainerControl:
        """Tell every callback of an event and return the control that holds afterwards."""
        for flag in _LOWERED_BEFORE.get(event, ()):
            setattr(control, flag, False)
        for listener in self.listeners(event):
            returned = listener(args, state, control, **self.shared, **details)
            control = control if returned is None else returned
        return control

    def listeners(self, event: str) -> list[Callable[..., Any]]:
        """Return the methods that do something at an event."""
        found = self._listeners.get(event)
        if found is None:
            name = f"on_{event}"
            found = [getattr(c, name) for c in self.callbacks if not _does_nothing(c, name)]
            self._listeners[event] = found
        return found


def _does_nothing(callback: Any, name: str) -> bool:
    method = getattr(type(callback), name, None)
    inherited = getattr(method, "__qualname__", "") == f"TrainerCallback.{name}"
    return inherited and name not in vars(callback)
