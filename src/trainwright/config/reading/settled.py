"""Keys of which one goes before another, or that a run brings into its range: what is done then, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from trainwright.config.params import TrainingParams
from trainwright.config.reading.translate import warmup
from trainwright.config.schema import TrainingConfig


def settled(config: TrainingConfig) -> Iterator[tuple[str, str]]:
    """Yield (dotted name, sentence) of every value that is not taken as it is given."""
    yield from _warm_up(config.training)
    limit, given = config.model.model_max_length, config.training.trainer_kwargs.get("max_length", 0)
    if limit is not None and given not in (0, limit):
        path = "training.trainer_kwargs.max_length"
        shown = "null" if given is None else given
        yield path, f"{path} {shown} has no effect: model.model_max_length {limit} goes before it."


def _warm_up(params: TrainingParams) -> Iterator[tuple[str, str]]:
    steps = params.warmup_steps
    if steps and params.warmup_ratio:
        yield "training.warmup_ratio", f"training.warmup_ratio has no effect: warmup_steps {steps:g} goes before it."
    if steps is not None and steps > (taken := warmup(params)):
        what = f"training.warmup_steps {steps:g} is longer than the run, so it is {taken:g} (max_steps)"
        yield "training.warmup_steps", f"{what}: the learning rate rises to the end."
