"""The training loop. Read it from top to bottom: this is all that happens in a run.

train:  for every pass over the data, for every optimizer step:
            step:  forward and backward of every micro-batch, clip, update, schedule
            act on flags:  log, evaluate, save, when a callback has asked for it
"""

from __future__ import annotations

from trainwright.engine import reports, saving
from trainwright.engine.feed import Work, feed
from trainwright.engine.run import Run


def train(run: Run) -> None:
    """Run all steps that are left."""
    run.fire("train_begin")
    if run.trainer.args.eval_on_start and run.trainer.state.global_step == 0:
        reports.evaluate(run, schedule=False)
    while not run.done:
        run.fire("epoch_begin")
        for work in feed(run):
            run.fire("step_begin")
            step(run, work)
            run.advance(work.position)
            run.fire("step_end")
            act_on_flags(run)
            if run.done or run.trainer.control.should_epoch_stop:
                break
        run.fire("epoch_end")
        if not run.done or run.trainer.control.should_epoch_stop:
            run.next_epoch()
        act_on_flags(run)


def step(run: Run, work: Work) -> None:
    """Update the parameters once, from all micro-batches of a step.

    The losses of the micro-batches are shares of one mean over `work.total` items, so they add up.
    """
    trainer, strategy = run.trainer, run.trainer.strategy
    for number, (batch, items) in enumerate(zip(work.batches, work.items, strict=True)):
        last = number == len(work.batches) - 1
        with strategy.accumulate(run.model, last):
            if items:
                run.meter.add(trainer.training_step(run.model, batch, num_items_in_batch=work.total))
            elif last and work.total and strategy.world.size > 1:
                trainer.idle_step(run.model, batch)
        if not last:
            run.fire("substep_end")
    updated = update(run) if work.total else True
    if updated and not trainer.follows_metric:
        trainer.lr_scheduler.step()
    trainer.optimizer.zero_grad(set_to_none=True)


def update(run: Run) -> bool:
    """Clip the gradients and step the optimizer; return whether the update was done."""
    trainer = run.trainer
    run.grad_norm = trainer.precision.clip(trainer.optimizer, run.parameters, trainer.args.max_grad_norm)
    run.fire("pre_optimizer_step")
    done = trainer.precision.step(trainer.optimizer)
    run.fire("optimizer_step")
    run.learning_rate = trainer.optimizer.param_groups[0]["lr"]
    return done


def act_on_flags(run: Run) -> None:
    """Log, evaluate and save, where a callback has raised the flag for it."""
    if run.trainer.control.should_log:
        reports.log_step(run)
    if run.trainer.control.should_evaluate:
        reports.evaluate(run)
    if run.trainer.control.should_save:
        saving.save_checkpoint(run)
