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
train_end, or error: when the run dies before that
"""

from __future__ import annotations

import difflib
import logging
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from trainwright.args.signatures import check_call, check_returned, is_of
from trainwright.errors import ConfigError, add_note, did_you_mean
from trainwright.state import TrainerControl, TrainerState
from trainwright.trackers.callback import TrackerCallback
from trainwright.trackers.tracker import Tracker

logger = logging.getLogger("trainwright")
_LOWERED_BEFORE = {
    "train_begin": ("should_training_stop",),
    "epoch_begin": ("should_epoch_stop",),
    "step_begin": ("should_log", "should_evaluate", "should_save"),
}
"""The other flags the loop lowers when it acts on them: what a callback logs or evaluates itself leaves them raised."""
# What is told of an event besides.
DETAILS = {"log": "logs", "evaluate": "metrics", "predict": "metrics", "save": "checkpoint", "error": "exception"}


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

    def on_error(
        self, args: Any, state: TrainerState, control: TrainerControl, exception: BaseException, **kwargs: Any
    ) -> Any:
        """The run dies of an exception, after what was done is saved; `on_train_end` does not come."""


def _method(event: str) -> Callable[..., TrainerControl]:
    """Return the method of an event that overrides written for transformers call: `handler.on_evaluate(...)`."""
    detail = DETAILS.get(event)

    def call(
        self: CallbackHandler, args: Any, state: TrainerState, control: TrainerControl, *last: Any, **details: Any
    ) -> TrainerControl:
        given = {detail: last[0]} if detail is not None and last else {}
        return self.fire(event, args, state, control, **given, **details)

    return call


def _part(name: str) -> property:
    """Return the attribute that reads and sets what every callback gets by this keyword."""
    return property(
        lambda self: self.shared.get(name), lambda self, value: self.shared.__setitem__(name, value), doc=f"The {name}."
    )


class CallbackHandler:
    """Calls the callbacks in order, and only those that do something at an event; within `around`."""

    model = _part("model")
    processing_class = _part("processing_class")
    optimizer = _part("optimizer")
    lr_scheduler = _part("lr_scheduler")
    train_dataloader = _part("train_dataloader")
    eval_dataloader = _part("eval_dataloader")
    on_init_end = _method("init_end")
    on_train_begin = _method("train_begin")
    on_train_end = _method("train_end")
    on_epoch_begin = _method("epoch_begin")
    on_epoch_end = _method("epoch_end")
    on_step_begin = _method("step_begin")
    on_pre_optimizer_step = _method("pre_optimizer_step")
    on_optimizer_step = _method("optimizer_step")
    on_substep_end = _method("substep_end")
    on_step_end = _method("step_end")
    on_evaluate = _method("evaluate")
    on_predict = _method("predict")
    on_save = _method("save")
    on_log = _method("log")
    on_prediction_step = _method("prediction_step")
    on_push_begin = _method("push_begin")
    on_error = _method("error")

    def __init__(
        self,
        callbacks: list[Any],
        shared: dict[str, Any],
        around: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.callbacks: list[Any] = []
        self.shared = shared
        self.around = around
        self._listeners: dict[str, list[Callable[..., Any]]] = {}
        for callback in callbacks:
            self.add_callback(callback)

    def add_callback(self, callback: Any) -> None:
        """Add a callback, or a tracker, or what is both, given as an instance or as a class.

        Raises:
            ConfigError: it is neither.
        """
        made = callback() if isinstance(callback, type) else callback
        hears = any(name.startswith("on_") for name in dir(made))
        if not hears and not isinstance(made, Tracker):
            raise ConfigError(
                f"callbacks= holds {made!r:.80}, which hears of nothing: a callback has methods such as on_step_end "
                "(derive it from trainwright.TrainerCallback), and a tracker derives from trainwright.Tracker."
            )
        if isinstance(made, Tracker):
            self.callbacks.append(TrackerCallback(made))
        if hears:
            self._check(made)
            self.callbacks.append(made)
        self._listeners = {}

    def _check(self, callback: Any) -> None:
        """Say which of its methods are of no event.

        Raises:
            ConfigError: one has nearly the name of an event, or does not take what is told of it.
        """
        for name in [one for one in dir(callback) if one.startswith("on_")]:
            if name not in _EVENTS:
                _say_unheard(callback, name)
                continue
            method, detail = getattr(callback, name), DETAILS.get(name.removeprefix("on_"))
            if not is_of(method, "trainwright"):
                told = [*self.shared, *([detail] if detail else [])]
                check_call(method, f"{type(callback).__name__}.{name}", ("args", "state", "control"), told)

    def pop_callback(self, callback: Any) -> Any:
        """Remove and return a callback, given as an instance or as a class; None where there is none.

        transformers' classes of flow, progress, printing, early stopping and TensorBoard stand for ours.
        """
        for present in self.callbacks:
            is_it = present is callback or (callback is not None and getattr(present, "tracker", None) is callback)
            if is_it or (isinstance(callback, type) and _is_a(present, callback)):
                found = present.tracker if isinstance(present, TrackerCallback) else present
                both = (present, found)  # a tracker that is a callback stands there twice
                self.callbacks[:] = [one for one in self.callbacks if not any(one is part for part in both)]
                self._listeners = {}
                return found
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
        return self._tell(event, args, state, control, details) if self.listeners(event) else control

    def call_event(
        self, event: str, args: Any, state: TrainerState, control: TrainerControl, **details: Any
    ) -> TrainerControl:
        """Tell every callback of an event by the name of its method, which may be one of the user's own.

        No flag is lowered before; `on_step_begin(args, state, control)` and its kin lower those of their event.
        """
        return self._tell(event.removeprefix("on_"), args, state, control, details)

    def _tell(
        self, event: str, args: Any, state: TrainerState, control: TrainerControl, details: dict[str, Any]
    ) -> TrainerControl:
        if not (listeners := self.listeners(event)):
            return control
        with self.around():
            for listener in listeners:
                returned = listener(args, state, control, **self.shared, **details)
                if returned is not None:
                    if not hasattr(returned, "should_training_stop"):
                        name = f"{type(getattr(listener, '__self__', listener)).__name__}.on_{event}"
                        check_returned(False, returned, name, "the control that it was given, or nothing")
                    control = returned
        return control

    def tell_error(self, args: Any, state: TrainerState, control: TrainerControl, error: BaseException) -> None:
        """Tell every callback that the run dies; what fails meanwhile becomes a note of the error."""
        for listener in self.listeners("error"):
            try:
                listener(args, state, control, **self.shared, exception=error)
            except Exception as second:
                owner = type(getattr(listener, "__self__", listener)).__name__
                add_note(error, f"{owner}.on_error failed too ({type(second).__name__}: {second}).")

    @property
    def callback_list(self) -> str:
        """The names of the callbacks, one a line."""
        return "\n".join(type(callback).__name__ for callback in self.callbacks)

    def listeners(self, event: str) -> list[Callable[..., Any]]:
        """Return the methods that do something at an event."""
        found = self._listeners.get(event)
        if found is None:
            name = f"on_{event}"
            found = [getattr(c, name) for c in self.callbacks if not _does_nothing(c, name)]
            self._listeners[event] = found
        return found


_EVENTS = [name for name in vars(CallbackHandler) if name.startswith("on_")]


def _say_unheard(callback: Any, name: str) -> None:
    """Say that a method is of no event.

    Raises:
        ConfigError: it is one, but for a slip of the pen.
    """
    method, called = getattr(callback, name), f"{type(callback).__name__}.{name}"
    if not callable(method):
        return
    if difflib.get_close_matches(name, _EVENTS, n=1, cutoff=0.9):
        raise ConfigError(f"{called} is of no event, so it would never be called.{did_you_mean(name, _EVENTS)}")
    if not is_of(method, "transformers"):
        logger.warning(
            "%s is of no event of a run, so it is called only by callback_handler.call_event; the events are %s.",
            called, ", ".join(_EVENTS),
        )  # fmt: skip


def _bases() -> tuple[type, ...]:
    """Return the classes whose events do nothing: ours, and transformers' where it is loaded."""
    theirs = getattr(sys.modules.get("transformers.trainer_callback"), "TrainerCallback", TrainerCallback)
    return (TrainerCallback, theirs)


def _does_nothing(callback: Any, name: str) -> bool:
    method = getattr(callback, name, None)
    inherited = [getattr(base, name, None) for base in _bases()]
    return method is None or getattr(method, "__func__", method) in inherited


def _is_a(callback: Any, kind: type) -> bool:
    """Whether a callback is of a class, or of ours that does what transformers' class of that name does."""
    if isinstance(callback, TrackerCallback):
        return isinstance(callback.tracker, kind) or callback.tracker.replaces == kind.__name__
    if isinstance(callback, kind):
        return True
    stands_for = kind.__name__ if kind.__module__ == "transformers.trainer_callback" else None
    return any(
        base.__name__ == stands_for and base.__module__.startswith("trainwright.callbacks.")
        for base in type(callback).__mro__
    )
