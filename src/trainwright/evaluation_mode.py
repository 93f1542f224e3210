"""Training and evaluation mode of a model's parts: what a user has set stays, whatever runs meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

Modes = list[tuple[nn.Module, bool]]


def modes_of(model: nn.Module) -> Modes:
    """Return every module of a model with whether it is in training mode, the model itself first."""
    return [(part, part.training) for part in model.modules()]


def put_back(modes: Modes) -> None:
    """Give modules the modes that they had, by `train`, which a module may override to do more than that."""
    for part, training in modes:
        if part.training is not training:
            part.train(training)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Have a model in evaluation mode; afterwards every part of it has its own mode again."""
    modes = modes_of(model)
    model.eval()
    try:
        yield
    finally:
        put_back(modes)
