"""What a run knows about itself, and what it gives back: plain records without behaviour of the engine.

The field names are those of transformers, so that callbacks and `trainer_state.json` mean the same in both.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, Protocol

UNKNOWN = sys.maxsize  # steps of a run by passes over a stream


@dataclass
class TrainerState:
    """Progress of a run, saved in every checkpoint as `trainer_state.json`."""

    epoch: float = 0
    global_step: int = 0
    max_steps: int = 0
    logging_steps: int = 500
    eval_steps: int = 500
    save_steps: int = 500
    train_batch_size: int | None = None
    num_train_epochs: int = 0
    num_input_tokens_seen: int = 0
    total_flos: float = 0
    log_history: list[dict[str, Any]] = field(default_factory=list)
    best_metric: float | None = None
    best_global_step: int | None = None
    best_model_checkpoint: str | None = None
    is_local_process_zero: bool = True
    is_world_process_zero: bool = True
    is_hyper_param_search: bool = False
    trial_name: str | None = None
    trial_params: dict[str, Any] | None = None
    stateful_callbacks: dict[str, Any] = field(default_factory=dict)

    def save_to_json(self, json_path: str | Path) -> None:
        """Write the state as JSON; numbers of other libraries become Python's, what JSON has no form for its text."""
        Path(json_path).write_text(self.to_json(), encoding="utf-8")

    def to_json(self) -> str:
        """Return what `save_to_json` writes."""
        return json.dumps(asdict(self), indent=2, sort_keys=True, default=as_json) + "\n"

    @classmethod
    def load_from_json(cls, json_path: str | Path) -> TrainerState:
        """Read a state written by this class or by transformers; fields unknown here are passed over."""
        saved = json.loads(Path(json_path).read_text(encoding="utf-8"))
        known = {f.name for f in fields(cls)}
        return cls(**{name: value for name, value in saved.items() if name in known})

    def step_of(self, between: str = " of ") -> str:
        """Return the step and the number of all steps, where that is known: `4 of 10`."""
        return str(self.global_step) + (f"{between}{self.max_steps}" if self.max_steps < UNKNOWN else "")

    def compute_steps(self, args: StepIntervals, max_steps: int) -> None:
        """Turn logging, evaluation and save intervals below 1 into shares of `max_steps`, rounded up."""
        for kind in ("logging", "eval", "save"):
            steps = getattr(args, f"{kind}_steps")
            if steps is not None:
                setattr(self, f"{kind}_steps", math.ceil(max_steps * steps) if steps < 1 else int(steps))


def as_json(value: Any) -> Any:
    """Return a value that JSON has no form for as plain numbers, or as text."""
    to_list = getattr(value, "tolist", None)
    return to_list() if callable(to_list) else str(value)


class StepIntervals(Protocol):
    """The three arguments that `TrainerState.compute_steps` reads."""

    logging_steps: float
    eval_steps: float | None
    save_steps: float


@dataclass
class TrainerControl:
    """The flags by which callbacks steer the loop; the loop lowers each when it has acted on it."""

    should_training_stop: bool = False
    should_epoch_stop: bool = False
    should_save: bool = False
    should_evaluate: bool = False
    should_log: bool = False

    def state(self) -> dict[str, Any]:
        """Return the flags in the form that `trainer_state.json` keeps."""
        return {"args": asdict(self), "attributes": {}}


class EvalPrediction:
    """Predictions and labels of an evaluation, handed to `compute_metrics`; unpacks like a tuple."""

    def __init__(self, predictions: Any, label_ids: Any, inputs: Any = None, losses: Any = None) -> None:
        self.predictions = predictions
        self.label_ids = label_ids
        self.inputs = inputs
        self.losses = losses
        optional = tuple(part for part in (inputs, losses) if part is not None)
        self.elements = (predictions, label_ids, *optional)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.elements)

    def __getitem__(self, index: int) -> Any:
        return self.elements[index]


class EvalLoopOutput(NamedTuple):
    """What an evaluation loop returns."""

    predictions: Any
    label_ids: Any
    metrics: dict[str, float] | None
    num_samples: int | None


class PredictionOutput(NamedTuple):
    """What `Trainer.predict` returns."""

    predictions: Any
    label_ids: Any
    metrics: dict[str, float] | None


class TrainOutput(NamedTuple):
    """What `Trainer.train` returns."""

    global_step: int
    training_loss: float
    metrics: dict[str, float]


class BestRun(NamedTuple):
    """The best trial of a hyperparameter search."""

    run_id: str
    objective: float | list[float]
    hyperparameters: dict[str, Any]
    run_summary: Any | None = None
