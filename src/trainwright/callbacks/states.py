"""What callbacks keep in a checkpoint: counters and the like.

A callback with `state()` keeps `{"args": what it was made with, "attributes": how far it is}` in `trainer_state.json`,
by class name, as transformers lays it out; one with `state_dict()` and `load_state_dict()`, as modules have them, keeps
what these exchange, on every rank, by its `state_key` or else its class name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainwright.errors import UnsavableError

Note = Callable[[str], None]
Encode = Callable[[Any, str], Any]  # of a value and what it is called; raises UnsavableError
_NOTHING: dict[str, Any] = {"args": {}, "attributes": {}}
_KEYS = "A state_key (a text) of its own tells each callback from the others."


def collect(owners: list[Any], note: Note) -> dict[str, Any]:
    """Return the `state()` of every object that has one, by class name; of several of a class, a list in order."""
    found = {name: [_asked(owner, "state", note, _NOTHING) for owner in same] for name, same in _stateful(owners)}
    return {name: states if len(states) > 1 else states[0] for name, states in found.items()}


def restore(owners: list[Any], saved: dict[str, Any], note: Note) -> None:
    """Put the `attributes` of saved states back; `args` stay those that the callbacks are made with today.

    Several of a class are told apart by their `args`; where these have changed, and their number has not, by their
    order.
    """
    for name, same in _stateful(owners):
        states = saved.get(name, [])
        try:
            pairs = _paired(same, states if isinstance(states, list) else [states], note)
        except Exception as error:  # a state of the user's own form; it must not keep the run from going on
            note(f"The state of {name} cannot be restored ({_said(error)}); it begins anew.")
            continue
        for owner, state in pairs:
            try:
                _restore_one(owner, state, note)
            except Exception as error:  # as above
                note(f"The state of {name} cannot be restored ({_said(error)}); it begins anew.")


def collect_dicts(owners: list[Any], note: Note) -> list[tuple[str, Any]]:
    """Return (key, `state_dict()`) of every callback that has one, in order."""
    return [
        (key, _asked(owner, "state_dict", note, None)) for key, same in _with_dicts(owners).items() for owner in same
    ]


def restore_dicts(owners: list[Any], saved: list[tuple[str, Any]], note: Note) -> None:
    """Hand the callbacks what their `state_dict()` returned: those of one key in order, if they are as many as then."""
    groups = _with_dicts(owners)
    for key, same in groups.items():
        states = [state for kept, state in saved if kept == key]
        if not states:
            note(f"The checkpoint keeps no state of {key}; it begins anew.")
        elif len(states) != len(same):
            note(
                f"The checkpoint keeps {len(states)} states of callbacks {key}, and there are {len(same)} now: which "
                f"is whose is not known, so all of these begin anew. {_KEYS}"
            )
        else:
            for owner, state in zip(same, states, strict=True):
                _load(owner, state, key, note)
    for key in dict.fromkeys(kept for kept, state in saved if state is not None and kept not in groups):
        note(f"The checkpoint keeps a state of {key}, which no callback takes now.")


def tell_of_order(owners: list[Any], note: Note) -> None:
    """Say which callbacks have their states by their order alone, so that another order would swap them."""
    for key, same in _with_dicts(owners).items():
        if len(same) > 1:
            note(f"Checkpoints tell the {len(same)} callbacks {key} apart by their order alone: keep it. {_KEYS}")


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


def _with_dicts(owners: list[Any]) -> dict[str, list[Any]]:
    pair = ("state_dict", "load_state_dict")
    groups: dict[str, list[Any]] = {}
    for owner in owners:
        if all(_method(owner, name) is not None for name in pair):
            groups.setdefault(_key_of(owner), []).append(owner)
    return groups


def _key_of(owner: Any) -> str:
    """Return what a callback's `state_dict()` is kept under: its `state_key`, or the name of its class."""
    try:
        key = getattr(owner, "state_key", None)
    except Exception:  # as in `_method`
        key = None
    return key if isinstance(key, str) and key else type(owner).__name__


def _load(owner: Any, state: Any, key: str, note: Note) -> None:
    try:
        if state is not None:
            owner.load_state_dict(state)
    except Exception as error:  # as in `restore`
        note(f"The state of {key} cannot be restored ({_said(error)}); it begins anew.")


def _asked(owner: Any, method: str, note: Note, otherwise: Any) -> Any:
    try:
        return getattr(owner, method)()
    except Exception as error:  # a callback's fault must not cost the checkpoint
        note(f"{type(owner).__name__}.{method}() failed ({_said(error)}); the checkpoint is without its state.")
        return otherwise


def _paired(same: list[Any], states: list[Any], note: Note) -> list[tuple[Any, Any]]:
    """Return the callbacks of a class with the state of each: of the same `args`, or else the next that is left."""
    left, in_order = list(states), len(states) == len(same)
    taken: dict[int, Any] = {}
    for number, owner in enumerate(same):
        today = owner.state().get("args", {})
        like = next((i for i, state in enumerate(left) if state.get("args") == today), None)
        if like is not None:
            taken[number] = left.pop(like)
    for number, owner in enumerate(same):
        if number not in taken and in_order:
            taken[number] = left.pop(0)
        elif number not in taken and states:
            name = type(owner).__name__
            note(f"{len(states)} callbacks {name} were saved, none like this one; it begins anew.")
    return [(owner, taken[number]) for number, owner in enumerate(same) if number in taken]


def _restore_one(owner: Any, state: Any, note: Note) -> None:
    today = owner.state().get("args", {})
    for key, value in state.get("args", {}).items():
        if key in today and today[key] != value:
            note(f"{type(owner).__name__} goes on with {key} {today[key]!r} instead of the checkpoint's {value!r}.")
    for key, value in state.get("attributes", {}).items():
        setattr(owner, key, value)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
