"""Learning-rate schedules by transformers' names.

The four most common are a line of arithmetic each and stand here, so that a run without transformers' models does
not import transformers; all others come from its own factory. A test holds ours against theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from trainwright.errors import ConfigError


def linear(step: int, warmup: int, total: int) -> float:
    """Rise to 1 over the warm-up, then fall to 0 at `total`."""
    if step < warmup:
        return step / max(1, warmup)
    return max(0.0, (total - step) / max(1, total - warmup))


def cosine(step: int, warmup: int, total: int) -> float:
    """Rise to 1 over the warm-up, then fall to 0 along half a cosine (Loshchilov and Hutter 2017)."""
    if step < warmup:
        return step / max(1, warmup)
    progress = (step - warmup) / max(1, total - warmup)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


def constant_with_warmup(step: int, warmup: int, total: int) -> float:
    """Rise to 1 over the warm-up, then stay."""
    return min(1.0, step / max(1, warmup)) if warmup else 1.0


def constant(step: int, warmup: int, total: int) -> float:
    """Stay at 1."""
    return 1.0


OURS: dict[str, Callable[[int, int, int], float]] = {
    "linear": linear,
    "cosine": cosine,
    "constant_with_warmup": constant_with_warmup,
    "constant": constant,
}


def _factor(course: Callable[[int, int, int], float], warmup: int, total: int, step: int) -> float:
    return course(step, warmup, total)


def build_scheduler(
    name: str, optimizer: Optimizer, warmup: int, total: int, settings: dict[str, Any] | None = None
) -> Any:
    """Return the schedule of this name.

    Args:
        name: one of `args.names.SCHEDULERS`.
        optimizer: whose learning rates it sets.
        warmup: steps of warm-up.
        total: optimizer steps of the whole run.
        settings: further keyword arguments of transformers' factory.

    Raises:
        ConfigError: settings that the schedule does not take.
    """
    if name in OURS and not settings:
        return LambdaLR(optimizer, partial(_factor, OURS[name], warmup, total))  # which can be pickled
    from transformers import get_scheduler

    try:
        return get_scheduler(
            name,
            optimizer=optimizer,
            num_warmup_steps=warmup,
            num_training_steps=total,
            scheduler_specific_kwargs=dict(settings or {}),
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"lr_scheduler_type='{name}' with lr_scheduler_kwargs={settings}: {error}") from error
