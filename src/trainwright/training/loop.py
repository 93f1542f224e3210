"""The training loop. Read it from top to bottom: this is all that happens in a run.

train:  for every pass over the data, for every optimizer step:
            step:  forward and backward of every micro-batch, clip, update, schedule
            act on flags:  log, evaluate, save, when a callback has asked for it
"""

from __future__ import annotations

from contextlib import closing
from functools import partial

import torch

from trainwright import randomness
from trainwright.callbacks.early_stopping import stay_stopped
from trainwright.evaluation_mode import modes_of, put_back
from trainwright.losses import fused_loss, units, weighing
from trainwright.losses.look_ahead import look_ahead
from trainwright.losses.loss_source import micro_batch
from trainwright.losses.out_of_memory import is_out_of_memory
from trainwright.losses.step_batch import StepBatch
from trainwright.saving import agreement, outcome, reporting, save
from trainwright.session.exact_sums import widened
from trainwright.session.run import Run
from trainwright.training import shutdown
from trainwright.training.step_batches import catch_up, feed, follow_rows, halve


def train(run: Run) -> None:
    """Run all steps that are left; what is done is saved, whatever else happens."""
    try:
        with run.watch:
            passes(run)
    except BaseException as error:
        shutdown.save_after(run, error)
        raise


def passes(run: Run) -> None:
    """Run all steps that are left."""
    run.fire("train_begin")
    stay_stopped(run.session.callback_handler.callbacks, run.session.state, run.session.control)
    agreement.agree(run)
    run.modes = modes_of(run.session.model)
    if not run.drawn_apart:
        randomness.draw_apart(run.session.strategy.data_shard.index)
    run.health.watch()
    if run.due:
        shutdown.raise_due_flags(run)
        agreement.agree(run)
        act_on_flags(run)
    if run.session.args.eval_on_start and run.session.state.global_step == 0:
        reporting.evaluate(run, decides=False)
        agreement.agree(run)
    while run.open or not run.done:
        run.fire("epoch_begin")
        agreement.agree(run)
        run.open = True
        if not run.done:  # else its steps were done before the run was stopped
            steps(run)
        if run.left:
            break
        end_pass(run)
        if not run.done or run.session.control.should_epoch_stop:
            run.next_epoch()
            follow_rows(run)
        act_on_flags(run)
    run.health.settle()
    run.health.check_parameters()


def steps(run: Run) -> None:
    """Run the steps that are left of a pass."""
    run.watch.begin_step(run.session.state.global_step + 1)
    with closing(feed(run)) as works:
        for work in works:
            run.timesheet.begin_step()
            run.fire("step_begin")
            step(run, work)
            run.fire("step_end")
            agreement.agree_on_step(run)
            run.watch.end_step()
            act_on_flags(run)
            run.watch.begin_step(run.session.state.global_step + 1)
            if run.done or run.session.control.should_epoch_stop:
                break
    run.watch.end_step()


def end_pass(run: Run) -> None:
    """Tell that a pass is over; where a callback fails, the run that goes on tells it again."""
    run.end_pass()
    try:
        run.fire("epoch_end")
    except BaseException:
        shutdown.lower_flags(run)
        raise
    run.open = False
    agreement.agree(run)


def step(run: Run, work: StepBatch) -> None:
    """Update the parameters once, from all micro-batches of a step.

    The losses of the micro-batches are shares of one mean over `work.total` items, so they add up. Without any item
    the step moves on in the data, and nothing else.
    """
    session = run.session
    if session.model.training is not run.modes[0][1]:  # a callback has switched all of it, and not back
        put_back(run.modes)
    run.health.buffers.keep()
    if run.boundary is not None:
        run.boundary.computing = True
    fused_loss.settle(run, work)
    units.settle(run, work)
    weighing.settle(run, work)
    work = look_ahead(run, work)
    loss, failed = backward(run, work)
    while loss is None:
        work = halve(run, work, failed)
        weighing.settle(run, work)
        loss, failed = backward(run, work)
    if not work.total:
        session.records.end_step(True)
    updated = bool(work.total) and update(run, loss)
    run.meter.empty += not work.total
    try:
        if work.total:
            run.fire("optimizer_step")
    except BaseException:
        run.due = ["step_end"]
        raise
    finally:  # a callback that raises finds a whole step behind it
        if updated and not session.hooks.follows_metric:
            session.lr_scheduler.step()
        run.clear_gradients()
        run.advance(work.position)


def backward(run: Run, work: StepBatch) -> tuple[torch.Tensor | None, bool]:
    """Add the gradients of all micro-batches; return the sum of their losses, or None when memory ran out, and whether
    that was here."""
    strategy, careful = run.session.strategy, run.session.args.auto_find_batch_size
    loss, failed = None, False
    run.session.records.begin_step()
    run.session.current_gradient_accumulation_steps = sum(map(bool, work.items))
    for number, (batch, items) in enumerate(zip(work.batches, work.items, strict=True)):
        last = number == len(work.batches) - 1
        try:
            with strategy.accumulate(run.model, last):
                share = micro_batch(run, batch, items, work.total, last)
        except (RuntimeError, MemoryError) as error:
            if not (careful and is_out_of_memory(error)):
                raise
            share, failed = None, True
        if careful and strategy.ran_out(run.model, failed, last, partial(catch_up, run, batch)):
            break
        if share is not None:
            loss = share if loss is None else widened(loss) + share
        if not last:
            run.fire("substep_end")
    if careful and strategy.any(failed):
        return None, failed
    run.follow_trained()
    strategy.finish_gradients([*run.parameters, *run.others])
    strategy.share_buffers(run.model)
    return torch.zeros((), device=strategy.device) if loss is None else loss, False


def update(run: Run, loss: torch.Tensor) -> bool:
    """Clip the gradients and step the optimizer, unless they are not finite; return whether the schedule moves on."""
    session, strategy, precision = run.session, run.session.strategy, run.session.precision
    precision.unscale(session.optimizer)
    run.grad_norm, norms = strategy.clip_gradients(run.parameters, session.args.max_grad_norm)
    run.fire("pre_optimizer_step")
    bad = strategy.nonfinite(widened(loss) if precision.scales else loss, run.grad_norm, precision)
    run.boundary, run.updating = None, True
    done = precision.step(session.optimizer, bad)
    if session.ema is not None and done:
        session.ema.update(session.model, bad)
    run.health.buffers.put_back(bad if done else True)
    run.meter.add(loss, bad)
    session.records.end_step(bad)
    run.health.after_step(bad, loss, norms, run.epoch, run.position)
    run.learning_rate = session.optimizer.param_groups[0]["lr"]
    return done


def act_on_flags(run: Run) -> None:
    """Log, evaluate and save, where a callback has raised the flag for it; leave, where a signal asked for it."""
    control = run.session.control
    if control.should_log:
        reporting.log_step(run)
        agreement.agree(run)
    if run.session.control.should_evaluate:
        shutdown.evaluate(run)
    if run.session.control.should_save:
        save.save_checkpoint(run)
        agreement.agree(run)
    else:
        outcome.collect(run, wait=False)
    if run.stop is not None:
        shutdown.leave(run)
