"""Values as a checkpoint keeps them: each is read again as what it was, and nothing runs code when it is read.

torch's reader knows tensors, numbers, text, bytes and containers of these. What else an everyday state holds is kept as
`{TAG: kind, "value": ...}` of those; what no kind is made for is refused by name before anything is written.
"""

from __future__ import annotations

import base64
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch

from trainwright.batch import map_tensors
from trainwright.checkpoint.snapshot import memory_of, tensors_in, without_lazy_bits
from trainwright.errors import UnsavableError

TAG = "__trainwright__"
_AS_THEY_ARE = (type(None), bool, int, float, complex, str, bytes, torch.Size, torch.dtype, torch.device)
_DICTS: dict[str, type] = {"dict": dict, "ordered": OrderedDict, "counter": Counter}
_FACTORIES: dict[str, Any] = {"None": None} | {kind.__name__: kind for kind in (int, float, str, list, dict, set)}
_SIMPLE: dict[type, tuple[str, Callable[[Any], Any]]] = {
    datetime: ("datetime", datetime.isoformat),
    date: ("date", date.isoformat),
    time: ("time", time.isoformat),
    timedelta: ("timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
    deque: ("deque", lambda value: [list(value), value.maxlen]),
    frozenset: ("frozenset", list),
    range: ("range", lambda value: [value.start, value.stop, value.step]),
    slice: ("slice", lambda value: [value.start, value.stop, value.step]),
}


def plain(value: Any, name: str, exact: bool = True) -> Any:
    """Return a tree of values that torch's reader knows; containers are new, tensors are the same, but for small views
    of much larger memory, which are copied.

    Args:
        value: what is to be kept.
        name: what it is, for the message.
        exact: whether a number of numpy comes back as one, and a parameter as one. Other engines read the state of an
            optimizer or a schedule too, so there these become Python's numbers and plain tensors.

    Raises:
        UnsavableError: something in it cannot be kept; the message names it.
    """
    try:
        tree = _encode(value, name, exact)
    except UnsavableError:
        raise
    except RecursionError:
        raise UnsavableError(
            f"{name} contains itself or is nested too deeply for a checkpoint. Let it hold plain, finite containers."
        ) from None
    except Exception as error:  # of a container of the user's, such as one that another thread fills meanwhile
        raise UnsavableError(
            f"{name} cannot be kept: reading it failed ({type(error).__name__}: {error}). Let it be a copy, which "
            "nothing changes while it is saved."
        ) from error
    return _without_surplus(tree) if exact else tree


def restore(tree: Any) -> Any:
    """Return what `plain` or `for_json` was given."""
    if isinstance(tree, dict):
        if TAG in tree:
            return _DECODE[tree[TAG]](restore(tree["value"]))
        return type(tree)({key: restore(item) for key, item in tree.items()})
    if type(tree) in (list, tuple):
        return type(tree)(restore(item) for item in tree)
    return tree


def for_json(tree: Any, name: str) -> Any:
    """Return a tree of `plain` as JSON can hold it.

    Raises:
        UnsavableError: something in it cannot be kept.
    """
    if tree is None or type(tree) in (bool, int, float, str):
        return tree
    if type(tree) is list:
        return [for_json(item, name) for item in tree]
    if type(tree) in (tuple, set):
        return _tagged(type(tree).__name__, [for_json(item, name) for item in tree])
    if isinstance(tree, dict):
        if type(tree) is dict and all(type(key) is str for key in tree):
            return {key: for_json(item, name) for key, item in tree.items()}
        return _tagged(_dict_name(type(tree)), [[for_json(k, name), for_json(v, name)] for k, v in tree.items()])
    if isinstance(tree, bytes):
        return _tagged("bytes", base64.b64encode(tree).decode())
    if isinstance(tree, torch.Tensor) and tree.layout is torch.strided:
        content = tree.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        kind = str(tree.dtype).removeprefix("torch.")
        return _tagged("tensor", [kind, list(tree.shape), base64.b64encode(content).decode()])
    raise _refusal(tree, name)


def as_json(value: Any, name: str) -> Any:
    """Return a value as JSON can hold it and `restore` gives it back; see `plain` and `for_json`."""
    return for_json(plain(value, name), name)


def _encode(value: Any, where: str, exact: bool) -> Any:
    if type(value) in _AS_THEY_ARE:
        return value
    if type(value) in _SIMPLE:
        name, parts = _SIMPLE[type(value)]
        return _tagged(name, _encode(parts(value), where, exact))
    for kinds, encode in _RULES:
        if isinstance(value, kinds):
            return encode(value, where, exact)
    raise _refusal(value, where)


def _encode_tensor(value: torch.Tensor, where: str, exact: bool) -> Any:
    """Keep a tensor without lazy bits, which copies of its memory would lose, and with what is trained of it."""
    tensor = without_lazy_bits(value)
    if not exact:
        return tensor
    tensor = tensor.detach()
    if isinstance(value, torch.nn.Parameter):
        return _tagged("parameter", [tensor, value.requires_grad])
    return _tagged("trained tensor", tensor) if value.requires_grad else tensor


def _without_surplus(tree: Any) -> Any:
    """Return a tree in which a view is a copy, if it is at most half of its memory and no other tensor shares that."""
    shared = Counter(memory_of(tensor) for tensor in tensors_in(tree) if tensor.layout is torch.strided)

    def copied(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.layout is not torch.strided or shared[memory_of(tensor)] > 1:
            return tensor
        return tensor.clone() if 2 * tensor.nbytes <= tensor.untyped_storage().nbytes() else tensor

    return map_tensors(tree, copied)


def _encode_sequence(value: Any, where: str, exact: bool) -> Any:
    items = [_encode(item, f"{where}[{number}]", exact) for number, item in enumerate(value)]
    if hasattr(value, "_fields"):
        return _tagged("named tuple", [*_place_of(value, where), items])
    return tuple(items) if isinstance(value, tuple) else items


def _encode_set(value: set[Any], where: str, exact: bool) -> Any:
    items = [_encode(item, where, exact) for item in value]
    return set(items) if all(map(_is_key, items)) else _tagged("set", items)


def _encode_mapping(value: Mapping[Any, Any], where: str, exact: bool) -> Any:
    """Keep dictionaries, ordered ones and counters; other mappings become dictionaries."""
    pairs = [(_encode(key, where, exact), _encode(item, f"{where}[{key!r}]", exact)) for key, item in value.items()]
    if isinstance(value, defaultdict):
        factory = next((name for name, kind in _FACTORIES.items() if kind is value.default_factory), None)
        if factory is None:
            raise _refusal(value, where, "a defaultdict whose factory is no plain type")
        return _tagged("defaultdict", [factory, [list(pair) for pair in pairs]])
    kind: type[Any] = type(value) if type(value) in _DICTS.values() else dict
    if all(_is_key(key) and key != TAG for key, _ in pairs):
        kept = kind(dict(pairs))
    else:
        kept = _tagged(_dict_name(kind), [list(pair) for pair in pairs])
    versions = getattr(value, "_metadata", None) if kind is OrderedDict else None
    if versions is None or not exact:
        return kept
    return _tagged("state of a module", [kept, _encode(versions, f"{where}._metadata", exact)])


def _is_key(value: Any) -> bool:
    """Whether an encoded value can be a key as it is; tensors are equal to themselves alone."""
    if isinstance(value, tuple):
        return all(map(_is_key, value))
    return not isinstance(value, dict | list | set | torch.Tensor)


def _dict_name(kind: type) -> str:
    return next(name for name, known in _DICTS.items() if known is kind)


def _encode_numpy(value: Any, where: str, exact: bool) -> Any:
    if isinstance(value, np.generic) and not exact:
        number = value.item()
        return _encode(float(number) if isinstance(number, np.generic) else number, where, exact)
    if value.dtype.hasobject:
        raise _refusal(value, where, f"a numpy {type(value).__name__} of Python objects")
    described = np.lib.format.dtype_to_descr(value.dtype)
    if np.lib.format.descr_to_dtype(described) != value.dtype:
        raise _refusal(value, where, f"a numpy {type(value).__name__} of {value.dtype}")
    content = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
    name = "array" if isinstance(value, np.ndarray) else "scalar"
    return _tagged(name, [described, list(value.shape), torch.from_numpy(content.copy())])


def _encode_enum(value: Enum, where: str, exact: bool) -> Any:
    place = _place_of(value, where)
    if value.name not in type(value).__members__:
        raise _refusal(value, where, f"a combination of {type(value).__qualname__}")
    return _tagged("enum", [*place, value.name])


def _place_of(value: Any, where: str) -> list[str]:
    """Return module and name of a value's class, by which it must be found again."""
    place = [type(value).__module__, type(value).__qualname__]
    if _class(*place) is not type(value):
        raise _refusal(value, where, f"a {type(value).__qualname__}, a class that is not found in its module")
    return place


def _encode_base(value: Any, where: str, exact: bool) -> Any:
    """Return a value of a derived class as its base; a bytearray is copied, as it may be changed."""
    return str.__str__(value) if isinstance(value, str) else _base_of(value)(value)


def _base_of(value: Any) -> Callable[[Any], Any]:
    return next(base for base in (int, float, complex, bytes, bytearray) if isinstance(value, base))


def _class(module: str, qualname: str) -> Any:
    """Return a class that is loaded; nothing is imported because a file says so."""
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, "__dict__", {}).get(part)
    return found if isinstance(found, type) else None


def _tagged(kind: str, value: Any) -> dict[str, Any]:
    return {TAG: kind, "value": value}


def _refusal(value: Any, where: str, what: str | None = None) -> UnsavableError:
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    return UnsavableError(
        f"{where} is {what or f'a {kind}'}, which no checkpoint can keep so that it is read again. Keep numbers, text, "
        "bytes, tensors, arrays, dates, paths and containers of these there; of a generator, its state."
    )


def _decode_numpy(value: Any) -> np.ndarray[Any, Any]:
    described, shape, content = value
    array: np.ndarray[Any, Any] = content.numpy().view(np.lib.format.descr_to_dtype(described))
    return array.reshape(shape)


def _decode_enum(value: Any) -> Enum:
    module, qualname, name = value
    kind = _class(module, qualname)
    if kind is None or not issubclass(kind, Enum):
        raise ValueError(f"the enum {module}.{qualname} is not loaded")
    member: Enum = kind[name]
    return member


def _decode_named_tuple(value: Any) -> Any:
    module, qualname, items = value
    kind = _class(module, qualname)
    if kind is None or not (issubclass(kind, tuple) and hasattr(kind, "_fields")):
        raise ValueError(f"the named tuple {module}.{qualname} is not loaded")
    return tuple.__new__(kind, items)


def _decode_tensor(value: Any) -> torch.Tensor:
    kind, shape, content = value
    dtype = getattr(torch, kind)
    flat = (
        torch.frombuffer(bytearray(base64.b64decode(content)), dtype=dtype) if content else torch.empty(0, dtype=dtype)
    )
    return flat.reshape(shape)


def _decode_module_state(value: Any) -> Any:
    state, state._metadata = value
    return state


_RULES: tuple[tuple[Any, Callable[[Any, str, bool], Any]], ...] = (
    (torch.Tensor, _encode_tensor),
    ((np.generic, np.ndarray), _encode_numpy),  # some numbers of numpy are Python's too
    (Enum, _encode_enum),  # and some enums are numbers or text
    (Mapping, _encode_mapping),
    ((list, tuple), _encode_sequence),
    (set, _encode_set),
    (PurePath, lambda value, where, exact: _tagged("path", str(value))),
    ((int, float, complex, str, bytes, bytearray), _encode_base),
)
_DECODE: dict[str, Callable[[Any], Any]] = {
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": lambda value: timedelta(*value),
    "path": Path,
    "deque": lambda value: deque(*value),
    "range": lambda value: range(*value),
    "slice": lambda value: slice(*value),
    "array": _decode_numpy,
    "scalar": lambda value: _decode_numpy(value)[()],
    "enum": _decode_enum,
    "named tuple": _decode_named_tuple,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "bytes": base64.b64decode,
    "tensor": _decode_tensor,
    "parameter": lambda value: torch.nn.Parameter(value[0], requires_grad=value[1]),
    "trained tensor": lambda value: value.requires_grad_(),
    "state of a module": _decode_module_state,
    "defaultdict": lambda value: defaultdict(_FACTORIES[value[0]], value[1]),
    "dict": dict,
    "ordered": OrderedDict,
    "counter": lambda value: Counter(dict(value)),
}
