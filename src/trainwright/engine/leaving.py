"""Leaving a run early: the state after this step is saved, with what was still due, and then the error is raised."""

from __future__ import annotations

import signal
from typing import NoReturn

from trainwright.engine import reports, saving
from trainwright.engine.run import Run
from trainwright.engine.signals import TIME_IS_UP, StopWaiting, exception_for


def evaluate(run: Run) -> None:
    """Evaluate; at a signal, leave in the middle of it: the resumed run evaluates again from the start."""
    run.randomness_before = run.randomness()
    run.interruptible = run.trainer.strategy.world.size == 1
    try:
        reports.evaluate(run)
    except StopWaiting:
        run.due = ["evaluate", *(["save"] if run.trainer.control.should_save else [])]
        leave(run)
    finally:
        run.interruptible = False
    run.randomness_before = None


def raise_due_flags(run: Run) -> None:
    """Raise the flags that were not acted on when the checkpoint was written."""
    for name in run.due:
        setattr(run.trainer.control, f"should_{name}", True)
    run.due = []


def leave(run: Run) -> NoReturn:
    """Save, close the callbacks and leave.

    Raises:
        Interrupted: with exit code 128 + n; KeyboardInterrupt for Ctrl-C at a prompt.
        CheckpointError: the save failed.
    """
    save_here(run)
    run.fire("train_end")
    saving.finish(run)
    assert run.stop is not None
    args, by = run.trainer.args, f"by {signal.Signals(run.stop).name}"
    why = f"since max_train_time={args.max_train_time} is over," if run.stop == TIME_IS_UP else by
    message = (
        f"Interrupted {why} at step {run.trainer.state.global_step} of {run.max_steps}; "
        f"saved in '{run.folder}'. train(resume_from_checkpoint=True) goes on from there."
    )
    run.trainer.note(message)
    stop = exception_for(run.stop, message)
    if run.signals.raised is not None:
        raise run.signals.raised from stop
    raise stop


def save_here(run: Run) -> None:
    """Save the present step, unless that was just done, and wait for it."""
    if run.saved_step != run.trainer.state.global_step or run.due:
        saving.save_checkpoint(run)
    saving.collect(run, wait=True)


def save_before(run: Run, error: BaseException) -> None:
    """Save what is done so far, since the data failed and the run cannot go on."""
    step = run.trainer.state.global_step
    if step == run.first_step:
        return
    save_here(run)
    if run.save_error is None:
        run.trainer.note(f"The data of step {step + 1} failed ({type(error).__name__}); saved at step {step}.")
