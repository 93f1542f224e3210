"""One call of `Trainer.train`: build the run, restore it, loop, and finish."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from torch import nn

from trainwright import randomness
from trainwright.args.durations import seconds
from trainwright.args.foreign import check as check_arguments
from trainwright.args.names import SCHEDULERS_WITHOUT_TOTAL
from trainwright.args.signatures import check_call, wants_trial
from trainwright.callbacks import job
from trainwright.callbacks.job import Timesheet
from trainwright.checkpoint import folder
from trainwright.checkpoint.checkpoints import claim
from trainwright.checkpoint.lock import RunLock
from trainwright.checkpoint.mirror.copying import Mirror
from trainwright.checkpoint.mirror.remote import Remote
from trainwright.checkpoint.parts import ABSENT, Opened, Stateful, check_users, of_users, restore
from trainwright.checkpoint.sharded import verify
from trainwright.checkpoint.sharded.weights import load_model
from trainwright.data import fingerprint
from trainwright.data.loaders.loader import TrainLoader
from trainwright.errors import CheckpointError, ConfigError
from trainwright.held import drawn_from_the_system
from trainwright.inputs import dataloaders, dividing, rank_consistency
from trainwright.inputs.batch_counts import non_embedding_parameters, throughput_of
from trainwright.losses import fused_loss, loss_source
from trainwright.models import adapters
from trainwright.models.inspect import uncompiled
from trainwright.randomness import seed_trainer
from trainwright.saving import extra_parameters, hub, optimizer_state, outcome, parts, reporting, resume
from trainwright.saving.resume_source import Saved
from trainwright.saving.sharded import pretrained
from trainwright.session import ema
from trainwright.session.ema import Ema
from trainwright.session.meters import Records
from trainwright.session.model_setup import (
    placed,
    remove_noise,
    restore_configuration,
    take_model,
    train_mode,
    training_model,
)
from trainwright.session.run import Run, generators_of
from trainwright.session.session import Session
from trainwright.session.signals import TIME_IS_UP, Signals, exception_for
from trainwright.session.symptoms import check_warmup
from trainwright.session.trainable import Trained
from trainwright.state import UNKNOWN, TrainerState, TrainOutput
from trainwright.training import given, loop, optimizing, run_cards, setup

_STEPS = ("warmup_steps", "logging_steps", "eval_steps", "save_steps")


def call_model_init(session: Session, trial: Any = None) -> Any:
    """Return a new model from `model_init`, which takes the trial or nothing.

    Raises:
        ConfigError: it returns none.
    """
    make: Any = session.model_init
    if isinstance(make, nn.Module):
        raise ConfigError("model_init= is a model; give it as model=, or a function that makes one: lambda: …")
    takes = callable(make) and wants_trial(make)
    check_call(make, "model_init", ("trial",) if takes else ())
    model = make(trial) if takes else make()
    if model is None or isinstance(model, type):
        raise ConfigError(f"model_init returned {model}; it must return the model.")
    return model


def fresh_model(session: Session, trial: Any) -> None:
    """Begin with a new model, from the seed; forget the optimizer and schedule of the one before."""
    seed_trainer(session.args.seed, session.args.full_determinism)
    take_model(session, session.hooks.call_model_init(trial))
    session.callback_handler.shared["model"] = session.model
    session.optimizer = session.lr_scheduler = None
    setup.follow(session)


def train(
    session: Session, wanted: bool | str | Path | None, ignore_keys: list[str] | None, timesheet: Timesheet
) -> TrainOutput:
    """Train from the start or from a checkpoint; see `Trainer.train`."""
    check_arguments(session.args)
    if session.args.checkpoint_mirror is not None:
        Remote(session.args.checkpoint_mirror)  # which may be no place at all
    check_users(session.checkpoint_parts)
    dividing.look(session, session.train_dataset, dividing.TRAINING)
    sets = session.eval_dataset
    for rows in sets.values() if isinstance(sets, dict) else [sets]:
        dividing.look(session, rows, dividing.EVALUATION)
    rank_consistency.check(session, wanted)
    hub.finish_pushes(session)
    lock = session.folder_lock or RunLock(session.run_folder)
    session.strategy.on_main(lambda: claim(session.run_folder, lock))
    if session.strategy.shards_state:
        verify.check_shared(session.strategy, session.run_folder)
    session.is_in_train, asked = True, session.args
    try:
        limit = asked.max_train_time
        with Signals(session.note, None if limit is None else seconds(limit)) as signals:
            saved = resume.find(session, wanted)
            if saved is not None:
                resume.find_best(session.strategy, session.note, saved)
                resume.begin_search_anew(session.args, session.note, saved)
            if session.stage is not None:
                session.stage.begin(saved)
            loader = dataloaders.train_loader(session)
            try:
                if saved is not None:
                    session.args = resume.keep_step_rows(session.args, session.note, saved, loader)
                    resume.check_order(session, saved, loader)
                content = session.strategy.on_main(lambda: dataloaders.content_of_training(loader))
                if saved is not None:
                    resume.check_data(session.args, session.note, saved, content)
                run = build(session, loader, saved, signals)
                run.ignore_keys_for_eval, run.content, run.timesheet = ignore_keys, content, timesheet
                run.accumulation, run.throughput = asked.gradient_accumulation_steps, throughput_of(session)
                lock.name(run.run_id)
                set_earlier_aside(run, saved)
                begin_copying(run)
                run_cards.begin(run)
                timesheet.begin(str(run.folder.absolute()), run.first_step)
                output = execute_as_rank(run)
            finally:
                loader.close()
                if session.stage is not None:
                    session.stage.close()
                fused_loss.finish(session)
                remove_noise(session)
                restore_configuration(session)
        if signals.received not in (None, TIME_IS_UP):
            raise exception_for(signals.received, "A signal came when the run was complete.")
        return output
    finally:
        session.is_in_train, session.ema = False, None
        session.args, session.run = asked, None  # which other ranks may have changed
        lock.release()


def execute_as_rank(run: Run) -> TrainOutput:
    """Execute it; where it is one of several processes of a job, let it tell how it is."""
    session, ranks = run.session, run.session.strategy.ranks()
    name = session.strategy.from_main(job.name()) if ranks else None
    folder, passed = Path(session.args.output_dir or run.folder), run.timesheet.trained()
    with job.of_rank(name, ranks, folder, run.run_id, session.state, passed) as run.told:
        if run.told is not None:
            run.watch.each_look = run.told.write
        return execute(run)


def execute(run: Run) -> TrainOutput:
    """Run the loop to its end; the save in flight is finished whatever happens."""
    run.session.run = run
    try:
        with hub.without_bars(run.session.args):
            loop.train(run)
            return finish(run)
    except BaseException as error:
        run.fire_error(error)
        raise
    finally:
        with run.timesheet.spending("saving"):
            run.together.wait_for_own()
            problem = run.writer.close()
        if problem is not None:  # of a save that an error has overtaken
            run.session.note(str(problem))
        outcome.finish_copies(run, hurries=True)
        if run.session.strategy.is_main:
            fingerprint.leave(run.content, dataloaders.content_of_training(run.loader))


def set_earlier_aside(run: Run, saved: Saved | None) -> None:
    """Move checkpoints that are not this run's past into `previous-<time>`, so that none is mixed up or overwritten."""

    origin = None if saved is None else saved.folder
    told = run.session.strategy.on_main(lambda: folder.set_aside(run.folder, origin))
    if told is not None:
        run.session.note(told)


def begin_copying(run: Run) -> None:
    """Copy the run's checkpoints to a second place from here on, where one is given; those first that are not there."""
    args = run.session.args
    if args.checkpoint_mirror is not None and run.session.strategy.is_main:
        run.mirror = Mirror(Remote(args.checkpoint_mirror), run.run_id, args.save_total_limit)
        run.mirror.offer(run.past.checkpoints(), run.session.state.best_model_checkpoint)


def build(session: Session, loader: TrainLoader, saved: Saved | None, signals: Signals) -> Run:
    """Return the run: model on its device and wrapped, optimizer, schedule, and the checkpoint's state put back."""
    args = session.args
    epoch, place = resume.position(saved, loader) if saved else (0, 0)
    done = saved.state.global_step if saved else 0
    end, num_epochs = lengths(args, loader, done, epoch, place)
    if saved is not None:
        end = resume.end_of(args, saved, loader, end)
    skipped = args.ignore_data_skip and loader.steps_left(place) != 0
    place, max_steps = 0 if skipped else place, max(end, done)
    prepare_state(session, saved, max_steps, num_epochs, loader)
    if uncompiled(session.model) is not session.model:  # the user compiled it since
        take_model(session, session.model)
    placed(session)
    pretrained.follow(session)
    if saved is not None:
        resume.restore_model(session, saved)
    model = session.model_wrapped = training_model(session)
    loss_source.look_at(session)
    fused_loss.prepare(session)
    session.non_embedding_parameters = non_embedding_parameters(session.model)
    optimizing.make(session, max_steps)
    check_warmup(session, max_steps)
    if session.hooks.follows_metric and args.eval_strategy != "no":
        reporting.metric_name(args)
    session.ema = None if args.ema_decay is None else Ema(session.model, args.ema_decay, session.strategy)
    run_id = (saved.about.get("run") if saved is not None else None) or session.strategy.from_main(uuid4().hex)
    run = Run(
        session=session,
        loader=loader,
        model=model,
        trained=Trained(session.model),
        others=extra_parameters.begin(session),
        count=session.hooks.count_items,
        max_steps=max_steps,
        num_epochs=num_epochs,
        signals=signals,
        run_id=run_id,
        epoch=epoch,
        position=place,
    )
    run.generators = generators_of(session)
    say_what_cannot_come_again(session)
    run.made_with = {**optimizer_state.made_with(session), "adapters": adapters.active(session.model)}
    session.records = Records()
    session.precision.begin()
    run.first_step = run.meter.first_step = run.meter.logged_at = done
    run.targets_seen = done > 0
    run.parts = parts.of_run(run, saved)
    if saved is not None:
        resume.restore(run, saved)
        run.open = saved.about.get("open", False) and done <= end
        session.note(f"Resuming from '{saved.folder}' at step {session.state.step_of()}{what_is_left(run, end)}.")
    session.callback_handler.shared |= {
        "optimizer": session.optimizer,
        "lr_scheduler": session.lr_scheduler,
        "train_dataloader": loader.loader,
    }
    train_mode(session, True)
    return run


def what_is_left(run: Run, end: int) -> str:
    """Return what to say of a run that goes on with no step left; `end` is the step at which it was to be over."""
    args, done = run.session.args, run.first_step
    if done < end:
        return ""
    if done > end:
        told = f"max_steps={args.max_steps}" if args.max_steps > 0 else f"num_train_epochs={args.num_train_epochs:g}"
        return f", where nothing is left to train: with {told} the run ends at step {end}"
    if run.open and "epoch" in (args.eval_strategy, args.logging_strategy, args.save_strategy):
        return ": all steps are done, and what is due at the end of the pass follows"
    return ": the run is complete, and nothing is left to train"


def say_what_cannot_come_again(session: Session) -> None:
    """Name what a checkpoint cannot keep: some generators, and what the user did not make a part."""
    given.tell_of_unkept_state(session)
    parts = {"model": session.model, "train_dataset": session.train_dataset, "data_collator": session.data_collator}
    if places := drawn_from_the_system(parts):
        session.note(
            f"{', '.join(places)} draws from random.SystemRandom, which cannot be put back: a resumed run draws other "
            "numbers. Take random.Random where it should be the same."
        )


def lengths(args: Any, loader: TrainLoader, done: int, epoch: int, place: int) -> tuple[int, float]:
    """Return (optimizer steps, passes over the data) of the whole run; fewer steps than are done where it is to end
    before them.

    Raises:
        ConfigError: the data has no length, and neither max_steps nor a schedule without an end is given, or steps are
            given as shares of the run.
    """
    per_epoch = loader.steps_per_epoch
    if args.max_steps > 0:
        return args.max_steps, math.inf
    if per_epoch is not None:
        behind = per_epoch - (loader.steps_left(place) or 0)
        left = math.ceil((args.num_train_epochs - epoch) * per_epoch) - behind
        return max(1, done + left), math.ceil(args.num_train_epochs)
    if args.lr_scheduler_type not in SCHEDULERS_WITHOUT_TOTAL:
        raise ConfigError(
            f"The training data has no length, so lr_scheduler_type='{args.lr_scheduler_type}' cannot know the end of "
            "the run. Set max_steps, or use lr_scheduler_type='constant_with_warmup' to run num_train_epochs passes."
        )
    shares = [f"{name}={value}" for name in _STEPS if 0 < (value := getattr(args, name) or 0) < 1]
    if shares:
        raise ConfigError(
            f"{shares[0]} is a share of the run, but the training data has no length, so its steps are not known. "
            f"Give a number of steps, or max_steps."
        )
    return UNKNOWN, args.num_train_epochs


def prepare_state(
    session: Session, saved: Saved | None, max_steps: int, num_epochs: float, loader: TrainLoader
) -> None:
    """Set the trainer's state for this run: fresh, or as the checkpoint has it."""
    state = saved.state if saved is not None else TrainerState()
    state.max_steps = max_steps
    passes = num_epochs if math.isfinite(num_epochs) else max_steps / (loader.steps_per_epoch or max_steps)
    state.num_train_epochs = math.ceil(passes)
    state.train_batch_size = session.args.per_device_train_batch_size
    state.is_world_process_zero = session.strategy.is_main
    state.is_local_process_zero = session.strategy.is_local_main
    state.is_hyper_param_search = session.trial is not None
    if session.trial is not None:
        state.trial_name, state.trial_params = f"run-{session.trial.number}", dict(session.trial.params)
    state.compute_steps(session.args, max_steps)
    session.state = state


def finish(run: Run) -> TrainOutput:
    """Log the numbers of the run, load the best model if asked for, and close.

    Raises:
        CheckpointError: the last save failed.
    """
    session = run.session
    outcome.collect(run, wait=True)
    session.strategy.barrier()
    if session.ema is not None:  # what was evaluated stays
        session.ema.leave(session.model)
        session.ema = None
    metrics = reporting.training_metrics(run)
    reporting.log(session, metrics, run.started)
    best = session.strategy.from_main(session.state.best_model_checkpoint)  # where a save failed, others do not know
    if session.args.load_best_model_at_end and best is not None:
        load_best(session, Path(best))
    elif session.args.load_best_model_at_end:
        session.note("load_best_model_at_end: no evaluation found a best model that is saved; the last weights stay.")
    randomness.restore_host(session.strategy.from_main(randomness.host_states()))  # what follows draws alike again
    run.fire("train_end")
    outcome.finish(run)
    hub.finish_pushes(session)
    run_cards.end(run)
    return TrainOutput(session.state.global_step, metrics["train_loss"], metrics)


def load_best(session: Session, best: Path) -> None:
    """Take the weights of the best checkpoint.

    Raises:
        CheckpointError: it is damaged.
    """
    fault = verify.damage(session.strategy, best)
    if fault is not None:
        raise CheckpointError(
            f"The best checkpoint '{best}' cannot be loaded: {fault.reason}. The run is complete, and its last step is "
            f"in '{session.run_folder}'."
        )
    load_model(session.model, best)
    checkpoint = Opened(best, session.strategy)
    restore({"others": extra_parameters.part(session, best)}, checkpoint)
    with_parts = load_best_parts(session.checkpoint_parts, session.note, checkpoint)
    ema.put(session.model, parts.average_in(session, best).get("weights", {}))  # which older ones have there alone
    measured = f"{session.args.metric_for_best_model} {session.state.best_metric}"
    session.note(f"Loaded the best model, '{best}', with {measured}{with_parts}.")


def load_best_parts(given: dict[str, Stateful], note: Callable[[str], None], checkpoint: Opened) -> str:
    """Give the modules among the user's parts what the best checkpoint keeps of them, as they go with its model; return
    what to say of that.

    Raises:
        CheckpointError: one cannot go on with it.
    """
    back: list[str] = []
    stay: list[str] = []
    for name, (_, part) in zip(given, of_users(given, checkpoint.place, note), strict=True):
        state = checkpoint.state_of(part) if isinstance(given[name], nn.Module) else ABSENT
        if state is not ABSENT:
            part.state.load_state_dict(state)
        (stay if state is ABSENT else back).append(repr(name))
    told = f", with the parts {', '.join(back)} as they were there" if back else ""
    return told + (f"; the parts {', '.join(stay)} stay as the last step left them" if stay else "")
