"""Leaving a run early: the last whole step is saved, with what was still due, and then the error is raised."""

from __future__ import annotations

import signal
from typing import NoReturn

from trainwright.callbacks import job
from trainwright.errors import CheckpointError, DivergenceError, RankError, add_note, note_step
from trainwright.parallel.peers import is_of_an_exchange
from trainwright.saving import agreement, contents, outcome, reporting, save, step_boundary
from trainwright.session.run import Run
from trainwright.session.signals import TIME_IS_UP, StopWaiting, exception_for


def evaluate(run: Run) -> None:
    """Evaluate; at a signal, leave in the middle of it: the resumed run evaluates again from the start."""
    run.boundary = step_boundary.take(run, step_boundary.raised_flags(run))
    saves = run.session.control.should_save
    save.save_early(run)
    run.session.control.should_evaluate = False
    try:
        reporting.evaluate(run)
    except StopWaiting:
        leave(run)
    agreement.agree(run)
    run.boundary = None
    if saves and not run.session.control.should_save:
        save.drop_early(run)


def lower_flags(run: Run) -> None:
    """Leave nothing to be acted on."""
    for name in ("log", "evaluate", "save"):
        setattr(run.session.control, f"should_{name}", False)


def raise_due_flags(run: Run) -> None:
    """Raise the flags that were not acted on when the checkpoint was written, or not even raised."""
    due, run.due = run.due, []
    if "step_end" in due:
        run.fire("step_end")
    for name in ("log", "evaluate", "save"):
        if name in due:
            setattr(run.session.control, f"should_{name}", True)


def leave(run: Run) -> NoReturn:
    """Save, close the callbacks and leave.

    Raises:
        Interrupted: with exit code 128 + n; KeyboardInterrupt for Ctrl-C at a prompt; or what a handler of the user's
            raised at the signal.
        CheckpointError: the save failed.
    """
    assert run.stop is not None
    state, args = run.session.state, run.session.args
    by = f"by {signal.Signals(run.stop).name}"
    why = f"since max_train_time={args.max_train_time} is over," if run.stop == TIME_IS_UP else by
    where = f"Interrupted {why} at step {state.step_of()}; "
    if state.global_step == 0:
        told = where + "nothing was done yet."
    else:
        save_here(run)
        told = f"{where}saved in '{run.folder}'. {run.session.goes_on} goes on from there."
    run.left = True
    run.fire("train_end")
    outcome.finish(run)
    run.session.note(told)
    stop = exception_for(run.stop, told)
    if run.signals.raised is not None:
        raise run.signals.raised from stop
    raise stop


def stop(run: Run) -> None:
    """Save, and let the training end as if it were complete, since its job was asked to stop."""
    if run.session.state.global_step > run.first_step:
        save_here(run)
    run.left = run.session.control.should_training_stop = True
    job.acts()


def save_here(run: Run) -> None:
    """Save the end of the last step, unless that was just done, and wait for it; a save that failed is tried again."""
    if run.boundary is not None:
        step_boundary.put_back(run)
        run.due = run.boundary.due
    outcome.collect(run, wait=True)
    is_saved = run.saved_step == run.session.state.global_step and run.saved_due == run.due
    is_saved = is_saved and outcome.checkpoint_folder(run.session).is_dir()  # taking it may have failed in any way
    if run.session.strategy.from_main(is_saved and run.save_error is None):  # others do not know whether it failed
        agreement.early_is_final(run)
        return
    save.save_checkpoint(run)
    outcome.collect(run, wait=True)


def save_meanwhile(run: Run) -> None:
    """Save what is done at a signal, in the midst of code that gives data and lets no exception through.

    The process ends when that code does.
    """
    if run.session.state.global_step == run.first_step:
        return
    save_here(run)
    if run.save_error is None:
        run.session.note(
            "The run is asked to stop, but the code that reads its data catches every exception and goes on. Step "
            f"{run.session.state.global_step} is saved in '{run.folder}'; the process may be killed. Let that code "
            "catch `Exception`, not all."
        )


def save_together(run: Run, error: BaseException) -> None:
    """Save what is done so far, since the run cannot go on; every rank does this at the same place."""
    run.left = True
    if run.session.state.global_step == run.first_step:
        return
    save_here(run)
    tell_saved(run, error)


def tell_saved(run: Run, error: BaseException) -> None:
    """Say at which step a failed run was saved, in the log and in a note of the error.

    Raises:
        RankError: the error is that of an exchange with a process which failed or is gone.
    """
    if run.save_error is None:
        step, lost = run.session.state.global_step, lost_in(run, error)
        told = f"The run failed after step {step} ({lost or type(error).__name__}); saved at step {step}."
        run.session.note(told)
        add_note(error, f"{told} {run.session.goes_on} goes on from there.")
        if lost is not None:
            raise RankError(f"{told} {run.session.goes_on} goes on from there.") from error


def save_after(run: Run, error: BaseException) -> None:
    """Save what is done before an error of any kind is raised, and let the error say how to go on.

    Raises:
        Interrupted: the run was asked to stop, and this came in between.
    """
    note_step(error, run.session.state.global_step)
    expected = isinstance(error, CheckpointError | DivergenceError)
    if run.left or expected or run.signals.at_once or run.session.trial is not None:
        return
    if run.updating:
        told = "It came in the middle of an update, where the parameters belong to no step: nothing was saved."
        run.session.note(f"{type(error).__name__}: {told}")
        add_note(error, told)
        return
    try:
        save_all(run, error)
    except CheckpointError as second:
        run.session.note(f"The run failed ({type(error).__name__}), and could not be saved: {second}")
        add_note(error, f"It could not be saved: {second}")


def save_all(run: Run, error: BaseException) -> None:
    """Save what is done, on every rank."""
    if run.boundary is None:
        run.due = [*run.due, *step_boundary.raised_flags(run)]
    if run.session.strategy.is_distributed:
        save_if_all_failed(run, error)
    elif run.stop is not None:
        leave(run)
    else:
        save_together(run, error)


def save_if_all_failed(run: Run, error: BaseException) -> None:
    """Save what is done where all ranks came here from the same step: none of them is in the middle of an exchange.

    Raises:
        RankError: it is another one that failed, or is gone.
    """
    run.left = True
    strategy, step = run.session.strategy, run.session.state.global_step
    if not is_of_an_exchange(error):  # that is the other one's end
        strategy.tell_failure(f"{type(error).__name__}: {error}".splitlines()[0])
    if step == run.first_step:
        return
    midway = run.boundary is not None and run.boundary.computing
    step_boundary.put_back(run)
    run.due = run.boundary.due if run.boundary is not None else run.due
    place = f"failed {run.run_id} {step}"
    if strategy.shards_state:
        save_parts_if_all_failed(run, error, place, midway)
        return
    ranks = strategy.all_here(place, contents.rank_state(run), together=False)  # one of them writes, of all
    if ranks is None:
        say_not_saved(run, error, "Not all ranks failed at the same step")
        return
    if strategy.is_main:
        with run.timesheet.spending("saving"):
            outcome.collect(run, wait=True)
            save.write_alone(run, ranks)
        strategy.tell(f"{place} saved")
    if strategy.wait_for(f"{place} saved"):
        tell_saved(run, error)
    else:  # it waited for this one, which could not know of it
        say_not_saved(run, error, "The first rank has left")


def save_parts_if_all_failed(run: Run, error: BaseException, place: str, midway: bool) -> None:
    """Finish the save in flight, and save what is done where all ranks came here: none of them waits for another one's
    part in the middle of a step. What they have gathered there is let go of, where torch knows how.

    Args:
        run: the run.
        error: that it failed of.
        place: where the ranks meet.
        midway: whether this one failed in the middle of a step.
    """
    strategy = run.session.strategy
    ranks = strategy.all_here(place, (midway, run.together.outcome()))
    if ranks is None:
        say_not_saved(run, error, "Not all ranks failed at the same step")
        return
    outcome.publish_parts(run, [told for _, told in ranks])
    if not strategy.forget(run.model) and any(computing for computing, _ in ranks):
        if strategy.is_main:
            outcome.collect(run, wait=True)
            strategy.tell(f"{place} saved")
        strategy.wait_for(f"{place} saved")
        say_not_saved(run, error, "Ranks that share a model failed in a step")
        return
    save.save_checkpoint(run)
    outcome.collect(run, wait=True)
    if strategy.from_main(run.save_error is None):  # the first one makes it a checkpoint
        tell_saved(run, error)


def say_not_saved(run: Run, error: BaseException, why: str) -> None:
    """Say that a failed run stays as its last checkpoint has it, in the log and in a note of the error.

    Raises:
        RankError: the error is that of an exchange with a process which failed or is gone.
    """
    lost = lost_in(run, error)
    told = f"{lost or why}, so they cannot save together: the last checkpoint holds."
    run.session.note(told)
    add_note(error, told)
    if lost is not None:
        step = run.session.state.global_step
        raise RankError(f"{lost}, after step {step}, so this one ends, too: the last checkpoint holds.") from error


def lost_in(run: Run, error: BaseException) -> str | None:
    """Return, of an error of an exchange, which other processes failed, are gone or hold the run up."""
    return run.session.strategy.lost() or run.watch.found if is_of_an_exchange(error) else None
