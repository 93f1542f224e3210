"""Random generators that objects hold: found in attributes, containers and the functions that they are made of.

The search runs no code of the objects, and is bounded; it goes breadth first, so that what lies near is found first.
"""

from __future__ import annotations

import functools
import random
import types
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch

KINDS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)
_LEAVES = (str, bytes, int, float, complex, type(None), torch.Tensor, np.ndarray, type, types.ModuleType)
_LIBRARIES = ("torch.", "transformers.", "datasets.", "trainwright.", "builtins", "collections", "functools")
_SEQUENCES: tuple[Any, ...] = (list, tuple, deque)
_OF_MODULES = ("_parameters", "_buffers")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
_DEPTH = 6  # of objects within objects; modules within modules do not count
_ITEMS = 32  # of a container
_OBJECTS = 20_000


def held_by(owners: Mapping[Any, Any], apart: Sequence[Any] = ()) -> dict[str, Any]:
    """Return the generators that some objects hold, by their place, such as `model.layers.0.noise`.

    One that several hold stands under the first place. random.SystemRandom has no state, and is left out. Into those
    `apart`, which they may hold too, is not looked.
    """
    return {place: one for place, one in _walk(owners, apart) if not isinstance(one, random.SystemRandom)}


def drawn_from_the_system(owners: Mapping[Any, Any]) -> list[str]:
    """Return the places of generators that have no state, so that what they draw can never come again."""
    return [place for place, one in _walk(owners) if isinstance(one, random.SystemRandom)]


def _walk(owners: Mapping[Any, Any], apart: Sequence[Any] = ()) -> Iterator[tuple[str, Any]]:
    seen: dict[int, Any] = {id(one): one for one in apart}
    waiting = deque((str(name), owner, 0) for name, owner in owners.items())
    while waiting and len(seen) < _OBJECTS:
        place, value, depth = waiting.popleft()
        if _is(value, _LEAVES) or id(value) in seen:
            continue
        seen[id(value)] = value  # kept, so that no id is given twice
        if is_generator(value):
            yield place, value
        elif depth <= _DEPTH:
            try:
                for name, inner in _inside(value):
                    waiting.append((f"{place}{name}", inner, depth if _is(inner, torch.nn.Module) else depth + 1))
            except Exception:  # a metaclass, a key or a proxy that cannot be looked at: it holds nothing to put back
                continue


def is_generator(value: Any) -> bool:
    """Whether an object is a random generator."""
    return _is(value, KINDS)


def _is(value: Any, kinds: Any) -> bool:
    """Whether an object is of a kind by its type alone: isinstance asks `__class__`, which may be a property."""
    return issubclass(type(value), kinds)


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what an object holds, with how it is reached."""
    sequence = next((kind for kind in _SEQUENCES if _is(value, kind)), None)
    if sequence is not None:
        yield from ((f"[{number}]", item) for number, item in enumerate(islice(sequence.__iter__(value), _ITEMS)))
    elif _is(value, dict):
        yield from ((f"[{key!r}]", item) for key, item in list(dict.items(value))[:_ITEMS])
    elif _is(value, functools.partial):
        yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))
    elif _is(value, types.FunctionType):
        yield from _of_function(value)
    elif _is(value, types.MethodType):
        yield "", value.__self__
        yield "", value.__func__
    else:
        yield from of_object(value)


def of_object(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of an object and of its class, and what the functions of a user's class hold."""
    if _is(value, torch.nn.Module):
        yield from _of_module(value)
    else:
        yield from ((f".{name}", inner) for name, inner in _attributes(value))
    for kind in type(value).__mro__:
        if not kind.__module__.startswith(_LIBRARIES):
            for name, inner in list(vars(kind).items()):
                if is_generator(inner):
                    yield f".{name}", inner
                elif _is(inner, types.FunctionType):
                    yield from ((f".{name}{place}", held) for place, held in _of_function(inner))


def _attributes(value: Any) -> list[tuple[str, Any]]:
    """Return what lies in an object's `__dict__`; a proxy's is not its own."""
    try:
        return list(dict.items(object.__getattribute__(value, "__dict__")))
    except Exception:  # slots alone, or a `__dict__` of the user's own making
        return []


def _of_module(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the parts of a module, and what else it holds; of a library's, generators and hooks alone."""
    of_library = type(module).__module__.startswith(_LIBRARIES)
    for name, inner in _attributes(module):
        if name == "_modules":
            yield from ((f".{child}", part) for child, part in inner.items())
        elif is_generator(inner) or (name in _HOOKS and inner) or not (of_library or name in _OF_MODULES):
            yield f".{name}", inner


def _of_function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield what a function closes over, its defaults, and the generators among the globals that it names."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield f".{name}", cell.cell_contents
        except ValueError:  # not bound yet
            continue
    yield from ((f".default{number}", value) for number, value in enumerate(function.__defaults__ or ()))
    for name in function.__code__.co_names:
        if is_generator(function.__globals__.get(name)):
            yield f".{name}", function.__globals__[name]
