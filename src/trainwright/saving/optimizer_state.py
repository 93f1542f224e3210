"""Going on with an optimizer and a schedule whose settings may have changed since the checkpoint.

Every setting has three values: what it was when the run began (a checkpoint tells, see `made_with`), what the
checkpoint has, and what today's script made. Where the script's own changed, today's holds; else the checkpoint's does,
which a schedule or a callback may have moved. Rates follow the schedule, from today's peak.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR

from trainwright.checkpoint import layout
from trainwright.checkpoint.parts import Exchange, Part
from trainwright.errors import CheckpointError
from trainwright.saving.resume_source import Saved
from trainwright.session.run import Run
from trainwright.session.session import Session

_NOT_SETTINGS = ("params", "param_names")
_TODAYS = ("base_lrs", "_last_lr")
_WITHIN = ("_schedulers", "lr_lambdas")
_PROGRESS = ("last_epoch", "_step_count")
_SHAPED = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "grad_avg", "sum")
_NEEDS_STATE = {
    ("Adam", "amsgrad"): "max_exp_avg_sq",
    ("AdamW", "amsgrad"): "max_exp_avg_sq",
    ("RMSprop", "centered"): "grad_avg",
    ("RMSprop", "momentum"): "momentum_buffer",
}


def parts(run: Run, saved: Saved | None) -> dict[str, Part]:
    """Return what a checkpoint keeps of optimizer and schedule; one of the model alone has the schedule take as many
    steps as were done."""
    session, today = run.session, run.made_with
    began = {} if saved is None else saved.about.get("made_with", {})
    parameters = [p for group in session.optimizer.param_groups for p in group["params"]]  # as its state numbers them

    def go_on(state: dict[str, Any]) -> None:
        assert saved is not None
        restore(session, state, began, today, saved.folder)

    def catch_up(alone: bool) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a schedule that steps before its optimizer
            for _ in range(0 if session.hooks.follows_metric or saved is None else saved.state.global_step):
                session.lr_scheduler.step()

    return {
        "optimizer": Part(
            state=Exchange(lambda: session.optimizer.state_dict(), go_on),
            title="The state of the optimizer",
            file=layout.OPTIMIZER,
            anew="optimizer",
            like=lambda place: parameters[place[1]] if place[0] == "state" and place[1] < len(parameters) else None,
        ),
        "schedule": Part(
            state=Exchange(
                lambda: session.lr_scheduler.state_dict(),
                lambda state: restore_schedule(session.lr_scheduler, session.optimizer, state, began, today),
            ),
            title="The state of the schedule",
            file=layout.SCHEDULER,
            anew="schedule" if session.hooks.follows_metric else "",
            lacking=catch_up,
        ),
    }


def made_with(session: Session) -> dict[str, Any]:
    """Return what optimizer and schedule are made with, before anything is restored; plain values alone."""
    names = {id(p): name for name, p in session.model.named_parameters()}
    groups = [
        {"settings": _settings(group), "names": [names.get(id(p)) for p in group["params"]]}
        for group in session.optimizer.param_groups
    ]
    schedule = {"class": type(session.lr_scheduler).__name__, "state": _plain(session.lr_scheduler.state_dict())[0]}
    made = {"optimizer": {"class": type(session.optimizer).__name__, "groups": groups}, "schedule": schedule}
    plain: dict[str, Any] = json.loads(json.dumps(made))
    return plain


def restore(session: Session, state: dict[str, Any], began: dict[str, Any], today: dict[str, Any], place: Path) -> None:
    """Put an optimizer's state back; settings that the script has changed stay today's.

    Args:
        session: with the optimizer of today.
        state: of the checkpoint.
        began: what `made_with` returned when the checkpoint's run began; empty where it does not tell.
        today: what it returns now.
        place: the checkpoint, for messages.

    Raises:
        CheckpointError: it is the state of another optimizer.
    """
    fault = _fault(session.optimizer, state, began.get("optimizer", {}), today["optimizer"])
    if fault is not None:
        raise CheckpointError(
            f"The optimizer of '{place}' is not this run's: {fault}. Put it back, or load the model from there and "
            "start a new run."
        )
    loaded = state.get("param_groups")
    if loaded is not None:
        before = [group["settings"] for group in began.get("optimizer", {}).get("groups", [])]
        before = before or [_settings(group) for group in loaded]
        pairs = zip(loaded, session.optimizer.param_groups, before, strict=True)
        merged = [_merged_group(*one) for one in pairs]
        state = {**state, "param_groups": merged}
        if "optimizer" not in session.created:
            _say_changes(session.note, loaded, merged)
    try:
        session.optimizer.load_state_dict(state)
    except Exception as error:  # whatever a foreign state does to a class that we may not know
        raise CheckpointError(
            f"The optimizer of '{place}' is not this run's: {type(error).__name__}: {error}. Put it back, or load the "
            "model from there and start a new run."
        ) from error


def _fault(optimizer: Any, state: dict[str, Any], began: dict[str, Any], today: dict[str, Any]) -> str | None:
    """Return why a state cannot be this optimizer's, or None."""
    name, loaded = type(optimizer).__name__, state.get("param_groups")
    if began.get("class", name) != name:
        return f"it is {began['class']}, and this run's is {name}"
    if loaded is None:
        return None
    sizes, mine = ([len(group["params"]) for group in groups] for groups in (loaded, optimizer.param_groups))
    if sizes != mine:
        return f"its groups have {sizes} parameters, and this run's {mine}"
    for number, (before, now) in enumerate(zip(began.get("groups", []), today["groups"], strict=False)):
        other = next((pair for pair in zip(before["names"], now["names"], strict=True) if pair[0] != pair[1]), None)
        if other is not None:
            return f"where its group {number} has '{other[0]}', this run's has '{other[1]}'"
    for saved, group in zip(loaded, optimizer.param_groups, strict=True):
        if not began and (lacks := group.keys() - saved.keys() - {"initial_lr"}) and (extra := saved.keys() - group):
            return f"it has {', '.join(sorted(extra))} and no {', '.join(sorted(lacks))}, which {name} needs"
        for number, parameter in zip(saved["params"], group["params"], strict=True):
            fault = _state_fault(name, group, state.get("state", {}).get(number, {}), parameter)
            if fault is not None:
                return fault
    return None


def _state_fault(name: str, group: dict[str, Any], kept: dict[str, Any], parameter: torch.Tensor) -> str | None:
    for key in _SHAPED:
        value = kept.get(key)
        if isinstance(value, torch.Tensor) and value.shape != parameter.shape:
            shapes = f"{tuple(value.shape)} for a parameter of {tuple(parameter.shape)}"
            return f"it keeps {key} of shape {shapes}"
    for (kind, setting), needed in _NEEDS_STATE.items():
        if kind == name and group.get(setting) and kept and needed not in kept:
            return f"{setting}={group[setting]} needs {needed}, which it does not keep"
    return None


def _merged_group(loaded: dict[str, Any], today: dict[str, Any], began: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a group: the checkpoint's, but for those that the script has changed.

    A schedule or a callback that moves a changed one moves it again.
    """
    merged = dict(loaded)
    for key, value in today.items():
        if key in (*_NOT_SETTINGS, "lr"):
            continue
        now, plain = _plain(value)
        if key not in loaded or (plain and key in began and now != began[key]):
            merged[key] = value
    return merged


def _say_changes(note: Callable[[str], None], loaded: list[dict[str, Any]], merged: list[dict[str, Any]]) -> None:
    """Name the changed settings of an optimizer that is the user's own; others are named among the arguments."""
    changed = {
        f"{key} {before[key]} -> {after[key]}": None
        for before, after in zip(loaded, merged, strict=True)
        for key in after
        if key not in _NOT_SETTINGS and key in before and _plain(before[key]) != _plain(after[key])
    }
    if changed:
        note(f"Settings of the optimizer changed since the checkpoint: {'; '.join(changed)}.")


def restore_schedule(
    scheduler: Any, optimizer: Any, state: dict[str, Any], began: dict[str, Any], today: dict[str, Any]
) -> None:
    """Put the schedule's progress back; its functions and the settings that the script has changed stay today's.

    A rate that its schedule computes from the step is computed from today's peak; one that follows from the rate
    before is the checkpoint's, scaled as the peak was.
    """
    groups = optimizer.param_groups
    kept, before = scheduler.state_dict(), began.get("schedule", {})
    same = before.get("class", type(scheduler).__name__) == type(scheduler).__name__
    if not same:
        state = {key: state[key] for key in _PROGRESS if key in state and key in kept}
    scheduler.load_state_dict(_merged_schedule(kept, state, before.get("state", {})))
    peaks = [group["settings"].get("lr") for group in today["optimizer"]["groups"]]
    if _follows_the_step(scheduler, state, before.get("state", {})):
        for group, peak, scale in zip(groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
            group["lr"], group["initial_lr"] = peak * scale(scheduler.last_epoch), peak
    elif not same:
        for group, peak in zip(groups, peaks, strict=True):
            group["lr"] = peak if peak is not None else group["lr"]
    else:
        first = [group["settings"].get("lr") for group in began.get("optimizer", {}).get("groups", [])]
        for group, peak, was in zip(groups, peaks, first, strict=False):
            if peak and was and peak != was:
                group["lr"] = group["lr"] * (peak / was)
    if hasattr(scheduler, "_last_lr"):
        scheduler._last_lr = [group["lr"] for group in groups]


def _follows_the_step(scheduler: Any, state: dict[str, Any], began: dict[str, Any]) -> bool:
    """Whether a schedule's rate is its peak times a factor of the step: LambdaLR's is, unless its functions are objects
    that change as they are called."""
    if not isinstance(scheduler, LambdaLR) or type(scheduler).get_lr is not LambdaLR.get_lr:
        return False
    moved, before = state.get("lr_lambdas"), began.get("lr_lambdas")
    return moved is None or before is None or bool(_plain(moved)[0] == before)


def _merged_schedule(kept: dict[str, Any], state: dict[str, Any], began: dict[str, Any]) -> dict[str, Any]:
    """Return the state to load: the checkpoint's, but for what belongs to today; schedules and objects within it
    alike."""
    merged = dict(kept)
    for key, value in state.items():
        before, mine = began.get(key), kept.get(key)
        if key in _WITHIN:
            if mine is not None and len(value) == len(mine):
                inner = before if isinstance(before, list) and len(before) == len(value) else [None] * len(value)
                merged[key] = [_merged_part(*one) for one in zip(mine, value, inner, strict=True)]
        elif key not in _TODAYS and not (key in kept and key in began and _plain(kept[key])[0] != before):
            merged[key] = value
    return merged


def _merged_part(kept: Any, state: Any, began: Any) -> Any:
    """Return the state of a schedule or object within a schedule; functions have none."""
    return kept if kept is None or state is None else _merged_schedule(kept, state, began or {})


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    """Return the plain settings of a group of parameters; its rate is the peak, where a schedule has begun."""
    found = {key: _plain(value) for key, value in group.items() if key not in _NOT_SETTINGS}
    settings = {key: value for key, (value, plain) in found.items() if plain}
    return {**settings, "lr": settings.get("initial_lr", settings.get("lr"))}


def _plain(value: Any) -> tuple[Any, bool]:
    """Return a value as JSON gives it back, and whether that is all of it."""
    if isinstance(value, torch.Tensor | np.generic) and np.prod(value.shape) == 1:
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value, True
    if isinstance(value, list | tuple):
        items = [_plain(item) for item in value]
        return [item for item, _ in items], all(plain for _, plain in items)
    if isinstance(value, dict):
        entries = {str(key): _plain(item) for key, item in value.items()}
        return {key: item for key, (item, plain) in entries.items() if plain}, True
    return None, False
