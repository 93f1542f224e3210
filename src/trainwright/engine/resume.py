"""Going on from a checkpoint: which one, whether it fits this run, and putting everything back."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainwright import randomness
from trainwright.args.foreign import restores_callbacks
from trainwright.args.training import saved_arguments
from trainwright.callbacks import states
from trainwright.checkpoint import check, folder, plain, weights
from trainwright.data.fingerprint import difference
from trainwright.data.loader import PlannedLoader, TrainLoader
from trainwright.engine import ema, optimizer_state
from trainwright.engine.run import Run
from trainwright.errors import CheckpointError
from trainwright.models import adapters
from trainwright.state import TrainerState

if TYPE_CHECKING:
    from trainwright.engine.trainer import Trainer

_ORDER_KEYS = {
    "num_rows": "rows of the dataset",
    "sampling": "train_sampling_strategy",
    "seed": "seed or data_seed",
    "batch_size": "per_device_train_batch_size",
    "accumulation": "gradient_accumulation_steps",
    "drop_last": "dataloader_drop_last",
    "kind": "kind of training data",
    "readers": "dataloader_num_workers, which divide the stream",
}
_NO_NUMBERS = (  # arguments that change nothing of what is computed
    "output_dir", "gradient_accumulation_steps", "resume_from_checkpoint", "max_train_time",
    "restore_callback_states_from_checkpoint",
)  # fmt: skip


@dataclass
class Saved:
    """A checkpoint to go on from: its folder, its progress, and what else it tells (empty for transformers' own)."""

    folder: Path
    state: TrainerState
    about: dict[str, Any]


def find(trainer: Trainer, wanted: bool | str | Path | None) -> Saved | None:
    """Return the checkpoint to go on from: the newest whole one for True, the one named for a path.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    if wanted is None or wanted is False:
        return None
    chosen, passed_over = trainer.strategy.on_main(lambda: _choose(trainer.run_folder, wanted))
    for fault in passed_over:
        trainer.note(f"Passed over {fault}.")
    file = chosen / folder.RUN_FILE
    about = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    state = TrainerState.load_from_json(chosen / "trainer_state.json")
    state.stateful_callbacks = plain.restore(state.stateful_callbacks)
    return Saved(chosen, state, about)


def _choose(output: Path, wanted: str | Path | bool) -> tuple[Path, list[check.Damage]]:
    if not isinstance(wanted, bool):
        return _named(Path(wanted)), []
    chosen, passed_over = check.newest_valid(output)
    if chosen is None:
        what = f"all are damaged ({'; '.join(map(str, passed_over))})" if passed_over else "there is none"
        raise CheckpointError(
            f"No checkpoint to resume from in '{output}': {what}. Start anew with train(), or give another output_dir."
        )
    return chosen, passed_over


def _named(chosen: Path) -> Path:
    if not chosen.is_dir():
        raise CheckpointError(f"resume_from_checkpoint='{chosen}' is not a folder; give a checkpoint-<step> folder.")
    fault = check.damage(chosen)
    if fault is not None:
        inside = folder.checkpoints(chosen)
        hint = f" Did you mean '{inside[-1]}'?" if inside else " Give another one, or True for the newest whole one."
        raise CheckpointError(f"Cannot resume from '{chosen}': {fault.reason}.{hint}")
    return chosen


def find_best(trainer: Trainer, saved: Saved) -> None:
    """Find the best checkpoint beside the one that is resumed, wherever their folder lies now.

    Its name is relative to the run's folder; where another engine or version has noted a path, its last part counts.
    What is there now must be of the same run. Where there is none, the search for the best begins anew.
    """
    state, told = saved.state, saved.about.get("best")
    noted = told or state.best_model_checkpoint
    if noted is None:
        return
    beside = saved.folder.parent
    places = [beside / noted] if told else [beside / Path(noted).name, Path(noted)]
    run_id = folder.run_of(saved.folder)
    found = trainer.strategy.on_main(lambda: next((p for p in places if _is_of_run(p, run_id, beside)), None))
    if found is not None:
        state.best_model_checkpoint = str(found)
        return
    trainer.note(f"The best checkpoint so far, '{noted}', is gone; the search for it begins anew.")
    state.best_model_checkpoint = state.best_metric = state.best_global_step = None


def _is_of_run(path: Path, run_id: str | None, beside: Path) -> bool:
    """Whether a checkpoint is of a run; one that does not tell its run must lie beside that which is resumed."""
    of = folder.run_of(path)
    known = of == run_id if of is not None else path.parent == beside
    return path.is_dir() and known


def keep_step_rows(trainer: Trainer, saved: Saved) -> None:
    """Keep the rows of a step on another number of ranks, by changing the accumulation.

    Raises:
        CheckpointError: they do not divide, and `allow_batch_change` is off.
    """
    data, args = saved.about.get("data", {}), trainer.args
    ranks = trainer.strategy.world.size
    if data.get("kind") != "planned" or data["ranks"] == ranks or _batch_was_changed(args, data):
        return
    step_rows = data["batch_size"] * data["accumulation"] * data["ranks"]
    if step_rows % (args.per_device_train_batch_size * ranks) == 0:
        args.gradient_accumulation_steps = step_rows // (args.per_device_train_batch_size * ranks)
        trainer.note(
            f"Resuming on {ranks} process(es) instead of {data['ranks']}: gradient_accumulation_steps is now "
            f"{args.gradient_accumulation_steps}, so that a step keeps its {step_rows} rows."
        )
    elif not args.allow_batch_change:
        raise CheckpointError(
            f"The checkpoint's steps have {step_rows} rows, which do not divide among {ranks} process(es) of "
            f"per_device_train_batch_size={args.per_device_train_batch_size}. Change that, or consent to other "
            "steps with allow_batch_change=True."
        )


def _batch_was_changed(args: Any, data: dict[str, Any]) -> bool:
    now = (args.per_device_train_batch_size, args.gradient_accumulation_steps)
    return now != (data["batch_size"], data["accumulation"])


def check_order(trainer: Trainer, saved: Saved, loader: TrainLoader) -> None:
    """Compare what defines the data order with the checkpoint's; a change needs consent.

    Raises:
        CheckpointError: it changed, and `allow_batch_change` is off.
    """
    before, now = saved.about.get("data", {}), loader.describe()
    kept = now.get("ranks") != before.get("ranks") and _step_rows(now) == _step_rows(before)
    changed = [
        f"{meaning} {before[key]} -> {now.get(key)}"
        for key, meaning in _ORDER_KEYS.items()
        if key in before and before[key] != now.get(key) and not (kept and key in ("accumulation", "batch_size"))
        if not (key == "num_rows" and trainer.args.allow_data_change)
    ]
    if not changed:
        return
    if not trainer.args.allow_batch_change:
        raise CheckpointError(
            f"The data order is not the checkpoint's: {'; '.join(changed)}. Put it back, or consent with "
            "allow_batch_change=True: the run then goes on after the same number of rows, in the new order."
        )
    trainer.note(f"The data order changes from here: {'; '.join(changed)}.")


def check_data(trainer: Trainer, saved: Saved, now: str | None) -> None:
    """Compare what the training data holds with what it held; a change needs consent.

    Raises:
        CheckpointError: it is other data, and `allow_data_change` is off.
    """
    other = difference(saved.about.get("content"), now)
    if other is None:
        return
    if not trainer.args.allow_data_change:
        raise CheckpointError(
            f"The training data is not what '{saved.folder}' was trained on, though as long: {other}. Put it back, or "
            "consent with allow_data_change=True: the run then goes on with the new data from the same place."
        )
    trainer.note(f"The training data changes from here: {other}.")


def _step_rows(data: dict[str, Any]) -> int:
    return data.get("batch_size", 0) * data.get("accumulation", 0) * data.get("ranks", 0)


def position(saved: Saved, loader: TrainLoader, args: Any) -> tuple[int, int]:
    """Return (passes completed, position in the pass) of a checkpoint; for transformers' own, from its step."""
    epoch, place = _position(saved, loader, args.gradient_accumulation_steps)
    return (epoch, 0) if args.ignore_data_skip else (epoch, place)


def _position(saved: Saved, loader: TrainLoader, accumulation: int) -> tuple[int, int]:
    if "position" in saved.about:
        return saved.about["epoch"], saved.about["position"]
    epoch, steps = divmod(saved.state.global_step, loader.steps_per_epoch or math.inf)
    unit = loader.plan.batching.step_rows if isinstance(loader, PlannedLoader) else accumulation
    return int(epoch), int(steps) * unit


def restore_model(trainer: Trainer, saved: Saved) -> None:
    """Put the weights back, and say which arguments differ from the checkpoint's."""
    weights.load_model(trainer.model, saved.folder)
    before, now = saved.about.get("arguments", {}), saved_arguments(trainer.args)
    changed = [
        f"{k}: {before[k]} -> {v}" for k, v in now.items() if k in before and before[k] != v and k not in _NO_NUMBERS
    ]
    if changed:
        trainer.note(f"Arguments changed since the checkpoint: {'; '.join(changed)}.")


def restore_rest(run: Run, saved: Saved) -> None:
    """Put optimizer, schedule, scaler and randomness back.

    Of a checkpoint that holds the model alone, the optimizer begins anew and the schedule goes on where it was.

    Raises:
        CheckpointError: the checkpoint has an optimizer that does not fit.
    """
    trainer, place = run.trainer, saved.folder
    if not (place / "optimizer.pt").exists():
        go_on_with_the_model_alone(run, saved)
        return
    began = saved.about.get("made_with", {})
    optimizer_state.restore(trainer, folder.load(place / "optimizer.pt"), began, run.made_with, place)
    optimizer_state.restore_schedule(trainer, folder.load(place / "scheduler.pt"), began, run.made_with)
    if (place / "scaler.pt").exists():
        trainer.precision.load_state_dict(folder.load(place / "scaler.pt"))
    if trainer.ema is not None and (place / ema.FILE).exists():
        trainer.ema.load_state_dict(folder.load(place / ema.FILE))
    run.due = list(saved.about.get("due", []))
    restore_adapters(run, saved)
    restore_rank(run, place)


def go_on_with_the_model_alone(run: Run, saved: Saved) -> None:
    """Go on from weights and progress: the schedule takes as many steps as were done; say what begins anew."""
    trainer, done = run.trainer, saved.state.global_step
    anew = [
        "optimizer",
        *(["schedule"] if trainer.follows_metric else []),
        "moving average" * (trainer.ema is not None),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a schedule that steps before its optimizer
        for _ in range(0 if trainer.follows_metric else done):
            trainer.lr_scheduler.step()
    trainer.note(
        f"'{saved.folder}' holds the model alone (save_only_model). The run goes on at step {done} of its data"
        f"{'' if trainer.follows_metric else ' and of its schedule'}; {', '.join(filter(None, anew))} and random "
        "numbers begin anew. A checkpoint saved without save_only_model goes on as if the run had never stopped."
    )
    run.due = list(saved.about.get("due", []))
    restore_adapters(run, saved)


def restore_adapters(run: Run, saved: Saved) -> None:
    """Switch to the adapters that were active, unless the script begins with others than it did before."""
    then, began = saved.about.get("adapters"), saved.about.get("made_with", {}).get("adapters")
    if then and began == run.made_with["adapters"] != then:
        adapters.activate(run.trainer.model, then)


def restore_rank(run: Run, place: Path) -> None:
    """Put back what every rank keeps for itself; on another number of ranks, what the first one kept, without its
    randomness."""
    trainer, world = run.trainer, run.trainer.strategy.world
    own = place / randomness.file_name(world.rank, world.size)
    others = [place / name for name in ("rng_state.pth", "rng_state_0.pth")]
    found = next((path for path in (own, *others) if path.exists()), None)
    state = folder.load(found) if found is not None else {}
    run.loader.load_state_dict(state)
    run.health.buffers.load_state_dict(state.get("buffers", {}), trainer.note)
    if restores_callbacks(trainer.args):
        states.restore_dicts(trainer.callback_handler.callbacks, state.get("callbacks", []), trainer.note)
    if found != own:
        trainer.note(f"The checkpoint has no {own.name}: dropout and other randomness go on from the seed.")
        return
    randomness.restore(state)
    restore_generators(run, state.get("own", {}))
    if "latest" in state:
        run.grad_norm, run.learning_rate = state["latest"]["grad_norm"], state["latest"]["learning_rate"]
    if "averages" in state:
        run.meter.load_state_dict(state["averages"]["loss"], trainer.strategy.device)
        trainer.records.load_state_dict(state["averages"]["records"], trainer.strategy.device)


def restore_generators(run: Run, saved: dict[str, Any]) -> None:
    """Put the random generators back that the user's own parts hold, and say which only one side has."""
    unmatched = randomness.restore_into(run.generators, saved)
    if unmatched:
        run.trainer.note(
            f"Of the random generators {', '.join(unmatched)} the checkpoint has some and this run has others; they "
            "begin anew. A generator goes on where it is made before training."
        )
