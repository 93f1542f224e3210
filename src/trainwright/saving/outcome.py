"""What came of a save: what is told of it, and what the run is without it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from trainwright.checkpoint import layout
from trainwright.checkpoint.sharded.together import publish_all
from trainwright.checkpoint.writer import Written
from trainwright.errors import CheckpointError, SaveError
from trainwright.saving import agreement
from trainwright.session.run import Run
from trainwright.session.session import Session


def checkpoint_folder(session: Session, step: int | None = None) -> Path:
    """Return where the checkpoint of a step lies, or that of the present one."""
    return layout.of_step(session.run_folder, session.state.global_step if step is None else step)


def collect(run: Run, wait: bool) -> None:
    """See whether the save in flight is done, or wait for it, and say what came of it."""
    try:
        with run.timesheet.spending("saving") if wait else nullcontext():
            if run.session.strategy.shards_state:
                collect_parts(run, wait)
            written = run.writer.collect(wait)
    except CheckpointError as error:
        failed(run, error)
        return
    if written is not None:
        succeeded(run, written)
    tell_of_copies(run)


def tell_of_copies(run: Run) -> None:
    """Say what became of the copies in a second place, once."""
    for told in run.mirror.told() if run.mirror is not None else ():
        run.note_once(told)


def finish_copies(run: Run, hurries: bool = False) -> None:
    """Wait for the copies in a second place: in all a run's time-out at most where others wait too, and some seconds
    where the run is asked to stop, or fails."""
    if run.mirror is None:
        return
    patience = run.session.args.ddp_timeout / 2 if run.session.strategy.is_distributed else math.inf
    with run.timesheet.spending("saving"):
        run.mirror.finish(lambda: hurries or run.signals.received is not None, patience)
    tell_of_copies(run)


def collect_parts(run: Run, wait: bool) -> None:
    """See whether all processes have written their parts, or wait for that; then the first one makes them a checkpoint.

    Raises:
        SaveError: one of them could not.
    """
    if wait:
        run.together.wait()
    draft = run.together.settle(run.session.strategy)
    if draft is not None:
        run.writer.start(draft, publish_all)


def publish_parts(run: Run, outcomes: Sequence[Any]) -> None:
    """Make what the save in flight has written a checkpoint, where its outcomes were exchanged in another way."""
    try:
        draft = run.together.concluded(run.session.strategy, outcomes)
    except SaveError as error:
        failed(run, error)
        return
    if draft is not None:
        run.writer.start(draft, publish_all)


def succeeded(run: Run, written: Written) -> None:
    """Tell the callbacks that a checkpoint exists; of one written early they hear when it is complete."""
    run.save_error = None
    for old in written.deleted:
        run.session.note(f"Deleted {old.name} (save_total_limit={run.session.args.save_total_limit}).")
    for problem in written.problems:
        run.note_once(problem)
    if written.marks is not None:
        run.early = written
        return
    if run.mirror is not None:
        run.mirror.offer([written.place], run.session.state.best_model_checkpoint)
    if not agreement.hears_together(run):
        run.fire("save", checkpoint=written.place)


def failed(run: Run, error: CheckpointError, stops: bool = False) -> None:
    """Note that a save failed; the run goes on, unless the error stops it, and the best is the one before.

    Raises:
        CheckpointError: the error, if it stops the run.
    """
    run.save_error = error
    place = checkpoint_folder(run.session, run.saved_step)
    if run.session.state.best_global_step == run.saved_step and not place.is_dir():
        forget_best(run)
    if stops:
        raise error
    run.session.note(f"{error} Training goes on, and the next save tries again.")


def forget_best(run: Run) -> None:
    """Take the best model before this step's for the best, whose checkpoint there is: this step has none."""
    state = run.session.state
    if run.best_before is not None:
        state.best_metric, state.best_global_step, state.best_model_checkpoint = run.best_before
        run.best_before = None


def finish(run: Run) -> None:
    """Wait for the last save.

    Raises:
        SaveError: it failed, so the end of the run is not on the disk.
    """
    collect(run, wait=True)
    finish_copies(run)
    problem = run.session.strategy.from_main(str(run.save_error) if run.save_error is not None else None)
    if problem is not None:
        raise SaveError(
            f"{problem} The run is at step {run.session.state.global_step}, and its last save failed. Mend that, and "
            "resume from the checkpoint before."
        )


def best_is_saved(run: Run) -> None:
    """Note the checkpoint of this step as the best, where it was saved before the evaluation that found it so."""
    state = run.session.state
    if run.saved_step == state.global_step:
        if run.save_error is None:
            state.best_model_checkpoint = str(checkpoint_folder(run.session))
    elif run.origin is not None and run.first_step == state.global_step:
        state.best_model_checkpoint = str(run.origin)
