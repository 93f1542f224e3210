"""What a user has put around a model's forward: it must see what it would see anywhere."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn import functional
from torch.nn.modules import module as globally

_LIBRARIES = ("torch.", "transformers.modeling_utils", "transformers.utils.", "peft.", "accelerate.", "trainwright.")
_TRUSTED = ("torch.", "transformers.", "trainwright.")
_LOSSES = ("fixed_cross_entropy", "CrossEntropyLoss", "ForCausalLMLoss")
_KINDS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL = tuple(f"_global{kind}" for kind in _KINDS)


def owners(model: nn.Module, layer: nn.Module) -> list[nn.Module]:
    """Return the modules that a layer is a part of, the model itself first."""
    path = next(name for name, part in model.named_modules() if part is layer).split(".")
    return [model.get_submodule(".".join(path[:end])) for end in range(len(path))]


def watched(modules: Iterable[nn.Module]) -> str | None:
    """Return what a user has put around the forward of some modules, in words, or None where there is nothing."""
    if any(map(_of_a_user, (getattr(globally, kind) for kind in _GLOBAL))):
        return "hooks are registered for all modules"
    for part in modules:
        around = vars(part)
        if any(around[kind] and _of_a_user(around[kind]) for kind in _KINDS):
            return f"{type(part).__name__} has hooks"
        # accelerate's wrapper moves tensors, and no more
        if "forward" in around and not hasattr(part, "_hf_hook") and not _is_no_users(around["forward"]):
            return f"the forward of {type(part).__name__} was replaced"
    return None


@contextmanager
def unwatched(model: nn.Module) -> Iterator[None]:
    """Leave out the user's hooks while the body calls the model for itself."""
    kept = []
    for part in model.modules():
        for hooks in (getattr(part, kind) for kind in _KINDS):
            if _of_a_user(hooks):
                kept.append((hooks, dict(hooks)))
    for hooks, given in kept:
        hooks.clear()
        hooks.update({key: hook for key, hook in given.items() if not _is_users(hook)})
    try:
        yield
    finally:
        for hooks, given in kept:
            hooks.clear()
            hooks.update(given)


def _is_no_users(forward: Any) -> bool:
    """Whether a forward is that of a layer which several processes compute together, or the call of another module."""
    return getattr(forward, "__module__", None) in (
        "transformers.distributed.tensor_parallel",
        "torch.nn.modules.module",
    )


def own_forward(model: nn.Module) -> bool:
    """Whether the forward of a model built on transformers is neither transformers' nor ours."""
    return not _is_trusted(type(model).forward)


def replaced_loss(model: Any) -> str | None:
    """Return the name of a function or class that a user has put in the place of one which computes the loss of a
    model of transformers; None where there is none."""
    function = _loss_function(model)
    places = [("loss_function", function), ("cross_entropy", functional.cross_entropy)]
    for code in (function, type(model).forward):
        known = getattr(inspect.unwrap(code), "__globals__", {})
        places += [(name, known[name]) for name in _LOSSES if name in known]
    for name, found in places:
        if not _is_trusted(found):
            return str(getattr(found, "__qualname__", name))
    return None


def _loss_function(model: Any) -> Any:
    """Return what a model of transformers computes its loss with, where its forward asks for that."""
    from transformers.loss.loss_utils import LOSS_MAPPING

    found = inspect.getattr_static(type(model), "loss_function")
    if not isinstance(found, property) or not _is_trusted(found.fget):
        return found
    own = getattr(model, "_loss_function", None)
    return own or LOSS_MAPPING.get(getattr(model, "loss_type", None), LOSS_MAPPING["ForCausalLM"])


def _is_trusted(code: Any) -> bool:
    """Whether a function or class is torch's, transformers' or ours; `functools.wraps` does not hide whose it is."""
    home = str(getattr(code, "__globals__", {}).get("__name__") or getattr(code, "__module__", None))
    return not isinstance(code, nn.Module) and home.startswith(_TRUSTED)


def _of_a_user(hooks: Any) -> bool:
    return any(_is_users(hook) for hook in hooks.values())


def _is_users(hook: Any) -> bool:
    return not (getattr(hook, "__module__", None) or "").startswith(_LIBRARIES)
