"""Going on from a checkpoint: which one, whether it fits this run, and putting everything back."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from trainwright.args.foreign import restores_callbacks
from trainwright.args.training import TrainingArguments, saved_arguments
from trainwright.checkpoint import folder, layout, parts, plain
from trainwright.checkpoint.mirror import bringing
from trainwright.checkpoint.sharded import foreign
from trainwright.checkpoint.sharded.weights import load_model
from trainwright.data.fingerprint import difference
from trainwright.data.loaders.loader import PlannedLoader, TrainLoader
from trainwright.errors import CheckpointError
from trainwright.parallel.strategy import Strategy
from trainwright.saving.parts import OF_CALLBACKS
from trainwright.saving.resume_source import Saved
from trainwright.session.run import Run
from trainwright.session.session import Session
from trainwright.state import TrainerState

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
_ASKED_BY = {"log": "logging_strategy", "evaluate": "eval_strategy", "save": "save_strategy"}
_NO_NUMBERS = (  # arguments that change nothing of what is computed
    "output_dir", "gradient_accumulation_steps", "resume_from_checkpoint", "max_train_time",
    "checkpoint_mirror",
    "restore_callback_states_from_checkpoint",
)  # fmt: skip


def find(session: Session, wanted: bool | str | Path | None) -> Saved | None:
    """Return the checkpoint to go on from: the newest whole one for True, the one named for a path.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    if wanted is None or wanted is False:
        return None
    strategy, output, mirror = session.strategy, session.run_folder, session.args.checkpoint_mirror
    wanted = strategy.on_main(partial(foreign.readable, output, wanted, session.note))
    chosen, passed_over = bringing.choose(strategy, output, wanted, mirror, session.note)
    for fault in passed_over:
        session.note(f"Passed over {fault}.")
    file = chosen / layout.RUN
    about = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    state = TrainerState.load_from_json(chosen / layout.STATE)
    state.stateful_callbacks = plain.restore(state.stateful_callbacks)
    return Saved(chosen, state, about)


def find_best(strategy: Strategy, note: Callable[[str], None], saved: Saved) -> None:
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
    found = strategy.on_main(lambda: next((p for p in places if _is_of_run(p, run_id, beside)), None))
    if found is not None:
        state.best_model_checkpoint = str(found)
        return
    note(f"The best checkpoint so far, '{noted}', is gone; the search for it begins anew.")
    state.best_model_checkpoint = state.best_metric = state.best_global_step = None


def begin_search_anew(args: TrainingArguments, note: Callable[[str], None], saved: Saved) -> None:
    """Forget the best model so far where it was found by another metric, or the other way round: the values of two
    metrics cannot be compared."""
    before, now, state = saved.about.get("arguments", {}), saved_arguments(args), saved.state
    changed = [
        f"{name} was {before[name]!r} and is {now[name]!r}"
        for name in ("metric_for_best_model", "greater_is_better")
        if name in before and _bare(before[name]) != _bare(now[name])
    ]
    if changed and state.best_metric is not None:
        note(f"{'; '.join(changed)}: the search for the best model begins anew.")
        state.best_model_checkpoint = state.best_metric = state.best_global_step = None


def _bare(value: Any) -> Any:
    """Return a metric's name without what evaluations put before it."""
    return value.removeprefix("eval_") if isinstance(value, str) else value


def _is_of_run(path: Path, run_id: str | None, beside: Path) -> bool:
    """Whether a checkpoint is of a run; one that does not tell its run must lie beside that which is resumed."""
    of = folder.run_of(path)
    known = of == run_id if of is not None else path.parent == beside
    return path.is_dir() and known


def keep_step_rows(
    args: TrainingArguments, note: Callable[[str], None], saved: Saved, loader: TrainLoader
) -> TrainingArguments:
    """Keep the rows of a step on another number of ranks, by another accumulation; what the script itself has changed
    of a step is judged by `check_order`.

    Returns:
        The run's arguments: the session's, or a copy with that accumulation.

    Raises:
        CheckpointError: they do not divide, and `allow_batch_change` is off.
    """
    before, now = saved.data, loader.describe()
    if before.get("kind") != now["kind"] or "batch_size" not in before:  # of another engine, or old
        return args
    whole, rows = _step_rows(before), _step_rows({**now, "accumulation": 1})
    asked = before["batch_size"], before.get("asked", before["accumulation"])
    if asked == (now["batch_size"], now["accumulation"]) and whole != _step_rows(now):
        told = f"{whole} {'rows' if now['batch_size'] else 'batches'}"
        if whole % rows == 0:
            args = copy(args)
            args.gradient_accumulation_steps = whole // rows
            loader.accumulate(args.gradient_accumulation_steps)
            note(
                f"The run goes on with {now['ranks']} process(es), after {before['ranks']}: "
                f"gradient_accumulation_steps is {args.gradient_accumulation_steps}, so that a step keeps its {told}."
            )
        elif not args.allow_batch_change:
            size = f" of {now['batch_size']} rows in a micro-batch" if now["batch_size"] else ""
            raise CheckpointError(
                f"The checkpoint's steps have {told}, which do not divide among {now['ranks']} process(es){size}. "
                "Change that, or consent to other steps with allow_batch_change=True."
            )
    if isinstance(loader, PlannedLoader) and whole == loader.plan.batching.step_rows:
        loader.plan.order = replace(loader.plan.order, group_rows=before["group_rows"])
    return args


def check_order(session: Session, saved: Saved, loader: TrainLoader) -> None:
    """Compare what defines the data order with the checkpoint's; a change needs consent.

    Raises:
        CheckpointError: it changed, and `allow_batch_change` is off.
    """
    before, now = saved.data, session.strategy.from_main(loader.describe())
    _check_place(session.args, session.note, saved, loader)
    kept = now["ranks"] != before.get("ranks") and _step_rows(now) == _step_rows(before)
    meanings = _ORDER_KEYS if now["kind"] == "planned" else _ORDER_KEYS | {"batch_size": "rows of a micro-batch"}
    changed = [
        f"{meaning} {before[key]} -> {now.get(key)}"
        for key, meaning in meanings.items()
        if key in before and before[key] != now.get(key) and not (kept and key in ("accumulation", "batch_size"))
        if not (key == "num_rows" and session.args.allow_data_change)
    ]
    if kept and _left_out(before) != _left_out(now):
        changed.append(f"rows that dataloader_drop_last leaves out {_left_out(before)} -> {_left_out(now)}")
    if not changed:
        return
    if not session.args.allow_batch_change:
        raise CheckpointError(
            f"The data order is not the checkpoint's: {'; '.join(changed)}. Put it back, or consent with "
            "allow_batch_change=True: the run then goes on after the same number of rows, in the new order."
        )
    session.note(f"The data order changes from here: {'; '.join(changed)}.")


def end_of(args: Any, saved: Saved, loader: TrainLoader, end: int) -> int:
    """Return the step at which a run ends: `end` by what is left of whole passes, but where neither these nor their
    number have changed, that which was told when it began, for passes may have ended early, or had other rows."""
    if isinstance(loader, PlannedLoader):
        loader.plan.first_rows = saved.data.get("first_rows")
    steps, before = saved.data.get("steps"), saved.about.get("arguments", {}).get("num_train_epochs")
    same = steps is not None and steps == loader.steps_per_epoch and before == args.num_train_epochs
    return saved.state.max_steps if same and args.max_steps <= 0 else end


def _left_out(data: dict[str, Any]) -> int | str:
    """Return how many rows are left out at the end of a pass."""
    if not data.get("drop_last"):
        return 0
    group = data["batch_size"] * data["ranks"]
    return data["num_rows"] % group if "num_rows" in data else f"up to {group - 1}"


def _check_place(args: TrainingArguments, note: Callable[[str], None], saved: Saved, loader: TrainLoader) -> None:
    """Refuse the middle of a pass whose batches were trained as they were ready, without consent, and a place within a
    batch that is taken whole."""
    done, before, now = saved.about.get("position", 0), saved.data, loader.describe()
    if not done or args.ignore_data_skip:
        return
    if now.get("whole") and None not in (before.get("batch_size"), now["batch_size"]):
        rows = done * before["batch_size"]
        if rows % now["batch_size"]:
            raise CheckpointError(
                f"The {rows} rows of this pass that are done end within a batch of {now['batch_size']} rows, and the "
                f"batches of a {type(loader.loader).__name__} are taken as they are. Give batches of "
                f"{before['batch_size']} rows, or begin the pass anew with ignore_data_skip=True."
            )
    if before.get("in_order", True) or not loader.steps_left(done):
        return
    why = "batches were trained as they were ready (dataloader_in_order=False), so which rows are done is not known"
    if not args.allow_batch_change:
        raise CheckpointError(
            f"'{saved.folder}' is of the middle of a pass whose {why}. Resume from a checkpoint between two passes, "
            "begin the pass anew with ignore_data_skip=True, or consent with allow_batch_change=True: some rows of "
            "this pass are then read twice, and others never."
        )
    note(f"Some rows of this pass are read twice and others never: its {why}.")


def check_data(args: TrainingArguments, note: Callable[[str], None], saved: Saved, now: str | None) -> None:
    """Compare what the training data holds with what it held; a change needs consent.

    Raises:
        CheckpointError: it is other data, and `allow_data_change` is off.
    """
    other = difference(saved.about.get("content"), now)
    if other is None:
        return
    if not args.allow_data_change:
        raise CheckpointError(
            f"The training data is not what '{saved.folder}' was trained on, though as long: {other}. Put it back, or "
            "consent with allow_data_change=True: the run then goes on with the new data from the same place."
        )
    note(f"The training data changes from here: {other}.")


def _step_rows(data: dict[str, Any]) -> int:
    return int((data.get("batch_size") or 1) * data.get("accumulation", 0) * data.get("ranks", 0))


def position(saved: Saved, loader: TrainLoader) -> tuple[int, int]:
    """Return (passes completed, position in the pass) of a checkpoint; for transformers' own, from its step."""
    about = saved.about
    if "position" not in about:
        epoch, steps = divmod(saved.state.global_step, loader.steps_per_epoch or math.inf)
        return int(epoch), int(steps) * loader.step_size
    epoch, place = about["epoch"], about["position"]
    if not isinstance(loader, PlannedLoader):
        place = _batches_done(place, saved.data, loader.describe())
    ended = not about.get("open", True) and place and loader.steps_left(place) == 0
    return (epoch + 1, 0) if ended else (epoch, place)


def _batches_done(place: Any, before: dict[str, Any], now: dict[str, Any]) -> Any:
    """Return a place in a loader's batches as a number of today's: of all ranks, or of this one where each has a loader
    of its own share; older checkpoints count those of one rank always. Where batches have another size, a place within
    one is a fraction, and the loader itself knows the rows."""
    done = place * before["ranks"] if before.get("divided", True) else place
    done = done // now["ranks"] if now["divided"] else done
    sizes = before.get("batch_size"), now["batch_size"]
    if None not in sizes and sizes[0] != sizes[1]:
        done = done * sizes[0] / sizes[1]
    return int(done) if done == int(done) else done


def restore_model(session: Session, saved: Saved) -> None:
    """Put the weights back, and say which arguments differ from the checkpoint's."""
    load_model(session.model, saved.folder)
    before, now = saved.about.get("arguments", {}), saved_arguments(session.args)
    changed = [
        f"{k}: {before[k]} -> {v}" for k, v in now.items() if k in before and before[k] != v and k not in _NO_NUMBERS
    ]
    if changed:
        session.note(f"Arguments changed since the checkpoint: {'; '.join(changed)}.")


def restore(run: Run, saved: Saved) -> None:
    """Give every part of the run what the checkpoint keeps of it, and say what begins anew.

    Raises:
        CheckpointError: a part cannot go on with it, on any rank.
    """
    session = run.session
    checkpoint = parts.Opened(saved.folder, session.strategy)
    left_out = () if restores_callbacks(session.args) else OF_CALLBACKS
    kept = {name: part for name, part in run.parts.items() if name not in left_out}
    anew = session.strategy.on_all(lambda: parts.restore(kept, checkpoint))
    run.origin, run.due = saved.folder, still_due(run, saved)
    run.history.go_on(saved.folder / layout.STATE, session.state.log_history)
    run.drawn_apart = checkpoint.has_own and bool(saved.about.get("drawn_apart"))
    if checkpoint.alone:
        say_that_the_model_is_alone(run, saved, anew)
    elif not checkpoint.has_own:
        session.note(f"The checkpoint has no {checkpoint.own}: dropout and other randomness go on from the seed.")
    elif not run.drawn_apart and session.strategy.is_distributed:
        session.note(
            f"'{saved.folder}' was written when all ranks drew the same random numbers. From here on each draws its "
            "own, so dropout is not bitwise what it would have been."
        )
    if unknown := parts.unknown_to(session.checkpoint_parts, checkpoint):
        session.note(f"'{saved.folder}' keeps {', '.join(map(repr, unknown))}, which are in no checkpoint_parts now.")


def say_that_the_model_is_alone(run: Run, saved: Saved, anew: list[str]) -> None:
    """Say what goes on from weights and progress, and what begins anew."""
    run.session.note(
        f"'{saved.folder}' holds the model alone (save_only_model). The run goes on at step {saved.state.global_step} "
        f"of its data{'' if run.session.hooks.follows_metric else ' and of its schedule'}; {', '.join(anew)} and "
        "random numbers begin anew. A checkpoint saved without save_only_model goes on as if the run had never stopped."
    )


def still_due(run: Run, saved: Saved) -> list[str]:
    """Return what was due at the checkpoint, without what its arguments asked for and today's do not."""
    then, today = saved.about.get("arguments", {}), run.session.args
    dropped = [name for name, by in _ASKED_BY.items() if getattr(today, by) == "no" and then.get(by) != "no"]
    return [name for name in saved.about.get("due", []) if name not in dropped]
