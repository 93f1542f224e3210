"""From the loader to the step: the micro-batches, what each weighs, and that all ranks agree on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from trainwright.data.rows import Repeat
from trainwright.engine.run import Run
from trainwright.errors import DataError

_STEPS_WITHOUT_TARGETS = 10


@dataclass
class Work:
    """One optimizer step's worth of data.

    Attributes:
        position: where the loader stands afterwards.
        batches: this rank's micro-batches.
        items: what each is weighed by; 0 for one without targets, or repeated to keep in step.
        total: items of all micro-batches of all ranks.
    """

    position: int
    batches: list[Any]
    items: list[int]
    total: float


def feed(run: Run) -> Iterator[Work]:
    """Yield the work of every step left in this epoch.

    Raises:
        DataError: there is no data, or nothing in it is a target.
    """
    yielded = False
    several = run.trainer.strategy.world.size > 1
    for position, batches in _together(run) if several else run.loader.steps(run.epoch, run.position):
        items = [0 if isinstance(batch, Repeat) else run.count(batch) for batch in batches]
        batches = [batch.batch if isinstance(batch, Repeat) else batch for batch in batches]
        total = float(sum(items))
        if several:
            total = sum(row[0] for row in run.trainer.strategy.agree(total))
        _check_targets(run, total)
        yielded = True
        yield Work(position, batches, items, total)
    if not yielded and run.position == 0:
        raise DataError(
            f"The training data gave no batch in pass {run.epoch + 1}: the dataset or loader is empty, or is used up "
            "after one pass. Give a dataset with rows, or one that can be read again."
        )


def _together(run: Run) -> Iterator[tuple[int, list[Any]]]:
    """Let every rank run the same number of micro-batches; one without rows repeats its last with weight zero."""
    steps = run.loader.steps(run.epoch, run.position)
    position, last = run.position, None
    while True:
        position, batches = next(steps, (position, []))
        last = batches[-1] if batches else last
        agreed = run.trainer.strategy.agree(len(batches), last is not None)
        most = int(max(count for count, _ in agreed))
        if most == 0:
            return
        without = [rank for rank, (_, has_any) in enumerate(agreed) if not has_any]
        if without:
            raise DataError(f"Rank {without[0]} got no data while others did; divide the data evenly among the ranks.")
        spare = last if isinstance(last, Repeat) else Repeat(last)
        yield position, batches + [spare] * (most - len(batches))


def _check_targets(run: Run, total: float) -> None:
    if total > 0:
        run.targets_seen = True
        return
    step = run.trainer.state.global_step + 1
    if not run.targets_seen and step >= min(_STEPS_WITHOUT_TARGETS, run.max_steps, run.loader.steps_per_epoch or step):
        raise DataError(
            f"All labels up to step {step} are -100, which means 'no target', so there is nothing to learn from. "
            "Check how the labels are made (masking of prompts, truncation that cuts off the answers)."
        )
