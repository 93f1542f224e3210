"""Saving a run: what a checkpoint holds, who writes it, and when the loop waits for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from trainwright.checkpoint import folder, layout
from trainwright.checkpoint.model import weights
from trainwright.checkpoint.snapshot import HostCopies
from trainwright.checkpoint.writer import PendingCheckpoint, not_written, reason_of, write
from trainwright.errors import CheckpointError, SaveError, UnsavableError
from trainwright.losses.eval_context import averaged
from trainwright.losses.out_of_memory import is_out_of_memory
from trainwright.saving import agreement, hub, step_boundary
from trainwright.saving.contents import rank_state, saves_its_own_way, synchronous, trees, write_progress
from trainwright.saving.model_files import processor_of, save_arguments
from trainwright.saving.outcome import checkpoint_folder, collect, failed, forget_best, succeeded
from trainwright.saving.sharded.take import take
from trainwright.session.model_setup import users_configuration
from trainwright.session.run import Run, generators_of

T = TypeVar("T")
_PATIENCE = 60.0  # seconds in which all ranks have come to a save that a user's code calls for


def save_checkpoint(run: Run) -> None:
    """Save `checkpoint-<step>`: in the background, unless someone else's code wants to see the folder."""
    session = run.session
    session.control.should_save = False
    run.signals.check()
    with run.timesheet.spending("saving"):
        collect(run, wait=True)
        with run.saving_together():
            session.hooks._save_checkpoint(session.model, session.trial)
        if run.session.args.push_to_hub and run.save_error is None:
            hub.push_checkpoint(session, checkpoint_folder(session), run.model_files)


def save_early(run: Run) -> None:
    """Save before the evaluation that is due at this step, so that nothing which ends the run in there costs the step.

    A resumed run evaluates again. When the evaluation is over the checkpoint is saved as always, and takes over the
    files that are still the same. Code that is not ours and looks into the folder sees it then, and only then.
    """
    control, args = run.session.control, run.session.args
    resumed_here = run.session.state.global_step == run.first_step
    if not control.should_save or args.save_strategy == "best" or resumed_here or args.push_to_hub:
        return
    if not saves_its_own_way(run.session.hooks):
        with run.timesheet.spending("saving"):
            collect(run, wait=True)
            write_checkpoint(run, early=True)


def drop_early(run: Run) -> None:
    """Delete the checkpoint written early, where a callback has decided in the evaluation that none is wanted."""
    collect(run, wait=True)
    if run.early is not None:
        try:
            folder.delete(run.early.place)
        except OSError as error:
            run.session.note(f"{run.early.place} is not wanted, and could not be deleted: {reason_of(error)}.")
    if run.session.state.best_global_step == run.session.state.global_step:
        forget_best(run)
    run.early, run.saved_step = None, 0


def write_checkpoint(run: Run, early: bool = False) -> None:
    """Take the run's state and write it, or begin to.

    Args:
        run: the run.
        early: an evaluation follows; then this is the end of the step, where the evaluation is due.

    Raises:
        UnsavableError: at the first save, on every rank: the state holds a value that no checkpoint can keep.
        CheckpointError: it is called by a user's code in the middle of a step, or not on all ranks.
    """
    session, strategy = run.session, run.session.strategy
    if run.updating or (run.boundary is not None and run.boundary.computing):
        raise CheckpointError(
            f"_save_checkpoint was called in the middle of step {session.state.global_step + 1}, where the state is of "
            "no step. Call it at the end of a step (on_step_end), or set control.should_save = True."
        )
    if not (early or run.saves_together):
        check_that_all_save(run)
    collect(run, wait=True)  # a write in flight owns the copies on the host
    run.generators = generators_of(session)  # some are made in the first step
    run.health.settle()  # so that the averages know whether this step was skipped
    first, run.saved_step = run.saved_step < 0, session.state.global_step
    run.saved_due = step_boundary.due(run)
    if strategy.shards_state:
        write_parts(run, early, first)
        return
    with nullcontext() if early else step_boundary.as_before(run):
        state, refusal = kept(lambda: rank_state(run))
        ranks, draft = strategy.gather(state), None
        if refusal is None:
            draft, refusal = kept(lambda: begin(run, ranks, early))
    refusal = next((one for one in strategy.gather(refusal) if one is not None), None)
    if refusal is not None:
        if draft is not None:  # another rank refused
            shutil.rmtree(draft.temporary, ignore_errors=True)
        failed(run, refusal, stops=first)
    elif draft is not None and draft.copies is not None:
        run.writer.start(draft)
    elif draft is not None:
        write_now(run, draft)
    if refusal is None and not early:
        agreement.tell_of_save(run, checkpoint_folder(session))


def write_parts(run: Run, early: bool, first: bool) -> None:
    """Take and write the run's state, of which every process has a part; or begin to.

    Raises:
        UnsavableError: at the first save: the state of one holds a value that no checkpoint can keep.
    """
    strategy = run.session.strategy
    try:
        with nullcontext() if early else step_boundary.as_before(run):
            draft = take(run, early)
    except SaveError as error:
        failed(run, error, stops=first and isinstance(error, UnsavableError))
        return
    run.early = None
    run.together.start(draft)
    if draft.copies is None:
        run.together.wait_for_own()
    if early:
        return
    if strategy.any(synchronous(run)):
        collect(run, wait=True)
        if strategy.from_main(run.save_error is None):
            save_its_own_way(run, draft.place)
    agreement.tell_of_save(run, draft.place)


def save_its_own_way(run: Run, place: Path) -> None:
    """Let a subclass that saves the model in a way of its own do so in a finished checkpoint."""
    if type(run.session.hooks).save_model.__module__ != "trainwright.trainer.trainer":
        before = folder.files_in(place)
        run.session.hooks.save_model(str(place), _internal_call=True)
        run.model_files |= folder.files_in(place) - before


def check_that_all_save(run: Run) -> None:
    """See whether all ranks have called for a save by themselves, before any of them waits in an exchange.

    Raises:
        CheckpointError: some have not.
    """
    run.saves_asked += 1
    place = f"save {run.run_id} {run.session.state.global_step} {run.saves_asked}"
    if run.session.strategy.all_here(place, None, _PATIENCE) is None:
        raise CheckpointError(
            f"_save_checkpoint was called on some ranks alone at step {run.session.state.global_step} (waited "
            f"{_PATIENCE:g} s for the others), and a checkpoint holds what every rank keeps. Call it on all ranks at "
            "the same step, or set control.should_save = True on any of them."
        )


def write_alone(run: Run, ranks: list[dict[str, Any]]) -> None:
    """Write a checkpoint from what every rank keeps, without a word to the others, who wait for it or fail."""
    run.saved_step, run.left_alone = run.session.state.global_step, True
    draft, refusal = kept(lambda: begin(run, ranks))
    if refusal is not None:
        failed(run, refusal)
    elif draft is not None:
        write_now(run, draft)


def kept(take: Callable[[], T]) -> tuple[T | None, UnsavableError | None]:
    """Return what a function returns, or its refusal, so that the ranks can agree on it."""
    try:
        return take(), None
    except UnsavableError as error:
        return None, error


def write_now(run: Run, draft: PendingCheckpoint) -> None:
    """Write a checkpoint while the loop waits."""
    try:
        written = write(draft)
    except CheckpointError as error:
        failed(run, error)
        return
    finally:
        draft.remove_withdrawn()
    save_its_own_way(run, written.place)
    succeeded(run, written)


def begin(run: Run, ranks: list[dict[str, Any]], early: bool = False) -> PendingCheckpoint | None:
    """Write the small files of a checkpoint and copy what is large; None where this process writes nothing.

    Raises:
        UnsavableError: the state holds a value that no checkpoint can keep.
    """
    session = run.session
    place = checkpoint_folder(session)
    if session.state.best_global_step == session.state.global_step:
        session.state.best_model_checkpoint = str(place)
    if not session.args.should_save:
        return None
    temporary = None
    try:
        found = trees(run, of_ranks=False)
        objects = {file: tree for file, tree in found.items() if file not in layout.JSON}
        if not session.args.save_only_model:
            objects |= {layout.of_rank(rank, len(ranks)): state for rank, state in enumerate(ranks)}
        temporary = folder.open_temporary(place)
        with averaged(session.ema, session.model), users_configuration(session):
            tensors = weights.save_all_but_tensors(
                session.model, temporary, processor_of(session.processing_class, session.data_collator)
            )
        save_arguments(session, temporary)
        run.model_files = folder.files_in(temporary) | ({Path(layout.WEIGHTS)} if tensors is not None else set())
        write_progress(run, temporary, found)
        texts = {layout.STATE: run.history.file_of(replace(session.state, **found.get(layout.STATE, {})))}
        limit, best = session.args.save_total_limit, session.state.best_model_checkpoint
        draft = PendingCheckpoint(
            place,
            run.past,
            temporary,
            weights=tensors,
            objects=objects,
            texts=texts,
            keep=limit,
            best=best,
            early=early,
        )
        draft.finite = run.health.finite_parameters()
        if run.early is not None and run.early.place == place:
            draft.link(run.early)
        run.early = None
        if early or not synchronous(run):
            copy_state(run, draft)
        return draft
    except Exception as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, UnsavableError):
            raise
        failed(run, not_written(place, error))
        return None


def copy_state(run: Run, draft: PendingCheckpoint) -> None:
    """Copy the state to the host, so that the loop need not wait; where memory is short it has to."""
    copies = HostCopies() if draft.linked else run.copies  # the run's are kept for a whole checkpoint
    parts = {"weights": draft.weights, "objects": draft.objects, "finite": draft.finite}
    try:
        copied = copies.take(parts)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        copies.release()
        run.session.note(f"There is no memory for a copy of the state: training waits until {draft.place} is written.")
        return
    draft.weights, draft.objects, draft.finite = copied["weights"], copied["objects"], copied["finite"]
    draft.copies = copies
