"""What a run will do and need, told from its file before it begins: steps, memory, disk, and the time, if measured."""

from __future__ import annotations

import copy
import io
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainwright.callbacks.base import TrainerCallback
from trainwright.callbacks.table import duration
from trainwright.config.reading.read import text_column_of
from trainwright.config.schema import TrainingConfig
from trainwright.data import mixture
from trainwright.errors import ConfigError, DataError
from trainwright.tasks.language import build
from trainwright.tasks.language.planning import memory
from trainwright.training import disk
from trainwright.training.disk import bytes_in_words

_WARM = 2  # micro-steps that are not counted
_ALONE: dict[str, Any] = {  # of a run that measures and leaves nothing
    "max_steps": 6, "gradient_accumulation_steps": 1, "save_strategy": "no", "save_final_model": False,
    "eval_strategy": "no", "load_best_model_at_end": False, "logging_strategy": "no", "report_to": "none",
    "enable_tensorboard": False, "enable_wandb": False, "enable_mlflow": False, "push_to_hub": False,
    "resume_from_checkpoint": None, "warmup_steps": 0, "warmup_ratio": None, "try_resume_from_last_checkpoint": False,
    "log_examples": False, "log_model_summary": False,
}  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """What was seen of some micro-steps.

    Attributes:
        seconds: of one, forward, backward and update; the median.
        rows: of the training data as they are trained, packed or not; None of a stream.
    """

    seconds: float
    rows: int | None


def facts(config: TrainingConfig, measured: Measured | None = None) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of what is known: steps, memory, disk, time."""
    params = config.training
    if measured is not None:
        rows = trained = measured.rows
    else:
        rows, trained = rows_of(config)
    steps, passes = steps_of(config, trained, measured is not None)
    yield "steps", _steps(config, rows, steps, passes, measured is not None)
    try:
        found = memory.for_config(config)
    except ConfigError as error:
        yield "memory", str(error).partition(";")[0].rstrip(".")
    else:
        each = ", ".join(f"{name} {bytes_in_words(size)}" for name, size in memory.parts(found).items())
        yield "memory", f"{bytes_in_words(found.total)}: {each}"
        args = build.arguments(params)
        size = disk.checkpoint_bytes(
            found.model, found.gradients, found.optimizer / max(found.gradients, 1), adapters=params.use_peft,
            only_model=args.save_only_model, average=found.average,
        )  # fmt: skip
        yield "disk", str(disk.needed(args, Path(params.output_dir or "runs"), size, steps, passes))
    if measured is not None:
        yield "time", _time(config, measured, steps)


def rows_of(config: TrainingConfig) -> tuple[int | None, int | None]:
    """Return how many rows the training data have before they are packed, and how many a pass trains on; None of
    streams, and of what cannot be read here."""
    split = config.data.train
    if split.stream:
        return None, None
    try:
        parts = mixture.read_parts(split, config.training.seed, text_column_of(config))
        drawn = split.datasets[0].mixture_proportion is not None
        count = len(mixture.mix(parts, split, config.training.seed)) if drawn else sum(map(len, parts))
        method, _ = memory.method_and_length(config)
    except DataError:
        return None, None
    except ConfigError:  # of a method whose models are no language models
        return count, count
    return count, method.trained_rows(config, count, parts[0].column_names)


def steps_of(config: TrainingConfig, rows: int | None, final: bool) -> tuple[int | None, float | None]:
    """Return (optimizer steps, passes over the data), None for what nobody knows before; of rows to be packed that is
    the number of steps, unless they are `final`."""
    params, packed = config.training, _packs(config) and not final
    whole = params.per_device_train_batch_size * params.gradient_accumulation_steps
    count = math.floor if params.dataloader_drop_last else math.ceil
    per_pass = None if rows is None or packed else max(1, count(rows / whole))
    if params.max_steps > 0:
        return params.max_steps, None if per_pass is None else params.max_steps / per_pass
    return None if per_pass is None else math.ceil(per_pass * params.num_train_epochs), params.num_train_epochs


def measure(config: TrainingConfig) -> Measured:
    """Train some micro-steps on the run's own rows, in a folder that is gone afterwards, and return what was seen.

    Raises:
        ConfigError, DataError: something cannot be read, loaded, or does not fit.
    """
    own = copy.deepcopy(config)
    unseen = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(unseen), redirect_stderr(unseen):
        for name, value in {**_ALONE, "output_dir": folder}.items():
            setattr(own.training, name, value)
        trainer, watch = build.build(own), _Watch()
        trainer.add_callback(watch)
        trainer.train()
    rows = len(trainer.train_dataset) if hasattr(trainer.train_dataset, "__len__") else None
    return Measured(statistics.median(watch.seconds[_WARM:] or watch.seconds), rows)


class _Watch(TrainerCallback):
    """Notes how long every step takes, the device's work included."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._begun = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._begun = self._now(args)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds.append(self._now(args) - self._begun)

    @staticmethod
    def _now(args: Any) -> float:
        if args.device.type != "cpu":
            torch.accelerator.synchronize(args.device)
        return time.perf_counter()


def _packs(config: TrainingConfig) -> bool:
    return bool(config.data.train.pack or config.training.trainer_kwargs.get("packing"))


def _steps(config: TrainingConfig, rows: int | None, steps: int | None, passes: float | None, final: bool) -> str:
    params = config.training
    size, parts = params.per_device_train_batch_size, params.gradient_accumulation_steps
    whole = f"{size * parts:,} rows" + (f" ({size} × {parts} micro-batches)" if parts > 1 else "")
    many = "as many as the data give" if steps is None else f"{steps:,}"
    over = "" if passes is None else f"; {passes:.3g} pass{'' if passes == 1 else 'es'} over the data"
    if rows is None:
        return f"{many}, each of {whole}{over}"
    have = f"{over}, which have" if over else "; the data have"
    packed = (" packed rows" if final else " rows before they are packed") if _packs(config) else " rows"
    return f"{many}, each of {whole}{have} {rows:,}{packed}"


def _time(config: TrainingConfig, measured: Measured, steps: int | None) -> str:
    if steps is None:
        return f"{measured.seconds:.3g} s a micro-batch"
    many = steps * config.training.gradient_accumulation_steps
    whole = duration(many * measured.seconds)
    each = f"{many:,} micro-batch{'es' if many > 1 else ''} of {measured.seconds:.3g} s"
    return f"{whole} of training: {each}; evaluations and saves on top"
