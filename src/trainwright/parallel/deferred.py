"""Models whose weights are drawn when a process shards them, a layer at a time: the numbers that it would have drawn at
once.

While a model is built, memory of which nothing is known yet (`torch.empty`) is not taken: such tensors lie on torch's
meta device. What is written into them is noted, with the state of the stream of random numbers; these are drawn, so
that the stream goes on as it would, and thrown away. `draw` writes them again, into real memory.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

logger = logging.getLogger("trainwright")
_LEAST = 1024  # elements of a tensor that is worth it
_aten = torch.ops.aten
_WHOLLY = (  # what writes all of a tensor, whatever it held
    _aten.normal_.default, _aten.uniform_.default, _aten.zero_.default, _aten.fill_.Scalar, _aten.copy_.default,
)  # fmt: skip
_WRITES = "_writes_to_come"


_DEVICE, _IS_META = torch.Tensor.device.__get__, torch.Tensor.is_meta.__get__  # type: ignore[attr-defined]  # of a property
_TRUNCATED = "_no_grad_trunc_normal_"  # of torch.nn.init, which draws again what lies too far out


class CannotDeferError(Exception):
    """Something of a model is made of weights that are not drawn yet."""


class Write(NamedTuple):
    """Something that is written into a tensor.

    Attributes:
        operation: of torch, in place.
        view: size, stride and offset of what it writes, in the tensor's memory.
        given, named: its arguments besides.
        stream: of random numbers before it, where it draws some.
    """

    operation: Callable[..., Any]
    view: tuple[Any, Any, Any]
    given: tuple[Any, ...]
    named: dict[str, Any]
    stream: torch.Tensor | None


class Undrawn(NamedTuple):
    """A whole tensor that is still to be drawn, and is read by what is written into another one."""

    shape: torch.Size
    dtype: torch.dtype
    writes: tuple[Write, ...]


class _Noting(TorchDispatchMode):
    """Takes no memory for large empty tensors, and notes what is written into them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self.writes: dict[int, list[Write]] = {}
        self._made: list[torch.Tensor] = []  # kept, so that none has another one's place

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if operation is _aten.empty.memory_format and _is_large(args[0]) and _is_of_the_host(kwargs.get("device")):
            made = operation(*args, **{**kwargs, "device": torch.device("meta"), "pin_memory": None})
            self.writes[_place(made)] = []
            self._made.append(made)
            return made
        target: Any = args[0] if args else None
        if operation is _aten._to_copy.default and target.is_meta and _place(target) in self.writes:
            return self._converted(target, **kwargs)
        if not (isinstance(target, torch.Tensor) and target.is_meta and operation._schema.is_mutable):
            return operation(*args, **kwargs)
        if operation is _aten.copy_.default and _view(args[1]) == _view(target):
            return target  # what an index assigns after it was changed in place
        if any(one.is_meta for one in tree_leaves((args[1:], kwargs)) if isinstance(one, torch.Tensor)):
            raise CannotDeferError("a weight is made of another one")
        return self.note(operation, target, args[1:], kwargs)

    def _converted(self, source: torch.Tensor, dtype: Any = None, device: Any = None, **named: Any) -> torch.Tensor:
        """Return a weight in another format, still without memory."""
        if not (_is_of_the_host(device) and source.is_contiguous() and not source.storage_offset()):
            raise CannotDeferError("a weight is moved before it is drawn")
        made = torch.empty(source.shape, dtype=dtype or source.dtype, device="meta")
        read = Undrawn(source.shape, source.dtype, tuple(self.writes[_place(source)]))
        view = tuple(made.shape), made.stride(), 0
        self.writes[_place(made)] = [Write(_aten.copy_.default, view, (read,), {}, None)]
        self._made.append(made)
        return made

    @contextmanager
    def truncated(self) -> Iterator[None]:
        """Note torch's truncated normal numbers as one operation: what it draws follows from what it drew."""
        drawn: Any = getattr(nn.init, _TRUNCATED, None)

        def noted(tensor: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
            known = _place(tensor) in self.writes
            return self.note(drawn, tensor, given, named) if known else drawn(tensor, *given, **named)

        if drawn is not None:
            setattr(nn.init, _TRUNCATED, noted)
        try:
            yield
        finally:
            if drawn is not None:
                setattr(nn.init, _TRUNCATED, drawn)

    def note(self, operation: Any, target: torch.Tensor, given: Any, named: Any) -> torch.Tensor:
        """Note that an operation writes into a tensor; random numbers are drawn for it, and thrown away.

        Raises:
            CannotDeferError: nothing is known of the tensor.
        """
        if _place(target) not in self.writes:
            raise CannotDeferError("a weight is made in a way that cannot be noted")
        stream = None
        view = tuple(target.shape), target.stride(), target.storage_offset()
        is_whole = operation in _WHOLLY or not hasattr(operation, "tags")  # or one of torch.nn.init
        if torch.Tag.nondeterministic_seeded in getattr(operation, "tags", (torch.Tag.nondeterministic_seeded,)):
            stream = torch.get_rng_state()
            operation(torch.empty_strided(*view[:2], dtype=target.dtype), *given, **named)
        writes = self.writes[_place(target)]
        if is_whole and target.numel() * target.element_size() == target.untyped_storage().nbytes():
            writes.clear()
        own, own_named = tree_map_only(torch.Tensor, torch.clone, (given, named))
        writes.append(Write(operation, view, own, own_named, stream))
        return target


class _Disguised(TorchFunctionMode):
    """Lets tensors without memory pass for those of the host: there is code that leaves meta tensors as they are."""

    def __init__(self, noting: _Noting) -> None:
        self._noting = noting

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        if function not in (_IS_META, _DEVICE) or not args[0].is_meta or _place(args[0]) not in self._noting.writes:
            return found
        return False if function is _IS_META else torch.device("cpu")


def _is_large(size: Any) -> bool:
    return torch.Size(size).numel() >= _LEAST


def _is_of_the_host(device: Any) -> bool:
    return device is None or torch.device(device).type == "cpu"


def _place(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _view(tensor: torch.Tensor) -> tuple[Any, ...]:
    return _place(tensor), tensor.shape, tensor.stride(), tensor.storage_offset()


def tensors_of(module: nn.Module) -> list[torch.Tensor]:
    """Return the parameters and buffers of a module, each once."""
    return list({id(one): one for one in (*module.parameters(), *module.buffers())}.values())


def built(make: Callable[[], nn.Module]) -> nn.Module:
    """Return the model that a function makes, without its large weights; random numbers that are drawn afterwards are
    those that would have been.

    Raises:
        CannotDeferError: that cannot be done with it; the stream of random numbers is where it was.
    """
    stream, noting = torch.get_rng_state(), _Noting()
    try:
        with noting.truncated(), _Disguised(noting), noting:
            model = make()
        for tensor in tensors_of(model):
            if tensor.is_meta:
                setattr(tensor, _WRITES, noting.writes[_place(tensor)])
                if not tensor.is_contiguous() or tensor.storage_offset():
                    raise CannotDeferError("a weight is a part of another one")
    except Exception as error:
        torch.set_rng_state(stream)
        told = (str(error).splitlines() or [""])[0]
        raise CannotDeferError(
            told if isinstance(error, CannotDeferError) else f"{type(error).__name__}: {told}"
        ) from error
    return model


def deferred_init(make: Callable[[], nn.Module]) -> nn.Module:
    """Return the model that a function makes, without its large weights: a Trainer draws them when it trains or
    evaluates, and where processes share the model, each layer by layer. They are the numbers that would have been drawn
    now, and so are those that are drawn next. A model that cannot wait, for it reads weights while it is built, is
    built whole, and that is said.

    Args:
        make: builds the model, with random weights; called again where it cannot wait.
    """
    try:
        return built(make)
    except CannotDeferError as error:
        logger.warning("The model's weights are drawn at once: %s.", error)
        return make()


def is_waiting(tensor: torch.Tensor) -> bool:
    """Whether a tensor is still to be drawn."""
    return hasattr(tensor, _WRITES)


def fingerprint(module: nn.Module) -> str:
    """Return a digest of what is still to be drawn of a module: equal in processes that will draw the same."""
    found = hashlib.sha256()
    for write in (write for one in tensors_of(module) for write in getattr(one, _WRITES, ())):
        found.update(repr((write.operation.__name__, write.view, write.given, write.named)).encode())
        found.update(b"" if write.stream is None else write.stream.numpy().tobytes())
    return found.hexdigest()


def draw(module: nn.Module) -> list[torch.Tensor]:
    """Draw the weights of a module that are not drawn yet, in place, and return them; the stream stays where it is."""
    waiting = [one for one in tensors_of(module) if is_waiting(one)]
    if not waiting:
        return []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for tensor in waiting:
            whole = _drawn(Undrawn(tensor.shape, tensor.dtype, getattr(tensor, _WRITES)))
            delattr(tensor, _WRITES)
            made = nn.Parameter(whole, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else whole
            vars(made).update(vars(tensor))
            torch.utils.swap_tensors(tensor, made)  # so that ties stay
    return waiting


def _drawn(tensor: Undrawn) -> torch.Tensor:
    whole = torch.empty(tensor.shape, dtype=tensor.dtype)
    for write in tensor.writes:
        given = [_drawn(one) if isinstance(one, Undrawn) else one for one in write.given]
        if write.stream is not None:
            torch.set_rng_state(write.stream)
        write.operation(whole.as_strided(*write.view), *given, **write.named)
    return whole
