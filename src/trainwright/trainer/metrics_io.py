"""Small parts of the Trainer's surface: metrics files, state file, ranks, callbacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainwright.checkpoint import layout
from trainwright.session import metric_values
from trainwright.session.session import Session


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


def log_metrics(session: Session, split: str, metrics: dict[str, float]) -> None:
    """Print metrics as a table, on the main process."""
    if not session.hooks.is_world_process_zero():
        return
    formatted = metrics_format(metrics)
    width = max(len(name) for name in formatted)
    print(f"***** {split} metrics *****")
    for name in sorted(formatted):
        print(f"  {name:<{width}} = {formatted[name]}")


def save_metrics(session: Session, split: str, metrics: dict[str, float], combined: bool = True) -> None:
    """Write `<split>_results.json`, and add to `all_results.json`."""
    if not session.hooks.is_world_process_zero():
        return
    folder = Path(session.args.output_dir or ".")
    folder.mkdir(parents=True, exist_ok=True)
    metrics = metric_values.fit(session, metrics)
    _write(folder / f"{split}_results.json", metrics)
    if combined:
        everything = folder / "all_results.json"
        before = json.loads(everything.read_text(encoding="utf-8")) if everything.exists() else {}
        _write(everything, {**before, **metrics})


def _write(path: Path, metrics: dict[str, float]) -> None:
    path.write_text(json.dumps(metrics, indent=4, sort_keys=True) + "\n", encoding="utf-8")


def save_state(session: Session) -> None:
    """Write `trainer_state.json` into the output folder."""
    if session.hooks.is_world_process_zero():
        folder = Path(session.args.output_dir or ".")
        folder.mkdir(parents=True, exist_ok=True)
        session.state.save_to_json(folder / layout.STATE)


def store_flos(session: Session) -> None:
    """Do nothing, for scripts that call it: `state.total_flos` is kept up to date at every micro-batch."""


def is_world_process_zero(session: Session) -> bool:
    """Whether this is the main process of the run."""
    return session.strategy.is_main


def is_local_process_zero(session: Session) -> bool:
    """Whether this is the main process of this machine."""
    return session.strategy.is_local_main


def get_total_train_batch_size(session: Session, args: Any = None) -> int:
    """Return the rows of one optimizer step over all processes."""
    args = args or session.args
    return int(
        args.per_device_train_batch_size * args.gradient_accumulation_steps * session.strategy.data_shard.num_shards
    )


def log_history(session: Session) -> list[dict[str, Any]]:
    """Return every dictionary of metrics so far, in order."""
    return session.state.log_history


def add_callback(session: Session, callback: Any) -> None:
    """Add a callback, as an instance or a class."""
    session.callback_handler.add_callback(callback)


def pop_callback(session: Session, callback: Any) -> Any:
    """Remove and return a callback, by instance or class."""
    return session.callback_handler.pop_callback(callback)


def remove_callback(session: Session, callback: Any) -> None:
    """Remove a callback, by instance or class."""
    session.callback_handler.remove_callback(callback)
