"""The end of the last step: what fetching data, computing gradients and evaluating change, as it was before.

Whatever ends a run between two updates, the checkpoint is that of the last whole step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from trainwright.checkpoint.parts import copied
from trainwright.errors import UnsavableError
from trainwright.saving.parts import renew
from trainwright.session.run import Boundary, Run


def take(run: Run, due: list[str] | None = None) -> Boundary:
    """Return the present state, at the end of a step."""
    state, args = run.session.state, run.session.args
    kept = {name: state_of() for name, state_of in run.moving_states}
    if due:
        saves = args.save_strategy != "no" and not args.save_only_model
        with suppress(UnsavableError):  # as below
            renew(run)
        heard = {name: part for name, part in run.parts.items() if part.undone == "evaluation"}
        for name, part in heard.items():
            with suppress(UnsavableError):  # of one that cannot be kept, as the save will say
                kept |= {name: copied(part)} if part.with_model or saves else {}
    return Boundary(kept, state.total_flos, state.num_input_tokens_seen, len(state.log_history), due or [])


def raised_flags(run: Run) -> list[str]:
    """Return which flags wait to be acted on besides a save, which is what follows."""
    raised = [name for name in ("log", "evaluate", "save") if getattr(run.session.control, f"should_{name}")]
    return [] if raised == ["save"] else raised


def due(run: Run) -> list[str]:
    """Return what is still to be done at this step, for the run that goes on from its checkpoint."""
    if run.boundary is None:  # between the step and what is done at its end
        return run.due or raised_flags(run)
    return run.boundary.due or run.due


@contextmanager
def as_before(run: Run) -> Iterator[None]:
    """Have what an evaluation changes as it was before, while a checkpoint is taken within it: it is still due."""
    kept, state = run.boundary, run.session.state
    if kept is None or not kept.due:
        yield
        return
    now, logged = (state.total_flos, state.num_input_tokens_seen), state.log_history[kept.entries :]
    put_counts_back(run, kept)
    try:
        yield
    finally:
        state.log_history += logged
        state.total_flos, state.num_input_tokens_seen = now


def put_counts_back(run: Run, kept: Boundary) -> None:
    """Have counts and the history of logs as they were."""
    state = run.session.state
    state.total_flos, state.num_input_tokens_seen = kept.operations, kept.tokens
    del state.log_history[kept.entries :]


def put_back(run: Run) -> None:
    """Put back what was changed since the last step; what each step changes only goes to the checkpoint."""
    kept = run.boundary
    if kept is None:
        return
    if kept.computing:
        run.health.buffers.put_back(True)
        kept.computing = False
    put_counts_back(run, kept)
    with suppress(UnsavableError):  # which the save says
        renew(run)
    for name, part in run.parts.items():
        if part.undone == "evaluation" and name in kept.states:
            part.state.load_state_dict(kept.states[name])
