"""Calling the model for the engine's own purposes, without a trace in what the run keeps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from trainwright import randomness
from trainwright.models.hooks import unwatched
from trainwright.models.unchanged import unchanged_buffers
from trainwright.session.session import CurrentRun


@contextmanager
def undone(run: CurrentRun, model: nn.Module) -> Iterator[None]:
    """Put back what computing a loss changes: random numbers, generators and buffers."""
    streams, generators = run.streams.state_dict(), randomness.states_of(run.generators)
    with unchanged_buffers(model):
        try:
            yield
        finally:
            randomness.restore(streams)
            randomness.restore_into(run.generators, generators)


@contextmanager
def unnoticed(run: CurrentRun, model: nn.Module) -> Iterator[None]:
    """Compute as a rank that has no rows of its own: nothing is left of it, and the user's hooks do not hear of it.

    BatchNorm computes as in evaluation, for rows that are only repeated belong to no statistics, and of one there are
    none. SyncBatchNorm, whose statistics are those of all ranks, exchanges them as the other ranks do.
    """
    normed = [part for part in model.modules() if _has_own_statistics(part) and part.training]
    for part in normed:
        part.training = False
    try:
        with undone(run, model), unwatched(model):
            yield
    finally:
        for part in normed:
            part.training = True


def _has_own_statistics(part: nn.Module) -> bool:
    return isinstance(part, nn.modules.batchnorm._BatchNorm) and not isinstance(part, nn.SyncBatchNorm)
