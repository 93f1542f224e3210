"""The end of the last step: what fetching data, computing gradients and evaluating change, as it was before.

Whatever ends a run between two updates, the checkpoint is that of the last whole step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainwright.callbacks import states

if TYPE_CHECKING:
    from trainwright.engine.run import Run


@dataclass
class Boundary:
    """What a checkpoint of the last step keeps, besides what only an update changes.

    Attributes:
        streams: states of the random number streams.
        loader: the place in the data.
        records: numbers to be logged besides the loss.
        operations, tokens: counts of the trainer's state.
        entries: length of the history of logs.
        due: flags of this step that are to be acted on.
        callbacks: their states, before an evaluation; of those with `state_dict()` where the run saves them.
        computing: whether a forward pass may have changed the buffers since.
    """

    streams: dict[str, Any]
    loader: dict[str, Any]
    records: dict[str, Any]
    operations: float
    tokens: int
    entries: int
    due: list[str] = field(default_factory=list)
    callbacks: tuple[dict[str, Any], list[tuple[str, Any]]] | None = None
    computing: bool = False


def take(run: Run, due: list[str] | None = None) -> Boundary:
    """Return the present state, at the end of a step."""
    state = run.trainer.state
    listening, note, args = run.trainer.callback_handler.callbacks, run.note_once, run.trainer.args
    saves = args.save_strategy != "no" and not args.save_only_model
    return Boundary(
        run.randomness(),
        run.loader.state_dict(),
        run.trainer.records.state_dict(),
        state.total_flos,
        state.num_input_tokens_seen,
        len(state.log_history),
        due or [],
        (states.collect(listening, note), states.collect_dicts(listening, note) if saves else []) if due else None,
    )


def raised_flags(run: Run) -> list[str]:
    """Return which flags wait to be acted on besides a save, which is what follows."""
    raised = [name for name in ("log", "evaluate", "save") if getattr(run.trainer.control, f"should_{name}")]
    return [] if raised == ["save"] else raised


def due(run: Run) -> list[str]:
    """Return what is still to be done at this step, for the run that goes on from its checkpoint."""
    if run.boundary is None:  # between the step and what is done at its end
        return run.due or raised_flags(run)
    return run.boundary.due or run.due


@contextmanager
def as_before(run: Run) -> Iterator[None]:
    """Have what an evaluation changes as it was before, while a checkpoint is taken within it: it is still due."""
    kept, state = run.boundary, run.trainer.state
    if kept is None or kept.callbacks is None:
        yield
        return
    now, logged = take(run, kept.due), state.log_history[kept.entries :]
    del state.log_history[kept.entries :]
    restore(run, kept)
    try:
        yield
    finally:
        state.log_history += logged
        restore(run, now)


def restore(run: Run, kept: Boundary) -> None:
    """Put counts and the states of callbacks back."""
    trainer = run.trainer
    trainer.state.total_flos, trainer.state.num_input_tokens_seen = kept.operations, kept.tokens
    if kept.callbacks is not None:
        states.restore(trainer.callback_handler.callbacks, kept.callbacks[0], trainer.note)
        states.restore_dicts(trainer.callback_handler.callbacks, kept.callbacks[1], trainer.note)


def put_back(run: Run) -> None:
    """Put back what was changed since the last step; streams and place only go to the checkpoint."""
    kept, trainer = run.boundary, run.trainer
    if kept is None:
        return
    if kept.computing:
        run.health.buffers.put_back(True)
        kept.computing = False
    trainer.records.load_state_dict(kept.records, trainer.strategy.device)
    restore(run, kept)
    del trainer.state.log_history[kept.entries :]
