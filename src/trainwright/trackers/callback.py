"""The callback by which a Trainer, ours or transformers', tells a tracker what it does. It knows neither library."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path
from typing import Any

from trainwright.checkpoint import layout
from trainwright.errors import Interrupted
from trainwright.trackers.tracker import Told, TrackedRun, Tracker


class SilentCallback:
    """Does nothing at every event of both libraries."""

    def _nothing(self, *_: Any, **__: Any) -> None:
        """Do nothing."""

    on_init_end = on_train_begin = on_train_end = on_epoch_begin = on_epoch_end = on_step_begin = on_step_end = _nothing
    on_substep_end = on_pre_optimizer_step = on_optimizer_step = on_evaluate = on_predict = _nothing
    on_prediction_step = on_log = on_save = on_push_begin = on_error = _nothing


class TrackerCallback(SilentCallback):
    """Tells a tracker what a training does, on the first rank.

    Args:
        tracker: what is told.
        name: of the tracker, in what is said where it fails.
    """

    def __init__(self, tracker: Tracker, name: str | None = None) -> None:
        self.tracker = tracker
        self._told = Told(tracker, name)
        self._run: TrackedRun | None = None
        self._begun = False
        self._trials = 0
        self.asks_to_stop = False

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """A run begins, or a trial of a search."""
        self.asks_to_stop = False
        trial = None
        if getattr(state, "is_hyper_param_search", False):
            trial = state.trial_name or f"run-{self._trials}"
            self._trials += 1
        self._run = run_of(args, model, trial, getattr(state, "trial_params", None))
        if _speaks(state):
            self._begun = True
            self._told.tell("begin", self._run)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """A step is done; save and stop where the tracker asks for it.

        Of several ranks one alone hears of it, so there the loop does that, after the same step on all of them.
        """
        if _speaks(state):
            self._told.tell("progress", state.global_step, state.max_steps)
            self.asks_to_stop = bool(self._told.tell("should_stop"))
            if self.asks_to_stop and getattr(args, "world_size", 1) == 1:
                control.should_save = control.should_training_stop = True
        return control

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, model: Any = None, **_: Any) -> None:
        """Numbers are logged; those after the end of a training, or without one, are a run begun once more."""
        if not _speaks(state):
            return
        late = not self._begun
        if late:
            self._run = self._run or run_of(args, model)
            self._told.tell("begin", self._run)
        metrics = {
            metric_name(name): value
            for name, value in (logs or {}).items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        self._told.tell("log", metrics, state.global_step)
        if late:
            self._told.tell("finish", "COMPLETE")

    def on_save(self, args: Any, state: Any, control: Any, checkpoint: Any = None, **_: Any) -> None:
        """A checkpoint is written: ours in the background, so it may be that of a step before."""
        path = Path(checkpoint or layout.of_step(Path(args.output_dir), state.global_step))
        number = path.name.rpartition("-")[2]
        if _speaks(state):
            self._told.tell("artifact", "checkpoint", path, int(number) if number.isdecimal() else None)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The run is over, also one that had nothing left to do."""
        if _speaks(state):
            self._told.tell("progress", state.global_step, state.max_steps)
        self._finish("STOPPED" if self.asks_to_stop else "COMPLETE")

    def on_error(self, args: Any, state: Any, control: Any, exception: Any = None, **_: Any) -> None:
        """The run dies, or a signal ends it."""
        pruned = getattr(sys.modules.get("optuna"), "TrialPruned", ())
        ended = {pruned: "STOPPED", (Interrupted, KeyboardInterrupt): "INTERRUPTED"}
        self._finish(next((status for kinds, status in ended.items() if isinstance(exception, kinds)), "FAILED"))

    def _finish(self, status: str) -> None:
        if self._begun:
            self._begun = False
            self._told.tell("finish", status)


def run_of(args: Any, model: Any, trial: str | None = None, tried: Any = None) -> TrackedRun:
    """Return what a tracker is told of a Trainer's run; its files go where transformers' TensorBoard files go."""
    output_dir = str(getattr(args, "output_dir", "") or "")
    sanitized = getattr(args, "to_sanitized_dict", None)
    config = getattr(getattr(model, "config", None), "to_dict", None)
    folder = Path(output_dir) / "runs" / f"{time.strftime('%b%d_%H-%M-%S')}_{socket.gethostname()}"
    return TrackedRun(
        name=getattr(args, "run_name", None) or Path(output_dir).name or "training",
        parameters=(tried or {}) if trial is not None else sanitized() if callable(sanitized) else {},
        folder=folder if trial is None else folder / trial,
        output_dir=output_dir,
        project=getattr(args, "project", None) or "",
        model_config=config() if callable(config) else {},
        trial=trial,
    )


def metric_name(name: str) -> str:
    """Return a metric's name as transformers writes it to its trackers: train/loss, eval/loss."""
    for kind in ("eval", "test"):
        if name.startswith(f"{kind}_"):
            return f"{kind}/{name[len(kind) + 1 :]}"
    return f"train/{name}"


def _speaks(state: Any) -> bool:
    return bool(getattr(state, "is_world_process_zero", True))
