"""Saving a run: what a checkpoint holds, who writes it, and what follows when it is there or cannot be written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trainwright import randomness
from trainwright.args.training import saved_arguments
from trainwright.batch import map_tensors
from trainwright.callbacks import states
from trainwright.checkpoint import folder, weights
from trainwright.checkpoint.writer import Draft, Written, not_written, write
from trainwright.engine import ema, hub
from trainwright.engine.health import finite
from trainwright.engine.passes import averaged
from trainwright.engine.run import Run, generators_of
from trainwright.errors import CheckpointError, SaveError

if TYPE_CHECKING:
    from trainwright.engine.trainer import Trainer


def save_checkpoint(run: Run) -> None:
    """Save `checkpoint-<step>`: in the background, unless someone else's code wants to see the folder."""
    trainer = run.trainer
    trainer.control.should_save = False
    collect(run, wait=True)
    trainer._save_checkpoint(trainer.model, trainer.trial)
    if run.trainer.args.push_to_hub and run.save_error is None:
        hub.push_checkpoint(trainer, checkpoint_folder(trainer))


def write_checkpoint(run: Run) -> None:
    """Take the run's state and write it, or begin to."""
    trainer = run.trainer
    run.generators = generators_of(trainer)  # some are made in the first step
    run.health.settle()  # so that the averages know whether this step was skipped
    ranks = trainer.strategy.gather(rank_state(run))
    run.saved_step = trainer.state.global_step
    draft = begin(run, ranks)
    if draft is None:
        return
    if not synchronous(trainer):
        run.writer.start(draft)
        return
    try:
        written = write(draft)
    except CheckpointError as error:
        failed(run, error)
        return
    if type(trainer).save_model.__module__ != "trainwright.engine.trainer":
        trainer.save_model(str(written.place), _internal_call=True)
    succeeded(run, written)


def begin(run: Run, ranks: list[dict[str, Any]]) -> Draft | None:
    """Write the small files of a checkpoint and copy what is large; None where this process writes nothing."""
    trainer = run.trainer
    place = checkpoint_folder(trainer)
    run.best_before = trainer.state.best_model_checkpoint
    if trainer.state.best_global_step == trainer.state.global_step:
        trainer.state.best_model_checkpoint = str(place)
    if not trainer.args.should_save:
        return None
    temporary = None
    try:
        temporary = folder.open_temporary(place)
        tensors = weights.save_all_but_tensors(trainer.model, temporary, trainer.processing_class)
        write_progress(run, temporary)
    except OSError as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        failed(run, not_written(place, error, None))
        return None
    objects = {} if trainer.args.save_only_model else resumable_state(trainer, ranks)
    copied = run.copies.take({"weights": tensors, "objects": objects, "finite": finite(run.parameters)})
    limit, best = trainer.args.save_total_limit, trainer.state.best_model_checkpoint
    flags = dict(zip(run.health.names, copied["finite"], strict=True))
    return Draft(place, run.run_id, temporary, copied["weights"], copied["objects"], limit, best, run.copies, flags)


def checkpoint_folder(trainer: Trainer) -> Path:
    """Return where the checkpoint of the present step lies."""
    return trainer.run_folder / f"{folder.PREFIX}-{trainer.state.global_step}"


def synchronous(trainer: Trainer) -> bool:
    """Whether the loop waits for a save: where code that is not ours is called with the finished folder."""
    if trainer.args.push_to_hub:
        return True
    if any(
        getattr(type(trainer), name).__module__ != "trainwright.engine.trainer"
        for name in ("save_model", "_save_checkpoint")
    ):
        return True
    owners = [getattr(listener, "__self__", listener) for listener in trainer.callback_handler.listeners("save")]
    return any(not type(owner).__module__.startswith("trainwright.") for owner in owners)


def rank_state(run: Run) -> dict[str, Any]:
    """Return what a checkpoint keeps for every rank: randomness, place in the data, numbers not logged yet."""
    trainer = run.trainer
    own = {
        "averages": {"loss": run.meter.state_dict(), "records": trainer.records.state_dict()},
        "buffers": run.health.buffers.state_dict(),
        "callbacks": states.collect_dicts(trainer.callback_handler.callbacks, trainer.note),
    }
    if trainer.strategy.world.size > 1:  # it goes to the first rank through the hosts
        own = map_tensors(own, lambda tensor: tensor.cpu())
    return {**(run.randomness_before or run.randomness()), **run.loader.state_dict(), **own}


def resumable_state(trainer: Trainer, ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what torch.save writes, by file name: optimizer, schedule, loss scaler, every rank's state."""
    objects = {"optimizer.pt": trainer.optimizer.state_dict(), "scheduler.pt": trainer.lr_scheduler.state_dict()}
    if scaler := trainer.precision.state_dict():
        objects["scaler.pt"] = scaler
    if trainer.ema is not None:
        objects[ema.FILE] = trainer.ema.state_dict()
    return objects | {randomness.file_name(rank, len(ranks)): state for rank, state in enumerate(ranks)}


def write_progress(run: Run, place: Path) -> None:
    """Write how far the run is, what is due, and what it was started with, as JSON."""
    trainer = run.trainer
    owners = [*trainer.callback_handler.callbacks, trainer.control]
    trainer.state.stateful_callbacks = states.collect(owners, trainer.note)
    trainer.state.save_to_json(place / "trainer_state.json")
    about = {
        "run": run.run_id,
        "epoch": run.epoch,
        "position": run.position,
        "due": run.due,
        "data": run.loader.describe(),
        "content": run.content,
        "ranks": trainer.strategy.world.size,
        "made_with": run.made_with,
        "arguments": saved_arguments(trainer.args),
        "versions": {"torch": torch.__version__},
    }
    (place / folder.RUN_FILE).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def collect(run: Run, wait: bool) -> None:
    """See whether the save in flight is done, or wait for it, and say what came of it."""
    try:
        written = run.writer.collect(wait)
    except CheckpointError as error:
        failed(run, error)
        return
    if written is not None:
        succeeded(run, written)


def succeeded(run: Run, written: Written) -> None:
    """Tell the callbacks that a checkpoint exists."""
    run.save_error = None
    for old in written.deleted:
        run.trainer.note(f"Deleted {old.name} (save_total_limit={run.trainer.args.save_total_limit}).")
    run.fire("save", checkpoint=written.place)


def failed(run: Run, error: CheckpointError) -> None:
    """Note that a save failed; the run goes on, and the best checkpoint is the one before."""
    run.save_error = error
    run.trainer.state.best_model_checkpoint = run.best_before
    run.trainer.note(f"{error} Training goes on, and the next save tries again.")


def finish(run: Run) -> None:
    """Wait for the last save.

    Raises:
        SaveError: it failed, so the end of the run is not on the disk.
    """
    collect(run, wait=True)
    problem = run.trainer.strategy.from_main(str(run.save_error) if run.save_error is not None else None)
    if problem is not None:
        raise SaveError(
            f"{problem} The run is at step {run.trainer.state.global_step}, and its last save failed. Mend that, and "
            "resume from the checkpoint before."
        )


def save_model(trainer: Trainer, output_dir: str | None) -> None:
    """Write the weights, configuration and tokenizer, on the process that writes."""
    place = Path(output_dir if output_dir is not None else trainer.args.output_dir or ".")
    if trainer.args.should_save and not (trainer.is_in_train and (place / folder.MANIFEST).exists()):
        with averaged(trainer):
            weights.save_model(trainer.model, place, trainer.processing_class)
