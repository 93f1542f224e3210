"""Evaluation of rows that a stage makes batches of, such as prompts: by what the stage measures on them."""

from __future__ import annotations

import time
from typing import Any

from trainwright.errors import DataError
from trainwright.saving import reporting
from trainwright.session.session import Session, Stage


def evaluate(session: Session, stage: Stage, dataset: Any, prefix: str) -> dict[str, float]:
    """Measure the rows held out by what the run's stage does with them, and log that.

    Raises:
        DataError: other rows are given.
    """
    if dataset is not None and dataset is not session.eval_dataset:
        raise DataError(
            "What is evaluated here are the rows that the run's file holds out (data.validation), no others."
        )
    started = time.monotonic()
    metrics = stage.evaluate(prefix)
    speed = reporting.speed(prefix, started, len(session.eval_dataset), 0)
    metrics |= {name: value for name, value in speed.items() if not name.endswith("steps_per_second")}
    metrics = session.strategy.from_main(metrics)
    session.hooks.log(dict(metrics))
    return {**metrics, "epoch": session.state.epoch}
