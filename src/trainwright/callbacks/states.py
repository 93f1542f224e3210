"""What callbacks keep in a checkpoint: counters and the like, by class name, as transformers lays them out.

A callback with `state()` keeps `{"args": what it was made with, "attributes": how far it is}` in `trainer_state.json`;
one with `state_dict()` and `load_state_dict()`, as modules have them, keeps what these exchange, on every rank.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainwright.errors import UnsavableError

Note = Callable[[str], None]
Encode = Callable[[Any, str], Any]  # of a value and what it is called; raises UnsavableError
_NOTHING: dict[str, Any] = {"args": {}, "attributes": {}}


def collect(owners: list[Any], note: Note) -> dict[str, Any]:
    """Return the `state()` of every object that has one, by class name; of several of a class, a list in order."""
    found = {name: [_asked(owner, "state", note, _NOTHING) for owner in same] for name, same in _stateful(owners)}
    return {name: states if len(states) > 1 else states[0] for name, states in found.items()}


def restore(owners: list[Any], saved: dict[str, Any], note: Note) -> None:
    """Put the `attributes` of saved states back; `args` stay those that the callbacks are made with today.

    Several of a class are told apart by their order, or, where their number has changed, by their `args`.
    """
    for name, same in _stateful(owners):
        states = saved.get(name, [])
        states = states if isinstance(states, list) else [states]
        for number, owner in enumerate(same):
            try:
                _restore_one(owner, states, number if len(states) == len(same) else None, note)
            except Exception as error:  # a state of the user's own form; it must not keep the run from going on
                note(f"The state of {name} cannot be restored ({_said(error)}); it begins anew.")


def collect_dicts(owners: list[Any], note: Note) -> list[tuple[str, Any]]:
    """Return (class name, `state_dict()`) of every callback that has one, in order."""
    return [(type(owner).__name__, _asked(owner, "state_dict", note, None)) for owner in _with_dicts(owners)]


def restore_dicts(owners: list[Any], saved: list[tuple[str, Any]], note: Note) -> None:
    """Hand the callbacks what their `state_dict()` returned, those of one class in order."""
    left = list(saved)
    for owner in _with_dicts(owners):
        name = type(owner).__name__
        number = next((number for number, (kept, _) in enumerate(left) if kept == name), None)
        state = left.pop(number)[1] if number is not None else None
        try:
            if state is not None:
                owner.load_state_dict(state)
        except Exception as error:  # as above
            note(f"The state of {name} cannot be restored ({_said(error)}); it begins anew.")


def savable(found: dict[str, Any], encode: Encode, note: Note) -> dict[str, Any]:
    """Return what `collect` returned, without the states that no checkpoint can keep."""
    return {
        name: [_savable(name, state, encode, note, _NOTHING) for state in states]
        if isinstance(states, list)
        else _savable(name, states, encode, note, _NOTHING)
        for name, states in found.items()
    }


def savable_dicts(found: list[tuple[str, Any]], encode: Encode, note: Note) -> list[tuple[str, Any]]:
    """Return what `collect_dicts` returned, with None for what no checkpoint can keep."""
    return [(name, _savable(name, state, encode, note, None)) for name, state in found]


def _savable(name: str, state: Any, encode: Encode, note: Note, otherwise: Any) -> Any:
    try:
        encode(state, f"The state of {name}")
        return state
    except Exception as error:  # other engines never ask for it, so it must not cost the checkpoint
        said = str(error) if isinstance(error, UnsavableError) else f"The state of {name} fails ({_said(error)})."
        note(f"{said} The checkpoints are without the state of {name}.")
        return otherwise


def _method(owner: Any, name: str) -> Any:
    """Return a method, or None where there is none; a property of that name may raise, and is none."""
    try:
        found = getattr(owner, name, None)
    except Exception:  # it is not what is looked for, whatever it says
        return None
    return found if callable(found) else None


def _stateful(owners: list[Any]) -> list[tuple[str, list[Any]]]:
    groups: dict[str, list[Any]] = {}
    for owner in owners:
        if _method(owner, "state") is not None:
            groups.setdefault(type(owner).__name__, []).append(owner)
    return list(groups.items())


def _with_dicts(owners: list[Any]) -> list[Any]:
    pair = ("state_dict", "load_state_dict")
    return [owner for owner in owners if all(_method(owner, name) is not None for name in pair)]


def _asked(owner: Any, method: str, note: Note, otherwise: Any) -> Any:
    try:
        return getattr(owner, method)()
    except Exception as error:  # a callback's fault must not cost the checkpoint
        note(f"{type(owner).__name__}.{method}() failed ({_said(error)}); the checkpoint is without its state.")
        return otherwise


def _restore_one(owner: Any, states: list[Any], number: int | None, note: Note) -> None:
    today = owner.state().get("args", {})
    if number is None:
        number = next((i for i, state in enumerate(states) if state.get("args") == today), None)
        if number is None:
            if states:
                note(f"{len(states)} callbacks {type(owner).__name__} were saved, none like this one; it begins anew.")
            return
    state = states[number]
    for key, value in state.get("args", {}).items():
        if key in today and today[key] != value:
            note(f"{type(owner).__name__} goes on with {key} {today[key]!r} instead of the checkpoint's {value!r}.")
    for key, value in state.get("attributes", {}).items():
        setattr(owner, key, value)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
