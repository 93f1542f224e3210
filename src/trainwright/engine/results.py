"""Small parts of the Trainer's surface: metrics files, state file, ranks, callbacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainwright.checkpoint import layout
from trainwright.engine import numbers

if TYPE_CHECKING:
    from trainwright.engine.trainer import Trainer


def metrics_format(metrics: dict[str, float]) -> dict[str, Any]:
    """Return metrics for people: times as h:mm:ss, counts with units, four decimals."""
    formatted: dict[str, Any] = {}
    for name, value in metrics.items():
        if name.endswith("_runtime"):
            minutes, seconds = divmod(value, 60)
            hours, minutes = divmod(int(minutes), 60)
            formatted[name] = f"{hours}:{minutes:02d}:{seconds:05.2f}"
        elif name == "total_flos":
            formatted[name] = f"{int(value) / 1e9:.3g} GF"
        else:
            formatted[name] = round(value, 4) if isinstance(value, float) else value
    return formatted


def log_metrics(trainer: Trainer, split: str, metrics: dict[str, float]) -> None:
    """Print metrics as a table, on the main process."""
    if not trainer.is_world_process_zero():
        return
    formatted = metrics_format(metrics)
    width = max(len(name) for name in formatted)
    print(f"***** {split} metrics *****")
    for name in sorted(formatted):
        print(f"  {name:<{width}} = {formatted[name]}")


def save_metrics(trainer: Trainer, split: str, metrics: dict[str, float], combined: bool = True) -> None:
    """Write `<split>_results.json`, and add to `all_results.json`."""
    if not trainer.is_world_process_zero():
        return
    folder = Path(trainer.args.output_dir or ".")
    folder.mkdir(parents=True, exist_ok=True)
    metrics = numbers.fit(trainer, metrics)
    _write(folder / f"{split}_results.json", metrics)
    if combined:
        everything = folder / "all_results.json"
        before = json.loads(everything.read_text(encoding="utf-8")) if everything.exists() else {}
        _write(everything, {**before, **metrics})


def _write(path: Path, metrics: dict[str, float]) -> None:
    path.write_text(json.dumps(metrics, indent=4, sort_keys=True) + "\n", encoding="utf-8")


def save_state(trainer: Trainer) -> None:
    """Write `trainer_state.json` into the output folder."""
    if trainer.is_world_process_zero():
        folder = Path(trainer.args.output_dir or ".")
        folder.mkdir(parents=True, exist_ok=True)
        trainer.state.save_to_json(folder / layout.STATE)


def store_flos(trainer: Trainer) -> None:
    """Do nothing, for scripts that call it: `state.total_flos` is kept up to date at every micro-batch."""


def is_world_process_zero(trainer: Trainer) -> bool:
    """Whether this is the main process of the run."""
    return trainer.strategy.is_main


def is_local_process_zero(trainer: Trainer) -> bool:
    """Whether this is the main process of this machine."""
    return trainer.strategy.is_local_main


def get_total_train_batch_size(trainer: Trainer, args: Any = None) -> int:
    """Return the rows of one optimizer step over all processes."""
    args = args or trainer.args
    return int(
        args.per_device_train_batch_size * args.gradient_accumulation_steps * trainer.strategy.data_shard.num_shards
    )


def log_history(trainer: Trainer) -> list[dict[str, Any]]:
    """Return every dictionary of metrics so far, in order."""
    return trainer.state.log_history


def add_callback(trainer: Trainer, callback: Any) -> None:
    """Add a callback, as an instance or a class."""
    trainer.callback_handler.add_callback(callback)


def pop_callback(trainer: Trainer, callback: Any) -> Any:
    """Remove and return a callback, by instance or class."""
    return trainer.callback_handler.pop_callback(callback)


def remove_callback(trainer: Trainer, callback: Any) -> None:
    """Remove a callback, by instance or class."""
    trainer.callback_handler.remove_callback(callback)
